"""The original UNet (the extra [originals]) as a picture model, to draw the same seed with both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acgd.checkpoints import load as checkpoints
from acgd.diffusion.model import PictureModel
from acgd.errors import UserError


class OriginalModel(PictureModel):
    """PictureModel around guided_diffusion's UNetModel, the package guided-diffusion-sdk.

    Options are PictureModel's, `architecture` create_model's arguments. The original knows float32
    and a float16 torso; bfloat16 is taken as float32. UserError where the package is missing.
    """

    def network(self, path: Path, sizes: dict, precision: str) -> Any:
        unet = checkpoints.empty(maker(), path, sizes)
        if precision == "float16":
            unet = unet.to("meta")
            unet.convert_to_fp16()
            unet.dtype = next(unet.input_blocks.parameters()).dtype
        return unet


def maker() -> Callable[..., Any]:
    """guided_diffusion's create_model; its networks say what PictureModel asks of one."""
    try:
        from guided_diffusion.script_util import create_model
    except ImportError as error:
        raise UserError(
            f"model=original_256 needs the extra: pip install 'acgd[originals]' ({error})"
        ) from None

    @functools.wraps(create_model)
    def make(*args: object, **sizes: object) -> Any:
        unet = create_model(*args, **sizes)
        unet.cond_dim, unet.class_cond = 0, unet.num_classes is not None
        return unet

    return make
