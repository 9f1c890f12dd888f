"""One loop for all trainings: what they share is here, what they learn in their own files.

A training is an object with

    modules    name -> nn.Module, kept with the optimizer and the random numbers
    optimizer  a torch optimizer
    rng        the torch.Generator that everything random of a step is drawn from
    step       set by the loop: how many steps have been taken
    advance()  one step; returns the values worth a line in the log
    preview(folder)  optional pictures of how far it is

`run` continues from OUT/state.pt where there is one, to the bit on one machine: killing the
process loses what came after the last save and nothing else. OUT/log.csv has a row a minute.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import torch

from acgd.training.state import save as write_state


def options(parser: argparse.ArgumentParser, lr: float, batch: int) -> argparse.ArgumentParser:
    """The options of every training."""
    parser.add_argument("--out", type=Path, required=True, help="folder of state, log and previews")
    parser.add_argument("--steps", type=int, default=10**6, help="in all, those before included")
    parser.add_argument("--cooldown", type=int, default=0, help="last steps, of falling rate")
    parser.add_argument("--warmup", type=int, default=100, help="first steps, of rising rate")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=float, default=4, help="minutes between saves")
    return parser


def rate(args: argparse.Namespace, step: int) -> float:
    """The learning rate of a step: a linear rise, a plateau, and half a cosine to zero."""
    rise = min(1.0, (step + 1) / max(1, args.warmup))
    left = min(1.0, (args.steps - step) / args.cooldown) if args.cooldown else 1.0
    return args.lr * rise * (1 - math.cos(math.pi * left)) / 2


def run(training: Any, args: argparse.Namespace) -> None:
    """Train until args.steps are done; a later call with more continues."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    step, seconds = load(training, args.out / "state.pt")
    training.step = step
    began, saved, logged, first = time.time(), time.time(), time.time(), step
    running: dict[str, float] = {}
    while step < args.steps:
        for group in training.optimizer.param_groups:
            group["lr"] = rate(args, step)
        values = training.advance()
        step += 1
        training.step = step
        for name, value in values.items():
            running[name] = value if name not in running else 0.98 * running[name] + 0.02 * value
        now = time.time()
        if now - logged > 60 or step == args.steps:
            speed = (step - first) * args.batch / (now - began)
            log(args.out / "log.csv", step, seconds + now - began, rate(args, step), speed, running)
            logged = now
        if now - saved > 60 * args.every or step == args.steps:
            save(training, args.out / "state.pt", step, seconds + now - began)
            if hasattr(training, "preview"):
                training.preview(args.out)
            saved = time.time()


def save(training: Any, path: Path, step: int, seconds: float) -> None:
    state = {name: module.state_dict() for name, module in training.modules.items()}
    own = {"optimizer": training.optimizer.state_dict(), "rng": training.rng.get_state()}
    write_state(path, {"modules": state, "step": step, "seconds": seconds, **own})


def load(training: Any, path: Path) -> tuple[int, float]:
    """(steps done, seconds spent) of a training that was begun before; (0, 0) for a new one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for name, module in training.modules.items():
        module.load_state_dict(state["modules"][name])
    training.optimizer.load_state_dict(state["optimizer"])
    training.rng.set_state(state["rng"])
    return state["step"], state["seconds"]


def log(path: Path, step: int, seconds: float, lr: float, speed: float, values: dict) -> None:
    """A row in log.csv and a line on the terminal."""
    row = {"step": step, "minutes": round(seconds / 60, 2), "lr": f"{lr:.3g}"}
    row |= {"pictures_a_second": round(speed, 1)}
    row |= {name: round(value, 5) for name, value in values.items()}
    new = not path.exists()
    with open(path, "a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(row))
        if new:
            rows.writeheader()
        rows.writerow(row)
    print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def average(ema: torch.nn.Module, model: torch.nn.Module, step: int, most: float = 0.999) -> None:
    """Move an exponential moving average towards the model; faster while it is young."""
    decay = min(most, step / (step + 100))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
