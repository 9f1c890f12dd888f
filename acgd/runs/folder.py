"""A run's folder: the one record that counts, written as the run goes.

    config.yaml    the resolved config of this one sample
    targets.json   what the picture was steered towards, and how close it came
    images/        seed0.png to look at (enlarged where the model is small), seed0-native.png
    previews/      the model's prediction of the picture every few steps
    losses.csv     one row a step
    captions.csv   what a captioner says of each preview and of the picture
    metrics.json   similarities and ranks, by judge and by encoder
    status.json    running, ok, failed or interrupted; while it is not ok, its batch's members,
                   when it is, the sizes and hashes of its files
    environment.json  what it was made with: versions, weights, device
    log.txt        what happened when
    snapshot.pt    only while it is unfinished: where its batch stood

Every file but the log is written under a temporary name and renamed, so it is whole or not there.
A batch's pictures become ok together: when all that is in their folders has reached the disk, its
first folder says that all are written, then each says that it is ok, the first one last.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from acgd import atomic_files
from acgd.atomic_files import tidy, write
from acgd.errors import one_line
from acgd.runs import manifest
from acgd.runs.run import Run, canonical, essence

if TYPE_CHECKING:
    import numpy as np


CAPTIONS = "captions.csv"
EMBEDDINGS = "embeddings.json"  # the judge's, of picture and sound
SNAPSHOT = "snapshot.pt"


class Record:
    """Writes one run's folder."""

    def __init__(self, run: Run):
        self.run, self.folder = run, run.folder
        self.losses: list[dict[str, float]] = []
        self.batch_members: list[str] | None = None  # its batch's folders, seen from beside its own
        self.began = time.monotonic()
        self.staged: Path | None = None  # the status.json that says ok, before it is in its place

    def start(self, batch: Sequence[Path] = ()) -> None:
        """Make the folder and say that the run is running, in a batch with these folders."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tidy(self.folder)
        self.batch_members = [os.path.relpath(other, self.folder.parent) for other in batch]
        write(self.folder / "config.yaml", as_yaml(self.run.cfg))
        self.status("running")

    def log(self, line: str) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def step(self, row: dict[str, float]) -> None:
        """Remember one step's losses; `flush` writes them."""
        self.losses.append(row)

    def flush(self) -> None:
        text = io.StringIO()
        columns = dict.fromkeys(name for row in self.losses for name in row) or ["step"]
        rows = csv.DictWriter(text, list(columns))
        rows.writeheader()
        rows.writerows(self.losses)
        write(self.folder / "losses.csv", text.getvalue())

    def json(self, name: str, content: object) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            text = json.dumps(content, indent=1)  # a folder's name that is not UTF-8
        self.text(name, text + "\n")

    def text(self, name: str, content: str) -> None:
        write(self.folder / name, content)

    def picture(self, name: str, pixels: np.ndarray, side: int = 0) -> Path:
        """Write pixels (H, W, 3) uint8 as a PNG that carries its config, seed and signature.

        Enlarged by the whole factor that brings its shorter side to `side` or just above.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        image = Image.fromarray(pixels)
        factor = max(1, -(-side // min(image.size)))
        if factor > 1:
            size = (image.width * factor, image.height * factor)
            image = image.resize(size, Image.Resampling.LANCZOS)
        info, config = PngInfo(), canonical(essence(self.run.cfg))
        info.add_text("signature", self.run.signature)
        info.add_text("seed", str(self.run.seed))
        info.add_text("label", ascii(self.run.label))
        info.add_text("config", json.dumps(config, sort_keys=True))
        buffer = io.BytesIO()
        # a quarter of the time of level 6 for a sixth more bytes
        image.save(buffer, format="PNG", pnginfo=info, compress_level=1)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write(path, buffer.getvalue())
        return path

    def status(self, status: str, **more: object) -> None:
        write(self.folder / "status.json", self.about(status, **more))

    def about(self, status: str, **more: object) -> str:
        """The text of a status.json."""
        seconds = round(time.monotonic() - self.began, 3)
        content = {"status": status, "signature": self.run.signature, "seconds": seconds, **more}
        if status != "ok":
            before = state(self.folder).get("batch_members") or []
            content["batch_members"] = self.batch_members or before
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def stage(self, **more: object) -> None:
        """Write down that all is ok, with what is promised from then on, for `finish` to say so."""
        text = self.about("ok", **more, files=manifest.take(self.folder))
        self.staged = atomic_files.stage(self.folder / "status.json", text, ".ok")

    def finish(self) -> None:
        if self.staged is None:
            self.stage()
        assert self.staged is not None
        atomic_files.commit(self.staged, self.folder / "status.json")
        self.staged = None

    def fail(self, error: BaseException) -> None:
        """Say why the run ended early: `interrupted` for Ctrl-C, else `failed`.

        A run whose pictures are all written, now or before, stays what it is. Where nothing can be
        written (a full disk) the run stays `running`: it is taken up again either way.
        """
        status = state(self.folder)
        if status.get("status") == "ok" or status.get("written"):
            return
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        trace = "".join(traceback.format_exception(error))
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "config.yaml").exists():  # it failed before it started
                write(self.folder / "config.yaml", as_yaml(self.run.cfg))
            self.log(f"{what}: {one_line(error)}")
            self.status(what, error=one_line(error), traceback=trace)


Fastest: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Dumper(Fastest):
    """Writes what OmegaConf.to_yaml writes, at a twentieth of its time."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def text(self, value: str) -> yaml.Node:
        """In quotes where OmegaConf would read a number: 1e3 is one although it has no point."""
        try:
            float(value)
        except ValueError:
            return self.represent_scalar("tag:yaml.org,2002:str", value)
        return self.represent_scalar("tag:yaml.org,2002:str", value, style="'")


