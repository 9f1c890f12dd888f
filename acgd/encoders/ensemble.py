"""Several encoders that guide together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.errors import UserError
from acgd.media.audio import resample
from acgd.media.preprocess import resized
from acgd.types import Encoder, Member, sees


class Ensemble:
    """An Encoder whose embedding is its members', one behind the other.

    Each part is scaled by the root of the member's weight, so the whole has unit norm and a dot
    product is the weighted mean of the members' cosines. Members that do not hear have zeros
    where a sound is embedded, which guidance passes over, and those that do not see where a picture
    is: they lend their ears, and the labels that they hear are said to those that see. Guidance
    shows each member that sees its own cutouts at its own size (see `Guidance`); pictures that come
    at `image_size`, the largest member's, are resized for the others. The first member's part is
    what a picture model's own condition takes. weights: by name, positive, 1 where not given.
    """

    def __init__(self, members: dict[str, Encoder], weights: dict[str, float] | None = None):
        given = {name: 1.0 for name in members} | (weights or {})
        if not members or given.keys() != members.keys() or min(given.values()) <= 0:
            raise UserError(
                f"encoder.weights={weights}: give a positive number to each of the members "
                f"{', '.join(members)}"
            )
        self.members, start, total = [], 0, sum(given.values())
        for name, encoder in members.items():
            part = slice(start, start + encoder.dim)
            self.members.append(Member(encoder, given[name] / total, part))
            start += encoder.dim
        self.dim = start
        self.hearing = [m for m in self.members if m.encoder.hears]
        self.seeing = [m for m in self.members if sees(m.encoder)]
        self.hears, self.sees = bool(self.hearing), bool(self.seeing)
        self.image_size = max((m.encoder.image_size for m in self.seeing), default=0)
        self.sample_rate = max(m.encoder.sample_rate for m in self.hearing or self.members)
        self.scale_it, self.scale_at = 0.0, 0.0
        if self.sees:
            self.scale_it = self.seeing[0].encoder.scale_it / share(self.seeing) ** 0.5
        if self.hears:
            self.scale_at = self.hearing[0].encoder.scale_at / share(self.hearing) ** 0.5

    def image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1], S = image_size -> (N, D), zeros where a member is blind."""
        if not self.seeing:
            raise UserError("none of these encoders sees pictures: make one of them clip or tiny")
        return self.join(
            [(m, m.encoder.image(resized(pixels, m.encoder.image_size))) for m in self.seeing]
        )

    def text(self, texts: list[str]) -> Tensor:
        """N strings -> (N, D), unit norm, float32."""
        return self.join([(m, m.encoder.text(texts)) for m in self.members])

    def audio(self, waves: Tensor) -> Tensor:
        """(N, T) float32 in [-1, 1] at sample_rate -> (N, D), zeros where a member is deaf."""
        if not self.hearing:
            raise UserError(
                "none of these encoders hears: make one of them audioclip or tiny, or describe "
                "the sound in words (prompt=text)"
            )
        return self.join([(m, m.encoder.audio(self.resampled(waves, m))) for m in self.hearing])

    def park(self) -> None:
        """Leave only the picture towers on the device (see acgd.encoders.clip)."""
        for member in self.members:
            member.encoder.park()

    def join(self, parts: list[tuple[Member, Tensor]]) -> Tensor:
        """Members' embeddings (N, their dim) to (N, D), unit norm."""
        out = parts[0][1].new_zeros(len(parts[0][1]), self.dim)
        columns = list(out.split([m.encoder.dim for m in self.members], dim=1))
        for member, embeds in parts:
            columns[self.members.index(member)] = embeds * member.weight**0.5
        return F.normalize(torch.cat(columns, dim=1), dim=-1)

    def resampled(self, waves: Tensor, member: Member) -> Tensor:
        if member.encoder.sample_rate == self.sample_rate:
            return waves
        rates = self.sample_rate, member.encoder.sample_rate
        rows = [torch.from_numpy(resample(w.cpu().numpy(), *rates)) for w in waves]
        return torch.stack(rows)


def share(members: list[Member]) -> float:
    """What these members weigh among all. Where the others have zeros, the dot product with a text
    is the mean cosine times the root of it, which the scales make good."""
    return sum(member.weight for member in members)
