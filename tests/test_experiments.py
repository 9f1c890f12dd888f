"""The overlays: they compose, and the notebook's guidance answers as the notebook did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, compose
from reference import guidance as reference
from reference.inputs import evaluate

from acgd import config
from acgd.config import build
from acgd.models.unet import UNet
from acgd.noise import Noise
from acgd.samplers.guided import guided
from acgd.types import Target

GOLDEN = Path(__file__).parent / "golden"
CHOICES = ["notebook", "notebook_corrected", "faithful", "published"]


@pytest.mark.parametrize("choice", CHOICES)
def test_experiments_name_options_that_exist(choice):
    plain, resolved = config.resolve(compose()), config.resolve(compose(f"experiment={choice}"))
    assert set(resolved) == set(plain)
    assert set(resolved["guidance"]) == set(plain["guidance"])
    for group in ("prompt", "describer", "captioner"):
        files = (ROOT / "conf" / group).glob("*.yaml")
        assert set(resolved[group]) in [set(yaml.safe_load(file.read_text())) for file in files]


def test_the_notebook_is_its_models_and_its_faults():
    """notebook is notebook_corrected but for what faithful sets."""
    cfgs = {choice: flat(config.resolve(compose(f"experiment={choice}"))) for choice in CHOICES}
    notebook, corrected, faithful = (
        cfgs[choice] for choice in ("notebook", "notebook_corrected", "faithful")
    )
    assert notebook["model.checkpoint"] == "256x256_diffusion_uncond.pt"
    assert notebook["encoder.image_from"] == "RN50.pt" and notebook["captioner.decoding.beams"] == 5
    mended = {key for key in notebook if notebook[key] != corrected[key]}
    assert mended == {
        *("encoder.input_range", "encoder.truncate", "prompt.notebook_parsing"),
        *("describer.spelled", "describer.sample", "describer.seed"),
        *("guidance.audio_weights", "picture", "shared_noise"),
    }
    assert all(notebook[key] == faithful[key] for key in mended)


def flat(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        own = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        found |= own
    return found


class Composed(reference.Notebook):
    """The golden file's small models, guided as experiment=notebook says."""

    def guidance(self, diffusion, noise, weights, *, cutouts: int, share: float):
        cfg = config.resolve(compose("experiment=notebook", f"guidance.num_cutouts={cutouts}"))
        assert cfg["shared_noise"] and isinstance(noise, type(Noise.shared(0)))
        node = {key: value for key, value in cfg["guidance"].items() if key != "cfg"}
        embeds = torch.nn.functional.normalize(self.text_embeds, dim=-1)
        rows = [Target(e, share * w, "text", "") for e, w in zip(embeds, weights, strict=True)]
        rows += [Target(e, 1 - share, "audio", "") for e in self.audio]
        known = {"targets": [rows], "diffusion": diffusion, "noise": noise}
        return build(node, encoder=self.encoder, **known)


def test_the_notebook_s_guidance_gradient_is_the_golden_one():
    meta = json.loads((GOLDEN / "guidance.json").read_text(encoding="utf-8"))
    arrays = np.load(GOLDEN / "guidance.npz")
    settings, bound = meta["cond"]["settings"], meta["tolerances"]["bounds"]["cond.*"]
    notebook, x = Composed(meta["cond"]), evaluate(meta["cond"]["x"])
    names = [name for name in arrays.files if name.startswith("cond.all.t")]
    assert len(names) > 1
    for name in names:
        index = int(name.split(".")[2].removeprefix("t"))
        noise = Noise.shared(1234 + index)
        given = {"cutouts": settings["cutn"], "share": settings["LOSS_PROP_TEXT"]}
        guide = notebook.guidance(notebook.diffusion, noise, notebook.weights, **given)
        step = guided(notebook.denoiser(notebook.diffusion), x, torch.tensor([index]), guide)
        error = np.linalg.norm(-step.grad.numpy() - arrays[name]) / np.linalg.norm(arrays[name])
        assert error <= bound, name


MILLIONS = {  # parameters, after Dhariwal & Nichol 2021, arXiv:2105.05233
    "openai_64_classes": 296,
    "openai_128_classes": 422,
    "openai_256_classes": 554,
    "openai_512_classes": 559,
}


@pytest.mark.parametrize("name", MILLIONS)
def test_class_conditional_models_have_their_published_size(name):
    from acgd.checkpoints import Unfilled

    node = config.resolve(compose(f"model={name}"))["model"]
    known = ("_target_", "checkpoint", "schedule")
    with Unfilled():
        unet = UNet(**{key: value for key, value in node.items() if key not in known})
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == MILLIONS[name]
    assert unet.label_emb.weight.shape[0] == 1000 and unet.out_channels == 6
