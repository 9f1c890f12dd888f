"""CLAP: by itself, beside one that sees, as a judge; SigLIP; a torchvision that does not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import compose
from small import guidance
from test_encoders import pictures

from acgd.checkpoints import hub
from acgd.config.explain import explain
from acgd.config.instantiate import build
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.encoders.clap import CLAPEncoder
from acgd.encoders.clip import CLIPEncoder
from acgd.encoders.ensemble import Ensemble
from acgd.encoders.openclip import OpenCLIPEncoder, imported
from acgd.encoders.zero_shot import Viewer
from acgd.errors import UserError, torchvision_apart
from acgd.pipeline import runner
from acgd.pipeline.models import CACHE
from acgd.runs.folder import status
from acgd.runs.run import Run, expand
from acgd.types import Target

RATE = 48000
TEXTS = ["a cat", "rain on a roof", ""]


def saved(folder: Path, fused: bool = False) -> Path:
    """A folder as transformers saves it, of a CLAP with random weights that hears one second."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizerFast
    from transformers.models.clap import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=marks, initial_alphabet=alphabet, vocab_size=261)
    words.train_from_iterator(["a"], trainer)
    words = json.loads(words.to_str())["model"]
    tokenizer = RobertaTokenizerFast(vocab=words["vocab"], merges=words["merges"])
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 34, "num_attention_heads": 2}
    sounds = {"hidden_size": 16, "num_hidden_layers": 2, "depths": [1, 1], "window_size": 4}
    sounds |= {"patch_embeds_hidden_size": 8, "num_attention_heads": [1, 2], "num_mel_bins": 8}
    sounds |= {"spec_size": 32, "num_classes": 4, "enable_fusion": fused}
    torch.manual_seed(0)
    config = ClapConfig(text_config=tower | sizes, audio_config=sounds, projection_dim=8)
    model = ClapModel(config)
    for parameter in model.parameters():
        if parameter.ndim:  # biases too, or nothing may pass the projections' ReLU
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    how = "fusion" if fused else "rand_trunc"
    mel = ClapFeatureExtractor(8, RATE, max_length_s=1, truncation=how)
    ClapProcessor(mel, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def clap(folder) -> CLAPEncoder:
    return CLAPEncoder(str(folder))


def noise(count: int, seconds: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(count, int(seconds * RATE), generator=generator)


@pytest.mark.parametrize("fused", [False, True])
def test_it_gives_what_transformers_gives(tmp_path, fused):
    from transformers.models.clap import ClapModel, ClapProcessor

    ours = CLAPEncoder(str(saved(tmp_path, fused)))
    model = ClapModel.from_pretrained(tmp_path).eval()
    processor, wave = ClapProcessor.from_pretrained(tmp_path), noise(1)
    mel = processor.feature_extractor(wave[0].numpy(), sampling_rate=RATE, return_tensors="pt")
    words = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        both = model(**mel, **words)
    torch.testing.assert_close(ours.audio(wave), both.audio_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.text(TEXTS), both.text_embeds, rtol=0, atol=1e-6)
    odds = Viewer(ours, TEXTS).chances(ours.audio(wave)[0], ours.scale_at)
    torch.testing.assert_close(odds, both.logits_per_audio[0].softmax(0), rtol=1e-4, atol=1e-6)


def test_it_hears_and_reads_and_does_not_see(clap):
    assert (clap.sample_rate, clap.dim, clap.image_size) == (RATE, 8, 0)
    assert clap.hears and not clap.sees and 1 <= clap.scale_at <= 100
    for found in (clap.audio(noise(3)), clap.text(TEXTS)):
        assert found.shape == (3, 8) and found.dtype == torch.float32
        assert torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert clap.text([]).shape == (0, 8)
    long = clap.text(["rain " * 300, "rain " * 200])
    torch.testing.assert_close(long[0], long[1])  # the end is lost
    with pytest.raises(UserError, match=r"CLAP sees no pictures: .*encoder=ensemble"):
        clap.image(pictures(1))


@pytest.mark.parametrize("seconds", [0.3, 1.7])
def test_a_sound_alone_is_the_same_as_among_others_and_again(clap, seconds):
    waves = noise(3, seconds)
    first, alone = clap.audio(waves), clap.audio(waves[1:2])
    torch.testing.assert_close(first[1:2], alone, rtol=0, atol=1e-5)
    assert torch.equal(first, clap.audio(waves))


def test_a_long_sound_is_heard_to_its_end(clap):
    waves = noise(1, 1.7)
    parts = [clap.audio(waves[:, start : start + RATE]) for start in (0, int(0.7 * RATE))]
    mean = torch.nn.functional.normalize(sum(parts), dim=-1)
    torch.testing.assert_close(clap.audio(waves), mean, rtol=0, atol=1e-5)
    waves[:, int(1.2 * RATE) :] *= 0.01
    assert not torch.allclose(clap.audio(waves), mean, atol=1e-3)


def test_what_is_missing_is_said_in_a_line(tmp_path, folder):
    with pytest.raises(UserError, match="no CLAP that is here whole") as error:
        CLAPEncoder(str(tmp_path))
    assert "download=true" in str(error.value) and "\n" not in str(error.value)
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of \d+ tensors missing, audio_projection"):
        CLAPEncoder(str(tmp_path))


def test_loading_leaves_torch_as_it_was(folder):
    """transformers' stand-in for linspace was once taken for torch's own ever after."""
    torch.utils._device._device_constructors.cache_clear()
    CLAPEncoder(str(folder))
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).is_meta


@pytest.fixture
def both(clap, tmp_path) -> Ensemble:
    """CLAP's ears and the eyes of a CLIP that is deaf."""
    from safetensors.torch import save_file
    from test_clip import RESNET

    from acgd.models.clip import CLIP

    torch.manual_seed(3)
    save_file(CLIP(**RESNET).state_dict(), tmp_path / "clip.safetensors")
    eyes = CLIPEncoder(str(tmp_path / "clip.safetensors"), **RESNET)
    return Ensemble({"eyes": eyes, "ears": clap}, {"ears": 3.0})


def test_one_hears_and_the_other_sees(both, clap):
    eyes = both.members[0].encoder
    assert both.hears and both.sees
    assert (both.image_size, both.sample_rate, both.dim) == (32, RATE, 24)
    image, sound = both.image(pictures(1))[0], both.audio(noise(1))[0]
    assert not image[16:].any() and not sound[:16].any()
    torch.testing.assert_close(image[:16], eyes.image(pictures(1))[0])
    torch.testing.assert_close(sound[16:], clap.audio(noise(1))[0])
    view, labels = Viewer(both, TEXTS[:2]), TEXTS[:2]
    alone = Viewer(clap, labels).chances(sound[16:], clap.scale_at)
    torch.testing.assert_close(view.chances(sound, both.scale_at), alone)
    seen = Viewer(eyes, labels).chances(image[:16], eyes.scale_it)
    torch.testing.assert_close(view.chances(image, both.scale_it), seen)
    heard = view.direction(sound)  # what CLAP hears, in the words of the one that sees
    torch.testing.assert_close(
        torch.nn.functional.normalize(heard[:16], dim=0),
        torch.nn.functional.normalize((2 * clap.scale_at * torch.stack(
            [clap.text([label])[0] @ sound[16:] for label in labels])).softmax(0)
            @ eyes.text(labels), dim=0),
    )  # fmt: skip


def test_nobody_compares_a_sound_with_a_picture_where_none_has_both(both):
    eyes, view = both.members[0].encoder, Viewer(both, TEXTS[:2])
    image, sound = both.image(pictures(1))[0], both.audio(noise(1))[0]
    said = both.text(["a cat"])[0]
    scores = view.score(
        image, [Target(sound, 1.0, "audio", ""), Target(said, 1.0, "text", "")], None
    )
    assert "image_audio" not in scores
    cosine = float(eyes.image(pictures(1))[0] @ eyes.text(["a cat"])[0])
    assert scores["image_text"] == scores["similarity"] == pytest.approx(cosine, abs=2e-5)
    only = view.score(image, [Target(sound, 1.0, "audio", "")], "a cat")
    assert only["similarity"] is None and only["rank"] in (1, 2)


def test_guidance_is_that_of_the_one_that_sees(both):
    eyes, x, t = both.members[0].encoder, torch.randn(1, 3, 32, 32), torch.tensor([4])

    def pull(encoder):
        target = Target(encoder.text(["a cat"])[0], 1.0, "heard", "a cat")
        return guidance(encoder, [[target]], Diffusion(respacing="10"), Noise([0]))(x, x, t)[1]

    torch.testing.assert_close(pull(both), pull(eyes), rtol=1e-4, atol=1e-5)
    assert pull(both).any()


def test_an_ensemble_of_the_blind_is_said_to_be_one(clap):
    blind = Ensemble({"a": clap})
    assert not blind.sees and blind.image_size == 0
    with pytest.raises(UserError, match="none of these encoders sees"):
        blind.image(pictures(1))


@pytest.fixture
def render(tiny, sounds, tmp_path, folder, monkeypatch):
    """render(*overrides) -> the runs of tone.wav; CLAP is where `{clap}` is said."""
    monkeypatch.setattr(CACHE, "kept", {})

    def go(*overrides: str, without: tuple[str, ...] = ()) -> list[Run]:
        base = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path / 'outputs'}"]
        models = [one for one in tiny if not one.startswith(without)] if without else tiny
        given = [one.format(clap=folder) for one in overrides]
        runs = expand(compose(*models, "logger=none", *base, *given))
        runner.render(runs)
        return runs

    return go


