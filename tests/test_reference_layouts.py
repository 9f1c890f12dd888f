"""Golden files in the layouts of full-size models, of other seeds and of batches, at a small size.

Each layout is written here with numbers that are worked out directly; verify_reference.py has to
find every one of them from the JSON alone, and every one that is wrong.
"""

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import verify_reference
from conftest import ROOT
from PIL import Image
from reference import guidance
from reference.fill import fill_, make_image, make_input, probe
from reference.parts import statistics

from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.guided import guided
from acgd.media.preprocess import normalise, pixels
from acgd.models.clip import CLIP
from acgd.models.tokenizer import tokenizer
from acgd.models.unet import UNet

UNET = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2"}
UNET |= {"learn_sigma": True, "attention_resolutions": "8", "num_head_channels": 16}
UNET |= {"use_scale_shift_norm": True, "resblock_updown": True}
PROCESS = {"diffusion_steps": 1000, "noise_schedule": "linear", "timestep_respacing": "1000"}
PROCESS |= {"rescale_timesteps": True, "use_fp16": True, "use_kl": False}
BOUNDS = {"metric": "", "bounds": {"grad*": 1e-3, "cond.*": 2e-4, "*": 2e-5}}
TEXTS = ["a diagram", "a dog: barking"]


def unet(prefix):
    model = UNet(**UNET)
    fill_(model.state_dict(), prefix)
    return model.eval().requires_grad_(False)


def answer(model, x, t, name):
    """Output and gradient of a UNet, as every file about one has them."""
    out = model(x.requires_grad_(), torch.tensor(t))
    (out * probe(name, tuple(out.shape))).sum().backward()
    return out.detach().numpy(), x.grad.numpy()


