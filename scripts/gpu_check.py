"""What only a machine with a GPU can tell: scripts/gpu_check.sh [DEVICE] [--out FILE] [--size SIZE]

Parts, each in a process of its own with a limit, six minutes at most together, and one JSON with
all that they found (outputs/gpu_check.json, written anew after each part). Steps and compiled need
torch, numpy, Pillow and tqdm alone; what lacks a module is left out with a line. DEVICE=cpu with
--size tiny tries the script itself.

    steps      the notebook's guided step on random weights (as benchmark.py originals): fp32, bf16
               and fp16, batches of 1, 4 and 8, both layouts of memory; milliseconds of a step and
               picture, peak memory, the gradient's cosine with fp32's, whether bits repeat
    goldens    the golden numbers of the UNet and CLIP's towers, in float32
    sweep      the embedded models: a picture, eight in a batch, a sweep of 32, and compiled
    tests      tests/test_cuda.py: the CPU's pictures, batches, precisions
    originals  the original packages' two loops beside ours (extra [originals])
    compiled   steps again through torch.compile, with the time that compiling takes
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALL = 350  # seconds of all parts
PARTS = {"steps": 100, "goldens": 40, "sweep": 60, "tests": 90, "originals": 40, "compiled": 150}
NEEDS = {"goldens": ["hydra", "transformers"], "sweep": ["hydra"], "tests": ["hydra", "pytest"],
         "originals": ["guided_diffusion", "clip"]}  # fmt: skip
WARM, TIMED = 3, 8  # steps; the schedule of benchmark_originals has 15 after those that it skips
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
Case = tuple[str, int, str, bool]  # precision, pictures, layout, whether it is compiled
STEPS: list[Case] = [
    ("fp32", 1, "own", False),  # first: the others' gradients are compared with it
    ("bf16", 1, "own", False),
    ("bf16", 1, "channels_last", False),
    ("fp16", 1, "own", False),
    ("fp16", 1, "channels_last", False),
    ("bf16", 4, "own", False),
    ("bf16", 8, "own", False),
    ("bf16", 8, "channels_last", False),
    ("fp16", 8, "own", False),
    ("fp32", 4, "own", False),
    ("fp32", 8, "own", False),
]
COMPILED: list[Case] = [
    STEPS[0],
    ("bf16", 1, "own", False),
    ("bf16", 1, "own", True),
    ("bf16", 8, "own", True),
    ("fp16", 1, "own", True),
]
QUIET = ["logger=none", "report=false", "captioner=none", "describer=none", "preview_every=0"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("device", nargs="?", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu_check.json")
    parser.add_argument("--size", default="full", help="of the steps' networks: full, small, tiny")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        for found in globals()[args.part](args.device, args.size):
            print(json.dumps(found), flush=True)
        return
    if args.device.startswith("cuda"):
        check_gpu()
    report: dict[str, Any] = {"machine": machine(args.device), "size": args.size, "parts": {}}
    print(json.dumps(report["machine"]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    began, ok = time.perf_counter(), True
    for part in args.only.split(","):
        left = ALL - (time.perf_counter() - began)
        report["parts"][part] = found = run(part, args.device, args.size, min(PARTS[part], left))
        ok = ok and found["result"] in ("ok", "left out")
        args.out.write_text(json.dumps(report, indent=1) + "\n")  # what there is, after each part
        print(f"\n{part}: {found['result']}, {found['seconds']:.0f} s")
        for row in found["rows"]:
            print("   ", "  ".join(f"{name} {value}" for name, value in row.items()))
    print(f"\n{args.out}")
    sys.exit(0 if ok else 1)


def check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit("gpu_check: there is no GPU here that torch can use")


def machine(device: str) -> dict:
    import torch

    found: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        found |= {"memory_gb": round(properties.total_memory / 1e9, 1)}
    return found


def run(part: str, device: str, size: str, limit: float) -> dict:
    """A part in a process of its own: what it printed until it ended, or its time was up."""
    began = time.perf_counter()
    missing = [name for name in NEEDS.get(part, []) if importlib.util.find_spec(name) is None]
    if missing or limit < 10:
        why = f"no module {', '.join(missing)}" if missing else "no time left"
        return {"result": "left out", "why": why, "seconds": 0.0, "rows": [{"why": why}]}
    command = [sys.executable, __file__, device, "--size", size, "--part", part]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            result = "ok" if child.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            result = "time up"
            os.killpg(child.pid, signal.SIGKILL)  # with the processes that it started
            child.wait()
        out.seek(0), err.seek(0)
        rows = [json.loads(line) for line in out if line.startswith("{")]
        said = err.read()[-2000:] if result == "failed" else ""
    found = {"result": result, "seconds": round(time.perf_counter() - began, 1), "rows": rows}
    if said:
        print(said, file=sys.stderr)
    return found | ({"said": said} if said else {})


# --- the parts, each a generator of rows


def steps(device: str, size: str, cases: list[Case] = STEPS) -> Iterator[dict]:
    """A guided step at the notebook's size, by precision, batch and layout."""
    import torch
    from benchmark_originals import SIZES, networks

    made, side = networks(size, device), SIZES[size]["unet"]["image_size"]
    torch.manual_seed(0)
    x = torch.randn(8, 3, side, side).to(device)
    reference = None
    for precision, batch, order, compiles in cases:
        row: dict[str, Any] = {"precision": precision, "batch": batch, "layout": order}
        row |= {"compiled": True} if compiles else {}
        try:
            found, gradient = step(made, size, device, x[:batch], precision, order, compiles)
        except RuntimeError as error:  # out of memory, above all
            yield row | {"failed": str(error).splitlines()[0]}
            continue
        if batch == 1:
            reference = gradient if reference is None else reference
            cosine = torch.cosine_similarity(reference.flatten(), gradient.flatten(), dim=0)
            found["cosine"] = round(float(cosine), 6)
        yield row | found


