"""Pictures as prompts: what is sampled should be about the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

from acgd.errors import UserError
from acgd.media.images import load
from acgd.prompts.text import normalised, parse_weight
from acgd.types import Encoder, Target, sees


class ImagePrompt:
    """One picture file, or several with weights, "photo.jpg:0.5", divided by |their sum|.

    A path that exists as it is written is taken whole, so file names may end like a weight.
    template: as TextPrompt's; a picture has no words to fill it with.
    """

    def __init__(self, image: str | Sequence[str], template: str | None = None):
        self.template = template
        given = [image] if image is None or isinstance(image, str) else list(image)
        pairs = [path_and_weight(str(one or "")) for one in given]
        if not pairs:
            raise UserError("prompt.image is empty: name at least one picture file")
        self.paths = [path for path, _ in pairs]
        self.weights = normalised([weight for _, weight in pairs], [str(p) for p in self.paths])

    def check(self) -> None:
        """Raise the UserError of a picture that cannot be read, before any model is loaded."""
        for path in self.paths:
            load(path)

    def wave(self, sample_rate: int) -> np.ndarray | None:
        """There is no sound to be described."""
        return None

    def __call__(self, encoder: Encoder) -> list[Target]:
        import torch

        from acgd.media import preprocess

        if not sees(encoder):
            raise UserError("prompt=image: this encoder sees no pictures; choose one that does")
        pixels = [preprocess.pixels(load(path), encoder.image_size) for path in self.paths]
        embeds = encoder.image(torch.stack(pixels))  # (N, D)
        return [
            Target(embed, weight, "image", path.stem)
            for embed, weight, path in zip(embeds, self.weights, self.paths, strict=True)
        ]


def path_and_weight(prompt: str) -> tuple[Path, float]:
    """ "photo.jpg:0.5" to (path, 0.5); UserError where there is no such file."""
    whole = Path(prompt).expanduser()
    if not prompt.strip():
        raise UserError("prompt.image is empty: name at least one picture file")
    if whole.is_file():
        return whole, 1.0
    name, weight = parse_weight(prompt)
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such picture file; see prompt.image")
    return path, weight
