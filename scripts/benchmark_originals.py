"""The original packages and acgd side by side: python scripts/benchmark.py originals [--size full]

The notebook's guided step (DDPM, CLIP's RN50 on cutouts, tv and range losses, the gradient through
the UNet), by the packages of the extra [originals] and by acgd, on the same random weights, the
same noise and the same cutouts:

    two passes   openai/guided-diffusion's loop: the UNet once for the step, once for its gradient
    one pass     the notebook's fork: the gradient from the step's own pass
    acgd         in float32 and in bf16

Cases take turns, round by round, each in a process of its own: processor seconds of a step (the
median; a process's first step does not count) and peak memory. Ratios are to two passes. The
cosine is that of the gradient at one x, with float32 two passes as the reference.
--size full is the notebook's: 256x256, 552,814,086 parameters, 16 cutouts; minutes a case.
--device cuda takes wall seconds and the GPU's memory; --batch so many pictures at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES = ("two passes", "one pass", "acgd", "acgd bf16")
PRECISIONS = {"acgd": "float32", "acgd bf16": "bfloat16", "acgd fp16": "float16"}
RESPACING, SKIP, SEED = "25", 10, 0  # of the steps only the middle ones are taken
SCALES = {"clip": 2000.0, "tv": 150.0, "range": 50.0}
UNET = {
    "num_res_blocks": 2,
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "unet": {
            **UNET,
            "image_size": 32,
            "num_channels": 32,
            "num_res_blocks": 1,
            "channel_mult": "1,2",
            "attention_resolutions": "16",
            "num_head_channels": 32,
        },
        "clip": (16, 32, (1, 1, 1, 1), 8, None, 8, 64, 16, 1, 1),
        "cutouts": 2,
    },
    "small": {
        "unet": {
            **UNET,
            "image_size": 64,
            "num_channels": 64,
            "channel_mult": "1,2,4",
            "attention_resolutions": "16",
            "num_head_channels": 32,
        },
        "clip": (64, 64, (1, 1, 1, 1), 32, None, 8, 64, 32, 1, 1),
        "cutouts": 8,
    },
    "full": {
        "unet": {
            **UNET,
            "image_size": 256,
            "num_channels": 256,
            "attention_resolutions": "32,16,8",
            "num_head_channels": 64,
        },
        "clip": (1024, 224, (3, 4, 6, 3), 64, None, 77, 64, 64, 1, 1),  # the words' part is idle
        "cutouts": 16,
    },
}

Gradient = Callable[[Any], Any]  # x (1, 3, S, S), at the first step taken -> of the loss


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py originals", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--steps", type=int, default=2, help="steps timed in a process")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each case takes")
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    where = args.device, args.batch
    if args.case:
        print(json.dumps(run(args.case, args.size, args.steps, args.gradient, *where)))
        return
    cases, known = args.only.split(","), {*CASES, *PRECISIONS}
    if strange := set(cases) - known:
        parser.error(f"unknown case {', '.join(sorted(strange))}: choose from {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[dict]] = {case: [] for case in cases}
        for _, case in itertools.product(range(args.rounds), cases):
            own = ["--case", case, "--steps", str(args.steps), "--size", args.size]
            own += ["--device", args.device, "--batch", str(args.batch)]
            found[case].append(measured([*own, "--gradient", str(Path(folder, f"{case}.pt"))]))
        for line in table(found, cosines(Path(folder), cases)):
            print(line, flush=True)


def measured(arguments: list[str]) -> dict:
    """A case in a new process, with its peak memory in bytes."""
    command = [sys.executable, str(Path(__file__).with_name("benchmark.py")), "originals"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([*command, *arguments], stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"the case ended with {process.returncode}")
        said.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        return {"peak": usage.ru_maxrss * unit} | json.loads(said.read().splitlines()[-1])


def cosines(folder: Path, cases: list[str]) -> dict[str, float]:
    """Of each case's gradient with the first case's."""
    import torch

    grads = {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in cases}
    reference = grads[cases[0]].double().flatten()
    return {
        case: float(torch.cosine_similarity(reference, grad.double().flatten(), dim=0))
        for case, grad in grads.items()
    }


def table(found: dict[str, list[dict]], cosine: dict[str, float]) -> Iterator[str]:
    """A line for each case; ratios are to the first."""
    first = None
    for case, turns in found.items():
        seconds = statistics.median(itertools.chain.from_iterable(t["seconds"] for t in turns))
        first = first or seconds
        peak = max(turn["peak"] for turn in turns) / 1e9
        yield (
            f"{case:12} {seconds:8.3f} s a step {first / seconds:6.2f} x faster"
            f" {peak:6.2f} GB peak  gradient cosine {cosine[case]:.6f}"
        )


def run(
    case: str, size: str, steps: int, gradient: Path | None, device: str = "cpu", batch: int = 1
) -> dict:
    """Seconds of each step of a case, the processor's or a GPU's; its gradient at a fixed x goes to
    a file."""
    import torch

    torch.manual_seed(SEED)
    side = SIZES[size]["unet"]["image_size"]
    x = torch.randn(batch, 3, side, side).to(device)
    if case in PRECISIONS:
        from acgd.pipeline.device import keep_freed_memory

        keep_freed_memory()  # as every job of acgd does
        grad_of, loop = ours(size, PRECISIONS[case], device=device, batch=batch)
    else:
        grad_of, loop = originals(size, one_pass=case == "one pass", device=device)
    if gradient:
        torch.save(grad_of(x).cpu(), gradient)
    if device == "cpu":
        return {"seconds": timed(loop(x), steps, device)}
    torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(loop(x), steps, device)
    return {"seconds": seconds, "peak": torch.cuda.max_memory_allocated(device)}


def timed(samples: Iterator, steps: int, device: str) -> list[float]:
    """Seconds of each step but the first: the processor's, or a GPU's by the clock."""
    seconds, on_cpu = [], device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    for _ in range(1 + steps):
        start = clock()
        if not next(samples).isfinite().all():  # this also waits for a GPU
            sys.exit("not finite")
        seconds.append(clock() - start)
    return seconds[1:]


def target(size: str) -> Any:
    """A direction to steer towards, (1, D)."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(1, SIZES[size]["clip"][0], generator=generator), dim=-1)


