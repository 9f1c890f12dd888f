"""Several encoders that guide together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.errors import UserError
from acgd.media.audio import resample
from acgd.media.preprocess import resized
from acgd.types import Encoder, Member


class Ensemble:
    """An Encoder whose embedding is its members', one behind the other.

    Each part is scaled by the root of the member's weight, so the whole has unit norm and a dot
    product is the weighted mean of the members' cosines. Members that do not hear have zeros
    where a sound is embedded, which guidance passes over. Guidance shows each member its own
    cutouts at its own size (see `Guidance`); pictures that come at `image_size`, the largest
    member's, are resized for the others. The first member's part is what a picture model's own
    condition takes. weights: by name, positive, 1 where not given.
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
        encoders = list(members.values())
        self.dim, self.image_size = start, max(encoder.image_size for encoder in encoders)
        self.scale_it = encoders[0].scale_it
        self.hearing = [m for m in self.members if m.encoder.hears]
        heard = [m.encoder for m in self.hearing]
        self.sample_rate = max(encoder.sample_rate for encoder in heard or encoders)
        self.hears, self.scale_at = bool(heard), heard[0].scale_at if heard else 0.0

    def image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] with S = image_size -> (N, D), unit norm, float32."""
        encoders = [m.encoder for m in self.members]
        seen = [encoder.image(resized(pixels, encoder.image_size)) for encoder in encoders]
        return self.join(list(zip(self.members, seen, strict=True)))

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
