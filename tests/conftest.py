"""Random but real models: the embedded architectures at a size that samples in a second."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads
if "PYTEST_XDIST_WORKER" in os.environ:  # several at a time: a thread each, their children too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
UNET = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "patch_size": 2,
    "cond_dim": 16,
}
ENCODER = {
    "embed_dim": 16,
    "image_resolution": 32,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 8,
    "transformer_width": 16,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "audio_layers": [1, 1, 1, 1],
    "audio_groups": 2,
    "audio_width_per_group": 8,
    "audio_width": 8,
    "sample_rate": 16000,
}
JUDGE = ENCODER | {"vision_layers": 1, "vision_width": 16, "vision_patch_size": 8}


def write_weights(path: Path, module, config: dict, seed: int) -> None:
    """Seeded weights; what starts at zero in a new model gets values, or nothing would depend."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in module.state_dict().items():
        value = value.clone().contiguous()
        if value.is_floating_point() and not value.any() and "running_mean" not in key:
            value = torch.randn(value.shape, generator=generator) * 0.05
        state[key] = value
    save_file(state, path, {"config": json.dumps(config)})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that two workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A folder with unet, encoder and judge .safetensors."""
    import torch

    from acgd.models.audioclip import AudioCLIP
    from acgd.models.unet import UNet

    folder = tmp_path_factory.mktemp("weights")
    models = {"unet": (UNet, UNET), "encoder": (AudioCLIP, ENCODER), "judge": (AudioCLIP, JUDGE)}
    for seed, (name, (make, config)) in enumerate(models.items()):
        torch.manual_seed(seed)
        write_weights(folder / f"{name}.safetensors", make(**config), config, seed)
    return folder


@pytest.fixture(scope="session")
def tiny(weights) -> list[str]:
    """Overrides that put the random models in place of the embedded ones, in four steps."""
    return [
        f"model.checkpoint={weights / 'unet.safetensors'}",
        "model.adapter=null",
        "model.autoencoder=null",  # in pixels
        "model.predicts=x0",
        "model.clip_denoised=true",
        "model.styles=null",
        "model.clean_styles=[]",
        f"encoder.checkpoint={weights / 'encoder.safetensors'}",
        f"judge.checkpoint={weights / 'judge.safetensors'}",
        "sampler.steps=4",
        "guidance.num_cutouts=2",
        "describer=none",
        "captioner=none",
        "preview_every=2",
        "device=cpu",
        "report=false",
    ]


@pytest.fixture
def sounds(tmp_path) -> Path:
    """A folder with two short sounds, hiss.wav and tone.wav."""
    import soundfile

    folder = tmp_path / "sounds"
    folder.mkdir()
    time = np.arange(12000) / 16000
    soundfile.write(folder / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 16000)
    hiss = np.random.default_rng(0).uniform(-0.3, 0.3, 12000)
    soundfile.write(folder / "hiss.wav", hiss, 16000)
    return folder


def compose(*overrides: str):
    """The config that these command-line overrides make."""
    from acgd.config.compose import compose as composed

    return composed(overrides)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *arguments]


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium, or any that CHROMIUM names, driven by playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if name and (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()
