"""The original packages live (the extra [originals]) beside acgd, on the same weights."""

from __future__ import annotations

import importlib.util
import itertools
import json

import benchmark
import benchmark_originals
import pytest
import torch
from safetensors.torch import save_file

from acgd.encoders import original_clip
from acgd.models import clip, unet
from acgd.models.tokenizer import tokenizer

HERE = all(importlib.util.find_spec(name) for name in ("guided_diffusion", "clip"))
pytestmark = [
    pytest.mark.skipif(not HERE, reason="the extra [originals] is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of the packages' own code
]

SMALL = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2"}
NETWORKS = {
    "as published": {
        **SMALL,
        "attention_resolutions": "8,16",
        "num_head_channels": 16,
        "learn_sigma": True,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
    },
    "classes": {
        **SMALL,
        "attention_resolutions": "8",
        "num_heads": 2,
        "learn_sigma": True,
        "class_cond": True,
        "use_scale_shift_norm": True,
    },
    "plain": {
        **SMALL,
        "channel_mult": "1,1,2",
        "attention_resolutions": "4",
        "num_heads": 4,
        "num_heads_upsample": 2,
        "use_new_attention_order": True,
    },
}
CLIPS = {
    "resnet": (16, 32, (1, 2, 1, 1), 8, None, 77, 49408, 16, 2, 1),
    "vit": (16, 32, 2, 64, 8, 77, 49408, 16, 2, 1),
}


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def alike(module, other):
    """The other with the module's weights, all of them random, both for inference."""
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in key else value.normal_(0, 0.1)
    other.load_state_dict(module.state_dict())
    return [one.eval().requires_grad_(False) for one in (module, other)]


def answer(run, x):
    """A function's value at x, and the gradient of what a fixed probe makes of it."""
    x = x.clone().requires_grad_()
    out = run(x)
    probe = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    return out.detach(), torch.autograd.grad((out * probe).sum(), x)[0]


def apart(a, b) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def original_unet(sizes):
    from guided_diffusion.script_util import create_model

    return create_model(**sizes)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_unet_and_its_gradient(name, batch):
    theirs, own = alike(original_unet(NETWORKS[name]), unet.UNet(**NETWORKS[name]))
    x, t = torch.randn(batch, 3, 16, 16), torch.linspace(3.5, 990, batch)
    y = {"y": torch.arange(batch)} if NETWORKS[name].get("class_cond") else {}
    for a, b in zip(*(answer(lambda x, n=n: n(x, t, **y), x) for n in (own, theirs)), strict=True):
        assert apart(a, b) < 2e-5


def test_the_unet_with_a_float16_torso():
    theirs, own = alike(
        original_unet({**NETWORKS["as published"], "use_fp16": True}),
        unet.UNet(**NETWORKS["as published"]),
    )
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 700.0])
    whole = own(x, t)
    theirs.convert_to_fp16()
    own.convert_torso("float16")
    assert 0 < apart(own(x, t), theirs(x, t)) < 5e-3
    assert apart(own(x, t), whole) < 5e-3


@pytest.mark.parametrize("name", CLIPS)
def test_clip_pictures_their_gradient_and_texts(name):
    theirs, own = alike(original_clip.module("model").CLIP(*CLIPS[name]), clip.CLIP(*CLIPS[name]))
    pixels, tokens = torch.randn(3, 3, 32, 32), tokenizer(77)(["a dog", "rain on a tin roof"])
    for a, b in zip(*(answer(n.encode_image, pixels) for n in (own, theirs)), strict=True):
        assert apart(a, b) < 1e-4
    assert apart(own.encode_text(tokens), theirs.encode_text(tokens)) < 1e-5
    for a, b in zip(own(pixels, tokens), theirs(pixels, tokens), strict=True):
        assert apart(a, b) < 1e-4


def test_clip_halves_what_the_original_halves():
    for sizes in CLIPS.values():
        theirs, own = alike(original_clip.module("model").CLIP(*sizes), clip.CLIP(*sizes))
        original_clip.module("model").convert_weights(theirs)
        clip.halve_(own)
        dtypes = [{k: v.dtype for k, v in n.state_dict().items()} for n in (own, theirs)]
        assert dtypes[0] == dtypes[1]
        pixels = torch.randn(2, 3, 32, 32)
        assert apart(own.encode_image(pixels), theirs.encode_image(pixels)) < 1e-2


@pytest.mark.parametrize("text", ["a dog", "It's 12:30, naïve café!", "x" * 40, "  A &amp; B\n"])
def test_the_tokenizer(text):
    theirs = original_clip.module("simple_tokenizer").SimpleTokenizer().encode(text)
    own = tokenizer(77)([text])[0]
    assert own[1 : 1 + len(theirs)].tolist() == theirs


