"""The state of a batch in mid-run, so that what was interrupted goes on where it stood.

What the sampler needs for its next step is all there: x, the generators' states and its history.
The whole batch is in one file, which every folder of the batch holds (as a hard link where that is
possible): the pictures of a batch stand at the same step whatever a kill leaves behind, and a
batch goes on as it was put together, because convolutions round differently in another.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from acgd import __version__
from acgd.atomic_files import commit, flush, stage, temporary_name, write
from acgd.config.validate import every
from acgd.diffusion.interfaces import Step
from acgd.diffusion.noise import Noise
from acgd.errors import first_words
from acgd.pipeline.sample import Sample
from acgd.pipeline.sampling import Position
from acgd.runs.folder import SNAPSHOT

VERSIONS = {"acgd": __version__, "torch": str(torch.__version__), "format": 2}
DIGEST = hashlib.sha256().digest_size


@dataclass
class Snapshot:
    """B samples after `steps` steps; the tensors are on the CPU."""

    batch: list[str]  # their signatures, in order
    steps: int  # of the picture, or of its twin where there is a picture
    x: Tensor  # (B, 3, H, W)
    noise: Tensor  # (generators, bytes) uint8: kind by kind, in the batch's order
    history: list[Tensor]  # the sampler's, each (B, 3, H, W)
    losses: list[list[dict[str, float]]]  # of each sample, one a step
    picture: Tensor | None = None  # (B, 3, H, W) uint8, finished: only its twin is on the way
    versions: dict[str, object] = field(default_factory=lambda: dict(VERSIONS))

    @property
    def position(self) -> Position:
        """As `sample` takes it up."""
        return Position(self.steps, self.x, self.history, self.noise)

    def of(self, signatures: Sequence[str]) -> Snapshot:
        """The state of some of the samples; as it is where it is of all of them."""
        if list(signatures) == self.batch:
            return self
        rows = [self.batch.index(name) for name in signatures]
        kinds = self.noise.unflatten(0, (-1, len(self.batch)))
        return Snapshot(
            list(signatures),
            self.steps,
            self.x[rows],
            kinds[:, rows].flatten(0, 1),
            [tensor[rows] for tensor in self.history],
            [self.losses[row] for row in rows],
            None if self.picture is None else self.picture[rows],
        )


class Watch:
    """Knows where a batch stands after each whole step; writes it when that is due, and when
    Ctrl-C or SIGTERM end the block.

    `pace`: as `checks.every` reads it. `picture`: as in Snapshot.
    """

    def __init__(
        self, batch: Sequence[Sample], pace: int | str, noise: Noise, picture: Tensor | None
    ):
        self.batch, self.noise, self.picture = batch, noise, picture
        self.steps, self.seconds = every(pace)
        self.last = time.monotonic()
        self.latest: tuple[Step, int, Tensor] | None = None  # step, count, the generators' states

    def after(self, step: Step, count: int) -> None:
        """`count` steps were taken, the last one was `step`."""
        self.latest = (step, count, self.noise.state())
        if self.steps:
            due = count % self.steps == 0
        else:
            due = self.seconds > 0 and time.monotonic() - self.last >= self.seconds
        if due:
            self.write()
            self.last = time.monotonic()

    def write(self) -> None:
        assert self.latest is not None  # a step was taken
        step, count, noise = self.latest
        rows = None if self.picture is not None else count
        losses = [sample.record.losses[:rows] for sample in self.batch]
        history = [tensor.cpu() for tensor in step.history]
        names = [sample.run.signature for sample in self.batch]
        save(self.batch, Snapshot(names, count, step.x.cpu(), noise, history, losses, self.picture))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.latest and kind is not None and issubclass(kind, KeyboardInterrupt):
            with suppress(OSError):  # the last one that could be written stays
                self.write()


def save(batch: Sequence[Sample], snapshot: Snapshot) -> None:
    """Write it whole into each folder of the batch."""
    buffer = io.BytesIO()
    torch.save(asdict(snapshot), buffer)
    data = buffer.getvalue()
    data += hashlib.sha256(data).digest()
    first, *others = [sample.run.folder / SNAPSHOT for sample in batch]
    staged = stage(first, data)
    # previews of the steps before, which are not made again, go to the disk with it
    flush([sample.run.folder for sample in batch])
    commit(staged, first)
    for path in others:
        if not link(first, path):
            write(path, data)


def link(source: Path, path: Path) -> bool:
    """Put a second name of a file in a path's place; False where the file system can't."""
    temporary = temporary_name(path)
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def find(batch: Sequence[Sample]) -> Snapshot | None:
    """Where these samples stood together when they were interrupted, the latest that is known.

    None where they start anew; a line in their logs says why, if there was something.
    """
    if batch[0].run.cfg["force"]:
        return None
    signatures = [sample.run.signature for sample in batch]
    files: dict[tuple[int, int], Path] = {}  # each file once: the links of a batch are one
    snapshots = []
    for sample in batch:
        with suppress(OSError):
            path = sample.run.folder / SNAPSHOT
            stat = path.stat()
            files.setdefault((stat.st_dev, stat.st_ino), path)
    for path in files.values():
        try:
            snapshots.append(load(path, signatures))
        except ValueError as error:
            for sample in batch:
                sample.record.log(f"{path}: {error}")
    # by what they hold: clocks jump
    return max(snapshots, key=lambda one: (one.picture is not None, one.steps), default=None)


def load(path: Path, signatures: Sequence[str]) -> Snapshot:
    """The snapshot of these samples; ValueError says why it is none."""
    try:
        data = path.read_bytes() if path.is_file() else b""  # a link to a device would never end
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}), starts anew") from None
    content, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("not a whole snapshot, starts anew")
    try:
        found = torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"cannot be read ({first_words(error)}), starts anew") from None
    if found.get("versions") != VERSIONS:
        theirs = ", ".join(f"{k} {v}" for k, v in (found.get("versions") or {}).items())
        raise ValueError(f"a snapshot of another version ({theirs}), starts anew")
    snapshot = Snapshot(**found)
    if not set(signatures) <= set(snapshot.batch):
        raise ValueError("a snapshot of other pictures, starts anew")
    return snapshot.of(signatures)
