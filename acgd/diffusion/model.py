"""A denoising network with its weights, its diffusion process and the space that it works in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.checkpoints import load as checkpoints
from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError
from acgd.models import low_rank
from acgd.models.autoencoder import Autoencoder
from acgd.models.layout import layout
from acgd.models.unet import UNet
from acgd.types import Target

M = TypeVar("M", bound=nn.Module)


class PictureModel:
    """What conf/model/*.yaml names.

    checkpoint: see `acgd.checkpoints.load.locate`; checkpoint_key: which of several state dicts in
    it ("ema"). `architecture` are UNet's arguments; a
    safetensors file that carries its own needs none, and what is given here goes before it.
    predicts: "eps", "x0" or "v". precision: "float32", "float16" or "bfloat16", of the
    torso's convolutions.

    adapter: low-rank weights to be added to the network's, see `acgd.models.low_rank`.
    autoencoder: weights of an Autoencoder for a network that works in latents; None: in pixels.
    What is sampled is `scale` (z - `shift`) of the autoencoder's latents z. Samplers, noise and
    snapshots see `shape` (C, h, w) alone; `decode` and `encode` are the way to pixels and back.

    styles: name -> class for a network whose classes are drawing styles; `style` chooses one of
    them, "any" the class that leaves it open; None lets each seed draw one of `clean_styles`.
    Raises UserError when weights are absent, damaged or another model's, or a style is unknown.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        *,
        checkpoint_key: str | None = None,
        schedule: str = "linear",
        steps: int = 1000,
        rescale_timesteps: bool = True,
        predicts: str = "eps",
        clip_denoised: bool = False,
        adapter: str | None = None,
        autoencoder: str | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        styles: Mapping[str, int] | None = None,
        clean_styles: Sequence[str] = (),
        style: str | None = None,
        **architecture: Any,
    ):
        self.styles, self.clean_styles, self.style = dict(styles or {}), clean_styles, style
        if style is not None and style not in self.styles:
            choices = ", ".join(self.styles) or "none, this model has no styles"
            raise UserError(f"model.style={style}: choose from {choices}")
        strange = [name for name in clean_styles if name not in self.styles]
        if strange or (self.styles and style is None and not clean_styles):
            choices = ", ".join(self.styles) or "none"
            raise UserError(f"model.clean_styles={list(clean_styles)}: some of {choices}")
        path = checkpoints.locate(checkpoint)
        unet = self.network(path, architecture, precision)
        self.unet, self.cond_dim = filled(unet, path, device, checkpoint_key), unet.cond_dim
        if adapter is not None:
            self.adapt(checkpoints.locate(adapter), path)
        self.process: dict[str, Any] = {
            "schedule": schedule,
            "steps": steps,
            "rescale_timesteps": rescale_timesteps,
            "learn_sigma": unet.out_channels == 2 * unet.in_channels,
        }
        self.predicts, self.clip_denoised = predicts, clip_denoised
        self.shape = (unet.in_channels, unet.image_size, unet.image_size)
        self.image_size = unet.image_size
        self.autoencoder: Autoencoder | None = None
        # the last latents, their version and their pixels
        self.decoded: tuple[Tensor, int, Tensor] | None = None
        self.scale, self.shift = scale, shift
        if autoencoder is not None:
            path = checkpoints.locate(autoencoder)
            self.autoencoder = filled(checkpoints.empty(Autoencoder, path, {}), path, device)
            self.image_size = self.autoencoder.image_size
            if self.autoencoder.channels != unet.in_channels:
                raise UserError(
                    f"{checkpoint} draws {unet.in_channels} channels, model.autoencoder has"
                    f" {self.autoencoder.channels}: model.autoencoder=null for a model of pixels"
                )

    def network(self, path: Path, sizes: dict, precision: str) -> UNet:
        """The network, to be filled from `path`; in its precision before, so that the file's is
        never held."""
        unet = checkpoints.empty(UNet, path, sizes)
        return unet if precision == "float32" else unet.to("meta").convert_torso(precision)

    def adapt(self, adapter: Path, path: Path) -> None:
        """Add an adapter to the network's weights, which are those of `path`."""
        of = checkpoints.read_config(adapter).get("of")
        if of != checkpoints.fingerprint(path):
            raise UserError(
                f"{adapter} is no adapter of {path}: model.adapter=null, or one that was trained"
                " for these weights"
            )
        low_rank.merge(self.unet, checkpoints.load_state(adapter))

    def decode(self, x: Tensor) -> Tensor:
        """What is sampled, (B, *shape), to pixels (B, 3, S, S), nominally in [-1, 1]."""
        if self.autoencoder is None:
            return x
        once = x.device.type == "cpu" and not x.is_inference()
        if once and self.decoded and not x.requires_grad and unchanged(x, *self.decoded[:2]):
            return self.decoded[2]  # a preview shows what guidance saw
        pixels = self.autoencoder.decode(x / self.scale + self.shift)
        self.decoded = (x.detach(), x._version, pixels.detach()) if once else None
        return pixels

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) in [-1, 1] to what is sampled, (B, *shape)."""
        if self.autoencoder is None:
            return pixels
        return (self.autoencoder.encode(pixels) - self.shift) * self.scale

    def decoder(self, kind: str) -> Callable[[Tensor], Tensor]:
        """The way to pixels that guidance and previews take: this model has one."""
        if kind != "full":
            raise UserError(f"guidance.decoder={kind}: this model has one decoder, full")
        return self.decode

    def condition(
        self, targets: Sequence[Sequence[Target]], templates: Sequence[str | None], device: str
    ) -> Tensor:
        """(B, cond_dim): each sample's targets as one direction, for the network's own input.

        An ensemble's embedding begins with the first member's, which is the model's part.
        """
        return directions(targets, self.cond_dim).to(device)

    def diffusion(self, respacing: str | int) -> Diffusion:
        """The process with only the steps that a sampler takes."""
        return Diffusion(respacing=respacing, **self.process)

    def denoiser(
        self,
        diffusion: Diffusion,
        cond: Tensor | None = None,
        cfg_scale: float | Tensor = 0.0,
        classes: Sequence[int] | None = None,
    ) -> Denoiser:
        """The network as samplers see it. cond (B, cond_dim); cfg_scale a number or (B, 1, 1, 1);
        classes: each sample's, as `classes` gives them."""
        y = None
        if classes is not None:
            y = torch.tensor(classes, device=next(self.unet.parameters()).device)
        return Denoiser(
            self.unet, diffusion, self.predicts, cond, cfg_scale, self.clip_denoised, y=y
        )

    def classes(self, seeds: Sequence[int], class_id: int | None) -> list[int] | None:
        """The class of each sample, None for a network without classes.

        A style where the classes are styles: by default each seed's own, the same in any batch.
        """
        if not self.unet.class_cond:
            return None
        if not self.styles:
            if class_id is None:
                raise UserError("this model has classes: choose one with class_id=0 to 999")
            return [int(class_id)] * len(seeds)
        clean = self.clean_styles
        names = [self.style or clean[seed % len(clean)] for seed in seeds]
        return [self.styles[name] for name in names]


def unchanged(x: Tensor, before: Tensor, version: int) -> bool:
    """Whether x is `before`, in the same memory, and nothing was written there since `version`."""
    return x.is_set_to(before) and x._version == before._version == version


def directions(targets: Sequence[Sequence[Target]], dim: int | None = None) -> Tensor:
    """(B, dim), unit norm: each sample's targets as one; of their embeddings the first `dim`
    numbers, None: all."""
    rows = [[one.embed[:dim] * one.weight for one in row] for row in targets]
    means = [sum(parts[1:], parts[0]) for parts in rows]
    return F.normalize(torch.stack(means).float(), dim=-1)


def filled(module: M, path: Path, device: str | torch.device, key: str | None = None) -> M:
    """A module with the weights of a file, to be used and not to be trained."""
    state = checkpoints.load_state(path, key)
    order = layout(device)
    checkpoints.load_into(module, state, path, device=device, release=True, layout=order)
    return module.eval().requires_grad_(False)
