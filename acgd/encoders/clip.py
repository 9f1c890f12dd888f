"""Pictures and texts through a CLIP model; sounds it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError
from acgd.media import preprocess
from acgd.models.clip import CLIP, halve_, sizes
from acgd.models.layout import layout
from acgd.models.tokenizer import tokenizer

M = TypeVar("M", bound=CLIP)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


IMAGE_FROM = {"rn50": "RN50.pt"}  # the notebook's choice by name; others by path


class CLIPEncoder:
    """An Encoder (see acgd.types); differentiable with respect to the picture.

    checkpoint: "embedded:NAME", a path, or a file name in the cache folder; checkpoint_key: which
    of several state dicts in it. Sizes come from the file: from the architecture that a
    .safetensors file carries, else from its tensors' shapes; `architecture`, the model's arguments,
    goes before them. image_from: another CLIP's file whose
    picture tower takes the place of the checkpoint's own ("rn50" is OpenAI's RN50.pt);
    `pictures_from` is the file that the picture tower came from. precision:
    "float32", "float16", "bfloat16" or "auto" (float16 on CUDA, float32 elsewhere).
    truncate=False makes a text that is too long an error.
    Raises UserError when the weights are absent, damaged or another model's.
    """

    model_class: Callable[..., CLIP] = CLIP
    sample_rate = 44100  # Hz; for prompts that ask before they fail in `audio`
    sees = True

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        truncate: bool = True,
        image_from: str | None = None,
        checkpoint_key: str | None = None,
        **architecture: Any,
    ) -> None:
        self.device, self.truncate = torch.device(device), truncate
        dtype = precision_dtype(precision, self.device)
        model = read(self.model_class, checkpoint, architecture, dtype, self.device, checkpoint_key)
        if image_from is not None:
            image_from = IMAGE_FROM.get(image_from.lower(), image_from)
            take_picture_tower(model, image_from, dtype)
        self.pictures_from = checkpoints.locate(image_from or checkpoint)
        self.model = model.eval().requires_grad_(False).to(self.device)
        # torch's stubs do not know the argument
        self.model.visual.to(memory_format=layout(device))  # type: ignore[call-overload]
        self.image_size = self.model.image_resolution
        self.dim = self.model.text_projection.shape[1]
        self.scale_it = float(self.model.logit_scale.exp().clamp(1.0, 100.0))
        self.hears, self.scale_at = False, 0.0

    def park(self, device: str | torch.device = "cpu") -> None:
        """Leave the picture tower alone on the encoder's device; the others wait on this one.

        They come back when a text or a sound is asked for.
        """
        for name, part in self.model.named_children():
            if name != "visual":
                part.to(device)
        for name, value in list(self.model.named_parameters(recurse=False)):
            self.model.register_parameter(name, nn.Parameter(value.to(device), value.requires_grad))

    def image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] with S = image_size -> (N, D), unit norm, float32."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"pictures are {tuple(pixels.shape)}, not {self.image_size} square")
        x = preprocess.normalise(pixels.to(self.device))
        x = x.contiguous(memory_format=layout(self.device))
        return F.normalize(self.model.encode_image(x).float(), dim=-1)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """N strings -> (N, D), unit norm, float32."""
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        self.park(self.device)
        tokens = tokenizer(self.model.context_length)(texts, self.truncate).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def audio(self, waves: Tensor) -> Tensor:
        raise UserError(
            "this encoder is CLIP, which hears nothing: choose encoder=audioclip or encoder=tiny,"
            " or describe the sound in words (prompt=text)"
        )


def read(
    make: Callable[..., M],
    source: str,
    given: dict,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    key: str | None = None,
) -> M:
    """A model with a file's weights; `given` goes before the file's sizes.

    It takes its dtype (see `precision_dtype`) while it is empty and is filled tensor by tensor.
    """
    path = checkpoints.locate(source)
    state = checkpoints.load_state(path, key)
    architecture = checkpoints.read_config(path) or sizes(state)
    if "embed_dim" not in {**architecture, **given}:
        guess = checkpoints.looks_like(state)
        like = f"; the file looks like {guess}" if guess else ""
        raise UserError(f"{path}: these are no weights of {make.__name__}{like}")
    model = checkpoints.empty(make, path, {**architecture, **given})
    if dtype != torch.float32:
        halve_(model, dtype)
    return checkpoints.load_into(model, state, path, device=device, release=True)


def take_picture_tower(model: CLIP, source: str, dtype: torch.dtype) -> None:
    """Put another CLIP's picture tower into the model; it must embed into as many numbers."""
    other = read(CLIP, source, {}, dtype)
    dims = [one.text_projection.shape[1] for one in (other, model)]
    if dims[0] != dims[1]:
        raise UserError(
            f"image_from={source}: its embeddings have {dims[0]} numbers, those of the checkpoint"
            f" {dims[1]}: only towers of one space can be put together"
        )
    model.visual, model.image_resolution = other.visual, other.image_resolution


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of convolutions and linear layers; norms and sound stay float32."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in DTYPES:
        raise UserError(f"precision={precision}: must be auto, {', '.join(DTYPES)}")
    return DTYPES[precision]
