"""What a run will need, said before anything large is loaded, and refused where it cannot fit.

Activations are counted, not guessed: the real modules run on the meta device, there and back,
without numbers, and what lives at a time is added up. What a measurement adds to that, working
memory of convolutions above all, is in MARGIN.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from acgd.checkpoints import load as checkpoints
from acgd.checkpoints.registry import gigabytes
from acgd.config.keys import MODELS
from acgd.encoders.clip import IMAGE_FROM, precision_dtype
from acgd.errors import UserError
from acgd.models.clip import CLIP, halve_, sizes
from acgd.models.unet import UNet
from acgd.pipeline import pipelines
from acgd.pipeline.counting import Way, back_bytes, fused_attention, passing_bytes, stored

LARGE = 300_000_000  # bytes on disk; smaller models run without a word
HEAP = 1.45  # what glibc holds, for what lives in it: 8.4 GB at full size where 5.9 were counted
PROCESS = 0.5e9  # bytes that Python, torch and the small models take on a CPU
MARGIN = 1.15  # measured over counted activations
BATCHES = (32, 16, 8, 4, 2, 1)  # what batch_size=auto chooses from for large models
SMALL_BATCH = 8  # of small ones: 32 were 3 % faster and took 2.0 GB in place of 0.9


def check(cfg: dict, device: str, precision: str) -> None:
    """A line about what a run with large models needs; UserError where the memory is not there.

    cfg is the resolved config, precision "float32", "float16" or "bfloat16".
    """
    disk = size_on_disk(cfg)
    if disk < LARGE:
        return
    needed, free = memory(cfg, device, precision), free_memory(device)
    there = "" if free is None else f", {gigabytes(free)} are free"
    line = f"about {gigabytes(needed)} of memory on {device}{there}"
    if free is None or needed <= free:
        print(f"acgd: {gigabytes(disk)} of weights on disk, {line}", file=sys.stderr)
        return
    for overrides, changed, dtype in alternatives(cfg, device, precision):
        if (less := memory(changed, device, dtype)) <= free:
            fits = f"{' '.join(overrides)} needs {gigabytes(less)}"
            raise UserError(f"this run needs {line}: {fits}")
    raise UserError(f"this run needs {line}: take a smaller model, model=openai_64_classes or tiny")


def batch_size(cfg: dict, device: str, precision: str) -> int:
    """What batch_size=auto is: for large models the largest whose estimate fits, else 1."""
    if size_on_disk(cfg) < LARGE:
        return SMALL_BATCH
    free = free_memory(device)
    fitting = (
        size
        for size in BATCHES
        if free is None or memory({**cfg, "batch_size": size}, device, precision) <= free
    )
    return next(fitting, 1)


def is_large(cfg: dict) -> bool:
    """Whether the picture model's file is one that arithmetic, not calls, takes the time of.

    A pipeline that is yet to be fetched is taken for one.
    """
    node = cfg["model"]
    if pipelines.is_one(node) and pipelines.folder(node["checkpoint"]) is None:
        return True
    return size_on_disk(cfg, ("model",)) >= LARGE


def size_on_disk(cfg: dict, groups: tuple[str, ...] = MODELS) -> int:
    """Bytes of the weights that these groups of the config name, each file once."""
    return sum(path.stat().st_size for path in {*files({g: cfg.get(g) for g in groups})})


def files(node: Any, key: str = "") -> Iterator[Path]:
    """The weights files that a config names and that are here, at any depth."""
    if pipelines.is_one(node):
        yield from pipelines.files(node["checkpoint"])
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from files(value, str(name))
    elif isinstance(node, str) and key in ("checkpoint", "image_from"):
        with suppress(UserError):  # absent ones are told of when they are loaded
            yield checkpoints.locate(IMAGE_FROM.get(node.lower(), node))


def alternatives(cfg: dict, device: str, precision: str) -> Iterator[tuple[list[str], dict, str]]:
    """Overrides that need less, mildest first, each with the config and precision they make."""
    said: list[str] = []
    changed = {**cfg, **{group: dict(cfg[group]) for group in ("guidance", "model")}}
    half = "bf16" if device == "cpu" else "fp16"
    pipeline = pipelines.is_one(cfg["model"])
    checkpoint = "model.use_checkpoint" if pipeline else "+model.use_checkpoint"
    latent = [("model.tiling", True), ("guidance.decoder", "linear")] if pipeline else []
    for key, value in (
        ("batch_size", 1),
        ("guidance.cutout_chunk", 4),
        ("guidance.cutout_chunk", 1),
        ("precision", half),
        (checkpoint, True),  # the network's way there once more on its way back
        *latent,
        ("guidance.through_unet", False),
    ):
        group, _, name = key.removeprefix("+").rpartition(".")
        node = changed[group] if group else changed
        if (key == "precision" and precision != "float32") or node.get(name) == value:
            continue
        node[name] = value
        said = [one for one in said if not one.startswith(f"{key}=")]
        said.append(f"{key}={str(value).lower()}")
        if key == "precision":
            precision = {"bf16": "bfloat16", "fp16": "float16"}[half]
        copies = {group: dict(changed[group]) for group in ("guidance", "model")}
        yield said, {**changed, **copies}, precision


def memory(cfg: dict, device: str, precision: str) -> float:
    """Bytes on the device at the peak of a step."""
    cuda = device.startswith("cuda")
    views = [tower_bytes(frozen(node), precision) for node in members(cfg["encoder"])]
    at_work = activations(cfg, precision)
    if pipelines.is_one(cfg["model"]):
        own = pipeline_needs(cfg, precision)
        weights = float(own.network + own.vae + (0 if cuda else own.texts))
        if cuda:  # they come to the device before the first step, and leave it
            at_work = max(at_work, own.texts / MARGIN)
    else:
        weights = float(unet_bytes(frozen(cfg["model"]), precision)[0])
    if cuda:  # the other towers can wait on the CPU, see Models.make_room
        weights += sum(tower for tower, _, _ in views)
    else:
        weights += PROCESS + sum(whole for _, whole, _ in views)
    for group in ("judge", "describer", "captioner"):
        weights += sum(2 * path.stat().st_size for path in files(cfg.get(group)))  # half on disk
    return (1.0 if cuda else HEAP) * (weights + MARGIN * at_work)


def activations(cfg: dict, precision: str) -> float:
    """Bytes beside the weights at the peak of a step, as they are counted.

    The encoder looks, there and back, while the network keeps what its own way back needs.
    """
    guidance, batch = cfg["guidance"], cfg["batch_size"]
    cutouts = min(guidance.get("cutout_chunk") or guidance["num_cutouts"], guidance["num_cutouts"])
    views = [tower_bytes(frozen(node), precision, cutouts) for node in members(cfg["encoder"])]
    looking = max((peak for _, _, peak in views), default=0) * batch
    if pipelines.is_one(cfg["model"]):
        own = pipeline_needs(cfg, precision)
        return own.activations(guidance.get("cfg_scale"), batch, looking)
    _, way, passing = unet_bytes(frozen(cfg["model"]), precision)
    if guidance["through_unet"]:
        return max(way.peak * batch, way.kept * batch + looking)
    return max(passing * batch, looking)


def crowded(cfg: dict, device: str, precision: str) -> bool:
    """Whether the next step wants more room than the device has, now that the models are there."""
    if size_on_disk(cfg, ("model", "encoder", "judge")) < LARGE:
        return False
    free = free_memory(device)
    return free is not None and MARGIN * activations(cfg, precision) > free


def pipeline_needs(cfg: dict, precision: str) -> pipelines.Needs:
    guidance = cfg["guidance"]
    options = guidance.get("decoder", "full"), guidance["through_unet"]
    return pipelines.needs(frozen(cfg["model"]), precision, *options)


def members(node: dict) -> list[dict]:
    return list(node["members"].values()) if "members" in node else [node]


def frozen(node: dict) -> tuple:
    """A node as a key that a cache can hold."""
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in node.items()}
    return tuple(sorted((k, v) for k, v in plain.items() if not isinstance(v, dict)))


@cache
def unet_bytes(node: tuple, precision: str) -> tuple[int, Way, int]:
    """Of a picture model: weights, a sample's way there and back, and one way alone."""
    accepted = inspect.signature(UNet).parameters
    given, path = dict(node), checkpoints.locate(dict(node)["checkpoint"])
    unet = checkpoints.empty(UNet, path, {k: v for k, v in given.items() if k in accepted})
    unet = unet.to("meta").requires_grad_(False).eval().convert_torso(precision)
    side = unet.image_size
    x = torch.empty(1, unet.in_channels, side, side, device="meta")
    t = torch.empty(1, device="meta")
    y = {"y": torch.zeros(1, dtype=torch.long, device="meta")} if unet.class_cond else {}
    ask = lambda x: unet(x, t, **y)  # noqa: E731
    with fused_attention():
        return stored(unet), back_bytes(ask, x), passing_bytes(ask, x.detach())


