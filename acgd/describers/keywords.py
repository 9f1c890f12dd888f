"""A sound in keywords: which labels of each list the encoder hears in it.

The audio-text query of AudioCLIP (Guzhov et al. 2021, arXiv:2106.13043): softmax over a list's
labels of the scaled cosine similarities between the sound and the labels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acgd.errors import UserError, fraction
from acgd.media import audio, texts
from acgd.types import Encoder

if TYPE_CHECKING:
    from torch import Tensor

LISTS = Path(__file__).parent / "lists"
CHUNK = 64  # labels encoded at once


class Keywords:
    """The `top_k` likeliest labels of each list, likeliest first.

    lists: names of packaged lists (colours, genres, sounds) or text files with a label a line.
    share: what the words weigh among all targets, in [0, 1] (acgd.prompts.text.join).
    template: the text that stands for a label; {} is the label.
    sample: None for all labels, else this many of each list, drawn with `seed` (None: anew).
    spelled: True queries "red" as "r, e, d", as the notebook did unawares.
    """

    def __init__(
        self,
        encoder: Encoder,
        lists: Sequence[str] = ("colours", "genres", "sounds"),
        top_k: int = 1,
        share: float = 0.5,
        template: str = "{}",
        sample: int | None = None,
        seed: int | None = 0,
        spelled: bool = False,
    ):
        names = [lists] if isinstance(lists, str) else list(lists)
        if not names or not isinstance(top_k, int) or top_k < 1:
            raise UserError("describer: needs one list or more, and describer.top_k of 1 or more")
        if "{}" not in template:
            raise UserError(f"describer.template={template!r}: must hold {{}}, the label's place")
        self.encoder, self.top_k, self.template, self.spelled = encoder, top_k, template, spelled
        self.share = fraction(share, "describer.share")
        self.labels = {Path(name).stem: read_list(name) for name in names}
        if sample is not None:
            draw = random.Random(seed)
            self.labels = {
                name: draw.sample(labels, min(int(sample), len(labels)))
                for name, labels in self.labels.items()
            }

    def __call__(self, wave: np.ndarray, sample_rate: int) -> list[str]:
        """The words for a sound (T,) in [-1, 1] at `sample_rate` Hz, list by list, each once."""
        ranked = self.rank(wave, sample_rate).values()
        return list(dict.fromkeys(label for pairs in ranked for label, _ in pairs))

    def rank(self, wave: np.ndarray, sample_rate: int) -> dict[str, list[tuple[str, float]]]:
        """For each list its top_k labels with their probabilities among that list's labels."""
        import torch

        wave = np.asarray(wave, dtype=np.float32)
        wave = audio.resample(wave, sample_rate, self.encoder.sample_rate)
        sound = self.encoder.audio(torch.from_numpy(wave)[None])[0]  # (D,)
        ranked = {}
        for name, embeds in self.embeds.items():
            chances = (float(self.encoder.scale_at) * embeds @ sound).softmax(0)  # (labels,)
            best = chances.topk(min(self.top_k, len(chances)))
            ranked[name] = [
                (self.labels[name][i], round(p, 6))
                for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        return ranked

    @cached_property
    def embeds(self) -> dict[str, Tensor]:
        """Each list's labels encoded, (labels, D); once for as many sounds as come."""
        return {name: self.encode(labels) for name, labels in self.labels.items()}

    def encode(self, labels: list[str]) -> Tensor:
        import torch

        texts = [self.template.replace("{}", label) for label in labels]
        if self.spelled:
            texts = [", ".join(text) for text in texts]
        chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
        return torch.cat([self.encoder.text(chunk) for chunk in chunks])


def read_list(name: str) -> list[str]:
    """A packaged list by name, or a file's: a label a line, "#" starts a comment line."""
    packaged = LISTS / f"{name}.txt"
    path = packaged if packaged.is_file() else Path(name).expanduser()
    if not path.exists():
        lists = ", ".join(sorted(file.stem for file in LISTS.glob("*.txt")))
        raise UserError(
            f"describer.lists: {name} is neither a packaged list ({lists}) nor a readable text file"
        )
    return texts.labels(path, "describer.lists")
