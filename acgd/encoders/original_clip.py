"""OpenAI's own CLIP (the extra [originals]) as an encoder, to draw the same seed with both.

The package's clip/clip.py wants a torchvision that fits torch, for downloads and preprocessing
that acgd does itself. The network in clip/model.py stands alone and is imported by its path, so
nothing is replaced and no torchvision is needed.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from acgd.encoders.clip import CLIPEncoder, precision_dtype
from acgd.errors import UserError
from acgd.models.clip import CLIP

# the original's arguments that acgd's CLIP has by the same name, heads apart
SIZES = ("embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size",
         "context_length", "vocab_size", "transformer_width", "transformer_layers")  # fmt: skip


def original(**architecture: Any) -> Any:
    """The original network, from the arguments of acgd's CLIP."""
    bound = inspect.signature(CLIP).bind(**architecture)
    bound.apply_defaults()
    sizes = bound.arguments
    heads = sizes["transformer_heads"] or max(1, sizes["transformer_width"] // 64)
    model = module("model").CLIP(**{k: sizes[k] for k in SIZES}, transformer_heads=heads)
    model.image_resolution = sizes["image_resolution"]
    return model


original.__signature__ = inspect.signature(CLIP)  # type: ignore[attr-defined]


class OriginalCLIP(CLIPEncoder):
    """CLIPEncoder around the package clip-anytorch; options are CLIPEncoder's, `image_from` apart.

    The original knows float32 and float16; bfloat16 is taken as float32. UserError where the
    package is missing.
    """

    model_class = staticmethod(original)

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
