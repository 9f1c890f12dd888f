"""One loop for all trainings: what they share is here, what they learn in their own files.

A training is an object with

    modules    name -> nn.Module, kept with the optimizer and the random numbers
    optimizer  a torch optimizer
    rng        the torch.Generator that everything random of a step is drawn from
    step       set by the loop: how many steps have been taken
    advance()  one step; returns the values worth a line in the log, by name
    progress   optional: name -> number or text, kept with the state and shown in the log
    finished   optional: true where nothing is to be gained any more
    preview(folder)  optional, at each save: pictures of how far it is, or figures for `progress`

`run` continues from OUT/state.pt where there is one, to the bit on one machine: killing the
process loses what came after the last save and nothing else. OUT/log.csv has a row a minute.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from acgd.errors import UserError
from acgd.pipeline.device import computes_bf16
from acgd.training.state import save as write_state


def options(
    parser: argparse.ArgumentParser, lr: float, batch: int, out: Path | None = None
) -> argparse.ArgumentParser:
    """The options of every training; without a default for --out it has to be given."""
    add = parser.add_argument
    add("--out", type=Path, default=out, required=out is None,
        help="folder of state, log and previews")  # fmt: skip
    add("--steps", type=int, default=10**6, help="in all, those before included")
    add("--cooldown", type=int, default=0, help="last steps, of falling rate")
    add("--decay", choices=["cosine", "linear"], default="cosine", help="how the rate falls")
    add("--warmup", type=int, default=100, help="first steps, of rising rate")
    add("--batch", type=int, default=batch)
    add("--lr", type=float, default=lr)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--every", type=float, default=4, help="minutes between saves")
    add("--wandb", metavar="PROJECT", help="also log to W&B (offline unless WANDB_MODE says so)")
    return parser


def mixed_precision() -> torch.autocast:
    """Networks in bf16 where this processor computes in it, twice to five times as fast; weights,
    their averages and losses stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16())


def rate(args: argparse.Namespace, step: int) -> float:
    """The learning rate of a step: a linear rise, a plateau, and a fall to zero."""
    rise = min(1.0, (step + 1) / max(1, args.warmup))
    left = min(1.0, (args.steps - step) / args.cooldown) if args.cooldown else 1.0
    if args.decay == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return args.lr * rise * left


def run(training: Any, args: argparse.Namespace) -> None:
    """Train until args.steps are done; a later call with more continues.

    Raises UserError where OUT/state.pt is of another configuration.
    """
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    step, seconds = load(training, args.out / "state.pt")
    training.step = step
    began, saved, logged, first = time.time(), time.time(), time.time(), step
    running: dict[str, float] = {}
    with watched(args) as online:
        while step < args.steps and not getattr(training, "finished", False):
            for group in training.optimizer.param_groups:
                group["lr"] = rate(args, step)
            values = training.advance()
            step += 1
            training.step = step
            for name, value in values.items():
                old = running.get(name, value)
                running[name] = 0.98 * old + 0.02 * value
            now = time.time()
            ends = step == args.steps or getattr(training, "finished", False)
            if now - saved > 60 * args.every or ends:
                save(training, args.out / "state.pt", step, seconds + now - began)
                if hasattr(training, "preview"):
                    training.preview(args.out)
                saved = time.time()
            if now - logged > 60 or ends:
                speed = (step - first) * args.batch / (now - began)
                row = {"step": step, "minutes": round((seconds + now - began) / 60, 2)}
                row |= {"lr": float(f"{rate(args, step - 1):.3g}")}
                row |= {"examples_a_second": round(speed, 1)}
                row |= {name: round(value, 5) for name, value in running.items()}
                log(args.out / "log.csv", row | getattr(training, "progress", {}), online)
                logged = now


def watched(args: argparse.Namespace) -> Any:
    """A W&B run to log to, or nothing."""
    if not args.wandb:
        return nullcontext()
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return wandb.init(project=args.wandb, dir=str(args.out), config=config, mode=mode)


def save(training: Any, path: Path, step: int, seconds: float) -> None:
    state = {name: module.state_dict() for name, module in training.modules.items()}
    own = {"optimizer": training.optimizer.state_dict(), "rng": training.rng.get_state()}
    own["progress"] = getattr(training, "progress", {})
    write_state(path, {"modules": state, "step": step, "seconds": seconds, **own})


def load(training: Any, path: Path) -> tuple[int, float]:
    """(steps done, seconds spent) of a training that was begun before; (0, 0) for a new one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    try:
        for name, module in training.modules.items():
            module.load_state_dict(state["modules"][name])
        training.optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, ValueError):
        raise UserError(
            f"{path} is of another configuration: choose another --out, or remove it"
        ) from None
    training.rng.set_state(state["rng"])
    if hasattr(training, "progress"):
        training.progress |= state.get("progress", {})
    return state["step"], state["seconds"]


def log(path: Path, row: dict[str, Any], online: Any) -> None:
    """A row in log.csv, on the terminal and, where it is asked for, in W&B."""
    new = not path.exists()
    with open(path, "a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(row))
        if new:
            rows.writeheader()
        rows.writerow(row)
    print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if online is not None:
        online.log(row, step=row["step"])


def descend(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    longest: float = 1.0,
) -> torch.Tensor:
    """One step of the optimizer down a loss; the gradient's norm before it was cut to `longest`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, longest)
    optimizer.step()
    return norm


def average(ema: torch.nn.Module, model: torch.nn.Module, step: int, most: float = 0.999) -> None:
    """Move an exponential moving average towards the model; faster while it is young."""
    decay = min(most, step / (step + 100))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