def read(run: Run, name: str = "metrics.json") -> dict:
    return json.loads((run.folder / name).read_text())


ENSEMBLE = ("encoder=ensemble", "encoder@encoder.members.a=tiny", "encoder@encoder.members.b=clap",
            "encoder.members.b.checkpoint={clap}")  # fmt: skip


def test_a_run_with_claps_ears_beside_the_embedded_encoder(render, weights):
    eyes = f"encoder.members.a.checkpoint={weights / 'encoder.safetensors'}"
    (run,) = render(*ENSEMBLE, eyes, without=("encoder.",))
    assert status(run.folder) == "ok"
    scores, targets = read(run), read(run, "targets.json")
    assert {target["kind"] for target in targets["targets"]} == {"audio", "heard"}
    assert scores["picture"]["encoder"]["image_audio"] is not None
    (again,) = render(*ENSEMBLE, eyes, "force=true", without=("encoder.",))
    assert read(again) == scores


def test_a_judge_that_hears_and_reads_scores_the_sound_and_no_picture(render, clap, sounds):
    (run,) = render("judge=clap", "judge.checkpoint={clap}", "concept=dog", without=("judge.",))
    scores = read(run)
    assert scores["picture"].keys() == {"encoder"} and "gain" not in scores
    assert not (run.folder / "embeddings.json").exists()
    from acgd.media import audio

    wave = torch.from_numpy(audio.load(str(sounds / "tone.wav"), RATE))[None]
    fits = float(clap.audio(wave)[0] @ clap.text(["dog"])[0])
    assert scores["audio_text"] == pytest.approx(fits, abs=2e-5)
    assert "audio_caption" not in scores  # nobody captions


