"""An encoder as a zero-shot classifier: which of some labels a sound or a picture is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.media import texts
from acgd.media.images import load
from acgd.media.preprocess import pixels, resized
from acgd.paths import CONCEPTS
from acgd.types import Encoder, Target, members

CHUNK = 64  # labels encoded at once
# Of each model, what it made of a list of labels: two viewers of one model ask it once.
_embeds: WeakKeyDictionary[Encoder, dict[tuple[str, ...], Tensor]] = WeakKeyDictionary()


class Viewer:
    """A model with a list of labels, each encoded once."""

    def __init__(self, model: Encoder, labels: Sequence[str]):
        self.model, self.labels = model, list(labels)
        self.known: dict[Path, Tensor] = {}  # reference pictures, (D,)

    @cached_property
    def embeds(self) -> Tensor:
        """(labels, D), unit norm."""
        known, labels = _embeds.setdefault(self.model, {}), tuple(self.labels)
        if labels not in known:
            chunks = [self.labels[i : i + CHUNK] for i in range(0, len(labels), CHUNK)]
            known[labels] = torch.cat([self.model.text(chunk) for chunk in chunks])
        return known[labels]

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] of any size to (B, D)."""
        return self.model.image(resized(pixels, self.model.image_size).clamp(0, 1))

    @torch.no_grad()
    def references(self, paths: Sequence[Path]) -> Tensor:
        """Picture files to (N, D), their middle squares; each is read once."""
        size = self.model.image_size
        for path in paths:
            if path not in self.known:
                self.known[path] = self.model.image(pixels(load(path), size)[None])[0]
        return torch.stack([self.known[path] for path in paths])

    def chances(self, embed: Tensor, scale: float) -> Tensor:
        """An embedding (D,) to the labels' probabilities (labels,)."""
        return (scale * self.embeds @ embed.to(self.embeds)).softmax(0)

    def direction(self, sound: Tensor) -> Tensor:
        """A sound's embedding (D,) to the labels' mean by their squared odds, (D,), unit norm.

        Squared, because a picture or a sentence is of one thing: a little of several is of none.
        """
        return F.normalize(self.chances(sound, 2 * self.model.scale_at) @ self.embeds, dim=0)

    def names(self, embed: Tensor, scale: float, most: int = 5) -> list[tuple[str, float]]:
        """The likeliest labels of an embedding (D,), with their probabilities among the labels."""
        chances = self.chances(embed, scale)
        best = chances.topk(min(most, len(self.labels)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.labels[i], round(p, 4)) for i, p in pairs]

    def heard(self, targets: Sequence[Target], most: int = 5) -> list[tuple[str, float]]:
        """The labels that this model gives to the prompt's sound; [] without one."""
        sounds = [target.embed for target in targets if target.kind == "audio"]
        return self.names(sounds[0], self.model.scale_at, most) if sounds else []

    def spoken(self, targets: Sequence[Target], share: float) -> list[Target]:
        """`share` in [0, 1] of each sound's weight goes to the labels that this model hears in it.

        The new target's embedding is `direction`. Sounds lie apart from pictures and texts of the
        same thing (Liang et al. 2022, "Mind the gap"), and between things where the ears are not
        sure; what pictures can be steered to is better said in words. Like the prior of unCLIP
        (Ramesh et al. 2022), but over known labels.
        """
        embeddings = []
        for target in targets:
            if target.kind != "audio" or not share:
                embeddings.append(target)
                continue
            embed = self.direction(target.embed)
            best = self.names(target.embed, self.model.scale_at, most=1)[0][0]
            if share < 1:
                embeddings.append(replace(target, weight=target.weight * (1 - share)))
            embeddings.append(Target(embed, target.weight * share, "heard", best))
        return embeddings

    def score(self, image: Tensor, targets: Sequence[Target], concept: str | None) -> dict:
        """Similarities by kind of target, the concept's rank and the labels nearest.

        image (D,). `similarity` is the targets' mean cosine, weighted by |weight|, those of
        negative weight with their sign turned; targets that no member compares with a picture are
        left out. `rank` 1 is first, `of` counts the labels.
        """
        found = [(target, self.cosine(target.embed, image)) for target in targets]
        targets = [target for target, cosine in found if cosine is not None]
        cosines = [cosine for _, cosine in found if cosine is not None]
        scores: dict = {"similarity": weighted(cosines, targets)}
        for kind in dict.fromkeys(target.kind for target in targets):
            chosen = [i for i, target in enumerate(targets) if target.kind == kind]
            part = weighted([cosines[i] for i in chosen], [targets[i] for i in chosen])
            scores[f"image_{kind}"] = part
        if concept is not None:
            scores |= self.rank(image, concept)
        scores["names"] = self.names(image, self.model.scale_it)
        return scores

    def cosine(self, target: Tensor, image: Tensor) -> float | None:
        """Of two embeddings (D,), by those members of an ensemble that have both; None where none
        has: where some hear and others see, nobody compares a sound with a picture."""
        target, parts = target.to(image), [member.part for member in members(self.model)]
        shared = [part for part in parts if target[part].any() and image[part].any()]
        if len(shared) == len(parts):
            return float(target @ image)
        if not shared:
            return None
        a, b = (torch.cat([embed[part] for part in shared]) for embed in (target, image))
        return float(F.cosine_similarity(a, b, dim=0))

    def rank(self, image: Tensor, concept: str) -> dict:
        """The concept's place among the labels (it joins them where it is none of them)."""
        near = self.embeds @ image.to(self.embeds)  # (labels,)
        if concept in self.labels:
            similarity, of = near[self.labels.index(concept)], len(self.labels)
        else:
            similarity, of = self.model.text([concept])[0].to(image) @ image, len(self.labels) + 1
        return {"concept": concept, "rank": int((near > similarity).sum()) + 1, "of": of}


def weighted(values: Sequence[float], targets: Sequence[Target]) -> float | None:
    total = sum(abs(target.weight) for target in targets)
    if not total:
        return None
    pairs = zip(values, targets, strict=True)
    return round(sum(value * target.weight for value, target in pairs) / total, 5)


def read_labels(name: str) -> list[str]:
    """ "concepts" for those the embedded models know, else a text file with a label a line."""
    path = CONCEPTS if name == "concepts" else Path(str(name)).expanduser()
    return [texts.plain(label) for label in texts.labels(path, f"labels={name}")]