@pytest.mark.parametrize("method", ["p", "ddim", "plms"])
@pytest.mark.parametrize("one_pass", [True, False], ids=["one pass", "two passes"])
def test_whole_guided_runs(monkeypatch, method, one_pass):
    monkeypatch.setattr(benchmark_originals, "RESPACING", "8")
    monkeypatch.setattr(benchmark_originals, "SKIP", 2)
    x = torch.randn(1, 3, 32, 32)
    grad, loop = benchmark_originals.originals("tiny", one_pass, method)
    own_grad, own_loop = benchmark_originals.ours("tiny", "float32", method)
    assert apart(own_grad(x), grad(x)) < 1e-4
    steps = list(itertools.zip_longest(own_loop(x), loop(x)))
    assert len(steps) == 6  # all that are left of 8
    for a, b in steps:
        assert apart(a, b) < 1e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("respacing", ["", "50", "ddim25", "10,15,20"])
def test_the_tables_of_a_respaced_process(schedule, respacing):
    from guided_diffusion.script_util import create_gaussian_diffusion

    from acgd.diffusion.process import Diffusion

    theirs = create_gaussian_diffusion(
        steps=1000, learn_sigma=True, noise_schedule=schedule, timestep_respacing=respacing
    )
    own = Diffusion(schedule, respacing=respacing)
    assert own.timestep_map.tolist() == list(theirs.timestep_map)
    for table in ("betas", "posterior_variance", "posterior_mean_coef1", "posterior_mean_coef2"):
        assert (getattr(own, table) == getattr(theirs, table)).all(), table


@pytest.fixture
def files(tmp_path):
    """Overrides for a picture model and a CLIP that both sides can read."""
    sizes = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2"}
    sizes |= {"attention_resolutions": "16", "num_head_channels": 32, "learn_sigma": True}
    sizes |= {"use_scale_shift_norm": True, "resblock_updown": True}
    keys = ("embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size")
    keys += ("context_length", "vocab_size", "transformer_width", "transformer_heads")
    clip_sizes = dict(zip((*keys, "transformer_layers"), CLIPS["resnet"], strict=True))
    made = {"unet": (unet.UNet(**sizes), sizes), "clip": (clip.CLIP(**clip_sizes), clip_sizes)}
    for name, (module, config) in made.items():
        state = benchmark_originals.drawn(module).state_dict()
        save_file(state, tmp_path / f"{name}.safetensors", {"config": json.dumps(config)})
    own = [f"model.{key}={json.dumps(value)}" for key, value in sizes.items()]
    own = [f"++{one}" for one in own]
    return [
        *own,
        f"model.checkpoint={tmp_path / 'unet.safetensors'}",
        f"encoder.checkpoint={tmp_path / 'clip.safetensors'}",
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_drawn_by_both(files, precision):
    given = ["prompt=text", "describer=none", "captioner=none", "judge=none", "device=cpu"]
    given += ["guidance.through_unet=true", "guidance.num_cutouts=2", "sampler.steps=4"]
    given += ["guidance.cfg_scale=0", "guidance.clip=50", f"precision={precision}", *files]
    drawn = {}
    for kind in ("openai", "original"):
        encoder = {"openai": "clip", "original": "original_clip"}[kind]
        models, steps = benchmark.prepare([f"model={kind}_256", f"encoder={encoder}", *given], 2)
        assert type(models.model.unet).__module__.startswith("guided") == (kind == "original")
        assert type(models.encoder.model).__module__.startswith("acgd.models") == (kind == "openai")
        drawn[kind] = list(steps)[-1].x
    assert drawn["openai"].std() > 0.1
    assert apart(drawn["openai"], drawn["original"]) < {"fp32": 1e-3, "bf16": 0.1}[precision]


def test_without_the_package_the_extra_is_asked_for(monkeypatch):
    from acgd.diffusion import original
    from acgd.errors import UserError

    monkeypatch.setitem(__import__("sys").modules, "guided_diffusion.script_util", None)
    with pytest.raises(UserError, match=r"pip install 'acgd\[originals\]'"):
        original.maker()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(__import__("sys").modules, "acgd_original_clip_model", raising=False)
    with pytest.raises(UserError, match=r"pip install 'acgd\[originals\]'"):
        original_clip.module("model")


def test_the_benchmark_prints_a_line_for_each_case(tmp_path):
    cases, found = benchmark_originals.CASES, {}
    for case in cases:
        told = benchmark_originals.run(case, "tiny", 1, tmp_path / f"{case}.pt")
        found[case] = [{**told, "peak": 1e9}]
    cosine = benchmark_originals.cosines(tmp_path, list(cases))
    assert cosine["one pass"] > 0.9999 and cosine["acgd"] > 0.9999 and cosine["acgd bf16"] > 0.99
    lines = list(benchmark_originals.table(found, cosine))
    assert [line[:12].strip() for line in lines] == list(cases)


def test_a_case_of_the_benchmark_in_a_process_of_its_own(capsys):
    given = ["--size", "tiny", "--rounds", "1", "--steps", "1"]
    benchmark.main(["originals", "--only", "one pass", *given])
    assert "gradient cosine 1.000000" in capsys.readouterr().out
