"""Every random number of a sample comes from that sample's own generators, on the CPU.

So a sample is the same alone or in a batch, on a CPU or a GPU. Normal noise and the uniform draws
of cutouts have a generator each: guidance does not change the noise, and an unguided twin with the
same seed walks through the same noise. `SharedNoise` is the notebook's single generator instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from acgd.diffusion.upload import upload


def _generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def _second_seed(seed: int) -> int:
    # torch's CPU generator looks at the lowest 32 bits of a seed only: mix, then take 32 bits.
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


class Noise:
    """`seeds`: one non-negative int per sample of the batch."""

    def __init__(self, seeds: Sequence[int]):
        self.normal = [_generator(s) for s in seeds]
        self.cuts = [_generator(_second_seed(s)) for s in seeds]

    @staticmethod
    def shared(seed: int) -> SharedNoise:
        """The notebook's way: one generator for the batch, its noise and its cutouts."""
        return SharedNoise(seed)

    def like(self, x: Tensor) -> Tensor:
        """Unit normal noise of x's shape (B, ...), dtype and device.

        Samplers ask for it last in a step: a GPU still computes what it was given before, and has
        the noise by the time that it comes to it.
        """
        rows = [torch.randn(x.shape[1:], generator=g) for g in self.normal]
        return upload(torch.stack(rows), x.device).to(x.dtype)

    def uniform(self, n: int) -> Tensor:
        """n numbers in [0, 1) for each sample: (B, n) float32 on the CPU."""
        return torch.stack([torch.rand(n, generator=g) for g in self.cuts])

    def state(self) -> Tensor:
        """All generators' states, (generators, bytes) uint8, for a snapshot."""
        return torch.stack([g.get_state() for g in self.normal + self.cuts])

    def load_state(self, state: Tensor) -> None:
        for generator, row in zip(self.normal + self.cuts, state, strict=True):
            generator.set_state(row.clone())


class SharedNoise(Noise):
    """One generator for everything, as the notebook has on a CPU: draws depend on their order and
    on the batch, and every sample of a batch is cut at the same places."""

    def __init__(self, seed: int):
        self.generator = _generator(seed)
        self.normal, self.cuts = [self.generator], []

    def like(self, x: Tensor) -> Tensor:
        return upload(torch.randn(x.shape, generator=self.generator), x.device).to(x.dtype)

    def uniform(self, n: int) -> Tensor:
        """(1, n): the same for every sample of the batch."""
        return torch.rand(1, n, generator=self.generator)
