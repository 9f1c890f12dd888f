"""A UNet with its weights and the diffusion process that it was trained in."""

from __future__ import annotations

import torch
from torch import Tensor

from acgd.checkpoints import load as checkpoints
from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError
from acgd.models.unet import UNet


class PictureModel:
    """What conf/model/*.yaml names.

    checkpoint: see `acgd.checkpoints.load.locate`. `architecture` are UNet's arguments; a
    safetensors file that carries its own needs none, and what is given here goes before it.
    predicts: "eps", "x0" or "v". precision: "float32", "float16" or "bfloat16", of the
    torso's convolutions.
    Raises UserError when the weights are absent, damaged or another model's.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        *,
        schedule: str = "linear",
        steps: int = 1000,
        rescale_timesteps: bool = True,
        predicts: str = "eps",
        clip_denoised: bool = False,
        **architecture: object,
    ):
        path = checkpoints.locate(checkpoint)
        unet = checkpoints.empty(UNet, path, architecture)
        if precision != "float32":  # before it is filled: the file's precision is never held
            unet = unet.to("meta").convert_torso(precision)
        state = checkpoints.load_state(path)
        checkpoints.load_into(unet, state, path, device=device, release=True)
        unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.unet, self.image_size, self.cond_dim = unet, unet.image_size, unet.cond_dim
        self.process = {
            "schedule": schedule,
            "steps": steps,
            "rescale_timesteps": rescale_timesteps,
            "learn_sigma": unet.out_channels == 6,
        }
        self.predicts, self.clip_denoised = predicts, clip_denoised

    def diffusion(self, respacing: str | int) -> Diffusion:
        """The process with only the steps that a sampler takes."""
        return Diffusion(respacing=respacing, **self.process)

    def denoiser(
        self,
        diffusion: Diffusion,
        cond: Tensor | None = None,
        cfg_scale: float | Tensor = 0.0,
        class_id: int | None = None,
        batch: int = 1,
    ) -> Denoiser:
        """The network as samplers see it. cond (B, cond_dim); cfg_scale a number or (B, 1, 1, 1);
        class_id for models with classes."""
        y = None
        if self.unet.class_cond:
            if class_id is None:
                raise UserError("this model has classes: choose one with class_id=0 to 999")
            y = torch.full((batch,), int(class_id), device=next(self.unet.parameters()).device)
        return Denoiser(
            self.unet, diffusion, self.predicts, cond, cfg_scale, self.clip_denoised, y=y
        )
