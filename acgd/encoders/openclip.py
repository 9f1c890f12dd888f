"""Any model of open_clip, for words and pictures (the extra [openclip])."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.errors import UserError, first_words, torchvision_apart

PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "auto": "fp32"}


class OpenCLIPEncoder:
    """An Encoder (see acgd.types) by open_clip's names.

    model: as `open_clip.list_models()` has it, "ViT-B-32-quickgelu", "hf-hub:ORG/NAME" ...
    pretrained: a tag of `open_clip.list_pretrained()`, which open_clip fetches from the Hugging
    Face hub, or the path of a weights file; None for hub models, which bring their own.
    """

    sample_rate = 44100  # Hz; for prompts that ask before they fail in `audio`
    sees = True

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        open_clip = imported()
        self.device, self.name = torch.device(device), model
        check(open_clip, model, pretrained)
        try:
            self.model = open_clip.create_model(
                model, pretrained, precision=PRECISIONS[precision], device=self.device
            )
            self.tokenizer = open_clip.get_tokenizer(model)  # SigLIP's is on the hub, too
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise UserError(f"open_clip {model} {pretrained}: {first_words(error, 300)}") from None
        self.model.eval().requires_grad_(False)
        visual = self.model.visual
        size = visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])
        mean, std = visual.image_mean, visual.image_std
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self.scale_it = float(self.model.logit_scale.float().exp().clamp(1.0, 100.0))
        self.hears, self.scale_at = False, 0.0
        self.dim = self.text(["a"]).shape[1]

    def park(self) -> None:
        """The whole model stays where it is."""

    def image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] with S = image_size -> (N, D), unit norm, float32."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"pictures are {tuple(pixels.shape)}, not {self.image_size} square")
        pixels = pixels.to(self.device)
        x = (pixels - self.mean.to(pixels)) / self.std.to(pixels)
        x = x.to(next(self.model.visual.parameters()).dtype)
        return F.normalize(self.model.encode_image(x).float(), dim=-1)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """N strings -> (N, D), unit norm, float32; what is too long loses its end."""
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def audio(self, waves: Tensor) -> Tensor:
        raise UserError(
            f"open_clip's {self.name} hears nothing: choose encoder=audioclip or encoder=tiny, "
            "or describe the sound in words (prompt=text)"
        )


def imported():
    """open_clip, or a UserError that says how to get it."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        raise torchvision_apart(error) or UserError(
            f"open_clip is missing, an extra: pip install 'acgd[openclip]' ({error})"
        ) from None
    return open_clip


def check(open_clip, model: str, pretrained: str | None) -> None:
    """UserError for a model or weights that open_clip does not know, before it fetches any."""
    if model.startswith("hf-hub:"):
        return
    if model not in open_clip.list_models():
        raise UserError(f"encoder.model={model}: open_clip has none; see open_clip.list_models()")
    if pretrained and Path(pretrained).expanduser().is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags:
        raise UserError(
            f"encoder.pretrained={pretrained}: neither a file nor a tag of {model}; it has "
            f"{', '.join(tags) or 'none'}"
        )