@cache
def tower_bytes(node: tuple, precision: str, cutouts: int = 1) -> tuple[int, int, int]:
    """Of an encoder: its picture tower, all of it, and the way of these cutouts there and back.

    Zeros for what is neither CLIP nor AudioCLIP: it is not known from outside.
    """
    given = dict(node)
    if "checkpoint" not in given or "download" in given:  # transformers reads it
        return 0, 0, 0
    path = checkpoints.locate(given["checkpoint"])
    state = checkpoints.load_state(path, given.get("checkpoint_key"))
    whole = sum(t.numel() for t in state.values()) * 4
    source = given.get("image_from")
    if source is not None:
        state = checkpoints.load_state(IMAGE_FROM.get(source.lower()) or source)
    if not (
        architecture := {**sizes(state), **(checkpoints.read_config(path) if not source else {})}
    ):
        return 0, whole, 0
    architecture = {
        k: v for k, v in architecture.items() if k in inspect.signature(CLIP).parameters
    }
    with checkpoints.Unfilled():
        model = CLIP(**architecture).eval().requires_grad_(False)
    model = halve_(model.to("meta"), precision_dtype(precision, torch.device("cpu")))
    side = model.image_resolution
    x = torch.empty(cutouts, 3, side, side, device="meta", dtype=model.dtype)
    with fused_attention():
        return stored(model.visual), whole, back_bytes(model.visual, x).peak


def free_memory(device: str) -> float | None:
    """Bytes that a new allocation can count on; None where the system does not tell."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([*cpu_limits()], default=None)


def cpu_limits() -> Iterator[float]:
    """What the system has left, and what the container may still take."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, now = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        yield most - now + reclaimable(group / "memory.stat")
    if not Path("/proc/meminfo").exists():
        with suppress(AttributeError, ValueError, OSError):  # all there is, where no more is told
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reclaimable(stat: Path) -> int:
    """Cached files in a container's memory, which go when something else needs the room."""
    rows = dict(line.split() for line in stat.read_text().splitlines())
    return int(rows.get("inactive_file", 0)) + int(rows.get("active_file", 0))
