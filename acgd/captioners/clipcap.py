"""Captions by ClipCap with published weights: CLIP's picture tower, a mapper and GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.captioners.decoding import Decoding
from acgd.checkpoints import load as checkpoints
from acgd.checkpoints import registry
from acgd.encoders.clip import CLIPEncoder
from acgd.errors import UserError
from acgd.media.preprocess import normalise, resized
from acgd.models.clip import CLIP
from acgd.models.clipcap import LEGACY, TIED, ClipCap
from acgd.types import Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ClipCapCaptioner:
    """A sentence for each picture, up to its full stop.

    checkpoint: ClipCap's file, GPT-2 included; `architecture` are acgd.models.clipcap.ClipCap's
    arguments. clip: the file of the CLIP it was trained over; the judge's picture tower is used
    when it comes from the same file. unit: divide the embedding by its norm, as the transformer
    mapper was trained. tokenizer: a folder with GPT-2's tokenizer.json, or vocab.json and
    merges.txt, also looked for in the cache; nothing is asked of the network.
    decoding: the arguments of acgd.captioners.decoding.Decoding.
    """

    def __init__(
        self,
        checkpoint: str,
        clip: str,
        tokenizer: str = "gpt2",
        unit: bool = False,
        architecture: dict[str, Any] | None = None,
        decoding: dict[str, Any] | None = None,
        judge: Encoder | None = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        self.decoding, self.unit = Decoding(**(decoding or {})), unit
        self.device = torch.device(device)
        self.tokenizer = read_tokenizer(tokenizer)  # the small things first: they may be missing
        self.stop = self.tokenizer.encode(".").ids[0]
        self.clip = (
            shared(judge, clip) or CLIPEncoder(clip, device=device, precision=precision).model
        )
        self.model = read_model(checkpoint, architecture or {}).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[str]:
        """(B, 3, H, W) in [0, 1] of any size to B captions."""
        x = square(images.to(self.device), self.clip.image_resolution)
        embeds = self.clip.encode_image(normalise(x)).float()  # (B, D), not unit norm
        embeds = F.normalize(embeds, dim=-1) if self.unit else embeds
        written = self.decoding(self.model, self.model.prefix(embeds), self.stop)
        return [self.tokenizer.decode(ids.tolist()).strip() for ids in written]


def shared(judge: Encoder | None, source: str) -> CLIP | None:
    """The judge's model, if its picture tower comes from the file that `source` names."""
    if not isinstance(judge, CLIPEncoder):
        return None
    same = judge.pictures_from.resolve() == checkpoints.locate(source).resolve()
    return judge.model if same else None


def read_model(checkpoint: str, architecture: dict[str, Any]) -> ClipCap:
    """ClipCap with a file's weights, in float32; the old versions' mask buffers are passed over."""
    path = checkpoints.locate(checkpoint)
    model = checkpoints.empty(ClipCap, path, architecture)
    state = checkpoints.load_state(path)
    checkpoints.load_into(model, state, path, ignore=(*LEGACY, TIED), assign=True)
    return model.tie().eval().requires_grad_(False)


def square(images: Tensor, side: int) -> Tensor:
    """The middle square of (B, 3, H, W), resized to (B, 3, side, side), in [0, 1]."""
    short = min(images.shape[-2:])
    top, left = ((length - short) // 2 for length in images.shape[-2:])
    return resized(images[..., top : top + short, left : left + short], side).clamp(0, 1)


def read_tokenizer(folder: str) -> Tokenizer:
    """The byte-level BPE of a folder, which may stand in the cache; UserError when it does not."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    places = [Path(folder).expanduser(), checkpoints.cache_dir() / folder]
    for place in places:
        whole, vocab, merges = (place / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.is_file():
                return Tokenizer.from_file(str(whole))
            if vocab.is_file() and merges.is_file():
                return ByteLevelBPETokenizer(str(vocab), str(merges))
        except Exception as error:  # tokenizers raises nothing more special
            raise UserError(f"{place}: no tokenizer that can be read ({error})") from None
    raise UserError(
        f"GPT-2's tokenizer is not here: put its tokenizer.json (or vocab.json and merges.txt) into"
        f" {places[-1]}, or fetch it: {registry.command()} gpt2"
    )
