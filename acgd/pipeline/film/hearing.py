"""What is heard over time: a recording of any length as stretches of one thing each.

The recording is read in pieces, so that half an hour takes no more memory than a minute; of each
window only its embedding and its loudness are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.encoders.zero_shot import Viewer
from acgd.errors import UserError
from acgd.media import audio
from acgd.types import Encoder

AT_ONCE = 16  # windows in the ears at once
QUIET = -50.0  # dB below the loudest window: what is quieter is nothing new
RANGE = 30.0  # dB from the loudest window down to loudness 0
SMOOTH = np.array([0.25, 0.5, 0.25])  # over three windows
CLEARLY = 0.1  # by how much a new label must be likelier than the present one


@dataclass
class Windows:
    """`hop` seconds apart, the first at 0; n of them."""

    embeds: Tensor  # (n, D), unit norm
    loudness: np.ndarray  # (n,) in [0, 1]
    audible: np.ndarray  # (n,) bool
    width: float  # seconds of a window
    hop: float
    seconds: float  # of the whole recording


@dataclass
class Stretch:
    """From `start` to `end`, in seconds, one thing is heard."""

    start: float
    end: float
    label: str
    odds: float  # mean over its windows


@torch.no_grad()
def listen(path: str | Path, encoder: Encoder, width: float, hop: float) -> Windows:
    """Every window of `width` seconds, `hop` seconds apart; UserError where nothing is heard."""
    rate, embeds, total = encoder.sample_rate, list[Tensor](), 0
    rest = np.zeros(0, np.float32)
    size, step = round(width * rate), round(hop * rate)
    waiting: list[np.ndarray] = []

    def hear() -> None:
        if waiting:
            embeds.append(encoder.audio(torch.from_numpy(np.stack(waiting))).float().cpu())
            waiting.clear()

    for piece in audio.pieces(path, rate):
        total += len(piece)
        rest = np.concatenate([rest, piece])
        while len(rest) >= max(size, step):  # a hop may be longer than a window
            waiting.append(rest[:size])
            rest = rest[step:]
            if len(waiting) == AT_ONCE:
                hear()
    if len(rest) > max(0, size - step) or (not waiting and not embeds):
        waiting.append(np.pad(rest, (0, max(0, size - len(rest))))[:size])
    hear()
    if not total:
        raise UserError(f"{path}: holds no samples")
    powers = loudness_of(audio.pieces(path, rate), step)  # needs no ears
    n = sum(map(len, embeds))
    decibels = 10 * np.log10(np.maximum(np.array(powers + powers[-1:] * n)[:n], 1e-12))
    loudest = float(decibels.max())
    loudness = np.clip(1 + (decibels - loudest) / RANGE, 0, 1)
    return Windows(torch.cat(embeds), loudness, decibels > loudest + QUIET,
                   width, hop, total / rate)  # fmt: skip


def loudness_of(pieces: Iterable[np.ndarray], step: int) -> list[float]:
    """The mean power of each `step` samples; a hop may lie across two pieces."""
    rest, powers = np.zeros(0, np.float32), list[float]()
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        whole = len(rest) // step * step
        powers += np.square(rest[:whole].reshape(-1, step)).mean(1).tolist()
        rest = rest[whole:]
    return powers + ([float(np.square(rest).mean())] if len(rest) else [])


@torch.no_grad()
def stretches(windows: Windows, viewer: Viewer, hold: float) -> tuple[list[Stretch], np.ndarray]:
    """What is heard when, and the smoothed odds (n, labels).

    Odds are smoothed over three windows; a label takes over when it has been clearly the likelier
    for `hold` seconds, and then from the first of these windows on. So a single bark in the rain
    stays rain, and nothing flickers. A window says what is heard at its middle.
    """
    scale = viewer.model.scale_at
    odds = (scale * windows.embeds @ viewer.embeds.float().cpu().T).softmax(1).numpy()
    smooth = smoothed(odds)
    labels = taken_over(smooth, windows.audible, max(1, math.ceil(hold / windows.hop)))
    found: list[Stretch] = []
    starts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    for a, b in pairwise(starts):
        end = windows.seconds if b == len(labels) else middle(windows, b)
        mean = float(smooth[a:b, labels[a]].mean())
        found.append(Stretch(found[-1].end if found else 0.0, end, viewer.labels[labels[a]], mean))
    return found, smooth


def middle(windows: Windows, i: int) -> float:
    """Where window i begins to say more of what follows than of what was before, in seconds."""
    return min(i * windows.hop + max(0.0, windows.width - windows.hop) / 2, windows.seconds)


def smoothed(odds: np.ndarray) -> np.ndarray:
    """(n, labels), each the mean of its neighbours and itself."""
    padded = np.concatenate([odds[:1], odds, odds[-1:]])
    return sum(w * padded[i : i + len(odds)] for i, w in enumerate(SMOOTH))


def taken_over(odds: np.ndarray, audible: np.ndarray, hold: int) -> list[int]:
    """The label of each window: the present one until another was clearly likelier `hold` times."""
    first = int(np.flatnonzero(audible)[0]) if audible.any() else 0
    present = int(odds[first].argmax())
    labels, rivals = [present] * len(odds), list[int]()
    for i in range(first, len(odds)):
        rival = int(odds[i].argmax())
        clearly = audible[i] and odds[i, rival] > odds[i, present] + CLEARLY
        if not clearly or (rivals and rivals[-1] != rival):
            rivals = []
        if clearly and rival != present:
            rivals.append(rival)
        if len(rivals) == hold:
            present, rivals = rival, []
            labels[i - hold + 1 : i] = [present] * (hold - 1)
        labels[i] = present
    return labels


def direction(windows: Windows, smooth: np.ndarray, column: int) -> Tensor:
    """(D,): the mean of the windows in which a label is heard, by its odds, unit norm."""
    weight = torch.from_numpy(smooth[:, column] * windows.audible).float()
    return F.normalize((weight[:, None] * windows.embeds).sum(0), dim=0)
