"""One way in for every picture file: upright, eight bits a channel, on white, its first image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from acgd.errors import UserError, say_once
from acgd.media import files

LARGEST = 512 * 2**20  # bytes of a file
TEXTS = 256 * 2**20  # bytes of a PNG's texts, unpacked; Pillow refuses the picture at 1 MiB
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
WIDE = {"I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I;16N": 65535, "I": 65535}


def load(path: Path, key: str = "prompt.image") -> Image.Image:
    """A picture in RGB, transparent parts white. UserError, naming `key`, where the file is none.

    EXIF's orientation is followed; 16 bits become 8, whole numbers and fractions alike; of several
    images the first is taken, which is said.
    """
    path = Path(path)
    files.regular(path, key, "picture", LARGEST)
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = TEXTS
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            several = getattr(file, "n_frames", 1) if file.format in ANIMATED else 1
            rgba = eight_bits(upright, path).convert("RGBA")
    except UserError:
        raise
    except Exception as error:  # each of Pillow's readers has errors of its own
        raise UserError(f"{path}: cannot be read as a picture ({why(error, path)})") from None
    if several > 1:
        say_once(f"{path}: holds {several} images, the first is taken")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def why(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        kind = files.looks_like(files.head(path))
        return f"not a picture but {kind}" if kind else "not a picture"
    return " ".join(str(error).split()) or type(error).__name__


def eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Grey of 16 or 32 bits and fractions as grey of 8; other pictures as they are.

    Whole numbers are taken to fill their 16 bits, or 8 where none is over 255; fractions to lie in
    [0, 1], or where one does not, to reach from the darkest to the brightest.
    """
    if image.mode not in WIDE and image.mode != "F":
        return image
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds values that are not numbers (NaN or infinite)")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        darkest, brightest = 0.0, 1.0
    elif image.mode == "I" and low >= 0 and high <= 255:
        darkest, brightest = 0.0, 255.0
    elif image.mode != "F" and low >= 0 and high <= WIDE[image.mode]:
        darkest, brightest = 0.0, float(WIDE[image.mode])
    else:
        darkest, brightest = low, high if high > low else np.inf  # of one value: black
        say_once(f"{path}: values from {low:.4g} to {high:.4g} are taken as black to white")
    grey = (values - darkest) / (brightest - darkest) * 255
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
