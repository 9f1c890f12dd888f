"""Pictures with their words, and views of pictures, for training the encoder and the judge."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.models.tokenizer import tokenizer
from acgd.paths import CONCEPTS

NAMES = Path(__file__).parent / "names.txt"  # what is drawn beside the concepts
TEMPLATES = ("{}", "{}", "{}", "a picture of {}", "an emoji of {}", "the sound of {}", "{} sound")


def concept_prompts() -> dict[str, list[str]]:
    """Concept -> its names, the first being the concept itself."""
    with open(CONCEPTS, encoding="utf-8", newline="") as f:
        return {row["concept"]: row["prompts"].split("|") for row in csv.DictReader(f)}


class Pairs:
    """Draws pictures and texts that fit them; a label says what counts as the same thing.

    Labels 0..C-1 are the concepts in the order of concepts.csv; every other emoji has its own.
    """

    def __init__(self, folder: Path, context_length: int, share: float = 0.6):
        data = np.load(folder / "pictures.npz", allow_pickle=False)
        self.pixels, self.holdout = (
            torch.from_numpy(data["pixels"]),
            torch.from_numpy(data["holdout"]),
        )
        self.prompts = concept_prompts()
        self.concepts = list(self.prompts)
        number = {c: i for i, c in enumerate(self.concepts)}
        other = {e: i for i, e in enumerate(sorted(set(data["emoji"].tolist())))}
        rows = zip(
            *(data[k].tolist() for k in ("concept", "emoji", "name", "keywords")), strict=True
        )
        labels, texts = [], []
        for concept, emoji, name, keywords in rows:
            labels.append(number[concept] if concept else len(number) + other[emoji])
            words = [k.strip().replace("_", " ") for k in keywords.split(",") if k.strip()]
            texts.append((self.prompts.get(concept, []), name, words))
        self.label, self.texts = torch.tensor(labels), texts
        named = self.label < len(number)
        self.named = named
        weight = torch.where(named, share / named.sum(), (1 - share) / (~named).sum())
        size = torch.bincount(self.label, minlength=int(self.label.max()) + 1)[self.label].float()
        weight = torch.where(named, size**-0.5, weight)
        weight[named] *= share / weight[named].sum()
        self.weight = weight.masked_fill(self.holdout, 0.0)
        self.tokenize = tokenizer(context_length)

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Indices (n,) of training pictures."""
        return torch.multinomial(self.weight, n, replacement=True, generator=rng)

    def images(self, index: Tensor) -> Tensor:
        """(n, 3, 64, 64) in [0, 1]."""
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255

    def text_of(self, index: int, rng: torch.Generator) -> str:
        """A text for picture `index`: mostly its concept's names, else its own name or keywords."""
        prompts, name, words = self.texts[index]
        u, pick, template = torch.rand(3, generator=rng).tolist()
        if prompts and u < 0.75:
            text = prompts[int((pick**1.5) * len(prompts))]  # the first, the concept, most often
        elif u < (0.9 if prompts else 0.7) or not words:
            text = name
        else:
            text = words[int(pick * len(words))]
        return TEMPLATES[int(template * len(TEMPLATES))].format(text)

    def concept_text(self, concept: int, rng: torch.Generator) -> str:
        prompts = self.prompts[self.concepts[concept]]
        pick, template = torch.rand(2, generator=rng).tolist()
        return TEMPLATES[int(template * len(TEMPLATES))].format(
            prompts[int(pick**1.5 * len(prompts))]
        )


def views(x: Tensor, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """Random views of pictures (n, 3, S, S) in [0, 1]: placed, coloured, blurred, noised anew."""
    n = len(x)

    def u(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=rng)

    angle = u(-0.25, 0.25) * strength
    scale = torch.exp(u(-0.7, 0.25))  # half the picture to all of it and some white around
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    row1 = torch.stack([scale * angle.cos() * mirror, -scale * angle.sin(), u(-0.2, 0.2)], 1)
    row2 = torch.stack([scale * angle.sin() * mirror, scale * angle.cos(), u(-0.2, 0.2)], 1)
    grid = F.affine_grid(torch.stack([row1, row2], 1), list(x.shape), align_corners=False)
    x = F.grid_sample(1 - x, grid, align_corners=False)  # what comes from outside is white
    x = 1 - x
    colour = 1 + 0.25 * strength * (torch.rand(n, 3, 1, 1, generator=rng) * 2 - 1)
    grey = x.mean(1, keepdim=True)
    contrast, saturation = u(0.6, 1.2)[:, None, None, None], u(0.5, 1.3)[:, None, None, None]
    x = (grey + saturation * (x - grey)) * colour
    x = 0.5 + contrast * (x - 0.5) + 0.1 * strength * u(-1, 1)[:, None, None, None]
    blurred = F.interpolate(F.avg_pool2d(x, 4), size=x.shape[-2:], mode="bilinear")
    mix = u(-0.6, 1.0).clamp(min=0)[:, None, None, None]
    x = x + mix * (blurred - x)
    noise = torch.randn(x.shape, generator=rng) * (u(-0.1, 0.12).clamp(min=0))[:, None, None, None]
    return (x + noise).clamp(0, 1)
