"""What the Python face returns; it shows itself in a notebook."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acgd.report import waveforms


@dataclass
class Sound:
    """A sound as it is heard, before anything is drawn of it."""

    label: str
    heard: list[tuple[str, float]]  # what, and how likely
    described: str  # in words
    wave: np.ndarray  # (T,) float32 in [-1, 1] at waveforms.RATE, the stretch that was heard

    @cached_property
    def image(self) -> Image.Image:
        """The waveform above the spectrogram."""
        with Image.open(io.BytesIO(waveforms.drawn(self.wave))) as image:
            return image.convert("RGB")

    def _repr_png_(self) -> bytes:
        return png(self.image)

    def _repr_html_(self) -> str:
        sound = waveforms.mp3(self.wave[: int(30 * waveforms.RATE)])
        lines = [self.label, odds(self.heard), self.described]
        return figure(self.image, 320, lines, player(sound))


class Sounds(list[Sound]):
    """What `hear` returns: a list that shows all its sounds in a notebook."""

    def _repr_html_(self) -> str:
        return "".join(sound._repr_html_() for sound in self)


@dataclass
class Picture:
    """A finished run, read from its folder; shows itself in a notebook."""

    folder: Path
    seed: int
    label: str  # of the sound, else the text
    command: str  # makes exactly this on the command line
    heard: list[tuple[str, float]] = field(default_factory=list)  # what, and how likely
    described: str = ""  # the sound in words
    caption: str = ""  # the picture in words
    scores: dict[str, Any] = field(default_factory=dict)  # by judge and encoder, see metrics.json

    @cached_property
    def image(self) -> Image.Image:
        """The picture as it is looked at (enlarged where the model is small)."""
        with Image.open(self.folder / "images" / f"seed{self.seed}.png") as image:
            return image.convert("RGB")

    def _repr_png_(self) -> bytes:
        return png(self.image)

    def _repr_html_(self) -> str:
        lines = [f"{self.label}, seed {self.seed}"]
        lines += [odds(self.heard), self.described, self.caption]
        sound = self.folder / "report" / "sound.mp3"  # as its page plays it
        return figure(self.image, 256, lines, player(sound.read_bytes()) if sound.exists() else "")


class Pictures(list[Picture]):
    """What `draw` returns: a list that shows all its pictures in a notebook."""

    def _repr_html_(self) -> str:
        return "".join(picture._repr_html_() for picture in self)


class Frame:
    """A step on its way to the picture, for loops of one's own."""

    def __init__(self, step: Any, model: Any):
        self.step, self._model = step, model
        self.index, self.total, self.losses = step.index, step.total, step.losses

    @cached_property
    def images(self) -> list[Image.Image]:
        """The prediction of each sample's picture as it stands; decoded when it is asked for."""
        return self._pictures(self.step.x0)

    @cached_property
    def samples(self) -> list[Image.Image]:
        """The samples themselves, noise included; after the last step, the pictures."""
        return self._pictures(self.step.x)

    def _pictures(self, x: Any) -> list[Image.Image]:
        from acgd.pipeline.sampling import to_bytes

        pixels = to_bytes(self._model.decode(x)).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(one) for one in pixels]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def odds(heard: list[tuple[str, float]]) -> str:
    """The three likeliest labels in one line."""
    return ", ".join(f"{label} {100 * p:.0f} %" for label, p in heard[:3])


def player(mp3: bytes) -> str:
    data = base64.b64encode(mp3).decode()
    return f'<audio controls style="width:100%" src="data:audio/mp3;base64,{data}"></audio>'


def figure(image: Image.Image, width: int, lines: list[str], more: str = "") -> str:
    """A picture with lines of text below it, the first one bold; `more` is HTML between them."""
    data = base64.b64encode(png(image)).decode()
    title, *rest = (html.escape(line) for line in lines)
    text = "<br>".join([f"<b>{title}</b>", *filter(None, rest)])
    return (
        f'<figure style="display:inline-block;margin:4px;max-width:{width + 4}px">'
        f'<img src="data:image/png;base64,{data}" width="{width}">{more}'
        f"<figcaption>{text}</figcaption></figure>"
    )
