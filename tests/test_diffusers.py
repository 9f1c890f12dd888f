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
import yaml
from conftest import compose
from PIL import Image

from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.diffusion.noise import Noise
from acgd.diffusion.phrases import likeliest, phrase
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.dpmpp import DPMSolverPP
from acgd.diffusion.samplers.lcm import LCM
from acgd.errors import UserError
from acgd.paths import CONF
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


def test_a_sound_reaches_stable_diffusion_by_each_way(folders, tmp_path):
    """By gradient, words or both two sounds are two pictures, by neither way they are one."""
    own = [f"model.checkpoint={folders('sd1')}", "sampler.steps=3", "concept=null",
           "guidance.num_cutouts=2",
           "prompt.path=[demo:dog,demo:songbird]", "seed=0", "describer=none", "captioner=none",
           "judge=none", "logger=none", "device=cpu", "report=false",
           f"outputs={tmp_path}/outputs"]  # fmt: skip
    sweep = yaml.safe_load((CONF / "experiment" / "sound_paths.yaml").read_text(encoding="utf-8"))
    params = sweep["hydra"]["sweeper"]["params"]
    values = [params[key].split(",") for key in ("guidance.clip", "guidance.cfg_scale")]
    ways = [(clip, cfg_scale) for clip in values[0] for cfg_scale in values[1]]
    assert ways == [("0", "0"), ("0", "7.5"), ("100", "0"), ("100", "7.5")]
    pictures = {}
    for clip, cfg_scale in ways:
        given = f"guidance.clip={clip}", f"guidance.cfg_scale={cfg_scale}"
        runs = expand(compose("experiment=sound_paths", *own, *given))
        runner.render(runs)
        files = [run.folder / "images" / "seed0.png" for run in runs]
        pictures[clip, cfg_scale] = [np.asarray(Image.open(file), int) for file in files]
    apart = {way: np.abs(one - other).max() for way, (one, other) in pictures.items()}
    assert apart.pop(("0", "0")) == 0 and all(apart.values()), apart
    firsts = [pair[0].tobytes() for pair in pictures.values()]
    assert len(set(firsts)) == 4


def native(run) -> np.ndarray:
    assert status(run.folder) == "ok"
    path = run.folder / "images" / f"seed{run.seed}-native.png"
    return np.asarray(Image.open(path)).astype(int)


def heard(**odds: float) -> list[Target]:
    return [Target(E16, weight, "heard", label) for label, weight in odds.items()]


SAID = [
    Target(E16, 0.5, "audio", "bark.wav"),
    *heard(wolf=0.2, dog=0.35, cat=0.1),
    Target(E16, 0.3, "text", "snow"),
    Target(E16, 0.2, "text", "a bark far away", described=True),
    Target(E16, -0.4, "text", "people"),
]


@pytest.mark.parametrize(
    ("template", "row", "words"),
    [
        ("{words}", SAID, "snow, dog, wolf, a bark far away"),
        ("a photo of {heard}, {text}", SAID, "a photo of dog, wolf, snow"),
        ("{described}", SAID, "a bark far away"),
        ("{heard} in {text}, {described}", heard(dog=1.0), "dog in"),
        ("a photo, {heard}, {text}, {described}, dark", heard(dog=1.0), "a photo, dog, dark"),
        ("a photo of {words}", [], ""),  # nothing to be told of is the empty prompt
        ("a photo of {words}", SAID[-1:], ""),
        ("a photo", SAID, "a photo"),
        ("a photo", [], "a photo"),
        ("{{{heard}}}", heard(dog=1.0), "{dog}"),
    ],
)
def test_a_prompt_is_put_into_words(template, row, words):
    assert phrase(row, template) == words


def test_the_likeliest_are_those_at_least_half_as_likely_as_the_first():
    assert likeliest(SAID) == ["dog", "wolf"]
    assert likeliest(heard(dog=0.4, cat=0.2, owl=0.19)) == ["dog", "cat"]
    assert likeliest(heard(dog=0.2, cat=0.5)) == ["cat"]
    assert likeliest([SAID[0]]) == []


@pytest.mark.parametrize(
    "template", ["{nonsense}", "a {words", "}", "{}", "{0}", "{words.x}", "{words!r}", "{words:d}"]
)
def test_a_template_of_other_names_is_one_line(template):
    """From the command line before anything is loaded, and where it is used."""
    with pytest.raises(UserError, match=r"may stand") as error:
        expand(compose(f"prompt.template='{template}'"))
    assert "prompt.template" in str(error.value) and "\n" not in str(error.value)
    if template not in ("{words!r}",):  # which Python can do
        with pytest.raises(UserError, match=r"prompt\.template=.*: knows \{text\}"):
            phrase(SAID, template)


def test_a_template_that_can_be_filled_is_taken():
    for template in (
        "a photo of {heard}, {described}",
        "{words} in {text}",
        "{{}} {words}",
        "rain",
    ):
        assert expand(compose(f"prompt.template='{template}'"))[0].cfg["prompt"]["template"]
