"""The notebook's configuration at full size: python scripts/benchmark.py full [--device cuda]

256x256, the UNet of 552,814,086 parameters, AudioCLIP with RN50's picture tower, 16 cutouts,
guidance through the UNet; the true architectures with random weights, so no file is wanted and
the picture means nothing. Each case runs in a process of its own.

    cpu   two guided steps in float32 and in bf16
    cuda  50 guided steps in fp16 and bf16, cutouts at once and in chunks of 4, 1 and 4 pictures;
          a value that is not finite ends a case
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = {  # case: overrides, pictures in the batch
    "cpu": {"float32": (["precision=fp32"], 1), "bf16": (["precision=bf16"], 1)},
    "cuda": {
        f"{precision}, {batch} picture{'s' * (batch > 1)}, {says}": (
            [f"precision={precision}", f"guidance.cutout_chunk={chunk}"],
            batch,
        )
        for precision, batch, (chunk, says) in itertools.product(
            ("fp16", "bf16"), (1, 4), (("null", "all cutouts at once"), (4, "4 cutouts at once"))
        )
    },
}
STEPS = {"cpu": 2, "cuda": 50}
NOTEBOOK = ["experiment=notebook_corrected", "judge=none", "captioner=none"]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py full", description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--device", default="cpu", choices=CASES)
    parser.add_argument("--steps", type=int, help="guided steps of a case")
    parser.add_argument("--only", help="the case of this name alone")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    steps, cases = args.steps or STEPS[args.device], CASES[args.device]
    if args.case:
        overrides, batch = cases[args.case]
        given = [*NOTEBOOK, f"device={args.device}", f"batch_size={batch}"]
        print(json.dumps(run([*given, *overrides, *args.overrides], batch, steps)))
        return
    for case in cases:
        if args.only in (None, case):
            own = ["--device", args.device, "--steps", str(steps), "--case", case, *args.overrides]
            print(line(case, measured(own)), flush=True)


def measured(arguments: list[str]) -> dict:
    """A case in a new process, which tells its figures; its peak comes from the system."""
    command = [sys.executable, str(Path(__file__).with_name("benchmark.py")), "full", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            sys.exit(f"the case ended with {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        return {"process": usage.ru_maxrss * unit, **json.loads(said.read().splitlines()[-1])}


def line(case: str, found: dict) -> str:
    first, *rest = found["seconds"]
    mean = sum(rest or [first]) / len(rest or [first])
    peak = found["device"] or found["process"]
    return (
        f"{case:42} {mean:8.2f} s a step (the first {first:.2f} s, {found['processor']:.1f} s of"
        f" the processor each)  peak {peak / 1e9:5.2f} GB, {found['estimate'] / 1e9:.2f} GB"
        f" foreseen, weights drawn in {found['drawn']:.0f} s"
    )


def run(overrides: list[str], batch: int, steps: int) -> dict:
    """Seconds of each step, the processor's a step, peak memory on a GPU, and what was foreseen."""
    import torch
    from benchmark import prepare

    from acgd.pipeline import memory

    start = time.perf_counter()
    estimate = stand_in(memory)
    models, samples = prepare(overrides, batch)
    models.make_room()
    drawn, cuda = time.perf_counter() - start, models.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds, processor = [], time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        step = next(samples)
        if not step.x.isfinite().all() or not all(v.isfinite().all() for v in step.losses.values()):
            sys.exit(f"step {step.index}: not finite")  # this also waits for the GPU
        seconds.append(time.perf_counter() - start)
        print(f"step {len(seconds)} of {steps}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    return {
        "seconds": seconds,
        "processor": (time.process_time() - processor) / steps,
        "device": torch.cuda.max_memory_allocated() if cuda else 0,
        "estimate": estimate[0],
        "drawn": drawn,
    }


def stand_in(needs: Any) -> list[float]:
    """From here on weights are drawn, not read; the list gets what needs.check foresees."""
    import torch

    from acgd.checkpoints import load as checkpoints

    states = {"AudioCLIP-Partial-Training.pt": audioclip(), "RN50.pt": rn50()}
    estimate: list[float] = []

    def check(cfg: dict, device: str, precision: str) -> None:
        estimate.append(needs.memory(cfg, device, precision))

    def fill(module: torch.nn.Module, *_: Any, device: Any = "cpu", **__: Any) -> torch.nn.Module:
        if any(value.is_meta for value in module.state_dict().values()):
            module.to_empty(device=device)
        with torch.no_grad():
            for key, value in module.state_dict().items():
                draw_(key, value)
        return module

    checkpoints.locate, checkpoints.load_into = Path, fill
    checkpoints.read_config = lambda path: {}
    checkpoints.load_state = lambda path, key=None: states.get(Path(path).name, {})
    needs.check = check
    return estimate


def audioclip() -> dict:
    from acgd.models.audioclip import AudioCLIP

    return shapes(AudioCLIP, {})


def rn50() -> dict:
    from acgd.models.clip import CLIP

    sizes = {"embed_dim": 1024, "image_resolution": 224, "vision_layers": [3, 4, 6, 3]}
    return shapes(CLIP, {**sizes, "vision_width": 64})


def shapes(make: type, sizes: dict) -> dict:
    """A state dict whose tensors have shapes and no memory."""
    from acgd.checkpoints.load import Unfilled

    with Unfilled():
        return make(**sizes).to("meta").state_dict()


def draw_(key: str, value: Any) -> None:
    """Random weights that keep signals alive: one block of normal numbers, repeated and scaled."""
    import torch

    if not value.is_floating_point() or "logit_scale" in key or ".fbsp." in key:
        return
    if value.ndim < 2:
        gain = key.endswith(("weight", "running_var"))  # of norms
        value.fill_(1.0 if gain else 0.0)
        return
    seed = torch.Generator().manual_seed(len(key))
    block = torch.randn(99_991, generator=seed, device="cpu")  # a prime
    flat = value.reshape(-1)
    for i in range(0, len(flat), len(block)):
        part = flat[i : i + len(block)]
        part.copy_(block[: len(part)])
    value.copy_(flat.view_as(value).div_(math.sqrt(value[0].numel())))
