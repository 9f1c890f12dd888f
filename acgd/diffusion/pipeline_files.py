"""A pipeline of diffusers from its folder or its hub's cache, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from acgd.checkpoints import hub
from acgd.errors import UserError

WEIGHTS = re.compile(r"(unet|transformer|vae|text_encoder(_\d)?)")  # the parts that are used
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


def pipeline(checkpoint: str, dtype: torch.dtype, download: bool) -> Any:
    """The pipeline without what only its own sampling uses; UserError where it is not whole."""
    fetch = "model.download=true"
    with hub.told(checkpoint, "diffusers pipeline", fetch):
        try:
            import diffusers
            import transformers
        except ModuleNotFoundError as error:
            why = f"pip install 'acgd[diffusers]' ({error})"
            raise UserError(f"model=diffusers needs another package: {why}") from None
    if (folder := Path(checkpoint)).exists() and not (folder / "model_index.json").exists():
        raise UserError(
            f"checkpoint={checkpoint}: no pipeline of diffusers, model_index.json lacks"
        )
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    with hub.told(checkpoint, "diffusers pipeline", fetch):
        make, here = diffusers.DiffusionPipeline, {"local_files_only": not download}
        parts = make.load_config(checkpoint, **here)
        # what a pipeline may lack has to be said once more
        none = {name for name, kind in parts.items() if name in LEFT_OUT or kind == [None, None]}
        whole = {
            name: hub.whole(kind_of(parts[name]), checkpoint, subfolder=name, dtype=dtype, **here)
            for name in parts
            if WEIGHTS.fullmatch(name) and name not in none
        }
        pipe = make.from_pretrained(checkpoint, **here, **dict.fromkeys(none), **whole)
    for name, part in whole.items():
        if not all(one.isfinite().all() for one in part.parameters()):
            raise UserError(f"checkpoint={checkpoint}: {name} holds numbers that are none (NaN)")
    check_words(checkpoint, pipe)
    return pipe


def kind_of(part: Sequence[str]) -> Any:
    """The class that a row of model_index.json names; of these libraries only."""
    library, name = part
    found = library in ("diffusers", "transformers") and getattr(import_module(library), name, None)
    if not found:
        raise ValueError(f"neither diffusers nor transformers has a {name}")
    return found


def check_words(checkpoint: str, pipe: Any) -> None:
    """UserError where a tokenizer knows far fewer words than its text encoder: one whose files are
    gone loads as an empty one, and all words would be the same to the model."""
    for name, part in pipe.components.items():
        if WEIGHTS.fullmatch(name) and name.startswith("text_encoder") and part is not None:
            tokenizer = pipe.components.get(name.replace("text_encoder", "tokenizer"))
            known = 0 if tokenizer is None else len(tokenizer)
            if known < part.config.vocab_size / 2:
                raise UserError(
                    f"checkpoint={checkpoint}: the tokenizer of {name} knows {known} of "
                    f"{part.config.vocab_size} words: fetch the pipeline again"
                )


def pixels_dtype(pipe: str, config: Any, dtype: torch.dtype) -> torch.dtype:
    """What an autoencoder computes in: Stable Diffusion XL's first one overflows float16.

    Every config says `force_upcast`, by default; only XL's pipelines ask for it.
    """
    overflows = "XL" in pipe and dtype == torch.float16 and config.get("force_upcast")
    return torch.float32 if overflows else dtype


def save_memory(network: Any, vae: Any, side: int, tiling: bool, use_checkpoint: bool) -> None:
    """Let a network, and an autoencoder of latents of this side, take less memory.

    Pictures are always decoded one by one. A tile is at most half the picture wide: the
    autoencoder's own is as large as what it was trained on, most often all of it.
    """
    vae.enable_slicing()
    if tiling:
        vae.enable_tiling()
        vae.tile_latent_min_size = min(vae.tile_latent_min_size, -(-side // 2))
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_sample_min_size = vae.tile_latent_min_size * factor
    if use_checkpoint:
        network.enable_gradient_checkpointing()
        vae.enable_gradient_checkpointing()
