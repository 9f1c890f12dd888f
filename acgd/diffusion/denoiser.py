"""A network as a denoiser: x0, eps and log-variance, whatever it predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acgd.diffusion.interfaces import Prediction
from acgd.diffusion.process import Diffusion
from acgd.diffusion.scheduled import Scheduled
from acgd.diffusion.upload import upload
from acgd.errors import UserError


class Denoiser:
    """One meaning for every network: (x (B,3,H,W), t (B,)) -> Prediction(x0, eps, log_var).

    `predicts`: what the network's first channels are: "eps", "x0", "v" or "flow". `cond` (B,D): an
    embedding per sample, used where `cfg_scale` is not 0: 1 is conditional only, others go from
    the unconditional prediction through the conditional one and beyond (classifier-free guidance,
    Ho & Salimans 2022, 2207.12598), both in one batched call; a number, or (B,1,1,1).
    `y` (B,): class ids for networks that have classes.
    """

    def __init__(
        self,
        unet: nn.Module,
        diffusion: Diffusion,
        predicts: str = "eps",
        cond: Tensor | None = None,
        cfg_scale: float | Tensor = 0.0,
        clip_denoised: bool = False,
        y: Tensor | None = None,
    ):
        if predicts not in ("eps", "x0", "v", "flow"):
            raise UserError(f"unknown prediction {predicts!r}: choose from eps, x0, v, flow")
        self.strength = {float(value) for value in torch.as_tensor(cfg_scale).flatten()}
        if self.strength != {0.0} and cond is None:
            raise UserError("guidance.cfg_scale needs a condition: a model without one takes 0")
        self.unet, self.diffusion, self.predicts = unet, diffusion, predicts
        self.cond, self.cfg_scale, self.y = cond, cfg_scale, y
        self.clip_denoised = clip_denoised

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        out, frac = self._split(self._network(x, self.diffusion.model_timesteps(t)), x.shape[1])
        x0, eps = self._convert(x, t, out)
        log_var = self.diffusion.log_variance(t, frac)
        if not log_var.ndim:  # a number: filled in on the device, not copied there
            log_var = x.new_full((), float(log_var))
        return Prediction(x0, eps, log_var.expand_as(x))

    def _network(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The network's output, guided by its condition: (B, C or 2C, H, W) float32."""
        given, timesteps = {} if self.y is None else {"y": self.y}, upload(timesteps, x.device)
        if self.strength == {0.0}:
            return self.unet(x, timesteps, **given).float()
        if self.strength == {1.0}:
            return self.unet(x, timesteps, cond=self.cond, **given).float()
        given = {name: torch.cat([value, value]) for name, value in given.items()}
        mask = torch.arange(2 * len(x), device=x.device) < len(x)  # first half with its condition
        assert self.cond is not None  # the constructor asks for it
        cond = torch.cat([self.cond, self.cond])
        double = torch.cat([x, x]), torch.cat([timesteps, timesteps])
        out = self.unet(*double, cond=cond, cond_mask=mask, **given).float()
        with_cond, without = out.chunk(2)
        mixed = without + self.cfg_scale * (with_cond - without)
        # The variance is not extrapolated: it stays the conditional one.
        return torch.cat([mixed[:, : x.shape[1]], with_cond[:, x.shape[1] :]], dim=1)

    def _split(self, out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        expected = 2 * channels if self.diffusion.learn_sigma else channels
        if out.shape[1] != expected:
            raise UserError(
                f"the network has {out.shape[1]} output channels, {expected} expected: "
                f"set model.learn_sigma to what the weights were trained with"
            )
        return (out[:, :channels], out[:, channels:]) if self.diffusion.learn_sigma else (out, None)

    def _convert(self, x: Tensor, t: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        d = self.diffusion
        if self.predicts == "v":
            x0, eps = d.from_v(x, t, out)
        elif self.predicts == "flow":
            assert isinstance(d, Scheduled)  # no other process has flows
            x0, eps = d.from_flow(x, t, out)
        elif self.predicts == "eps":
            x0, eps = d.x0_from_eps(x, t, out), out
        else:
            x0, eps = out, d.eps_from_x0(x, t, out)
        if self.clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = d.eps_from_x0(x, t, x0)
        return x0, eps
