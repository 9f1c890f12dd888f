"""The page's moving parts as HTML: what is being drawn, what was drawn, what was drawn before."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from acgd.pipeline.shown import Picture
from acgd.runs import records as run_records

RUNS = "/runs"  # where the page serves the folder of runs
MOST = 60  # runs in the gallery


@dataclass
class Job:
    """What the page knows of a job that is drawing."""

    began: float = field(default_factory=time.monotonic)
    folders: list[Path] = field(default_factory=list)
    total: int = 0
    started: float = 0.0  # when its present batch began
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def take(self, event: dict) -> None:
        if "batch" in event:
            self.folders, self.total, self.started = (
                event["batch"],
                event["total"],
                time.monotonic(),
            )
        if "note" in event:
            self.notes.append(event["note"])
        if "picture" in event:
            self.pictures.append(event["picture"])
        if "error" in event:
            self.errors.append(event["error"])

    def previews(self) -> list[Path]:
        """The newest preview of each picture that is being drawn and not done."""
        done = {picture.folder for picture in self.pictures}
        newest = [max(f.glob("previews/*"), default=None) for f in self.folders if f not in done]
        return [path for path in newest if path]

    def status(self) -> str:
        """Where it stands, in a line."""
        if not self.total:
            return "Loading models and listening ..."
        paths = self.previews()
        taken = min((step_of(path) for path in paths), default=0)
        if not taken:
            return f"Drawing, {self.total} steps ..."
        spent = time.monotonic() - self.started
        left = spent * (self.total - taken) / taken
        return f"Step {taken} of {self.total}, about {max(1, round(left))} s left"


def step_of(preview: Path) -> int:
    return int(preview.stem.rpartition("_")[2])


def address(path: Path, outputs: Path) -> str:
    """Where the page serves a file of a run."""
    where = path.absolute().relative_to(outputs.absolute())
    return f"{RUNS}/{quote(where.as_posix())}"


def line(text: str, kind: str = "") -> str:
    """A line of status; kind "wrong" for what went wrong."""
    role = "alert" if kind == "wrong" else "status"
    return f'<p class="line {kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def drawing(job: Job, outputs: Path) -> str:
    """What is finished and, beside it, previews of what is not."""
    finished = [card(picture, outputs) for picture in job.pictures]
    growing = [
        f'<figure><img src="{address(path, outputs)}" alt="a preview, step {step_of(path)}">'
        f"<figcaption>step {step_of(path)}</figcaption></figure>"
        for path in job.previews()
    ]
    return f'<div class="pictures">{"".join(finished + growing)}</div>'


def card(picture: Picture, outputs: Path) -> str:
    """A finished picture with its caption and scores, to be looked at and kept."""
    image = picture.folder / "images" / f"seed{picture.seed}.png"
    source, page = address(image, outputs), address(picture.folder / "report.html", outputs)
    name = html.escape(f"{picture.label}-seed{picture.seed}.png", quote=True)
    caption = html.escape(picture.caption)
    return (
        f'<figure><a href="{page}" target="_blank"><img src="{source}" alt="{caption}"></a>'
        f"<figcaption><b>{caption}</b><br>seed {picture.seed}, {verdict(picture)}<br>"
        f'<a href="{source}" download="{name}">download</a> '
        f'<a href="{page}" target="_blank">its page</a></figcaption></figure>'
    )


def verdict(picture: Picture) -> str:
    """What the judge says, else the encoder."""
    said = picture.scores.get("picture", {})
    by = "judge" if "judge" in said else "encoder"
    score = said.get(by, {})
    parts = [f"similarity {score['similarity']:.2f}"] if "similarity" in score else []
    if score.get("names"):
        label, odds = score["names"][0][:2]
        parts.append(f"{by} sees {label} ({100 * odds:.0f} %)")
    return html.escape(", ".join(parts))


def gallery(folder: Path, outputs: Path) -> str:
    """The newest finished runs below a folder, each with its page."""
    runs = sorted(finished_runs(folder), key=lambda run: run.stat().st_mtime_ns, reverse=True)
    cells = []
    for run in runs[:MOST]:
        image = next(iter(sorted((run / "images").glob("seed*[0-9].png"))), None)
        if image is None:
            continue
        label, page = html.escape(run.name.rpartition("-")[0], quote=True), run / "report.html"
        cells.append(
            f'<figure><a href="{address(page if page.exists() else image, outputs)}"'
            f' target="_blank"><img loading="lazy" src="{address(image, outputs)}"'
            f' alt="{label}"></a><figcaption>{label}</figcaption></figure>'
        )
    return f'<div class="pictures small">{"".join(cells) or "Nothing yet."}</div>'


def finished_runs(folder: Path) -> Sequence[Path]:
    found = [
        path.parent for path in folder.glob("**/status.json") if (path.parent / "images").is_dir()
    ]
    return [run for run in found if run_records.parse(run / "status.json").get("status") == "ok"]
