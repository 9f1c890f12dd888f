"""Whole jobs on a GPU that is none (tests/phantom.py): the same pictures, and what crosses."""

from collections import Counter
from pathlib import Path

import benchmark_originals
import gpu_check
import numpy as np
import phantom
import pytest
import tiny_pipelines
import torch
import verify_reference
from conftest import compose
from PIL import Image
from small import OPTIONS

from acgd.checkpoints import load as checkpoints
from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.ddpm import DDPM
from acgd.encoders.clip import CLIPEncoder
from acgd.media import preprocess
from acgd.models.clip import CLIP, halve_
from acgd.models.unet import UNet
from acgd.pipeline import drawing, finite, memory, models, runner, settings
from acgd.pipeline.counting import Peak, fused_attention
from acgd.runs.run import expand
from acgd.types import Target

pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(phantom.TORCH),
    reason=f"uses private parts of torch {phantom.TORCH}x",
)
MOST = {"upload": 3, "wait": 0, "read": 1}  # of a step
QUICK = ["sampler.steps=3", "preview_every=0", "guidance.tv=5"]

JOBS = {
    "ddpm": ["sampler=ddpm", "seed=[0,1]", "guidance.cutout_chunk=1"],
    "ddim": ["sampler=ddim", "sampler.eta=0.5", "guidance.through_unet=true", "guidance.tv=50"],
    "plms": ["sampler=plms", "guidance.blend=true", "guidance.clamp=0.05"],
    "dpmpp": ["sampler=dpmpp", "guidance.every=2", "twin=true", "guidance.sat=10"],
    "text": ["prompt=text", 'prompt.text="a dog"', "guidance.cfg_scale=1", "shared_noise=true"],
    "init": ["skip_steps=1", "init_image={picture}", "guidance.init=100", "picture=x0"],
    "keywords": ["describer=keywords", "describer.share=0.5"],
}


@pytest.fixture(autouse=True)
def no_models_of_another_device(monkeypatch):
    monkeypatch.setattr(models, "CACHE", cache := models.ModelCache())
    make = models.Models.__init__
    monkeypatch.setattr(make, "__defaults__", (cache, *make.__defaults__[1:]))
    preprocess.statistics.cache_clear()
    before = numerics()
    yield
    preprocess.statistics.cache_clear()
    for (holder, name), value in before.items():
        setattr(holder, name, value)
    torch.use_deterministic_algorithms(False)


SWITCHES = [
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
]


def numerics():
    return {(holder, name): getattr(holder, name) for holder, name in SWITCHES}


def draw(folder, overrides) -> np.ndarray:
    """A job's pictures (B, H, W, 3), and its twins."""
    given = [
        "precision=fp32",
        *overrides,
        f"outputs={folder}",
        "logger=none",
        "report=false",
        "enlarge_to=0",
    ]
    runner.render(expand(compose(*given)))
    paths = sorted((folder / "main").glob("*/images/seed?*.png"))
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in paths])


def on_both(tmp_path, overrides) -> int:
    """The largest difference between the CPU's pictures and those of the phantom, of 255."""
    here = draw(tmp_path / "cpu", overrides)
    models.CACHE.kept.clear()
    preprocess.statistics.cache_clear()
    with phantom.a_gpu(), phantom.Phantom() as gpu:
        there = draw(tmp_path / "gpu", overrides)
    assert gpu.count("kernel") > 100
    return int(abs(here - there).max())


@pytest.fixture
def picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "init.png")
    return tmp_path / "init.png"


@pytest.mark.parametrize("job", JOBS)
def test_a_job_draws_what_the_cpu_draws(job, tiny, tmp_path, picture):
    assert on_both(tmp_path, [*tiny, *(o.format(picture=picture) for o in JOBS[job])]) <= 1


def test_a_run_repeats_and_float32_is_no_tf32(tiny, tmp_path):
    torch.backends.cudnn.benchmark = True  # somebody's own
    assert not torch.are_deterministic_algorithms_enabled()
    with phantom.a_gpu(), phantom.Phantom():
        for precision in ("bf16", "fp32", "fp16"):  # each job sets its own
            draw(tmp_path / precision, [*tiny, *QUICK, "sampler.steps=1", f"precision={precision}"])
            half = precision != "fp32"
            assert list(numerics().values()) == [False, half, True, False, False]
            assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_encoders_that_guide_together(tiny, weights, tmp_path):
    mates = [
        f"encoder.members.{name}.checkpoint={weights}/{file}.safetensors"
        for name, file in (("a", "encoder"), ("b", "judge"))
    ]
    overrides = [one for one in tiny if not one.startswith("encoder.")]
    chosen = [
        "encoder=ensemble",
        "encoder@encoder.members.a=tiny",
        "encoder@encoder.members.b=tiny",
    ]
    assert on_both(tmp_path, [*overrides, *chosen, *mates]) <= 1