def step(
    made: tuple, size: str, device: str, x: Any, precision: str, order: str, compiles: bool
) -> tuple[dict, Any]:
    """What a case takes, and its gradient at x in float64 on the CPU."""
    import torch
    from benchmark_originals import ours, timed

    from acgd.models.layout import layout
    from acgd.pipeline import compiled
    from acgd.pipeline.device import repeat_exactly

    repeat_exactly(PRECISIONS[precision])
    cuda = device.startswith("cuda")
    before = torch.cuda.memory_allocated() if cuda else 0  # the networks that cases are copied from
    networks = copy.deepcopy(made)
    memory_format = layout(device) if order == "own" else torch.channels_last
    for network in (networks[0], networks[1].visual):
        network.to(memory_format=memory_format)
        compiled.set_compiled(network, compiles)
    own = {"device": device, "batch": len(x), "made": networks}
    grad_of, loop = ours(size, PRECISIONS[precision], **own)
    began, found = time.perf_counter(), dict[str, Any]()
    gradient = grad_of(x).double().cpu()
    if compiles:
        found["first_gradient_s"] = round(time.perf_counter() - began, 1)
    found["same_bits"] = bool(torch.equal(gradient, grad_of(x).double().cpu()))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(loop(x), WARM + TIMED, device)[WARM:])
    found |= {"ms": round(1000 * seconds, 2), "ms_picture": round(1000 * seconds / len(x), 2)}
    if cuda:
        found["peak_gb"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)
    return found, gradient


def compiled(device: str, size: str) -> Iterator[dict]:
    """Steps through torch.compile, beside those that are not."""
    return steps(device, size, COMPILED)


def goldens(device: str, size: str) -> Iterator[dict]:
    """The golden numbers of networks, computed on the device."""
    script, status = ROOT / "scripts" / "verify_reference.py", 0
    for only in ("unet", "clip_*_small"):
        told = ["--only", only, "--device", device]
        command = [sys.executable, str(script), str(ROOT / "tests" / "golden"), *told]
        done = subprocess.run(command, capture_output=True, text=True)
        status = status or done.returncode
        for line in done.stdout.splitlines()[1:]:
            if line.startswith(("unet", "clip")):
                name, case, error, tolerance, ok, *_ = line.split()
                yield {"file": name, "case": case, "error": error, "bound": tolerance, "is": ok}
    if status:
        sys.exit(done.stdout[-1000:] + done.stderr[-1000:])


def sweep(device: str, size: str) -> Iterator[dict]:
    """The embedded models: seconds of all, and from the first step on."""
    yield from jobs(device, False, {"1 picture": 1, "8 pictures": 8, "8 pictures again": 8})
    with tempfile.TemporaryDirectory() as folder:
        told = ["experiment=smoke", "seed=range(32)", "-m", f"outputs='{folder}'", *QUIET]
        command = [sys.executable, str(ROOT / "run.py"), *told, f"device={device}"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield {"case": "a sweep of 32", "s": round(time.perf_counter() - began, 2)}
    yield from jobs(device, True, {"1 compiled": 1, "1 again": 1, "8 compiled": 8, "8 again": 8})


def jobs(device: str, compiles: bool, cases: dict[str, int]) -> Iterator[dict]:
    import acgd

    told = [*QUIET, f"device={device}", f"compile={str(compiles).lower()}"]
    for what, count in cases.items():
        began = time.perf_counter()
        frames = acgd.steps("demo:horse", *told, seed=list(range(count)))
        last = next(frames)
        first = time.perf_counter()
        for frame in frames:
            last = frame
        last.images[0].load()  # which waits for a GPU
        now = time.perf_counter()
        yield {"case": what, "s": round(now - began, 2), "from_first_step_s": round(now - first, 3)}


def tests(device: str, size: str) -> Iterator[dict]:
    """tests/test_cuda.py, with what its tests measured."""
    told = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-s", "-p", "no:cacheprovider", "-rA"]
    environment = os.environ | {"ACGD_CUDA_TESTS_ON": device, "PYTHONPATH": str(ROOT)}
    command = [*told, "-m", "cuda", str(ROOT / "tests" / "test_cuda.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    for line in done.stdout.splitlines():
        if line.startswith(("measured", "PASSED", "FAILED", "ERROR", "SKIPPED")):
            yield {"said": line}
    if done.returncode:
        sys.exit(done.stdout[-2000:])


def originals(device: str, size: str) -> Iterator[dict]:
    """The original packages' loops and ours, each in a process, in float32."""
    script = ROOT / "scripts" / "benchmark.py"
    told = ["--rounds", "1", "--steps", "8", "--device", device, "--size", size]
    told += ["--only", "two passes,one pass,acgd"]
    command = [sys.executable, str(script), "originals", *told]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        yield {"said": " ".join(line.split())}
    if done.returncode:
        sys.exit(done.stderr[-2000:])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    main()