def cut(name, array):
    """The parts of an array that is not kept whole."""
    flat = array.ravel()
    corner = array[..., :4, :4] if array.ndim == 4 else array[:1]
    sample = flat[:: flat.size // 50][:50]
    stats = statistics(torch.as_tensor(array))
    return {f"{name}.corner": corner, f"{name}.sample": sample, f"{name}.stats": stats}


def manifest(folder, name, config, **beside):
    (folder / "manifests").mkdir(exist_ok=True)
    text = json.dumps({"config": config, **beside})
    (folder / "manifests" / f"{name}.json").write_text(text)
    return f"as manifests/{name}.json"


# --- the layouts: what the JSON says, and the arrays


def unet_seed2(folder):
    """A prefix of its own, in a sentence; input and probe under other names."""
    out, grad = answer(
        unet("seed2."), make_input("seed2.x", [2, 3, 16, 16]), [3.0, 700.5], "seed2.p"
    )
    variant = {
        "create_model": UNET,
        "x": "make_input('seed2.x', [2, 3, 16, 16])",
        "timesteps (float)": [3.0, 700.5],
        "y": None,
        "grad": "d sum(out * probe('seed2.p', out.shape)) / dx",
    }
    weights = "fill rule, prefix 'seed2.'; no key is left alone"
    return {"weights": weights, "variants": {"wide": variant}}, {"wide.out": out, "wide.grad": grad}


def unet_512_full(folder):
    x = make_input("unet_512.x", [1, 3, 16, 16])
    out, grad = answer(unet("big."), x, [321.0], "unet_512")
    meta = {
        "weights": {"rule": "fill rule", "prefix": "big."},
        "config": manifest(folder, "small_512", UNET | PROCESS),
        "call": "model(make_input('unet_512.x', [1, 3, 16, 16]), [321.0])",
        "grad": "d sum(out * probe('unet_512', out.shape)) / dx",
    }
    return meta, cut("out", out) | cut("grad", grad)


def unet_256_full(folder):
    """A forward pass, and one step down: IDDPM's mean and learned variance, by hand."""
    model, t, noise = unet(""), 500, make_input("unet_256.noise", [1, 3, 16, 16])
    x = make_input("unet_256.x", [1, 3, 16, 16])
    out, grad = answer(model, x, [250.0], "unet_256")
    meta = {
        "weights": "fill rule, prefix ''; nothing is left alone",
        "config": manifest(folder, "small_256", UNET | PROCESS),
        "forward": {
            "x": "make_input('unet_256.x', [1, 3, 16, 16])",
            "timesteps (float)": [250.0],
            "grad": "d sum(out * probe('unet_256', out.shape)) / dx",
        },
        "step": {
            "method": "p_sample",
            "t": t,
            "x": "make_input('unet_256.step', [1, 3, 16, 16])",
            "noise": "make_input('unet_256.noise', [1, 3, 16, 16])",
        },
    }
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    before = abar[t - 1]
    at = make_input("unet_256.step", [1, 3, 16, 16])
    with torch.no_grad():
        eps, v = model(at, torch.tensor([float(t)])).double().numpy().reshape(2, 1, 3, 16, 16)
    at, z = at.double().numpy(), noise.double().numpy()
    x0 = (at - np.sqrt(1 - abar[t]) * eps) / np.sqrt(abar[t])
    mean = np.sqrt(before) * beta[t] * x0 + np.sqrt(1 - beta[t]) * (1 - before) * at
    mean, least = mean / (1 - abar[t]), beta[t] * (1 - before) / (1 - abar[t])
    frac = (v + 1) / 2
    log_variance = frac * np.log(beta[t]) + (1 - frac) * np.log(least)
    step = {"sample": mean + np.exp(log_variance / 2) * z, "pred_xstart": x0}
    arrays = {f"forward.{k}": v for k, v in (cut("out", out) | {"grad": grad}).items()}
    for name, array in step.items():
        arrays |= cut(f"step.{name}", array.astype(np.float32))
    return meta, arrays


def clip_rn50_full(folder):
    """Parts of the gradient, and a photo that has to be at hand."""
    config = {"embed_dim": 16, "image_resolution": 32, "vision_layers": [1, 1, 1, 1]}
    config |= {"vision_width": 8, "vision_patch_size": None, "context_length": 77}
    config |= {"transformer_width": 16, "transformer_heads": 2, "transformer_layers": 1}
    model = CLIP(**config, vision_heads=2).eval()
    fill_(model.state_dict(), "rn.")
    x = make_image("rn.image", [2, 3, 32, 32], 8).requires_grad_()
    ids = tokenizer(77)(TEXTS)
    image, text = model.encode_image(x), model.encode_text(ids)
    similarity = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    (similarity * probe("rn.sim", (2, 2))).sum().backward()
    photo = folder / "photos" / "cat_1.jpg"
    photo.parent.mkdir(exist_ok=True)
    y, x_ = np.mgrid[:40, :50]
    Image.fromarray(np.stack([5 * x_, 6 * y, x_ + y], -1).astype(np.uint8)).save(photo)
    with Image.open(photo) as opened, torch.no_grad():
        seen = model.encode_image(normalise(pixels(opened, 32))[None])
    meta = {
        "config": manifest(folder, "small_rn50", config, vision_heads=2),
        "weights": {"rule": "fill rule", "prefix": "rn.", "left_alone": ["num_batches_tracked"]},
        "texts": TEXTS,
        "image": "make_image('rn.image', [2, 3, 32, 32], 8), taken as already normalised",
        "similarity": "cosine, images by texts, no logit scale",
        "grad": "d sum(similarity * probe('rn.sim', similarity.shape)) / d image",
        "photo": {"cat_1.jpg": {"sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}},
    }
    arrays = {"tokens": ids, "encode_image": image, "encode_text": text, "similarity": similarity}
    arrays = {k: v.detach().numpy() for k, v in arrays.items()}
    arrays["logits_per_image"] = (model.logit_scale.exp() * similarity).detach().numpy()
    return meta, arrays | cut("grad", x.grad.numpy()) | {"photo.encode_image": seen.numpy()}


def guidance_pair(folder):
    """Two pictures at once, each as if it were alone: the cutouts lie at the same places."""
    meta = json.loads((ROOT / "tests/golden/guidance.json").read_text())
    meta["weights"] = "fill rule, prefix 'pair.', for the UNet and for CLIP"
    cond = meta["cond"] | {"x": "make_input('pair.x', [2, 3, 64, 64])"}
    cond |= {"audio_embedding": "make_input('pair.audio', (1, 32), 3.0)"}
    case = {"torch.manual_seed": 7, "input": "make_input('pair.cuts', [1, 3, 20, 20])"}
    case |= {"cut_size": 32, "cutn": 3, "cut_pow": 1.0}
    cutouts = {"cases": {"one": case}, "arrays": "grad = d sum(out * probe('pair.CASE')) / d input"}
    meta = {"weights": meta["weights"], "cond": cond, "cutouts": cutouts, "cond_variants": {}}
    meta["cond_variants"]["all"] = {"settings changed": {}, "weights": "the prompts'"}
    alone = guidance.Notebook(cond | {"x": "make_input('pair.one', [1, 3, 64, 64])"}, "pair.")
    network, rows = alone.denoiser(alone.diffusion), []
    for x in make_input("pair.x", [2, 3, 64, 64]).split(1):
        guide = alone.guidance(alone.diffusion, Noise.shared(1234 + 5), alone.weights)
        rows.append(-guided(network, x, torch.tensor([5]), guide).grad)
    x = make_input("pair.cuts", [1, 3, 20, 20]).requires_grad_()
    out = torch.cat([F.adaptive_avg_pool2d(x, 32)] * 3)  # smaller than a cut: each is the whole
    (out * probe("pair.one", (3, 3, 32, 32))).sum().backward()
    arrays = {"cond.all.t5.grad": torch.cat(rows).numpy(), "cutouts.one.grad": x.grad.numpy()}
    return meta, arrays | {"cutouts.one.out": out.detach().numpy()}


LAYOUTS = [unet_seed2, unet_512_full, unet_256_full, clip_rn50_full, guidance_pair]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_REFERENCE_FILES", str(tmp_path / "photos"))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")  # main sets it: undone after the test
    return tmp_path


def write(folder, name, meta, arrays):
    said = {"what": "a small model", "tolerances": BOUNDS, **meta}
    (folder / f"{name}.json").write_text(json.dumps(said | {"index": dict.fromkeys(arrays, "")}))
    np.savez(folder / f"{name}.npz", **arrays)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_right_numbers_are_found_right_and_wrong_ones_wrong(layout, folder, capsys):
    meta, arrays = layout(folder)
    write(folder, layout.__name__, meta, arrays)
    assert verify_reference.main([str(folder)]) == 0, capsys.readouterr().out
    wrong = {name: a + 1 if a.dtype.kind == "i" else a * 1.01 for name, a in arrays.items()}
    write(folder, layout.__name__, meta, wrong)
    faults = [fault for case in verify_reference.verify_folder(folder) for fault in case.faults]
    assert {fault.split(":")[0] for fault in faults} == set(arrays)
    write(folder, layout.__name__, meta, arrays | dict([list(wrong.items())[-1]]))
    assert verify_reference.main([str(folder)]) == 1
    assert ", 0 not checked" in capsys.readouterr().out


def test_what_was_not_checked_fails_unless_it_may_be_missing(folder, capsys, monkeypatch):
    write(folder, "clip_rn50_full", *clip_rn50_full(folder))
    monkeypatch.setenv("ACGD_REFERENCE_FILES", "")
    assert verify_reference.main([str(folder)]) == 1
    assert "needs cat_1.jpg" in capsys.readouterr().out
    assert verify_reference.main([str(folder), "--allow-missing"]) == 0
    (folder / "novel.json").write_text("{}")
    assert verify_reference.main([str(folder), "--only", "novel"]) == 1
    assert verify_reference.main([str(folder), "--only", "novel", "--allow-missing"]) == 0


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"step": {"cond_fn": "the notebook's"}}, "step: cond_fn is not understood"),
        ({"step": {"method": "plms_sample"}}, "method 'plms_sample' is none of"),
        ({"config": "as manifests/of_nothing.json"}, "no manifests/of_nothing.json"),
        ({"config": "as published"}, "neither options nor the name of a manifest"),
        (
            {"weights": "prefix 'a.' for one, prefix 'b.' for two"},
            "one prefix expected",
        ),
    ],
)
def test_what_a_file_says_beyond_what_is_understood_fails(changed, said, folder, capsys):
    meta, arrays = unet_256_full(folder)
    for key, value in changed.items():
        meta[key] = meta[key] | value if isinstance(value, dict) else value
    write(folder, "unet_256_full", meta, arrays)
    assert verify_reference.main([str(folder), "--allow-missing"]) == 1
    assert said in capsys.readouterr().out


def test_a_fault_after_the_last_array_fails_and_so_does_a_file_without_numbers(folder, capsys):
    meta = {"strings": ["a"], "vocabulary": {}, "too_long_without_truncate": [], "decoded": []}
    write(
        folder, "clip_bpe", meta, {"tokens": tokenizer()(["a"]).numpy(), "n_tokens": np.array([1])}
    )
    assert verify_reference.main([str(folder)]) == 1
    assert "stopped (KeyError: 'sha256')" in capsys.readouterr().out
    write(folder, "clip_bpe", {"strings": ["a"]}, {})
    write(folder, "unet_none", {"variants": {}}, {})
    assert verify_reference.main([str(folder), "--only", "unet*"]) == 1
    assert "no numbers in it, not checked" in capsys.readouterr().out
