"""golden/sampler: single steps and whole loops of a closed-form model and guidance."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.interfaces import Step
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.ddpm import DDPM
from acgd.diffusion.samplers.guided import guided
from acgd.diffusion.samplers.plms import PLMS
from reference.diffusion import process
from reference.inputs import evaluate, find_calls

KINDS = ("sampler",)
CASE_DEPTH = 2

STEP = re.compile(
    r"(?P<proc>\w+)\.t(?P<t>\d+)\.(?P<clip>clip|noclip)\.(?P<method>.+)\.(?P<what>\w+)"
)
MULTI = re.compile(
    r"(?P<proc>\w+)\.plms\.order(?P<order>\d)\.(?P<cond>\w+)\.(?P<clip>clip|noclip)"
    r"\.step(?P<step>\d+)\.sample"
)
LOOP = re.compile(
    r"loop\.(?P<proc>\w+)\.(?P<method>.+)\.(?P<cond>plain|with_grad)\.skip(?P<skip>\d+)"
    r"(?P<init>\.init)?\.(?P<what>final|norms)"
)


def decay(u: Tensor) -> Tensor:
    """exp(-L(u) / 2), the square root of the closed form's abar."""
    return torch.exp(-(1e-4 + 0.1 * u + 9.95 * u**2) / 2)


def closed_form(diffusion: Diffusion, predict_xstart: bool):
    """The model of the golden file: model(x, ts)."""

    def model(x: Tensor, ts: Tensor) -> Tensor:
        u = (ts / 1000)[:, None, None, None]
        x0 = 0.8 * torch.sin(x + u)
        variance = -torch.expm1(-(1e-4 + 0.1 * u + 9.95 * u**2))
        out = x0 if predict_xstart else (x - decay(u) * x0) / variance.sqrt()
        return torch.cat([out, torch.sin(2 * x + 5 * u)], 1) if diffusion.learn_sigma else out

    return model


class PlainGuide:
    """cond_fn(x, ts): a gradient in closed form; nothing goes through the model."""

    through_unet = False

    def __init__(self, diffusion: Diffusion):
        self.diffusion = diffusion

    def active(self, t: Tensor) -> bool:
        return True

    def limit(self, grad: Tensor) -> Tensor:
        return grad

    def __call__(self, x: Tensor, x0: Tensor, t: Tensor):
        u = (self.diffusion.model_timesteps(t) / 1000)[:, None, None, None]
        return -3 * decay(u) * (-0.5 * x + 0.2 * torch.cos(2 * x + u)), None, {}


class GradGuide(PlainGuide):
    """cond_fn(x, t, out): the gradient of a loss of x and x0, through the model."""

    through_unet = True

    def __call__(self, x: Tensor, x0: Tensor, t: Tensor):
        w = ((t + 1) / self.diffusion.num_timesteps)[:, None, None, None]
        z = 0.7 * x0 + 0.3 * x
        grad = 3 * decay(w) * (z - 0.2 + 0.1 * torch.cos(z + w))
        return 0.3 * grad, 0.7 * grad, {}


GUIDES = {"plain": PlainGuide, "with_grad": GradGuide, "nocond": lambda diffusion: None}


class NamedNoise:
    """The step at index I draws the input that the file names for it, from `first` down."""

    def __init__(self, meta: dict, first: int):
        self.template, self.index = find_calls(meta["inputs"]["noise"])[0], first

    def like(self, x: Tensor) -> Tensor:
        noise = evaluate(re.sub(r"\.I'", f".{self.index}'", self.template))
        self.index -= 1
        return noise.to(x)


