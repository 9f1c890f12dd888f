"""A pipeline of diffusers (the extra [diffusers]) as a picture model: Stable Diffusion and others.

Of the pipeline only the network, the autoencoder, the text encoders and their configs are used;
sampling, noise, guidance and resuming are acgd's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from acgd.diffusion import decoders, text_networks
from acgd.diffusion import ip_adapter as adapters
from acgd.diffusion.bridge import bridged, picture_numbers
from acgd.diffusion.model import directions
from acgd.diffusion.phrases import TEMPLATE, phrase
from acgd.diffusion.pipeline_files import pipeline, pixels_dtype, save_memory
from acgd.diffusion.scheduled import Scheduled
from acgd.diffusion.text_denoiser import TextDenoiser
from acgd.diffusion.text_networks import Condition, Network
from acgd.errors import UserError
from acgd.types import Target

KINDS = "Stable Diffusion 1, 2, XL and unCLIP, PixArt-alpha and Stable Diffusion 3"


class DiffusersModel:
    """What conf/model/diffusers.yaml names; see `acgd.diffusion.model.PictureModel` for its face.

    checkpoint: a folder in diffusers' format, or a name on its hub, taken from its cache; with
    download=True what is missing there is fetched. size: of the pictures in pixels; None: the
    network's own. negative_prompt: what the unconditional side is told. noise_level: of unCLIP's
    picture embeddings, 0 to 999. bridge: from the encoder's space to the one of the model's picture
    embeddings, see scripts/fit_bridge.py. ip_adapter: weights of an IP-Adapter that takes plain
    embeddings; ip_scale: how much its picture counts. tiny_decoder: a folder of an AutoencoderTiny
    for guidance.decoder=tiny. tiling: decode in tiles, which takes less memory. use_checkpoint:
    compute again on the way back what would be kept for it.
    Raises UserError for a pipeline of another kind, and for what is absent or damaged.
    """

    cond_dim = None  # it is told in words, whatever the encoder

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        *,
        download: bool = False,
        size: int | None = None,
        negative_prompt: str = "",
        noise_level: int = 0,
        bridge: str | None = None,
        ip_adapter: str | None = None,
        ip_scale: float = 1.0,
        tiny_decoder: str | None = None,
        tiling: bool = False,
        use_checkpoint: bool = False,
    ):
        self.device, dtype = torch.device(device), getattr(torch, precision)
        self.pipe = pipeline(checkpoint, dtype, download)
        network: Any = getattr(self.pipe, "unet", None) or getattr(self.pipe, "transformer", None)
        self.unet = Network(network)
        if self.unet.call is None:
            raise UserError(f"checkpoint={checkpoint}: is a {type(self.pipe).__name__}; {KINDS} do")
        self.takes_adapter = ip_adapter is not None
        numbers = picture_numbers(network)
        if ip_adapter is not None:
            numbers = adapters.take(network, ip_adapter, ip_scale)
        self.bridge = bridged(bridge, numbers, self.device)
        self.unet.to(self.device).eval().requires_grad_(False)
        self.vae: Any = self.pipe.vae.eval().requires_grad_(False)
        self.vae.to(self.device, pixels_dtype(type(self.pipe).__name__, self.vae.config, dtype))
        self.negative_prompt, self.noise_level = negative_prompt, noise_level
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_size = size or int(network.config.sample_size) * factor
        if self.image_size % factor:
            raise UserError(f"model.size={size}: must be a multiple of {factor}")
        side = self.image_size // factor
        save_memory(network, self.vae, side, tiling, use_checkpoint)
        self.shape = (int(self.vae.config.latent_channels), side, side)
        self.scheduler = dict(self.pipe.scheduler.config) | {
            "_class_name": type(self.pipe.scheduler).__name__
        }
        self.tiny_decoder, self.decoders = tiny_decoder, dict[str, Callable[[Tensor], Tensor]]()

    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pixels (B, 3, S, S), nominally in [-1, 1]."""
        scale, shift = self.spread(x)
        return self.vae.decode((x * scale + shift).to(self.vae.dtype)).sample.float()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, S, S) in [-1, 1] to latents, the mean of what they may be."""
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        scale, shift = self.spread(latents)
        return (latents - shift) / scale

    def spread(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Scale and shift from what is sampled to the autoencoder's latents."""
        config = self.vae.config
        scale, shift = 1 / config.scaling_factor, config.get("shift_factor") or 0.0
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return scale, shift
        mean, std = (
            torch.tensor(config[name]).to(x)[None, :, None, None]
            for name in ("latents_mean", "latents_std")
        )
        return std * scale, mean

    def decoder(self, kind: str) -> Callable[[Tensor], Tensor]:
        """The way to pixels that guidance and previews take: "full", "tiny" or "linear"."""
        if kind == "full":
            return self.decode
        if kind not in self.decoders:
            if kind == "linear":
                self.decoders[kind] = decoders.Linear(self)
            elif self.tiny_decoder is None:
                raise UserError("guidance.decoder=tiny: name its folder with model.tiny_decoder=")
            else:
                self.decoders[kind] = decoders.tiny(self.tiny_decoder, self.device)
        return self.decoders[kind]

    def diffusion(self, respacing: str | int) -> Scheduled:
        """The process with only the steps that a sampler takes."""
        patch = int(getattr(self.unet.network.config, "patch_size", None) or 1)
        return Scheduled(self.scheduler, respacing, (self.shape[1] // patch) ** 2)

    def denoiser(
        self,
        diffusion: Scheduled,
        cond: tuple[Condition, Condition],
        cfg_scale: float | Tensor = 0.0,
        classes: None = None,
    ) -> TextDenoiser:
        """The network as samplers see it; cond: with what is asked for, and without."""
        if size := self.unet.network.config.get("time_cond_proj_dim"):  # distilled with guidance
            strength = torch.as_tensor(cfg_scale, dtype=torch.float32).flatten() - 1
            strength = strength.expand(len(cond[0]["words"])).to(self.device)
            told = self.pipe.get_guidance_scale_embedding(strength, embedding_dim=size)
            return TextDenoiser(self.unet, diffusion, cond[0] | {"strength": told}, cond[1], 1.0)
        return TextDenoiser(self.unet, diffusion, *cond, cfg_scale)

    def classes(self, seeds: Sequence[int], class_id: int | None) -> None:
        """None: it has no classes."""

    @torch.no_grad()
    def condition(
        self, targets: Sequence[Sequence[Target]], templates: Sequence[str | None], device: str
    ) -> tuple[Condition, Condition]:
        """What each sample's targets are to this network, and what it is told without them.

        Words as the template says, and the targets' direction as a picture embedding where the
        network takes one. The text encoders are on the device only for that.
        """
        words = [
            phrase(row, made or TEMPLATE) for row, made in zip(targets, templates, strict=True)
        ]
        avoided = [self.avoided(row) for row in targets]
        encoders = [
            part for name, part in self.pipe.components.items() if name.startswith("text_encoder")
        ]
        for encoder in filter(None, encoders):
            encoder.to(device)
        given, without = text_networks.encode(self.pipe, words, avoided, torch.device(device))
        if torch.device(device).type != "cpu":
            for encoder in filter(None, encoders):
                encoder.to("cpu")
        for side in (given, without):
            side |= self.sizes(len(words))
        self.add_pictures(targets, given, without)
        return given, without

    def avoided(self, row: Sequence[Target]) -> str:
        labels = [target.label for target in row if target.kind == "text" and target.weight < 0]
        return ", ".join([*labels, self.negative_prompt] if self.negative_prompt else labels)

    def sizes(self, rows: int) -> Condition:
        """The size that the network is told, where it asks."""
        side, config = float(self.image_size), self.unet.network.config
        if self.unet.kind == "PixArtTransformer2DModel":
            if not self.unet.network.use_additional_conditions:
                return {}
            size = torch.full((rows, 2), side, device=self.device)
            return {"resolution": size, "aspect": torch.ones(rows, 1, device=self.device)}
        if config.get("addition_embed_type") != "text_time":
            return {}
        times = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=self.device)
        return {"times": times.expand(rows, -1)}

    def add_pictures(
        self, targets: Sequence[Sequence[Target]], given: Condition, without: Condition
    ) -> None:
        """The targets' direction as the picture embedding that an adapter or unCLIP takes."""
        if self.bridge is None:
            return
        embeds = self.bridge(directions(targets))
        if self.takes_adapter:
            given["picture"], without["picture"] = (
                embeds[:, None],
                torch.zeros_like(embeds)[:, None],
            )
        else:
            told = self.pipe.noise_image_embeddings(
                embeds, self.noise_level, noise=torch.zeros_like(embeds)
            )
            given["classes"], without["classes"] = told, torch.zeros_like(told)
