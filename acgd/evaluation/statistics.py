"""How sure a mean is: bootstrap intervals, a paired test, and its correction for many pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
RESAMPLES = 9999
MANY = 200  # values; beyond it fewer resamples do, and BCa's jackknife would take n^2 numbers
AT_ONCE = 4_000_000  # numbers held while resampling


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean, by scipy's bootstrap.

    BCa; percentiles for values of few kinds, such as the zeros and ones of a share, where BCa's
    corrections jump, and for very many.

    (None, None) for fewer than two values: nothing is known of how they vary. Values that are all
    equal have an interval of no width. The same values always have the same interval.
    """
    x = np.round(np.asarray(values, dtype=np.float64), 9)  # equal values stay equal
    if len(x) < 2:
        return None, None
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    continuous = len(np.unique(x)) > len(x) / 2 and len(x) <= MANY
    result = resampled(x, "BCa" if continuous else "percentile")
    if not np.isfinite(result).all():
        result = resampled(x, "percentile")
    return float(result[0]), float(result[1])


def resampled(x: np.ndarray, method: str) -> tuple[float, float]:
    import warnings

    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa says so where it fails, and is asked no more
        result = stats.bootstrap(
            (x,),
            np.mean,
            vectorized=True,
            axis=-1,
            confidence_level=LEVEL,
            n_resamples=resamples(len(x)),
            batch=max(1, AT_ONCE // len(x)),
            method=method,
            rng=np.random.default_rng(0),
        )
    return result.confidence_interval.low, result.confidence_interval.high


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean difference being 0, by scipy's permutation test.

    Under the null each difference could as well have had the other sign: all signs are tried
    where there are at most 9,999 ways (13 pairs), else that many (1,999 beyond 200 pairs) at
    random. None for a single pair, which cannot say anything: 5 are the least that can come below
    0.1, 6 below 0.05.
    """
    from scipy import stats

    d = np.round(np.asarray(differences, dtype=np.float64), 9)
    if len(d) < 2:
        return None
    if not d.any():
        return 1.0
    result = stats.permutation_test(
        (d, np.zeros_like(d)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples(len(d)),
        batch=max(1, AT_ONCE // len(d)),
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def resamples(n: int) -> int:
    return RESAMPLES if n <= MANY else RESAMPLES // 5


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979); None stays None and does not count."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted
