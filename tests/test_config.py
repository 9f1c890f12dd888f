"""What a config means: runs, names, and every yaml in conf/ by itself."""

from __future__ import annotations

import shutil

import pytest
from conftest import ROOT, compose

import acgd.types
from acgd.config.instantiate import build
from acgd.errors import UserError
from acgd.pipeline.models import make
from acgd.runs.run import expand, fingerprint, resolve, signature

YAMLS = sorted(path.relative_to(ROOT / "conf") for path in (ROOT / "conf").glob("*/**/*.yaml"))


def sign(*overrides: str) -> str:
    return signature(expand(compose(*overrides))[0].cfg)


@pytest.fixture
def tone(sounds) -> str:
    return f"prompt.path={sounds / 'tone.wav'}"


def test_equal_numbers_give_one_signature(tone):
    same = {sign(tone, f"guidance.clip={n}") for n in ("500", "500.0", "5e2")}
    assert len(same) == 1
    assert sign(tone, "sampler.steps=20") == sign(tone, "sampler.steps='20'")
    assert sign(tone, "guidance.clip=501") not in same


@pytest.mark.parametrize(
    "beside", ["device=cpu", "precision=bf16", "logger=none", "batch_size=2", "name=x", "outputs=x"]
)
def test_what_does_not_change_the_picture_does_not_change_its_name(tone, beside):
    assert sign(tone, beside) == sign(tone)


@pytest.mark.parametrize("change", ["seed=1", "sampler=ddim", "prompt.offset=0.1", "twin=true"])
def test_what_changes_the_picture_changes_its_name(tone, change):
    assert sign(tone, change) != sign(tone)


def test_sounds_count_by_content(sounds, tmp_path):
    path = shutil.copy(sounds / "tone.wav", tmp_path / "other name.wav")
    before = sign(f"prompt.path='{path}'")
    assert before == sign(f"prompt.path={sounds / 'tone.wav'}")
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"\x12\x34")
    assert sign(f"prompt.path='{path}'") != before


def test_retrained_weights_make_other_pictures(tone, tmp_path, monkeypatch):
    monkeypatch.setattr("acgd.runs.run.WEIGHTS", tmp_path)
    seen = set()
    for content in (b"once", b"more"):
        (tmp_path / "tiny_unet.safetensors").write_bytes(content)
        seen.add(sign(tone))
    assert len(seen) == 2


def test_a_text_that_looks_like_a_number_or_a_file_stays_a_text(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("content")
    monkeypatch.chdir(tmp_path)
    before = sign("prompt=text", "prompt.text=a.txt")
    (tmp_path / "a.txt").write_text("other")
    assert sign("prompt=text", "prompt.text=a.txt") == before
    assert sign("prompt=text", "prompt.text='1e3'") != sign("prompt=text", "prompt.text='1000'")


def test_large_files_are_told_apart_by_size_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("acgd.runs.run.WHOLE_FILE", 64)
    path = tmp_path / "weights.pt"
    seen = set()
    for content in (bytes(200), bytes(201), b"x" + bytes(199), bytes(199) + b"x"):
        path.write_bytes(content)
        seen.add(fingerprint(path))
    assert len(seen) == 4


def test_a_run_for_each_sound_and_seed(sounds):
    runs = expand(compose(f"prompt.path={sounds}", "seed=[3,4]"))
    assert [(run.label, run.seed) for run in runs] == [
        ("hiss", 3),
        ("hiss", 4),
        ("tone", 3),
        ("tone", 4),
    ]
    assert len({run.folder for run in runs}) == 4
    assert all(run.signature in run.folder.name for run in runs)
    assert runs[0].cfg["prompt"]["path"] == str(sounds / "hiss.wav")


def test_twice_the_same_is_once(sounds):
    tone = sounds / "tone.wav"
    assert len(expand(compose(f"prompt.path=[{tone},{tone}]", "seed=[1,1]"))) == 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=-1", "seed=-1"),
        ("seed=1.5", "seed=1.5"),
        ("seed=[]", "at least one seed"),
        ("batch_size=0", "batch_size=0"),
        ("picture=last", "choose from sample, x0"),
        ("precision=fp8", "choose from auto"),
        ("preview_every=often", "whole number"),
        ("prompt=image", "prompt.image has no value"),
        ("prompt.path=nowhere.wav", "nowhere.wav"),
    ],
)
def test_mistakes_are_named(override, says, tone):
    with pytest.raises(UserError) as error:
        expand(compose(override, *([] if override.startswith("prompt") else [tone])))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_build_hands_objects_over_untouched():
    value = object()
    made = build({"_target_": "builtins.dict", "a": [1]}, b=value)
    assert made == {"a": [1], "b": value} and type(made["a"]) is list


def test_build_names_an_unknown_argument():
    with pytest.raises(UserError, match=r"DDIM: has no wrong"):
        build({"_target_": "acgd.diffusion.samplers.ddim.DDIM", "wrong": 1})


PUBLISHED = {
    ("model", "openai_256"): 552_814_086,
    ("model", "openai_512"): 557_973_638,
}


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_yaml_builds_by_itself(path, weights, sounds, tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path / "empty"))
    *group, name = path.with_suffix("").parts
    if group[0] in ("experiment", "bug", "hydra"):
        return  # they are whole configs: see test_experiments.py
    chosen = f"{'/'.join(group)}={name}"
    given = ["prompt.image=[]"] if chosen == "prompt=image" else []
    cfg = compose(chosen, *given)
    node = resolve(cfg)[group[0]]
    if node["_target_"] is None:
        assert chosen == "judge=none"
    elif group[0] in ("model", "encoder", "judge"):
        builds_with_weights_or_says_where_they_go(group[0], name, node, weights)
    elif group[0] == "prompt":
        builds_prompt(name, node, sounds, tmp_path)
    elif group[0] == "guidance":
        pieces = build(node["schedule"])
        assert 0 <= pieces(0.5) <= 1
    elif group[0] == "describer":
        encoder = build({**compose().encoder, "checkpoint": str(weights / "encoder.safetensors")})
        if name == "muscaps":
            with pytest.raises(UserError, match="muscaps_hcnn_clotho"):
                build(node, encoder=encoder)
            return
        if name == "both_notebook":
            with pytest.raises(UserError, match="muscaps_hcnn_clotho"):
                make(node, encoder=encoder)
            return
        fulfils(make(node, encoder=encoder), acgd.types.Describer)
    elif group[0] == "captioner" and name not in ("none", "clipcap_tiny"):
        with pytest.raises(UserError, match=r"not here: put its tokenizer|no BLIP that is here"):
            build(node)
    elif group[0] == "logger":
        fulfils(build(node), acgd.types.Logger)
    else:
        assert build(node) is not None


def fulfils(thing, protocol):
    """Whether it has all that the protocol asks for."""
    names = [*protocol.__annotations__, *vars(protocol)]
    asked = [n for n in names if not n.startswith("_") or n == "__call__"]
    assert asked and not [name for name in asked if not hasattr(thing, name)]


def builds_with_weights_or_says_where_they_go(group, name, node, weights):
    import torch

    from acgd.models.unet import UNet

    if name == "tiny":
        if group == "model":
            assert build(node).decode is not None  # the embedded networks, which fit each other
        else:
            small = {"checkpoint": str(weights / f"{group}.safetensors")}
            fulfils(build(node | small), acgd.types.Encoder)
        return
    if name in ("openclip", "siglip"):  # which fetch their weights themselves
        return
    if name == "diffusers":
        with pytest.raises(UserError, match=r"no diffusers pipeline that is here|pip install"):
            build(node)
        return
    if name == "clap":
        with pytest.raises(UserError, match="no CLAP that is here whole"):
            build(node)
        return
    with pytest.raises(UserError, match=r"are not here: put the file at .*empty"):
        build(node)
    if group == "model":
        known = ("_target_", "checkpoint", "schedule", "predicts")
        with torch.device("meta"):
            unet = UNet(**{k: v for k, v in node.items() if k not in known})
        count = sum(p.numel() for p in unet.parameters())
        assert count == PUBLISHED.get((group, name), count)


def builds_prompt(name, node, sounds, tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 7), "red").save(tmp_path / "red.png")
    changes = {"path": str(sounds / "tone.wav"), "image": str(tmp_path / "red.png")}
    source = build({key: changes.get(key, value) for key, value in node.items()})
    source.check()
    fulfils(source, acgd.types.PromptSource)
    assert (source.wave(16000) is None) == (name in ("text", "image"))