def test_the_default_job_with_its_describer_captioner_and_judge(tmp_path):
    assert on_both(tmp_path, ["sampler.steps=2", "preview_every=1"]) <= 1


def test_an_interrupted_job_goes_on_to_the_same_picture(tiny, tmp_path, monkeypatch):
    overrides = [*tiny, "sampler=plms", "snapshot_every=1"]
    whole, check = draw(tmp_path / "cpu", overrides), finite.check

    def cut(batch, numbers, count, settings):
        if count == 3:
            raise OSError("the machine is taken away")
        check(batch, numbers, count, settings)

    models.CACHE.kept.clear()
    with phantom.a_gpu(), phantom.Phantom():
        monkeypatch.setattr(finite, "check", cut)
        with pytest.raises(OSError, match="taken away"):
            draw(tmp_path / "gpu", overrides)
        monkeypatch.setattr(finite, "check", check)
        assert abs(draw(tmp_path / "gpu", overrides) - whole).max() <= 1
    (log,) = (tmp_path / "gpu").rglob("log.txt")
    assert "resumes after 2 steps" in log.read_text()


def last_step(monkeypatch, folder, overrides) -> tuple[np.ndarray, Counter]:
    """The phantom's pictures, and all that is done between the last two steps, in whatever file."""
    marks, sample = [], drawing.sample

    with phantom.a_gpu(), phantom.Phantom() as gpu:

        def marked(*given):
            for step in sample(*given):
                marks.append(Counter(gpu.seen))
                yield step

        monkeypatch.setattr(drawing, "sample", marked)
        pictures = draw(folder, overrides)
    return pictures, marks[-1] - marks[-2]


def hold_to_budget(step: Counter) -> None:
    for what, most in MOST.items():
        lines = {line: times for (kind, line), times in step.items() if kind == what}
        assert sum(lines.values()) <= most, lines
        assert set(lines.values()) <= {1}, lines  # none in a loop, over samples least of all


@pytest.mark.parametrize(
    "sampler, batch", [("ddpm", 1), ("ddpm", 3), ("ddim", 3), ("dpmpp", 3), ("plms", 3)]
)
def test_what_crosses_in_a_step(sampler, batch, tiny, tmp_path, monkeypatch):
    seeds = f"seed={list(range(batch))}".replace(" ", "")
    told = [*tiny, f"sampler={sampler}", seeds, *QUICK]
    hold_to_budget(last_step(monkeypatch, tmp_path, told)[1])


