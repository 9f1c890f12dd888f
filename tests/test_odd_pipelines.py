"""Pipelines that are absent, damaged or of another kind: one line each, no random numbers."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file, save_file

from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.errors import UserError

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_pipelines.sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def home(whole, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(whole, tmp_path / "copy")


def refused(checkpoint, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        DiffusersModel(str(checkpoint))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_pipeline(tmp_path):
    refused(tmp_path, re.escape("model_index.json lacks"))


def test_a_name_that_is_not_here(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("nobody/nothing", re.escape("model.download=true"))


def test_a_pipeline_of_another_kind(tmp_path):
    network = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    refused(tmp_path, "is a DDPMPipeline; Stable Diffusion 1")


@pytest.mark.parametrize("part", FILES)
def test_weights_that_are_not_whole(home, part):
    file = home / part / FILES[part]
    weights, written = load_file(file), file.read_bytes()
    name = next(name for name in sorted(weights) if name.endswith("weight"))
    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    refused(home, r"here whole \(1 of \d+ tensors missing")
    weights[name].view(-1)[-1] = torch.nan
    save_file(weights, file, {"format": "pt"})
    refused(home, f"{part} holds numbers that are none")
    for size in (len(written) - 1000, 5):
        file.write_bytes(written[:size])
        refused(home, "no diffusers pipeline that is here whole")
    file.unlink()
    refused(home, "no file named")


def test_a_tokenizer_that_is_gone(home):
    shutil.rmtree(home / "tokenizer")  # transformers makes an empty one of nothing
    refused(home, "tokenizer of text_encoder knows 2 of 190 words")


def test_configs_that_are_none(home):
    index = (home / "model_index.json").read_text()
    (home / "model_index.json").write_text(index.replace("AutoencoderKL", "AutoencoderXYZ"))
    refused(home, "neither diffusers nor transformers has a AutoencoderXYZ")
    (home / "model_index.json").write_text("{")
    refused(home, "not a valid JSON file")


def test_without_the_extra(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(whole, re.escape("pip install 'acgd[diffusers]'"))
