"""A batch of samples from noise to pixels, leaving losses, previews and snapshots on its way.

B: samples in the batch. Pixels are in [-1, 1] here, uint8 from `to_bytes` on.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from acgd.config import validate
from acgd.config.instantiate import build
from acgd.diffusion.guidance.guidance import Guidance
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError
from acgd.media import images
from acgd.pipeline.models import Studio
from acgd.pipeline.sample import Sample
from acgd.pipeline.snapshot import Snapshot, Watch
from acgd.runs.run import existing_file


def draw_with_twins(
    batch: list[Sample], studio: Studio, cfg: dict, stand: Snapshot | None = None
) -> tuple[Tensor, Tensor | None]:
    """The batch and, where asked for, its unguided twins: each (B, 3, H, W) uint8.

    `stand`: where an interrupted batch stood; it goes on from there.
    """
    if stand is not None and stand.picture is not None:
        picture = stand.picture
        for sample, losses in zip(batch, stand.losses, strict=True):
            sample.record.losses = list(losses)
    else:
        picture, stand = to_bytes(draw(batch, studio, cfg, stand)), None
    if not cfg["twin"]:
        return picture, None
    return picture, to_bytes(draw(batch, studio, cfg, stand, picture))


def draw(
    batch: list[Sample],
    studio: Studio,
    cfg: dict,
    stand: Snapshot | None = None,
    picture: Tensor | None = None,
) -> Tensor:
    """Sample the batch: (B, 3, H, W) in [-1, 1].

    Given the finished `picture`, its twin: without guidance, previews or losses of its own.
    """
    twin = picture is not None
    seeds = [sample.run.seed for sample in batch]
    noise = Noise.shared(seeds[0]) if cfg["shared_noise"] else Noise(seeds)
    diffusion = studio.model.diffusion(studio.sampler.steps)
    scale = 0.0 if twin or not studio.cfg_scale else strength(batch, studio.device)
    cond = None if twin or not studio.cfg_scale else condition(batch, studio)
    denoiser = studio.model.denoiser(diffusion, cond, scale, cfg["class_id"], len(batch))
    x, init = beginning(studio, cfg, diffusion, noise, len(batch))
    guide = None if twin else guidance(batch, studio, cfg, diffusion, noise, init)
    taken, history = 0, []
    if stand is not None:
        x, taken, history = resume(batch, stand, noise, x)
    skipped = cfg["skip_steps"]
    total = diffusion.num_timesteps - skipped
    where = {"start": skipped + taken, "history": history}
    steps = studio.sampler(denoiser, x, noise=noise, guide=guide, **where)
    watch = Watch(batch, cfg["snapshot_every"], noise, picture)
    with progress(batch, total, taken, twin) as bar, watch:
        for count, step in enumerate(steps, taken + 1):
            bar.set_postfix({k: f"{v.mean():.3g}" for k, v in step.losses.items()}, refresh=False)
            bar.update()
            if not twin:
                keep(batch, step, count, total, cfg)
            if count < total:
                watch.after(step, count)
    return step.x if cfg["picture"] == "sample" else step.x0


def progress(batch: list[Sample], total: int, taken: int, twin: bool) -> tqdm:
    """The bar with the time left and the losses; fewer redrawings where it goes to a file."""
    names = [batch[0].run.label[:20]] + ["..."] * (len(batch) > 1) + ["unguided"] * twin
    pace = 0.2 if sys.stderr.isatty() else 5.0  # seconds
    return tqdm(total=total, initial=taken, desc=" ".join(names), mininterval=pace)


def condition(batch: list[Sample], studio: Studio) -> Tensor:
    """(B, D): each sample's targets as one direction, for the UNet's own input.

    D is the model's: an ensemble's embedding begins with the first member's.
    """
    dim = studio.model.cond_dim
    means = [sum(target.embed[:dim] * target.weight for target in s.targets) for s in batch]
    return F.normalize(torch.stack(means).float(), dim=-1).to(studio.device)


def strength(batch: list[Sample], device: str) -> Tensor:
    """(B, 1, 1, 1): how far each sample follows its condition, guidance.cfg."""
    scales = [float(sample.run.cfg["guidance"]["cfg"]) for sample in batch]
    return torch.tensor(scales, device=device)[:, None, None, None]


def guidance(
    batch: list[Sample],
    studio: Studio,
    cfg: dict,
    diffusion: Diffusion,
    noise: Noise,
    init: Tensor | None,
) -> Guidance:
    node = {key: value for key, value in cfg["guidance"].items() if key != "cfg"}
    targets = [sample.targets for sample in batch]
    known = {"diffusion": diffusion, "noise": noise, "init_image": init}
    for name in {*validate.SCALES} & node.keys():
        known[name] = [sample.run.cfg["guidance"][name] or 0 for sample in batch]
    return build(node, encoder=studio.encoder, targets=targets, **known)


def beginning(
    studio: Studio, cfg: dict, diffusion: Diffusion, noise: Noise, count: int
) -> tuple[Tensor, Tensor | None]:
    """x at the first step taken, and the init image (1, 3, H, W) in [-1, 1] if there is one."""
    side, init, full = studio.model.image_size, None, None
    if cfg["init_image"]:
        path = existing_file(str(cfg["init_image"]))
        if path is None:
            raise UserError(f"init_image={cfg['init_image']}: no such picture file")
        init = images.pixels(images.load(path), side)[None].to(studio.device) * 2 - 1
        full = init.expand(count, -1, -1, -1)
    start = noise.like(torch.empty(count, 3, side, side, device=studio.device))
    return diffusion.start(start, full, cfg["skip_steps"]), init


def resume(
    batch: list[Sample], stand: Snapshot, noise: Noise, x: Tensor
) -> tuple[Tensor, int, list[Tensor]]:
    """x, in place of that of the beginning, the steps taken, and what the sampler remembers."""
    fits = stand.x.shape == x.shape
    told = f"goes on after {stand.steps} steps" if fits else "a snapshot of another shape"
    for sample, losses in zip(batch, stand.losses, strict=True):
        sample.record.log(told if fits else f"{told}, starts anew")
        sample.record.losses = list(losses) if fits else []
    if not fits:
        return x, 0, []
    noise.load_state(stand.noise)
    return stand.x.to(x.device), stand.steps, [tensor.to(x.device) for tensor in stand.history]


def keep(batch: list[Sample], step: Step, count: int, total: int, cfg: dict) -> None:
    """What a step leaves on disk: its losses and, every few steps, a preview."""
    for i, sample in enumerate(batch):
        losses = {name: round(float(values[i]), 6) for name, values in step.losses.items()}
        sample.record.step({"step": count, "t": int(step.t[i]), **losses})
    every = cfg["preview_every"]
    if count < total and not (every and count % every == 0):
        return
    pixels = to_bytes(step.x0)
    for i, sample in enumerate(batch):
        sample.record.flush()
        preview = pixels[i].permute(1, 2, 0).numpy()
        sample.record.picture(f"previews/step_{count:04d}.png", preview, cfg["enlarge_to"])


def to_bytes(x: Tensor) -> Tensor:
    """[-1, 1] to uint8, on the CPU; what lies outside is cut."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