class Process:
    """A process of the file with its model."""

    def __init__(self, meta: dict, name: str):
        create = (meta["processes"] | meta.get("loop_processes", {}))[name]
        self.meta, create = meta, create["create_gaussian_diffusion"]
        self.diffusion = process(create)
        self.xstart = create.get("predict_xstart", False)

    def denoiser(self, clip: bool) -> Denoiser:
        model = closed_form(self.diffusion, self.xstart)
        return Denoiser(model, self.diffusion, "x0" if self.xstart else "eps", clip_denoised=clip)

    def steps(self, sampler, x: Tensor, cond: str, clip: bool, start: int) -> Iterator[Step]:
        noise = NamedNoise(self.meta, self.diffusion.num_timesteps - 1 - start)
        guide = GUIDES[cond](self.diffusion)
        return sampler(self.denoiser(clip), x, noise=noise, guide=guide, start=start)


def compute(meta: dict, arrays) -> Iterator[tuple[str, np.ndarray | Tensor]]:
    x = evaluate(find_calls(meta["inputs"]["x"])[0])
    results: dict[tuple, dict] = {}  # several arrays come from one calculation
    for name in arrays.files:
        for pattern, function in ((LOOP, _loop), (MULTI, _multistep), (STEP, _single)):
            if match := pattern.fullmatch(name):
                key = tuple(v for k, v in match.groupdict().items() if k not in ("what", "step"))
                if key not in results:
                    results[key] = function(meta, x, match)
                yield name, results[key][match.groupdict().get("what") or int(match["step"])]
                break


def _sampler(method: str):
    """The sampler that 'p', 'p_sample', 'ddim_eta0.5', 'plms' and so on stand for."""
    if method.startswith("ddim"):
        return DDIM(eta=float(method.split("_eta")[1]))
    return PLMS(cautious=False) if method.startswith("plms") else DDPM()


def _single(meta: dict, x: Tensor, match: re.Match) -> dict:
    p, t, clip = Process(meta, match["proc"]), int(match["t"]), match["clip"] == "clip"
    method, batch_t = match["method"], torch.full((len(x),), int(match["t"]))
    if method == "p_mean_variance":
        pred = p.denoiser(clip)(x, batch_t)
        mean = p.diffusion.posterior_mean(pred.x0, x, batch_t)
        variance = {"variance": pred.log_var.exp(), "log_variance": pred.log_var}
        return {"mean": mean, "pred_xstart": pred.x0} | variance
    if method == "ddim_reverse":
        return {"sample": invert(p.denoiser(clip), x, batch_t)}
    cond = next((c for c in ("with_grad", "nocond") if c in method), "plain")
    start = p.diffusion.num_timesteps - 1 - t
    step = next(p.steps(_sampler(method), x, cond, clip, start))
    return {"sample": step.x, "pred_xstart": step.x0}


def _multistep(meta: dict, x: Tensor, match: re.Match) -> dict:
    p, sampler = Process(meta, match["proc"]), PLMS(order=int(match["order"]), cautious=False)
    steps = p.steps(sampler, x, match["cond"], match["clip"] == "clip", 0)
    return {step.index: step.x for step in itertools.islice(steps, 16)}


def _loop(meta: dict, x: Tensor, match: re.Match) -> dict:
    p, skip = Process(meta, match["proc"]), int(match["skip"])
    noise = evaluate(find_calls(meta["inputs"]["loop start"])[0])
    init = evaluate(find_calls(meta["inputs"]["loop init image"])[0]) if match["init"] else None
    first = p.diffusion.start(noise, init, skip)
    steps = list(p.steps(_sampler(match["method"]), first, match["cond"], False, skip))
    norms = [[float(v.double().norm()) for v in (step.x, step.x0)] for step in steps]
    return {"final": steps[-1].x, "norms": np.array(norms)}


def invert(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """x_{t+1} from x_t: one step of the deterministic path backwards, unguided."""
    diffusion = denoiser.diffusion
    pred = guided(denoiser, x, t).pred
    following = diffusion.alphas_cumprod_next
    x0 = diffusion.pick(np.sqrt(following), t) * pred.x0
    return x0 + diffusion.pick(np.sqrt(1 - following), t) * pred.eps