Dumper.add_representer(str, Dumper.text)


def as_yaml(cfg: dict) -> str:
    """A resolved config as the text of a yaml file."""
    return yaml.dump(cfg, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def state(folder: Path) -> dict:
    """What is in status.json: {} where there is none that can be read."""
    try:
        if not (folder / "status.json").is_file():  # a link to a device would never end
            return {}
        content = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def status(folder: Path) -> str:
    """What status.json says: "absent" where there is none that can be read."""
    return str(state(folder).get("status", "absent"))


def batch_members(folder: Path) -> list[Path]:
    """The folders of the batch in which an unfinished run was begun, itself among them; or []."""
    names = state(folder).get("batch_members") or []
    return [Path(os.path.normpath(folder.parent / name)) for name in names]


def finished(folder: Path) -> bool:
    """Whether a run is ok and still holds what it promised, by the sizes of its files."""
    status = state(folder)
    return status.get("status") == "ok" and not manifest.fault(folder, status)


def finish(records: Sequence[Record], **more: object) -> None:
    """Let a batch say ok: contents and names are on the disk before, what is said when it returns.

    Two flushes for the whole batch. A process that dies between the two leaves a batch that is
    either unfinished or settled by the next one.
    """
    folders = [record.folder for record in records]
    for record in records:
        record.stage(**more)
    first = folders[0] / "status.json"
    written = atomic_files.stage(first, records[0].about("running", written=True, **more))
    atomic_files.flush(folders)
    atomic_files.commit(written, first)
    for folder in folders:
        (folder / SNAPSHOT).unlink(missing_ok=True)
    for record in reversed(records):  # the first one, which knows, is the last
        record.finish()
    atomic_files.flush(folders)


def settle(folder: Path) -> None:
    """Let a whole batch say `ok` if all was written and its process died before it said so."""
    batch = batch_members(folder)
    first = state(batch[0]) if batch else {}
    if not first.get("written") or batch_members(batch[0]) != batch:
        return
    for path in reversed(batch):
        if batch_members(path) == batch:
            tidy(path)
            (path / SNAPSHOT).unlink(missing_ok=True)
            status = {k: v for k, v in state(path).items() if k not in ("batch_members", "written")}
            status |= {"status": "ok", "batch": first.get("batch"), "files": manifest.take(path)}
            write(path / "status.json", json.dumps(status, indent=1) + "\n")
    atomic_files.flush(batch)