def test_a_pipeline_of_diffusers(tiny, tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
    diffusers.utils.logging.set_verbosity_error()
    told = [word for word in tiny if not word.startswith("model.")]
    told += ["model=diffusers", f"model.checkpoint={tiny_pipelines.sd(tmp_path / 'pipeline')}"]
    told += ["prompt=text", "prompt.text=a dog", "sampler=lcm", "guidance.decoder=linear"]
    told += ["guidance.cfg_scale=3", "guidance.num_cutouts=2", "seed=[0,1]", *QUICK]
    here = draw(tmp_path / "cpu", told)
    models.CACHE.kept.clear()
    there, step = last_step(monkeypatch, tmp_path / "gpu", told)
    assert abs(here - there).max() <= 1
    hold_to_budget(step)


def test_what_gpu_check_takes_the_time_of():
    with phantom.a_gpu(), phantom.Phantom():
        made = benchmark_originals.networks("tiny", phantom.DEVICE)
        x = torch.randn(2, 3, 32, 32).to(phantom.DEVICE)
        told = "fp32", "channels_last", False
        found, gradient = gpu_check.step(made, "tiny", phantom.DEVICE, x, *told)
    assert found["same_bits"] and found["ms"] > 0 and "peak_gb" in found
    assert gradient.shape == (2, 3, 32, 32) and gradient.abs().sum() > 0


def test_golden_numbers_of_clip_s_towers():
    golden = str(Path(__file__).parent / "golden")
    with phantom.a_gpu(), phantom.Phantom() as gpu:
        told = ["--only", "clip_*_small", "--device", phantom.DEVICE]
        assert verify_reference.main([golden, *told]) == 0
    assert gpu.count("kernel") > 100


NOTEBOOK = {  # the published 256-pixel model
    "image_size": 256, "num_channels": 256, "num_res_blocks": 2, "learn_sigma": True,
    "attention_resolutions": "32,16,8", "num_head_channels": 64, "resblock_updown": True,
    "use_scale_shift_norm": True,
}  # fmt: skip


def claimed(module):
    """The module's tensors, which have no numbers, on the device."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            part._parameters[name] = torch.nn.Parameter(phantom.Claimed(value.detach()), False)
        for name, value in part.named_buffers(recurse=False):
            part._buffers[name] = phantom.Claimed(value)
    return module.eval()


class Encoder(CLIPEncoder):
    """CLIPEncoder around a model without a file."""

    def __init__(self, model, device):
        self.model, self.device, self.image_size = model, torch.device(device), 224


def guided_steps(unet, clip, batch, device, **options):
    """The notebook's run of so many pictures, by its shapes."""
    noise, process = Noise(list(range(batch))), Diffusion(respacing="4")
    guide = settings.guide(
        {**OPTIONS, "range": 50.0, "tv": 5.0, "blend": True, **options},
        encoder=Encoder(clip, device),
        targets=[[Target(torch.ones(1024), 1.0, "audio", "a sound")]] * batch,
        diffusion=process,
        noise=noise,
    )
    x = noise.like(torch.empty(batch, 3, 256, 256, device=device))
    return DDPM("4")(Denoiser(unet, process), x, noise=noise, guide=guide)


def test_a_full_size_step_by_its_shapes():
    with phantom.a_gpu(), phantom.Phantom(shapes=True) as gpu:
        with torch.device("meta"):
            unet = UNet(**NOTEBOOK).convert_torso("bfloat16")
            clip = halve_(
                CLIP(1024, 224, [3, 4, 6, 3], 64, None, 77, 49408, 512, 8, 1), torch.bfloat16
            )
        assert sum(p.numel() for p in unet.parameters()) == 552_814_086
        options = {"through_unet": True, "cutout_chunk": 8}
        steps = guided_steps(claimed(unet), claimed(clip), 2, phantom.DEVICE, **options)
        next(steps)
        before, up = Counter(gpu.seen), gpu.bytes_up
        step = next(steps)
        assert step.x.shape == (2, 3, 256, 256) and step.x.dtype == torch.float32
        crossed = Counter(what for what, _ in (gpu.seen - before).elements())
    assert crossed["upload"] <= MOST["upload"] and not crossed["read"] and not crossed["wait"]
    assert gpu.bytes_up - up < 2 * 10**6  # little more than the noise


@pytest.mark.parametrize(
    ("precision", "through_unet", "chunk"),
    [("bfloat16", True, 4), ("float32", False, None)],
)
def test_memory_is_foreseen_at_full_size(precision, through_unet, chunk, monkeypatch):
    """At the peak of a step, beside the weights; the meta device has a GPU's ways."""
    sizes = 1024, 224, [3, 4, 6, 3], 64, None, 77, 64, 64, 1, 1
    with torch.device("meta"):
        unet, clip = UNet(**NOTEBOOK).convert_torso(precision), CLIP(*sizes)
    files = {"unet": unet.state_dict(), "clip": clip.state_dict()}
    monkeypatch.setattr(checkpoints, "locate", Path)
    monkeypatch.setattr(checkpoints, "read_config", lambda path: {})
    monkeypatch.setattr(checkpoints, "load_state", lambda path, key=None: files[str(path)])
    options = {"through_unet": through_unet, "cutout_chunk": chunk, "num_cutouts": 16}
    needed = memory.activations(
        {"guidance": options, "batch_size": 2, "encoder": {"checkpoint": "clip"},
         "model": {"checkpoint": "unet", "_target_": "", **NOTEBOOK}},
        precision,
    )  # fmt: skip
    unet, clip = (module.eval().requires_grad_(False) for module in (unet, clip))
    halve_(clip, getattr(torch, precision))
    with fused_attention(), Peak() as peak:
        steps = guided_steps(unet, clip, 2, "meta", **options)
        next(steps)
    assert 0.9 * peak.most < needed < 1.1 * peak.most  # and then there is MARGIN


def test_what_a_gpu_refuses_is_refused():
    with phantom.a_gpu(), phantom.Phantom():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device=phantom.DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        with pytest.raises(RuntimeError, match="two devices"):
            torch.where(there > 0, there, here)
        with pytest.raises(RuntimeError, match="two dtypes"):
            there @ there.half()
        with pytest.raises(RuntimeError, match="CPU generator"):
            torch.randn(2, device=phantom.DEVICE, generator=torch.Generator())
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert (there * torch.tensor(2.0)).cpu().tolist() == [[2, 2], [2, 2]]
