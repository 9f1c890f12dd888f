"""What a golden file keeps of an array too large to be kept whole.

NAME.corner: its first entries along each axis (the first item alone of axes that the corner lacks);
NAME.sample: flattened, every (size // n)th value, the first n; NAME.stats: four numbers of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

KINDS_OF_PART = ("corner", "sample", "stats")


def whole(name: str) -> tuple[str, str]:
    """ "grad.corner" -> ("grad", "corner"); "grad" -> ("grad", "")."""
    stem, _, kind = name.rpartition(".")
    return (stem, kind) if stem and kind in KINDS_OF_PART else (name, "")


def part(x, kind: str, like: np.ndarray):
    """The part of x, an array or tensor, that `like` is a record of; the whole for kind ""."""
    x = x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(x)
    if kind == "corner":
        first = (0,) * (x.ndim - like.ndim)
        return x[(*first, *(slice(n) for n in like.shape))]
    if kind == "stats":
        return statistics(x)
    return sample(x, like) if kind == "sample" else x


def sample(x, like: np.ndarray) -> np.ndarray:
    """Every (size // n)th value of x, flattened, n = len(like) of them."""
    flat = np.asarray(x).ravel()
    return flat[:: max(1, flat.size // len(like))][: len(like)]


def statistics(x: torch.Tensor) -> np.ndarray:
    """Mean, population deviation, L2 norm and largest magnitude, float64."""
    x = x.detach().double().numpy().ravel()
    return np.array([x.mean(), x.std(), np.linalg.norm(x), np.abs(x).max()])


def parts(
    found: Mapping[str, object], arrays: Mapping[str, np.ndarray], names: Iterable[str]
) -> Iterator[tuple[str, object]]:
    """(name, value) for each of `names` that is one of the `found` arrays or a part of one."""
    for name in names:
        stem, kind = whole(name)
        if stem in found:
            yield name, part(found[stem], kind, arrays[name])
