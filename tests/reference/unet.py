"""What acgd answers to the golden files about the UNet."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from acgd.models.unet import UNet, timestep_embedding
from reference import fill, inputs

KINDS = ("unet",)


def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, torch.Tensor]]:
    for name, variant in meta["variants"].items():
        if "create_model" in variant:
            yield from network(name, variant, arrays)
        else:
            t = torch.tensor(variant["timesteps"])
            for dim in variant["dims"]:
                yield f"{name}.{'odd' if dim % 2 else 'even'}", timestep_embedding(t, dim)


def network(name: str, variant: dict, arrays: dict) -> Iterator[tuple[str, torch.Tensor]]:
    unet = unet_from(variant["create_model"])
    x = inputs.evaluate(variant["x"]).requires_grad_()
    t = torch.tensor(variant["timesteps (float)"])
    y = None if variant["y"] is None else torch.tensor(variant["y"])
    out = unet(x, t, y)
    probe = inputs.evaluate(inputs.find_calls(variant["grad"])[0], out=out)
    (grad,) = torch.autograd.grad((out * probe).sum(), x)
    yield f"{name}.out", out
    yield f"{name}.grad", grad
    if f"{name}.out_fp16" in arrays:
        with torch.no_grad():
            yield f"{name}.out_fp16", unet.convert_torso("float16")(x, t, y)


def unet_from(create_model: dict) -> UNet:
    """The UNet that create_model's arguments name, filled by the rule, in eval mode.

    `use_fp16` is left to `convert_torso`; arguments of the fork that change no tensor are dropped.
    """
    known = set(UNet.__init__.__annotations__) - {"dtype"}
    unet = UNet(**{key: value for key, value in create_model.items() if key in known})
    fill.fill_(unet.state_dict())
    return unet.eval()
