"""Numbers that are none (NaN, infinity) end the sample that they are in, and no other.

`numbers` brings all that a step says of itself to the CPU in one transfer: its losses and whether
its tensors are finite. A GPU is waited for once a step, however many losses there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from acgd.diffusion.interfaces import Step
from acgd.errors import UserError
from acgd.pipeline.sample import Sample
from acgd.pipeline.settings import Settings
from acgd.types import Target


class Numbers(NamedTuple):
    """A step as it is written down: its losses on the CPU, and what of it is finite."""

    step: Step
    x0: Tensor  # (B,) bool: the model's prediction
    x: Tensor  # (B,) bool: what the sampler made of it


def numbers(step: Step) -> Numbers:
    names = list(step.losses)
    flags = [value.isfinite().flatten(1).all(1).float() for value in (step.x0, step.x)]
    rows = [*(step.losses[name].float() for name in names), *flags]
    *losses, x0, x = torch.stack([row.to(step.x.device) for row in rows]).cpu()
    step = replace(step, losses=dict(zip(names, losses, strict=True)))
    return Numbers(step, x0.bool(), x.bool())


def check(batch: Sequence[Sample], numbers: Numbers, count: int, settings: Settings) -> None:
    """Let those samples fail that are no pictures any more."""
    for i, sample in enumerate(batch):
        if sample.error is None and (line := fault(numbers, i, sample.record.losses, settings)):
            sample.fail(UserError(f"step {count} of {count + left(numbers)}, {line}"))


def check_pixels(batch: Sequence[Sample], pixels: Tensor) -> None:
    """Let those samples fail whose pixels (B, 3, H, W) are not finite though x was."""
    for sample, good in zip(batch, pixels.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not good and sample.error is None:
            message = (
                "its pixels are not finite numbers: the autoencoder cannot decode what was drawn"
            )
            sample.fail(
                UserError(f"seed {sample.run.seed}: {message}; lower the guidance's weights")
            )


def left(numbers: Numbers) -> int:
    return numbers.step.total - numbers.step.index - 1


def fault(numbers: Numbers, i: int, before: list[dict], settings: Settings) -> str:
    """What of the i-th sample is not finite, and what to lower; "" if all is well."""
    seed, losses = settings.seeds[i], numbers.step.losses
    weights = {name: values[i % len(values)] for name, values in settings.weights.items()}
    which: str | None
    wrong = [name for name in losses if weights[name] and not losses[name][i].isfinite()]
    if wrong:
        what, which = f"the loss {wrong[0]}", heaviest(weights, {}, i, before) or wrong[0]
    elif not (numbers.x0[i] and numbers.x[i]):
        what = "the picture" if numbers.x0[i] else "the prediction"
        which = heaviest(weights, losses, i, before)
    else:
        return ""
    said = f"seed {seed}: {what} is not a finite number"
    if which is None:
        return f"{said}, and no loss steers it: look at sampler.eta, precision and the model"
    return (
        f"{said}: lower guidance.{which} (it is {weights[which]:g}) or bound the gradient with "
        "guidance.clamp=0.05"
    )


def heaviest(weights: dict, losses: dict[str, Tensor], i: int, before: list[dict]) -> str | None:
    """The loss that steers this sample most, by weight times value, now or a step before."""
    values = dict(before[-1]) if before else {}
    values |= {name: abs(float(value[i])) for name, value in losses.items()}
    acting = {name: abs(weight * values.get(name, 0)) for name, weight in weights.items() if weight}
    return max(acting, key=lambda name: acting[name], default=None)


def check_targets(targets: Iterable[Target], who: str) -> None:
    """UserError where an embedding is not finite. `who`: encoder or judge."""
    targets = list(targets)
    if not targets or torch.stack([t.embed.float().sum() for t in targets]).isfinite().all():
        return
    wrong = next(t for t in targets if not t.embed.isfinite().all())
    raise UserError(
        f"the {who}'s embedding of {wrong.label!r} is not made of finite numbers: try "
        f"precision=float32, or other weights with {who}.checkpoint="
    )
