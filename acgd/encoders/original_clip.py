"""OpenAI's own CLIP (the extra [originals]) as an encoder, to draw the same seed with both.

The package's clip/clip.py wants a torchvision that fits torch, for downloads and preprocessing
that acgd does itself. The network in clip/model.py stands alone and is imported by its path, so
nothing is replaced and no torchvision is needed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from acgd.encoders.clip import CLIPEncoder, precision_dtype
from acgd.errors import UserError


class OriginalCLIP(CLIPEncoder):
    """CLIPEncoder around the package clip-anytorch; options are CLIPEncoder's, `image_from` apart.

    The original knows float32 and float16; bfloat16 is taken as float32. UserError where the
    package is missing.
    """

    @staticmethod
    def model_class(
        embed_dim: int,
        image_resolution: int,
        vision_layers: list[int] | int,
        vision_width: int,
        vision_patch_size: int | None = None,
        context_length: int = 77,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_heads: int | None = None,
        transformer_layers: int = 12,
    ) -> Any:
        """The original network, from acgd's arguments."""
        vision = embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size
        heads = transformer_heads or max(1, transformer_width // 64)
        text = context_length, vocab_size, transformer_width, heads, transformer_layers
        model = module("model").CLIP(*vision, *text)
        model.image_resolution = image_resolution
        return model

    def __init__(
        self,
        checkpoint: str,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        truncate: bool = True,
        **architecture: Any,
    ) -> None:
        super().__init__(checkpoint, device, "float32", truncate, **architecture)
        if precision_dtype(precision, self.device) == torch.float16:
            module("model").convert_weights(self.model)


def module(name: str) -> ModuleType:
    """clip/NAME.py of the package clip-anytorch, without what its __init__ imports."""
    whole = f"acgd_original_clip_{name}"
    if whole in sys.modules:
        return sys.modules[whole]
    package = importlib.util.find_spec("clip")
    folders = (package and package.submodule_search_locations) or []
    path = next((p for p in (Path(f) / f"{name}.py" for f in folders) if p.is_file()), None)
    if path is None:
        raise UserError("encoder=original_clip needs the extra: pip install 'acgd[originals]'")
    spec = importlib.util.spec_from_file_location(whole, path)
    assert spec and spec.loader
    sys.modules[whole] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[whole])
    return sys.modules[whole]
