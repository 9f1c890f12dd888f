"""`sample`: from noise to a picture, a step at a time.

A pure generator over models, targets, settings and noise: it knows no config and writes nothing.
Whoever wants a progress bar, previews, snapshots or losses on disk listens to its steps.
B: samples in the batch. x is (B, *model.shape), pixels in [-1, 1] or latents; uint8 pixels from
`to_bytes` on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from acgd.diffusion.interfaces import Sampler, Step
from acgd.diffusion.model import PictureModel
from acgd.diffusion.noise import Noise
from acgd.errors import UserError
from acgd.pipeline import settings as read_settings
from acgd.pipeline.settings import Settings
from acgd.types import Encoder, Target


class Models(Protocol):
    """The models that sampling needs, on one device."""

    model: PictureModel
    encoder: Encoder
    sampler: Sampler
    device: str


class Position(NamedTuple):
    """Where a batch stood after some steps: all that the next step depends on."""

    steps: int
    x: Tensor  # (B, *model.shape)
    history: Sequence[Tensor]  # the sampler's own, see Step
    noise: Tensor  # the generators' states, see Noise.state


def sample(
    models: Models,
    targets: Sequence[Sequence[Target]],
    settings: Settings,
    noise: Noise,
    resume_from: Position | None = None,
) -> Iterator[Step]:
    """Draw a batch: each sample towards its own `targets`, from its own random numbers.

    Yields every step as it is taken; the last one's x is the sample, which the model decodes
    (`models.model.decode`) where it works in latents. Equal arguments give equal
    bytes, alone or in any batch of the same size. Given `resume_from`, the steps from there on,
    the same as if it had never been interrupted; `noise` is set back to that point.
    """
    model, batch = models.model, len(settings.seeds)
    diffusion = model.diffusion(models.sampler.steps)
    scale: float | Tensor = 0.0
    cond: Any = None
    if model.cond_dim is None or (model.cond_dim and any(settings.cfg_scale)):
        scale = read_settings.scale(settings.cfg_scale, models.device)
        cond = model.condition(targets, settings.templates, models.device)
    classes = model.classes(settings.seeds, settings.class_id)
    if classes is None and settings.class_id is not None:
        raise UserError(f"class_id={settings.class_id}: this model has no classes; class_id=null")
    denoiser = model.denoiser(diffusion, cond, scale, classes)
    init = settings.init_pixels(model.image_size)
    init = None if init is None else init.to(models.device)
    x = noise.like(torch.empty(batch, *model.shape, device=models.device))
    full = None if init is None else model.encode(init).expand(batch, -1, -1, -1)
    x = diffusion.start(x, full, settings.skip_steps)
    guide = None
    if settings.guided:
        provided = {"encoder": models.encoder, "targets": targets, "init_image": init}
        provided |= {
            "diffusion": diffusion,
            "noise": noise,
            "decode": model.decoder(settings.decoder),
        }
        guide = read_settings.guide(settings.guidance, settings.weights, **provided)
    start, history = settings.skip_steps, list[Tensor]()
    if resume_from is not None:
        noise.load_state(resume_from.noise)
        x, start = resume_from.x.to(models.device), start + resume_from.steps
        history = [tensor.to(models.device) for tensor in resume_from.history]
    yield from models.sampler(denoiser, x, noise=noise, guide=guide, start=start, history=history)


def count_steps(models: Models, settings: Settings) -> int:
    """How many steps `sample` takes from its beginning."""
    return models.model.diffusion(models.sampler.steps).num_timesteps - settings.skip_steps


def to_bytes(x: Tensor) -> Tensor:
    """[-1, 1] to uint8, on the CPU; what lies outside is cut."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