def test_clap_alone_hears_but_does_not_guide(render, capsys):
    alone = ("encoder=clap", "encoder.checkpoint={clap}", "guidance.cfg_scale=0")
    with pytest.raises(
        UserError, match=r"sees no pictures, so it cannot guide .*ensemble"
    ) as error:
        render(*alone, without=("encoder.",))
    assert "\n" not in str(error.value)
    (run,) = render(*alone, "guidance.clip=0", without=("encoder.",))  # drawn without guidance
    assert read(run)["picture"].keys() == {"judge"} and read(run, "targets.json")["heard"]
    (run,) = render(*alone, "guidance.clip=0", "judge=none", without=("encoder.", "judge."))
    assert "picture" not in read(run) and "none that sees" in capsys.readouterr().out


def test_a_picture_is_no_prompt_for_the_blind(clap, tmp_path):
    from PIL import Image

    from acgd.prompts.image import ImagePrompt

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="this encoder sees no pictures"):
        ImagePrompt(str(tmp_path / "a.png"))(clap)


def test_what_clap_hears_can_be_asked_from_python(folder, sounds, monkeypatch):
    import acgd

    monkeypatch.setattr(CACHE, "kept", {})
    options = {"encoder": "clap", "encoder.checkpoint": str(folder), "describer": "none"}
    (sound,) = acgd.hear(str(sounds / "tone.wav"), **options)
    assert len(sound.heard) == 5


def fitting_open_clip():
    try:
        return imported()
    except UserError as error:
        pytest.skip(str(error))


def test_a_siglip_by_open_clip(tmp_path, folder, monkeypatch):
    """One of open_clip's own SigLIP architectures, small; its tokenizer is a folder here."""
    open_clip = fitting_open_clip()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False}
    vision |= {"timm_pool": "map", "timm_proj": "none"}
    text = {"context_length": 16, "vocab_size": 300, "hf_tokenizer_name": str(folder)}
    text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "width": 64, "heads": 2, "layers": 1}
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    config = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True}
    config |= {"vision_cfg": vision, "text_cfg": text}
    (tmp_path / "small-siglip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-siglip.json")
    model = open_clip.create_model("small-siglip")
    torch.save(model.state_dict(), tmp_path / "small.pt")
    judge = compose("judge=siglip", "judge.model=small-siglip").judge
    judge = build({**judge, "pretrained": str(tmp_path / "small.pt")})
    found, said = judge.image(torch.rand(2, 3, 160, 160)), judge.text(["a cat", "rain"])
    assert found.shape == said.shape == (2, 64)
    assert not torch.allclose(said[0], said[1], atol=1e-3)


def test_the_siglip_judge_is_open_clips_and_of_the_models_that_it_lists():
    node = compose("judge=siglip").judge
    assert node._target_ == "acgd.encoders.openclip.OpenCLIPEncoder"
    open_clip = fitting_open_clip()
    assert node.model in open_clip.list_models()
    assert node.pretrained in open_clip.list_pretrained_tags_by_model(node.model)


APART = "operator torchvision::nms does not exist"


@pytest.fixture
def unfit_torchvision(tmp_path, monkeypatch):
    """A torchvision, and an open_clip that imports it, as they fail beside another torch."""
    for name, line in (
        ("torchvision", f"raise RuntimeError({APART!r})"),
        ("open_clip", "import torchvision"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(line)
        for module in [one for one in sys.modules if one.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_torchvision_that_does_not_fit_is_named(unfit_torchvision):
    says = r"torchvision that is installed was built for another torch than 2.*pip uninstall"
    with pytest.raises(UserError, match=says) as error:
        OpenCLIPEncoder("ViT-B-32", "openai")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=says), hub.told("x", "CLAP", "download=true"):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as behind:  # as transformers puts it
            raise ModuleNotFoundError("Could not import module 'ClapModel'.") from behind
    assert "pip uninstall torchvision" in explain(RuntimeError(APART))
    assert torchvision_apart(RuntimeError("operator aten::nms does not exist")) is None
