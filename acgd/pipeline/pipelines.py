"""What a pipeline of diffusers takes: its files, and its modules counted on the meta device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from acgd.diffusion.pipeline_files import WEIGHTS, kind_of, pixels_dtype, save_memory
from acgd.diffusion.text_networks import Network
from acgd.pipeline.counting import Way, back_bytes, fused_attention, passing_bytes, stored

# Copies in other precisions or formats lie beside these and are not read.
SAFETENSORS = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors")
PICKLES = re.compile(r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin")
TOKENS = 77  # of CLIP's texts


class Needs(NamedTuple):
    """Bytes of weights, and of a sample on its ways: through the network, to the picture at the
    end, and to the pixels that guidance sees."""

    network: int = 0
    vae: int = 0
    texts: int = 0
    told: Way = Way()  # nothing is kept where guidance does not go through the network
    shown: int = 0
    seen: Way = Way()
    distilled: bool = False  # the network knows cfg_scale and is asked once

    def activations(self, cfg_scale: float | None, batch: int, looking: float) -> float:
        """At the peak of a run. looking: what the encoder takes there and back."""
        twice = cfg_scale not in (None, 0, 1) and not self.distilled
        rows = 2 * batch if twice else batch
        once = self.seen.peak - self.seen.kept  # pictures go back one by one, see save_memory
        looked = self.seen.kept * batch + max(looking, once)
        return max(self.told.peak * rows, self.told.kept * rows + looked, self.shown)


def is_one(node: Any) -> bool:
    """Whether a config's node is of conf/model/diffusers.yaml."""
    return isinstance(node, dict) and str(node.get("_target_")).endswith(".DiffusersModel")


def folder(checkpoint: str) -> Path | None:
    """Where a pipeline lies: a folder, or the hub's cache; None: not here."""
    if (Path(checkpoint) / "model_index.json").is_file():
        return Path(checkpoint)
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no name that the hub could have
        found = try_to_load_from_cache(checkpoint, "model_index.json")
        return Path(found).parent if isinstance(found, str) else None
    return None


def files(checkpoint: str) -> Iterator[Path]:
    """The weights that are read of a pipeline, of the parts that are used."""
    for part in parts(folder(checkpoint)):
        names = sorted(path for path in part.iterdir() if path.is_file())
        found = [path for path in names if SAFETENSORS.fullmatch(path.name)]
        yield from found or [path for path in names if PICKLES.fullmatch(path.name)]


def parts(home: Path | None) -> list[Path]:
    if home is None:
        return []
    return sorted(path for path in home.iterdir() if path.is_dir() and WEIGHTS.fullmatch(path.name))


@cache
def needs(node: tuple, precision: str, decoder: str, through_unet: bool) -> Needs:
    """Of a config's node as `memory.frozen` has it, and two of guidance's options.

    Zeros for a pipeline that is not here or damaged, which is told of when it is loaded.
    """
    given = dict(node)
    home = folder(given["checkpoint"])
    if home is None:
        return Needs()
    wrong = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)
    with suppress(*wrong):
        index = json.loads((home / "model_index.json").read_text())
        dtype = getattr(torch, precision)
        return counted(home, index, given, dtype, decoder, through_unet)
    return Needs()


def counted(
    home: Path, index: dict, given: dict, dtype: torch.dtype, decoder: str, through_unet: bool
) -> Needs:
    network = Network(empty(home, index, "unet" if "unet" in index else "transformer", dtype))
    if network.call is None:  # of a kind that is refused
        return Needs()
    vae: Any = empty(home, index, "vae", dtype)
    vae.to(pixels_dtype(index["_class_name"], vae.config, dtype))
    config = network.network.config
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    side = int(given.get("size") or config.sample_size * factor) // factor
    options = (bool(given.get(name)) for name in ("tiling", "use_checkpoint"))
    save_memory(network.network, vae, side, *options)
    latents = torch.empty(1, vae.config.latent_channels, side, side, device="meta")
    t, told = torch.zeros(1, device="meta"), condition(config)
    texts = [name for name in index if name.startswith("text_encoder") and index[name][0]]
    ask = lambda x: network(x, t, told).float()  # noqa: E731
    show = lambda z: vae.decode(z.to(vae.dtype)).sample.float()  # noqa: E731
    with fused_attention():
        return Needs(
            stored(network),
            stored(vae),
            sum(stored(empty(home, index, name, dtype)) for name in texts),
            back_bytes(ask, latents) if through_unet else Way(0, passing_bytes(ask, latents)),
            passing_bytes(show, latents),
            back_bytes(show, latents) if decoder == "full" else seen(latents, factor, given),
            bool(config.get("time_cond_proj_dim")),
        )


def empty(home: Path, index: dict, part: str, dtype: torch.dtype) -> nn.Module:
    """A part of the pipeline without weights."""
    make: Any = kind_of(index[part])
    with torch.device("meta"):
        if index[part][0] == "diffusers":
            module = make.from_config(json.loads((home / part / "config.json").read_text()))
        else:
            module = make(make.config_class.from_pretrained(home / part, local_files_only=True))
    return module.to("meta", dtype).eval().requires_grad_(False)


def condition(config: Any) -> dict[str, Tensor]:
    """What a network is told, in the sizes that its config says."""
    row = partial(torch.zeros, device="meta")
    wide = next(
        config[name]
        for name in ("cross_attention_dim", "joint_attention_dim", "caption_channels")
        if config.get(name) and not (name == "cross_attention_dim" and "caption_channels" in config)
    )
    told = {"words": row(1, TOKENS, wide), "mask": row(1, TOKENS)}
    size = config.get("projection_class_embeddings_input_dim")
    if config.get("addition_embed_type") == "text_time":
        told["pooled"] = row(1, size - 6 * config.addition_time_embed_dim)
        told["times"] = row(1, 6)
    elif config.get("class_embed_type") == "projection":
        told["classes"] = row(1, size)
    if width := config.get("pooled_projection_dim"):
        told["pooled"] = row(1, width)
    if width := config.get("time_cond_proj_dim"):
        told["strength"] = row(1, width)
    if "caption_channels" in config:  # PixArt's
        told |= {"resolution": row(1, 2), "aspect": row(1, 1)}
    return told


def seen(latents: Tensor, factor: int, given: dict) -> Way:
    """What guidance's way to pixels takes where it is none of the autoencoder's."""
    if not given.get("tiny_decoder"):
        pixels = 3 * (latents.shape[-1] * factor) ** 2 * latents.element_size()
        return Way(0, 2 * pixels)  # a product and an enlargement, both linear
    from diffusers import AutoencoderTiny

    config = json.loads((Path(given["tiny_decoder"]) / "config.json").read_text())
    with torch.device("meta"):
        tiny: Any = AutoencoderTiny.from_config(config).eval().requires_grad_(False)
    _, most = back_bytes(lambda z: tiny.decode(z).sample, latents)
    return Way(most, most)  # all of a batch at once
