"""Stable-Diffusion-class models: small random pipelines of the real classes, through real folders.

What acgd draws unguided is held to diffusers' own schedulers and to its networks called by hand.
"""

from __future__ import annotations

import csv
import json
from inspect import signature

import numpy as np
import pytest
import tiny_pipelines
import torch
from conftest import compose
from PIL import Image

from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.dpmpp import DPMSolverPP
from acgd.diffusion.samplers.lcm import LCM
from acgd.pipeline import runner
from acgd.runs.folder import status
from acgd.runs.run import expand
from acgd.types import Target

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
E16 = torch.nn.functional.normalize(torch.arange(1.0, 17), dim=0)
ROWS = [[Target(E16, 1.0, "text", "a dog")], [Target(E16, 1.0, "text", "rain in the snow")]]
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
ZERO |= {"prediction": "v_prediction"}
KINDS = {
    "sd1": (tiny_pipelines.sd, {}),
    "sd2": (tiny_pipelines.sd, {"prediction": "v_prediction"}),
    "zero-snr": (tiny_pipelines.sd, ZERO),
    "sdxl": (tiny_pipelines.sdxl, {}),
    "sd3": (tiny_pipelines.sd3, {}),
    "pixart": (tiny_pipelines.pixart, {}),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> the folder of that pipeline, made when it is first asked for."""
    made = {}

    def folder(name: str):
        if name not in made:
            make, options = KINDS[name]
            made[name] = make(tmp_path_factory.mktemp(name), **options)
        return made[name]

    return folder


def drawn(model: DiffusersModel, sampler, scale: float, x: torch.Tensor, rows=ROWS):
    cond = model.condition(rows, [None] * len(rows), "cpu")
    denoiser = model.denoiser(model.diffusion(sampler.steps), cond, scale)
    for step in sampler(denoiser, x, noise=Noise(list(range(len(x))))):
        x = step.x
    return x


def by_diffusers(folder, scheduler, steps, scale, x, **options):
    """The pipeline's own __call__ from the same noise, latents out."""
    parts = json.loads((folder / "model_index.json").read_text())
    none = {name: None for name, kind in parts.items() if kind == [None, None]}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **none)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    more = {"clean_caption": False, "use_resolution_binning": False}
    accepted = signature(pipe.__call__).parameters
    more = {name: value for name, value in more.items() if name in accepted}
    given = {"num_inference_steps": steps, "guidance_scale": scale, "latents": x, **more}
    with torch.no_grad():
        return pipe([row[0].label for row in ROWS], output_type="latent", **given).images


@pytest.mark.parametrize("kind", ["sd1", "sd2", "zero-snr", "sdxl"])
def test_ddim_is_diffusers_own(folders, kind):
    model, x = DiffusersModel(str(folders(kind))), torch.randn(2, 4, 8, 8)
    assert model.shape == (4, 8, 8) and model.image_size == 16
    options = {"set_alpha_to_one": True, "clip_sample": False} if kind == "sdxl" else {}
    expected = by_diffusers(folders(kind), diffusers.DDIMScheduler, 10, 5.0, x, **options)
    assert (drawn(model, DDIM("10"), 5.0, x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_flow_s_euler_is_ddim(folders):
    model, x = DiffusersModel(str(folders("sd3"))), torch.randn(2, 4, 8, 8)
    expected = by_diffusers(folders("sd3"), None, 8, 4.0, x)
    assert (drawn(model, DDIM("8"), 4.0, x) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", ["sd1", "sd2", "pixart"])
def test_dpm_solver_is_diffusers_own(folders, kind):
    model, x = DiffusersModel(str(folders(kind))), torch.randn(2, 4, 8, 8)
    sampler = DPMSolverPP("12", ahead=None)
    kept = model.diffusion("12").timestep_map[::-1].copy()
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(timesteps=kept.tolist())
    expected, cond = x, model.condition(ROWS, [None, None], "cpu")
    with torch.no_grad():
        for t in scheduler.timesteps:
            given, without = (model.unet(expected, t.expand(2), side) for side in cond)
            out = without + 3.0 * (given - without)
            expected = scheduler.step(out, t, expected).prev_sample
    assert (drawn(model, sampler, 3.0, x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_pixart_s_network_is_told_what_its_pipeline_tells_it(folders):
    model, x = DiffusersModel(str(folders("pixart"))), torch.randn(2, 4, 8, 8)
    evenly = {"timestep_spacing": "leading", "clip_sample": False}  # DDIM's stride is even
    model.scheduler |= evenly
    expected = by_diffusers(folders("pixart"), diffusers.DDIMScheduler, 10, 3.0, x, **evenly)
    assert (drawn(model, DDIM("10"), 3.0, x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_consistency_sampling_is_diffusers_own(folders):
    model, x = DiffusersModel(str(folders("sd1"))), torch.randn(1, 4, 8, 8)
    scheduler = diffusers.LCMScheduler.from_config(model.pipe.scheduler.config)
    model.scheduler = dict(scheduler.config) | {"_class_name": "LCMScheduler"}
    scheduler.set_timesteps(4)
    assert model.diffusion("4").timestep_map[::-1].tolist() == scheduler.timesteps.tolist()
    (given, _), row, expected = model.condition(ROWS[:1], [None], "cpu"), ROWS[:1], x
    generator = Noise([0])
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = model.unet(expected, t.expand(1), given)
            result = scheduler.step(out, t, expected, generator=torch.Generator().manual_seed(0))
            if t == scheduler.timesteps[-1]:
                expected = result.denoised
                break
            mine = generator.like(x)
            theirs = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            abar = scheduler.alphas_cumprod[scheduler.timesteps[scheduler.step_index]]
            expected = result.prev_sample + (1 - abar).sqrt() * (mine - theirs)
    assert (
        drawn(model, LCM("4"), 1.0, x, row) - expected
    ).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture
def painted(tiny, folders, tmp_path):
    """Runs of a small pipeline under the small encoder, finished."""
    own = [word for word in tiny if not word.startswith(("model.", "sampler."))]

    def painted(*more: str, kind: str = "sd1"):
        given = [*own, "model=diffusers", f"model.checkpoint={folders(kind)}", "sampler=ddim",
                 "sampler.steps=4", f"outputs={tmp_path}", "logger=none", "prompt.path=demo:dog",
                 "guidance.cfg_scale=3", *more]  # fmt: skip
        runs = expand(compose(*given))
        runner.render(runs)
        return runs

    return painted


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_a_sound_steers_it_from_wav_to_page(painted, kind):
    together = painted("seed=[3,4]", kind=kind)
    before = {run.seed: native(run) for run in together}
    assert before[3].shape == (16, 16, 3) and before[3].std() > 0
    with open(together[0].folder / "losses.csv") as file:
        losses = [float(row["clip"] or 0) for row in csv.DictReader(file)]
    assert len(losses) == 4 and all(losses[1:])  # a flow begins with nothing to guide
    (alone,) = painted("seed=4", "force=true", kind=kind)
    assert alone.folder == together[1].folder
    assert np.abs(native(alone) - before[4]).max() <= 1  # of 255


def native(run) -> np.ndarray:
    assert status(run.folder) == "ok"
    path = run.folder / "images" / f"seed{run.seed}-native.png"
    return np.asarray(Image.open(path)).astype(int)
