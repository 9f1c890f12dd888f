"""A run's folder: the one record that counts, written as the run goes.

    config.yaml    the resolved config of this one sample
    targets.json   what the picture was steered towards, and how close it came
    images/        seed0.png to look at (enlarged where the model is small), seed0-native.png
    previews/      the model's prediction of the picture every few steps
    losses.csv     one row a step
    captions.csv   what a captioner says of each preview and of the picture
    metrics.json   similarities and ranks, by judge and by encoder
    status.json    running, ok, failed or interrupted
    log.txt        what happened when

Every file but the log is written under a temporary name and renamed, so it is whole or not there.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from acgd.config import Run, canonical, essence, one_line

if TYPE_CHECKING:
    import numpy as np


CAPTIONS = "captions.csv"


class Record:
    """Writes one run's folder."""

    def __init__(self, run: Run):
        self.run, self.folder = run, run.folder
        self.losses: list[dict[str, float]] = []
        self.began = time.time()

    def start(self) -> None:
        """Make the folder and say that the run is running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.run.cfg)))
        self.status("running")

    def log(self, line: str) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def step(self, row: dict[str, float]) -> None:
        """Remember one step's losses; `flush` writes them."""
        self.losses.append(row)

    def flush(self) -> None:
        text = io.StringIO()
        rows = csv.DictWriter(text, list(self.losses[-1]) if self.losses else ["step"])
        rows.writeheader()
        rows.writerows(self.losses)
        write(self.folder / "losses.csv", text.getvalue())

    def json(self, name: str, content: object) -> None:
        self.text(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

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
        image.save(buffer, format="PNG", pnginfo=info)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write(path, buffer.getvalue())
        return path

    def status(self, status: str, **more: object) -> None:
        seconds = round(time.time() - self.began, 3)
        content = {"status": status, "signature": self.run.signature, "seconds": seconds, **more}
        self.json("status.json", content)

    def finish(self, **more: object) -> None:
        self.status("ok", **more)

    def fail(self, error: BaseException) -> None:
        """Say why the run ended early: `interrupted` for Ctrl-C, else `failed`."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        trace = "".join(traceback.format_exception(error))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log(f"{status}: {one_line(error)}")
        self.status(status, error=one_line(error), traceback=trace)


def status(folder: Path) -> str:
    """What status.json says: "absent" where there is none that can be read."""
    try:
        return json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "absent"


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file or none: under a temporary name beside it, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
