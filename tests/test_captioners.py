"""Captioners: published ClipCap, BLIP and the embedded one, and what a run makes of them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image
from safetensors.torch import save_file
from test_clip import VIT

from acgd.captioners import clipcap_tiny
from acgd.captioners.clipcap import ClipCapCaptioner, square
from acgd.captioners.clipcap_tiny import TinyClipCap, looks
from acgd.config.instantiate import build
from acgd.encoders.clip import CLIPEncoder
from acgd.errors import UserError
from acgd.models.audioclip import AudioCLIP
from acgd.models.clip import CLIP
from acgd.models.clipcap import ClipCap
from acgd.paths import WEIGHTS
from acgd.pipeline import runner
from acgd.runs.run import Run, expand
from acgd.training import clipcap_tiny as training
from acgd.training.clipcap_tiny import fingerprint, train_tokenizer
from acgd.training.data import picture_sentences

SENTENCES = ["a dog in the snow.", "a red bus, seen from the side.", "the sea at night."] * 3
GPT = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "prefix_length": 3}


def lively(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights that make outputs depend on inputs."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """clip.safetensors and other.safetensors (two CLIPs), clipcap.pt, gpt2/ and merges/."""
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("captioners")
    for name, seed in (("clip", 0), ("other", 1)):
        model = lively(CLIP(**VIT), seed)
        config = {"config": json.dumps(VIT)}
        save_file(dict(model.state_dict()), folder / f"{name}.safetensors", config)
    tokenizer = train_tokenizer(SENTENCES)
    for name in ("gpt2", "merges"):
        (folder / name).mkdir()
    (folder / "gpt2/tokenizer.json").write_text(tokenizer)
    Tokenizer.from_str(tokenizer).model.save(str(folder / "merges"))
    size = Tokenizer.from_str(tokenizer).get_vocab_size()
    architecture = {**GPT, "prefix_size": 16, "vocab_size": size, "light": True}
    torch.save(lively(ClipCap(**architecture), 2).state_dict(), folder / "clipcap.pt")
    (folder / "architecture.json").write_text(json.dumps(architecture))
    return folder


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def captioner(files: Path, **changes) -> ClipCapCaptioner:
    given = {
        "checkpoint": str(files / "clipcap.pt"),
        "clip": str(files / "clip.safetensors"),
        "tokenizer": str(files / "gpt2"),
        "architecture": json.loads((files / "architecture.json").read_text()),
        "decoding": {"length": 10},
    }
    return ClipCapCaptioner(**{**given, **changes})


def test_a_batch_is_captioned_as_its_pictures_alone(files, pictures):
    tell = captioner(files)
    captions = tell(pictures)
    assert captions == [tell(picture[None])[0] for picture in pictures]
    assert len(set(captions)) > 1 and all(captions)


def test_the_judges_tower_is_shared_when_its_file_is_the_same(files):
    judge = CLIPEncoder(str(files / "clip.safetensors"))
    assert captioner(files, judge=judge).clip is judge.model
    other = CLIPEncoder(str(files / "other.safetensors"))
    assert captioner(files, judge=other).clip is not other.model


def test_the_embedding_goes_in_as_it_was_trained(files, pictures):
    plain, unit = captioner(files), captioner(files, unit=True)
    seen = []
    for tell in (plain, unit):
        tell.model.prefix = lambda embeds: (
            seen.append(embeds.norm(dim=-1)) or embeds.new_zeros(len(embeds), 3, 16)
        )
        tell(pictures)
    assert torch.allclose(seen[1], torch.ones(4), atol=1e-5)
    assert not torch.allclose(seen[0], torch.ones(4), atol=0.1)


def test_both_kinds_of_tokenizer_files_are_read(files, pictures):
    merges = captioner(files, tokenizer=str(files / "merges"))
    assert merges(pictures) == captioner(files)(pictures)


def test_a_missing_tokenizer_is_one_line_that_says_where_it_goes(files, tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="tokenizer is not here") as error:
        captioner(files, tokenizer="gpt2")
    assert str(tmp_path / "gpt2") in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no tokenizer that can be read"):
        captioner(files, tokenizer="gpt2")


def test_other_weights_are_named(files):
    with pytest.raises(UserError, match="another model's weights"):
        captioner(files, checkpoint=str(files / "clip.safetensors"), architecture={**GPT})


def test_square_is_the_middle():
    wide = torch.zeros(1, 3, 4, 8)
    wide[..., 2:6] = 1
    assert torch.equal(square(wide, 4), torch.ones(1, 3, 4, 4))
    assert square(torch.rand(1, 3, 9, 7), 16).shape == (1, 3, 16, 16)


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A folder as transformers saves it, of a BLIP with random weights."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip import BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "dog", "red", "bus", "sea"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "intermediate_size": 16, "encoder_hidden_size": 16}
    marks = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    shape = BlipConfig(
        text_config={**size, **text, **marks},
        vision_config={**size, "intermediate_size": 16, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    lively(BlipForConditionalGeneration(shape), 0).save_pretrained(folder)
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_blip_captions_a_batch_as_one_by_one(blip, pictures):
    tell = build({**compose("captioner=blip").captioner, "checkpoint": str(blip), "length": 5})
    captions = tell(pictures)
    assert captions == [tell(picture[None])[0] for picture in pictures]
    words = set(" ".join(captions).split())
    assert words and words <= {"a", "dog", "red", "bus", "sea", "[DEC]"}  # random, so any word


def test_a_missing_blip_is_one_line_and_no_network(tmp_path):
    from acgd.captioners.blip import BlipCaptioner

    with pytest.raises(UserError, match=r"no BLIP that is here whole") as error:
        BlipCaptioner(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, weights) -> dict[str, str]:
    """A random captioner over the random judge, as overrides."""
    from tokenizers import Tokenizer

    path = tmp_path_factory.mktemp("embedded") / "captioner.safetensors"
    tokenizer = train_tokenizer(SENTENCES)
    size = Tokenizer.from_str(tokenizer).get_vocab_size()
    architecture = {**GPT, "prefix_size": 48, "vocab_size": size, "light": True}
    model = lively(ClipCap(**architecture), 3)
    state = {k: v for k, v in model.state_dict().items() if k != "gpt.lm_head.weight"}
    save_file(state, path, {"config": json.dumps(architecture), "tokenizer": tokenizer})
    return {"checkpoint": str(path), "clip": str(weights / "judge.safetensors")}


def test_the_embedded_captioner_looks_several_times(embedded, pictures):
    tell = TinyClipCap(**embedded)
    assert tell(pictures) == [tell(picture[None])[0] for picture in pictures]
    views = looks(pictures)
    assert len(views) == 2 * len(clipcap_tiny.LOOKS)
    assert torch.allclose(views[0], pictures, atol=1e-5)
    assert torch.allclose(views[1], pictures.flip(-1), atol=1e-5)
    assert tell(torch.rand(1, 3, 96, 64))[0]


def test_a_file_without_tokenizer_is_no_captioner(embedded, weights):
    with pytest.raises(UserError):
        TinyClipCap(checkpoint=str(weights / "judge.safetensors"), clip=embedded["clip"])


def run(tiny, embedded, sounds, outputs, *more: str) -> Run:
    chosen = [f"captioner.{key}={value}" for key, value in embedded.items()]
    chosen = ["captioner=clipcap_tiny", "captioner.decoding.length=6", *chosen]
    given = [*tiny, *chosen, f"prompt.path={sounds / 'tone.wav'}", f"outputs={outputs}"]
    (made,) = expand(compose(*given, "logger=none", *more))
    runner.render([made])
    return made


def rows(made: Run) -> list[dict[str, str]]:
    with open(made.folder / "captions.csv", newline="") as file:
        return list(csv.DictReader(file))


def scores(made: Run) -> dict:
    return json.loads((made.folder / "metrics.json").read_text())


def test_a_run_captions_its_previews_and_its_picture(tiny, embedded, sounds, tmp_path, capsys):
    words = ["describer=keywords", "describer.lists=[sounds]", "describer.share=0"]
    made = run(tiny, embedded, sounds, tmp_path, *words)
    found = rows(made)
    assert [(row["picture"], row["step"]) for row in found] == [
        ("previews/step_0002.png", "2"),
        ("previews/step_0004.png", "4"),
        ("images/seed0.png", "4"),
    ]
    assert all(row["caption"] for row in found)
    said = scores(made)
    assert said["caption"] == found[-1]["caption"] and len(said["words"]) == 1
    assert -1 <= said["caption_agreement"] <= 1
    kinds = json.loads((made.folder / "targets.json").read_text())["targets"]
    assert [target["kind"] for target in kinds] == ["audio", "heard"]  # a share of 0 steers nothing
    lines = capsys.readouterr().out.splitlines()
    names = ["heard", "described", "picture", "caption", "judge", "folder"]
    assert [line.split()[0] for line in lines] == names
    assert lines[1].split(maxsplit=1)[1] == said["words"][0]
    assert lines[3].split(maxsplit=1)[1] == said["caption"]


def test_the_description_changes_the_picture_only_when_asked(tiny, embedded, sounds, tmp_path):
    pixels = {}
    for name, more in {
        "none": ["describer=none"],
        "shown": ["describer=keywords", "describer.share=0"],
        "asked": ["describer=keywords", "describer.share=0.9"],
    }.items():
        made = run(tiny, embedded, sounds, tmp_path, *more)
        pixels[name] = np.asarray(Image.open(made.folder / "images/seed0.png")).astype(int)
    assert (pixels["none"] == pixels["shown"]).all()
    assert (pixels["none"] != pixels["asked"]).any()


def test_agreement_is_with_the_text_prompts_where_nothing_is_described(tiny, embedded, tmp_path):
    chosen = [f"captioner.{key}={value}" for key, value in embedded.items()]
    given = ["prompt=text", "prompt.text=snow", "captioner=clipcap_tiny", *chosen]
    (made,) = expand(compose(*tiny, *given, f"outputs={tmp_path}", "logger=none"))
    runner.render([made])
    assert -1 <= scores(made)["caption_agreement"] <= 1
    (silent,) = expand(compose(*tiny, *given[:2], f"outputs={tmp_path}", "logger=none"))
    runner.render([silent])
    assert scores(silent)["caption_agreement"] is None
    assert not (silent.folder / "captions.csv").exists()


@pytest.mark.process
def test_wandb_gets_the_captions_beside_the_pictures(tiny, embedded, sounds, tmp_path):
    made = run(tiny, embedded, sounds, tmp_path, "logger=wandb", "logger.timeout=200")
    (folder,) = (made.folder / "wandb").glob("offline-run-*")
    wandb = os.path.join(os.path.dirname(sys.executable), "wandb")
    said = subprocess.run([wandb, "leet", "inspect", "--json", folder], capture_output=True)
    records = [json.loads(line) for line in said.stdout.splitlines()]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert len([item for item in items if "preview" in json.dumps(item)]) == 2
    for row in rows(made):
        assert any(row["caption"] in json.dumps(item) for item in items)
    assert str(scores(made)["caption"]) in json.dumps(records)


def test_each_concept_has_words_and_sentences_of_its_own():
    table = picture_sentences.table()
    words = [word for own, _ in table.values() for word in own]
    assert len(words) == len(set(words)) and len(table) == 82
    for concept, (_, phrases) in table.items():
        for name in phrases:
            for text in picture_sentences.sentences(concept, name, "instrument", "Objects", "red"):
                assert picture_sentences.names(text) == {concept}, text
                assert text.count(".") == 1 and text.endswith(".") and "@" not in text


def test_articles_and_colours():
    say = picture_sentences.sentences
    assert say("axe chopping", "axe", "", "Objects", None)[0] == "a drawing of an axe."
    assert say("axe chopping", "axe", "", "Objects", "red")[0] == "a drawing of a red axe."
    assert say("", "unicorn", "", "Animals & Nature", None)[0] == "a drawing of a unicorn."
    assert say("", "green apple", "", "Food & Drink", "green")[0] == "a drawing of a green apple."
    assert say("", "flag France", "", "Flags", "blue")[0] == "a drawing of the flag of France."
    page = np.full((8, 8, 3), 255, np.uint8)
    assert picture_sentences.colour(page) is None
    for name, rgb in {"red": (220, 20, 20), "brown": (130, 80, 40), "blue": (30, 60, 220)}.items():
        page[2:6, 2:6] = rgb
        assert picture_sentences.colour(page) == name


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """Twelve pictures of two concepts that anybody can tell apart, two of them held out."""
    folder, rng = tmp_path_factory.mktemp("drawings"), np.random.default_rng(0)
    pixels = np.full((12, 64, 64, 3), 255, np.uint8)
    pixels[:6, 8:56, 20:44] = (200, 30, 30)
    pixels[6:, 24:40, 4:60] = (30, 40, 200)
    pixels = (pixels - rng.integers(0, 20, pixels.shape)).astype(np.uint8)
    concept = np.array(["door"] * 6 + ["snake"] * 6)
    np.savez(
        folder / "pictures.npz",
        pixels=pixels,
        concept=concept,
        emoji=concept,
        name=concept,
        keywords=np.array(["x"] * 12),
        group=np.array(["Objects"] * 12),
        holdout=np.array([i in (0, 6) for i in range(12)]),
    )
    return folder


def test_the_embedded_captioners_training_learns(drawings, tmp_path, capsys):
    from acgd.training.encoder import ARCHITECTURES
    from acgd.training.export import halve

    torch.manual_seed(0)
    judge, path = AudioCLIP(**ARCHITECTURES["judge"]), tmp_path / "judge.safetensors"
    about = {"config": json.dumps(ARCHITECTURES["judge"])}
    save_file(halve(judge.state_dict()), path, about)
    common = [f"--data={drawings}", f"--out={tmp_path}", f"--weights={tmp_path}"]
    common += [f"--judge={path}", f"--judge-weights={path}"]
    training.main(["train", *common, "--steps=120", "--batch=16", "--views=8"])
    training.main(["export", *common])
    training.main(["evaluate", *common])
    said = capsys.readouterr().out
    assert "2 of 2 captions name the concept and no other" in said, said


def test_the_embedded_captioner_belongs_to_the_embedded_judge():
    from safetensors import safe_open

    from acgd.encoders.audioclip import AudioCLIPEncoder

    path = WEIGHTS / "tiny_clipcap.safetensors"
    if not path.is_file():
        pytest.skip("no embedded captioner yet")
    assert path.stat().st_size <= 2_500_000
    with safe_open(path, framework="pt") as file:
        judge = file.metadata()["judge"]
    tower = AudioCLIPEncoder("embedded:tiny_judge").model.visual
    assert fingerprint(tower) == judge
