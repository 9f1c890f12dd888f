"""Pictures and texts through a CLIP model; sounds it does not know."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from acgd import checkpoints
from acgd.encoders import preprocess
from acgd.models.clip import CLIP, halve_
from acgd.models.tokenizer import tokenizer
from acgd.types import UserError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CLIPEncoder:
    """An Encoder (see acgd.types); differentiable with respect to the picture.

    checkpoint: "embedded:NAME", a path, or a file name in the cache folder. `architecture` are
    the model's arguments; a .safetensors file that carries its own needs none, and what is given
    here goes before it. precision: "float32", "float16", "bfloat16" or "auto" (float16 on CUDA,
    float32 elsewhere). truncate=False makes a text that is too long an error.
    Raises UserError when the weights are absent, damaged or another model's.
    """

    model_class = CLIP
    sample_rate = 44100  # Hz; for prompts that ask before they fail in `audio`

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        truncate: bool = True,
        **architecture: object,
    ) -> None:
        path = checkpoints.locate(checkpoint)
        model = checkpoints.empty(self.model_class, path, architecture)
        checkpoints.load_into(model, checkpoints.load_state(path), path, assign=True)
        self.device, self.truncate = torch.device(device), truncate
        dtype = precision_dtype(precision, self.device)
        model = halve_(model, dtype) if dtype != torch.float32 else model
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.model.visual.to(memory_format=torch.channels_last)  # 1.5 times faster on a CPU
        self.image_size = self.model.image_resolution
        self.dim = self.model.text_projection.shape[1]
        self.scale_it = float(self.model.logit_scale.exp().clamp(1.0, 100.0))

    def image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] with S = image_size -> (N, D), unit norm, float32."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"pictures are {tuple(pixels.shape)}, not {self.image_size} square")
        x = preprocess.normalise(pixels.to(self.device))
        x = x.contiguous(memory_format=torch.channels_last)
        return F.normalize(self.model.encode_image(x).float(), dim=-1)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """N strings -> (N, D), unit norm, float32."""
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        tokens = tokenizer(self.model.context_length)(texts, self.truncate).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def audio(self, waves: Tensor) -> Tensor:
        raise UserError(
            "this encoder is CLIP, which hears nothing: choose encoder=audioclip or encoder=tiny,"
            " or describe the sound in words (prompt=text)"
        )

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture of any size as `image` wants it: (3, S, S) in [0, 1]."""
        return preprocess.pixels(image, self.image_size)


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of convolutions and linear layers; norms and sound stay float32."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in DTYPES:
        raise UserError(f"precision={precision}: must be auto, {', '.join(DTYPES)}")
    return DTYPES[precision]
