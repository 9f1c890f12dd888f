"""golden/diffusion: tables, respacing, posterior terms, which timestep the model is given."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import torch

from acgd.diffusion.process import Diffusion, space_timesteps
from acgd.errors import UserError
from reference.inputs import evaluate

KINDS = ("diffusion",)


def process(create: dict) -> Diffusion:
    """A Diffusion from create_gaussian_diffusion's arguments, with its defaults."""
    known = {"steps", "learn_sigma", "noise_schedule", "rescale_timesteps", "timestep_respacing"}
    if unknown := set(create) - known - {"predict_xstart"}:
        raise ValueError(f"create_gaussian_diffusion arguments not supported: {sorted(unknown)}")
    return Diffusion(
        schedule=create.get("noise_schedule", "linear"),
        steps=create.get("steps", 1000),
        respacing=create.get("timestep_respacing", ""),
        rescale_timesteps=create.get("rescale_timesteps", False),
        learn_sigma=create.get("learn_sigma", False),
    )


def compute(meta: dict, arrays) -> Iterator[tuple[str, np.ndarray]]:
    for tag, table in meta.get("tables", {}).items():
        yield from _tables(tag, process(table["create_gaussian_diffusion"]), arrays)
    for name in arrays.files:
        if name.startswith("respace."):
            yield name, np.array(_respaced(name))
    if "q" in meta:
        yield from _closed_forms(meta["q"])


def _tables(tag: str, diffusion: Diffusion, arrays) -> Iterator[tuple[str, np.ndarray]]:
    indices = arrays[f"{tag}.indices"]
    yield f"{tag}.indices", indices
    yield f"{tag}.timestep_map", diffusion.timestep_map
    for name in arrays.files:
        table = name.removeprefix(f"{tag}.").removesuffix(".sum_wsum")
        if not name.startswith(f"{tag}.") or table in ("indices", "timestep_map"):
            continue
        values = getattr(diffusion, table)
        place = np.arange(1, len(values) + 1)
        weighted = np.array([values.sum(), (place * values).sum()])
        yield name, weighted if name.endswith(".sum_wsum") else values[indices]


def _respaced(name: str) -> list[int]:
    _, steps, spec = name.split(".", 2)
    if spec.endswith(".list"):
        return space_timesteps(int(steps), [int(n) for n in spec[: -len(".list")].split("-")])
    return space_timesteps(int(steps), spec)


def _closed_forms(q: dict) -> Iterator[tuple[str, torch.Tensor]]:
    d = process(q["create_gaussian_diffusion"])
    x0, xt, noise = (evaluate(text) for text in q["inputs"])
    t = torch.tensor(q["t"])
    yield "q.mean", d.pick("sqrt_alphas_cumprod", t) * x0
    yield "q.variance", d.pick(1 - d.alphas_cumprod, t).expand_as(x0)
    yield "q.log_variance", d.pick("log_one_minus_alphas_cumprod", t).expand_as(x0)
    yield "q.sample", d.q_sample(x0, t, noise)
    yield "q.posterior_mean", d.posterior_mean(x0, xt, t)
    yield "q.posterior_variance", d.pick("posterior_variance", t).expand_as(x0)
    clipped = d.pick("posterior_log_variance_clipped", t)
    yield "q.posterior_log_variance", clipped.expand_as(x0)
    yield "q.xstart_from_eps", d.x0_from_eps(xt, t, noise)
    yield "q.eps_from_xstart", d.eps_from_x0(xt, t, x0)


def checks(meta: dict) -> Iterator[tuple[str, bool]]:
    for name, case in meta.get("model_timesteps", {}).items():
        diffusion = process(case["create_gaussian_diffusion"])
        seen = diffusion.model_timesteps(torch.tensor(case["t given"]))
        same = (
            seen.tolist() == case["timesteps the model sees"] and str(seen.dtype) == case["dtype"]
        )
        yield f"model_timesteps.{name}", same
    for text in meta.get("respace_errors", {}):
        steps, spec = text.split(" ", 1)
        try:
            space_timesteps(int(steps), ast.literal_eval(spec))
            yield f"respace_errors.{text}", False
        except UserError:
            yield f"respace_errors.{text}", True