def drawn(module: Any) -> Any:
    """The module with weights that depend on key and shape alone: both networks get the same."""
    import torch
    from benchmark_full import draw_

    with torch.no_grad():
        for key, value in module.state_dict().items():
            draw_(key, value)
    return module.eval().requires_grad_(False)


def originals(
    size: str, one_pass: bool, method: str = "p", device: str = "cpu"
) -> tuple[Gradient, Callable]:
    """The packages' networks and loop ("p", "ddim" or "plms"), with the notebook's losses."""
    import torch
    import torch.nn.functional as F
    from guided_diffusion import script_util

    from acgd.encoders.original_clip import module
    from acgd.media.preprocess import MEAN, STD

    given = script_util.model_and_diffusion_defaults() | SIZES[size]["unet"]
    given |= {"timestep_respacing": RESPACING, "rescale_timesteps": True, "num_heads": 4}
    unet, diffusion = script_util.create_model_and_diffusion(**given)
    clip, cutouts = drawn(module("model").CLIP(*SIZES[size]["clip"])), SIZES[size]["cutouts"]
    drawn(unet).to(device)
    clip.to(device)
    for name, parameter in unet.named_parameters():  # as the notebook leaves them
        parameter.requires_grad_(any(part in name for part in ("qkv", "norm", "proj")))
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    wanted, side = target(size).to(device), SIZES[size]["clip"][1]

    def cut(x: Any) -> Any:
        cuts, longest = [], min(x.shape[2:])
        for _ in range(cutouts):
            length = int(torch.rand([]) * (longest - min(longest, side)) + min(longest, side))
            left = torch.randint(0, x.shape[3] - length + 1, ())
            top = torch.randint(0, x.shape[2] - length + 1, ())
            square = x[:, :, top : top + length, left : left + length]
            cuts.append(F.adaptive_avg_pool2d(square, side))
        return torch.cat(cuts)

    def loss(x: Any, x0: Any, t: int) -> Any:
        f = float(diffusion.sqrt_one_minus_alphas_cumprod[t])
        blend = x0 * f + x * (1 - f)
        seen = F.normalize(clip.encode_image((cut(blend.add(1).div(2)) - mean) / std), dim=-1)
        apart = (seen - wanted).norm(dim=-1).div(2).arcsin().pow(2).mul(2).mean()
        padded = F.pad(blend, (0, 1, 0, 1), "replicate")
        across = padded[..., :-1, 1:] - padded[..., :-1, :-1]
        down = padded[..., 1:, :-1] - padded[..., :-1, :-1]
        rough, beyond = (across**2 + down**2).mean(), (x0 - x0.clamp(-1, 1)).pow(2).mean()
        return apart * SCALES["clip"] + rough * SCALES["tv"] + beyond * SCALES["range"]

    def with_out(x: Any, t: Any, out: dict) -> Any:
        return -torch.autograd.grad(loss(x, out["pred_xstart"], int(t[0])), x)[0]

    def again(x: Any, t: Any) -> Any:
        now = diffusion.timestep_map.index(round(float(t[0])))
        index = torch.full((len(x),), now, device=device)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = diffusion.p_mean_variance(unet, x, index, clip_denoised=False)
            return with_out(x, index, out)

    def grad_of(x: Any) -> Any:
        torch.manual_seed(SEED)
        return -again(x, torch.full((len(x),), float(diffusion.timestep_map[-1 - SKIP])))

    def loop(x: Any) -> Iterator:
        torch.manual_seed(SEED)
        steps = getattr(diffusion, f"{method}_sample_loop_progressive")(
            unet,
            x.shape,
            noise=x,
            clip_denoised=False,
            model_kwargs={},
            cond_fn=with_out if one_pass else again,
            cond_fn_with_grad=one_pass,
            skip_timesteps=SKIP,
        )
        return (step["sample"] for step in steps)

    return grad_of, loop


