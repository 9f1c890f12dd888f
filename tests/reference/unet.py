"""What acgd answers to the golden files about the UNet.

Small models stand under "variants". A file about one full-size model has instead
    "config"    create_model's arguments, or "as manifests/NAME.json"
    "call"      "model(make_input('unet.x', [1, 3, 512, 512]), [321.0])", arrays out and grad
    "forward"   the same, in words or as a variant has it; arrays forward.out and forward.grad
    "step"      one unguided step of a sampler of the manifest's process, see `stepped`
and its arrays may be parts (out.corner, forward.grad.stats), see reference/parts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.ddpm import DDPM
from acgd.models.unet import UNet, timestep_embedding
from reference import fill, inputs, manifests
from reference.diffusion import process
from reference.parts import parts, whole

KINDS = ("unet",)
PROCESS = {  # of a manifest's config: create_gaussian_diffusion's names for them
    "diffusion_steps": "steps",
    "noise_schedule": "noise_schedule",
    "timestep_respacing": "timestep_respacing",
    "rescale_timesteps": "rescale_timesteps",
    "learn_sigma": "learn_sigma",
}


def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, Tensor]]:
    if "variants" not in meta:
        yield from published(meta, arrays)
    for name, variant in meta.get("variants", {}).items():
        if "create_model" in variant:
            yield from network(name, variant, inputs.prefix(meta["weights"]), arrays)
        else:
            t = torch.tensor(variant["timesteps"])
            for dim in variant["dims"]:
                yield f"{name}.{'odd' if dim % 2 else 'even'}", timestep_embedding(t, dim)


def network(name: str, variant: dict, prefix: str, arrays: dict) -> Iterator[tuple[str, Tensor]]:
    unet = unet_from(variant["create_model"], prefix)
    x = inputs.evaluate(variant["x"]).requires_grad_()
    t = torch.tensor(variant["timesteps (float)"])
    y = None if variant["y"] is None else torch.tensor(variant["y"])
    out = unet(x, t, y)
    (grad,) = torch.autograd.grad((out * inputs.cotangent(variant["grad"], out)).sum(), x)
    yield f"{name}.out", out
    yield f"{name}.grad", grad
    if f"{name}.out_fp16" in arrays:
        with torch.no_grad():
            yield f"{name}.out_fp16", unet.convert_torso("float16")(x, t, y)


def unet_from(create_model: dict, prefix: str = "") -> UNet:
    """The UNet that create_model's arguments name, filled by the rule, in eval mode.

    `use_fp16` is left to `convert_torso`; arguments of the fork that change no tensor are dropped.
    """
    known = set(UNet.__init__.__annotations__) - {"dtype"}
    unet = UNet(**{key: value for key, value in create_model.items() if key in known})
    fill.fill_(unet.state_dict(), prefix)
    return unet.eval().requires_grad_(False)


# --- one full-size model


def published(meta: dict, arrays: dict) -> Iterator[tuple[str, Tensor]]:
    """The arrays of "call", "forward" and "step"; each is worked out only where it has some."""
    config = manifests.config(meta)
    unet = unet_from(config, inputs.prefix(meta["weights"]))
    for key, stem in (("call", ""), ("forward", "forward.")):
        if key in meta:
            wanted = {whole(name)[0] for name in arrays}
            found = called(unet, meta, key, f"{stem}grad" in wanted)
            yield from parts({stem + name: x for name, x in found.items()}, arrays, arrays)
    if "step" in meta:
        found = stepped(unet, meta, config)
        yield from parts({f"step.{name}": x for name, x in found.items()}, arrays, arrays)


def called(unet: UNet, meta: dict, key: str, with_grad: bool) -> dict[str, Tensor]:
    """The network's answer, and the gradient at x of its sum with the probe that is named."""
    said = meta[key]
    x, t = picture(said), floats(said, "timesteps")
    y = torch.tensor(said["y"]) if isinstance(said, dict) and said.get("y") is not None else None
    with torch.set_grad_enabled(with_grad):
        out = unet(x.requires_grad_(with_grad), torch.tensor(t), y)
    if not with_grad:
        return {"out": out}
    probe = inputs.cotangent(
        said["grad"] if isinstance(said, dict) else meta.get("grad", said), out
    )
    return {"out": out.detach(), "grad": torch.autograd.grad((out * probe).sum(), x)[0]}


def picture(said: dict | str) -> Tensor:
    """The input of a call in words, or the "x" of one in parts."""
    text = said["x"] if isinstance(said, dict) else said
    return inputs.evaluate(inputs.find_calls(text)[0])


def floats(said: dict | str, key: str) -> list[float]:
    """The timesteps: under a key that begins so, or the bracketed numbers after the input."""
    if isinstance(said, dict):
        return next([float(t) for t in v] for k, v in said.items() if k.startswith(key))
    for call in inputs.find_calls(said):
        said = said.replace(call, "")
    listed = re.search(r"\[\s*\d[\d., ]*\]", said)
    if not listed:
        raise ValueError(f"no timesteps in brackets: {said!r}")
    return [float(t) for t in json.loads(listed[0])]


class GivenNoise:
    """The noise of the one step that is taken; a golden step without any draws zeros."""

    def __init__(self, noise: Tensor | None):
        self.noise = noise

    def like(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.noise is None else self.noise


def stepped(unet: UNet, meta: dict, config: dict) -> dict[str, Tensor]:
    """ "step": {"method": "p_sample" or "ddim_sample", "t": its index in the respaced process,
    "x": ..., "noise": ..., "eta": 0.0, "create_gaussian_diffusion": {...}}.

    What the last leaves out is the config's. Raises ValueError for a key that it does not know, a
    guided step above all: a number that means something else must not pass.
    """
    said = dict(meta["step"])
    create = {ours: config[key] for key, ours in PROCESS.items() if key in config}
    diffusion = process(create | said.pop("create_gaussian_diffusion", {}))
    method, t, x = said.pop("method"), said.pop("t"), inputs.evaluate(said.pop("x"))
    noise = inputs.evaluate(said.pop("noise")) if said.get("noise") else said.pop("noise", None)
    eta = said.pop("eta", 0.0)
    if unknown := sorted(key for key in said if key not in ("sample", "pred_xstart", "arrays")):
        raise ValueError(f"step: {unknown[0]} is not understood")
    samplers = {"p_sample": DDPM(), "ddim_sample": DDIM(eta=eta)}
    if method not in samplers:
        raise ValueError(f"step: method {method!r} is none of {', '.join(samplers)}")
    if method == "p_sample" and noise is None and t > 0:
        raise ValueError("step: p_sample needs its noise")
    with torch.no_grad():
        start = diffusion.num_timesteps - 1 - t
        steps = samplers[method](Denoiser(unet, diffusion), x, noise=GivenNoise(noise), start=start)
        step = next(steps)
    return {"sample": step.x, "pred_xstart": step.x0}
