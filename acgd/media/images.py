"""One way in for every picture file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from acgd.errors import UserError


def load(path: Path) -> Image.Image:
    """A picture in RGB, transparent parts white. UserError where the file is none."""
    try:
        with Image.open(path) as file:
            rgba = file.convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        why = "not a picture" if isinstance(error, UnidentifiedImageError) else f"{error}"
        raise UserError(f"{path}: cannot be read as a picture ({why})") from None
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