class Tower:
    """A CLIP's picture tower as guidance wants an encoder."""

    def __init__(self, clip: Any):
        from acgd.models.frozen import layout

        self.clip, self.image_size = clip, clip.image_resolution
        self.layout = layout(clip.visual.conv1.weight)

    def image(self, pixels: Any) -> Any:
        """(N, 3, S, S) in [0, 1] -> (N, D), unit norm, float32."""
        import torch.nn.functional as F

        from acgd.media.preprocess import normalise

        x = normalise(pixels).contiguous(memory_format=self.layout)
        return F.normalize(self.clip.encode_image(x).float(), dim=-1)


def networks(size: str, device: str = "cpu") -> tuple[Any, Any]:
    """acgd's UNet and CLIP in float32, with weights."""
    import torch

    from acgd.models.clip import CLIP
    from acgd.models.unet import UNet

    with torch.device(device):
        unet = UNet(**{"num_heads": 4, **SIZES[size]["unet"]})
        return drawn(unet), drawn(CLIP(*SIZES[size]["clip"]))


def ours(
    size: str,
    precision: str,
    method: str = "p",
    device: str = "cpu",
    batch: int = 1,
    made: tuple[Any, Any] | None = None,
) -> tuple[Gradient, Callable]:
    """acgd's networks and sampler with the same losses, noise and cutouts.

    made: UNet and CLIP as `networks` gives them, which take precision and layout; None: new ones.
    """
    import torch

    from acgd.diffusion.denoiser import Denoiser
    from acgd.diffusion.guidance.guidance import Guidance
    from acgd.diffusion.guidance.losses.clip import ClipDistance
    from acgd.diffusion.guidance.losses.range import OutOfRange
    from acgd.diffusion.guidance.losses.tv import TotalVariation
    from acgd.diffusion.noise import Noise
    from acgd.diffusion.process import Diffusion
    from acgd.diffusion.samplers.ddim import DDIM
    from acgd.diffusion.samplers.ddpm import DDPM
    from acgd.diffusion.samplers.guided import guided
    from acgd.diffusion.samplers.plms import PLMS
    from acgd.models.clip import halve_
    from acgd.models.layout import layout
    from acgd.types import Target

    unet, clip = networks(size, device) if made is None else made
    unet.convert_torso(precision)
    if precision != "float32":
        halve_(clip, getattr(torch, precision))
    if made is None:
        for network in (unet, clip.visual):
            network.to(memory_format=layout(device))
    diffusion = Diffusion(respacing=RESPACING)
    denoiser = Denoiser(unet, diffusion)
    targets = [[Target(target(size)[0], 1.0, "text", "")]] * batch

    def guide(noise: Noise) -> Guidance:
        distance = ClipDistance(Tower(clip), targets, noise, SIZES[size]["cutouts"])
        losses = {"clip": distance, "tv": TotalVariation(), "range": OutOfRange()}
        return Guidance(diffusion, losses, SCALES)

    def grad_of(x: Any) -> Any:
        t = torch.full((batch,), diffusion.num_timesteps - 1 - SKIP)
        return guided(denoiser, x, t, guide(Noise.shared(SEED))).grad

    def loop(x: Any) -> Iterator:
        noise = Noise.shared(SEED)
        start = diffusion.start(x, skip=SKIP)
        sampler = {"p": DDPM, "ddim": DDIM, "plms": PLMS}[method]()
        steps = sampler(denoiser, start, noise=noise, guide=guide(noise), start=SKIP)
        return (step.x for step in steps)

    return grad_of, loop
