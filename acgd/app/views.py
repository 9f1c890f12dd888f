"""The page's moving parts as HTML: what is being drawn, what was drawn, what was drawn before."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from acgd.app.words import NAME
from acgd.pipeline.shown import Picture
from acgd.runs import records as run_records

RUNS = "/runs"  # where the page serves the folder of runs
MOST = 60  # runs in the gallery


@dataclass
class Drawn:
    """A finished picture or film; `setting`: the strengths it was drawn with, in words."""

    picture: Picture
    setting: str = ""
    made_before: bool = False


@dataclass
class Job:
    """What the page knows of a job that is drawing."""

    setting: str = ""
    folders: list[Path] = field(default_factory=list)
    total: int = 0  # steps
    is_film: bool = False
    started: float = 0.0  # when its present batch began
    drawn: list[Drawn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def take(self, event: dict) -> None:
        if "batch" in event:
            self.folders, self.total, self.started = (
                event["batch"],
                event["total"],
                time.monotonic(),
            )
            self.is_film = event["film"]
        if "note" in event:
            self.notes.append(event["note"])
        if "picture" in event:
            self.drawn.append(Drawn(event["picture"], self.setting, event["made_before"]))
        if "error" in event:
            self.errors.append(event["error"])

    def previews(self) -> list[Path]:
        """The newest preview, or frame, of each picture that is being drawn and not done."""
        done, where = {one.picture.folder for one in self.drawn}, self.where()
        newest = [max(f.glob(f"{where}/*.*"), default=None) for f in self.folders if f not in done]
        return [path for path in newest if path]

    def where(self) -> str:
        return "frames" if self.is_film else "previews"

    def status(self) -> str:
        """Where it stands, in a line."""
        if not self.total:
            return "Loading models and listening ..."
        paths = self.previews()
        if self.is_film:
            return f"Filming: {step_of(paths[0]) + 1} pictures ..." if paths else "Filming ..."
        taken = min((step_of(path) for path in paths), default=0)
        if not taken:
            return f"Drawing, {self.total} steps ..."
        spent = time.monotonic() - self.started
        left = spent * (self.total - taken) / taken
        return f"Step {taken} of {self.total}, about {max(1, round(left))} s left"


def newest(drawn: Sequence[Drawn], most: int) -> list[Drawn]:
    """The first of each folder, at most so many."""
    return list({one.picture.folder: one for one in reversed(drawn)}.values())[::-1][:most]


def setting(chosen: dict) -> str:
    """The strengths that were chosen, as they stand beside a picture."""
    if chosen["film"]:
        return "film"
    return f"guidance {chosen['clip']:g}, condition {chosen['cfg_scale']:g}"


def step_of(preview: Path) -> int:
    """A preview's step, a frame's number."""
    return int(preview.stem.rpartition("_")[2])


def address(path: Path, outputs: Path) -> str:
    """Where the page serves a file of a run."""
    where = path.absolute().relative_to(outputs.absolute())
    return f"{RUNS}/{quote(where.as_posix())}"


def line(text: str, kind: str = "") -> str:
    """A line of status; kind "wrong" for what went wrong."""
    role = "alert" if kind == "wrong" else "status"
    return f'<p class="line {kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def drawing(job: Job, outputs: Path, earlier: Sequence[Drawn] = ()) -> str:
    """What is finished and, beside it, previews of what is not; what the tab drew earlier below."""
    finished = [card(one, outputs) for one in job.drawn]
    growing = [
        f'<figure><img src="{address(path, outputs)}" alt="a preview, step {step_of(path)}">'
        f"<figcaption>step {step_of(path)}</figcaption></figure>"
        for path in job.previews()
    ]
    mine = {one.picture.folder for one in job.drawn} | set(job.folders)
    old = [card(one, outputs) for one in earlier if one.picture.folder not in mine]
    below = f'{line("Earlier")}<div class="pictures small">{"".join(old)}</div>' if old else ""
    return f'<div class="pictures">{"".join(finished + growing)}</div>{below}'


def card(one: Drawn, outputs: Path) -> str:
    """A finished picture or film with its caption and scores, to be looked at and kept."""
    picture = one.picture
    image, film = picture.folder / "images" / f"seed{picture.seed}.png", picture.folder / "film.mp4"
    report = picture.folder / "report.html"
    source, page = address(image, outputs), address(report if report.exists() else image, outputs)
    kept = film if film.exists() else image
    name = html.escape(f"{picture.label}-seed{picture.seed}{kept.suffix}", quote=True)
    caption, said = html.escape(picture.caption), html.escape(one.setting)
    shown = f'<a href="{page}" target="_blank"><img src="{source}" alt="{caption}"></a>'
    if kept is film:
        shown = f'<video controls src="{address(film, outputs)}" poster="{source}"></video>'
    return (
        f"<figure>{shown}<figcaption><b>{caption}</b><br>{verdict(picture)}<br>"
        f"seed {picture.seed}{said and ', '}{said}<br>"
        f'<a href="{address(kept, outputs)}" download="{name}">download</a> '
        f'<a href="{page}" target="_blank">its page</a></figcaption></figure>'
    )


def verdict(picture: Picture) -> str:
    """What the judge sees, else the encoder; how near it is, for whoever points at it."""
    said = picture.scores.get("picture", {})
    by = "judge" if "judge" in said else "encoder"
    score = said.get(by, {})
    if not score.get("names"):
        return ""
    label, odds = score["names"][0][:2]
    near = f"similarity {score['similarity']:.2f}" if score.get("similarity") is not None else ""
    return f'<span title="{near}">the {by} sees {html.escape(label)} ({100 * odds:.0f} %)</span>'


def about(run: Path) -> str:
    """A run of long ago in a few words: its sound and text, its strengths, when it was made."""
    config = run_records.settings(run)
    path, text = config.get("prompt.path"), config.get("prompt.text")
    names = [Path(str(path).removeprefix("demo:")).stem] if path else []
    names += [str(text)] if text else []
    film, clip = config.get("film.fps"), config.get("guidance.clip") or 0
    strengths = "film" if film else f"guidance {clip:g}"
    made = time.strftime("%d %b %H:%M", time.localtime((run / "status.json").stat().st_mtime))
    return html.escape(f"{', '.join(names)}, seed {config.get('seed')}, {strengths}, {made}", True)


def gallery(folder: Path, outputs: Path) -> str:
    """The newest finished runs below a folder, each with its page."""
    runs = sorted(finished_runs(folder), key=lambda run: run.stat().st_mtime_ns, reverse=True)
    cells = []
    for run in runs[:MOST]:
        image = next(iter(sorted((run / "images").glob("seed*[0-9].png"))), None)
        if image is None:
            continue
        label, page = about(run), run / "report.html"
        again = (
            f'<br><a href="?run={quote(run.name)}">use its settings</a>'
            if run.parent.name == NAME
            else ""
        )
        cells.append(
            f'<figure><a href="{address(page if page.exists() else image, outputs)}"'
            f' target="_blank"><img loading="lazy" src="{address(image, outputs)}"'
            f' alt="{label}"></a><figcaption>{label}{again}</figcaption></figure>'
        )
    return f'<div class="pictures small">{"".join(cells) or "Nothing yet."}</div>'


def finished_runs(folder: Path) -> Sequence[Path]:
    found = [
        path.parent for path in folder.glob("**/status.json") if (path.parent / "images").is_dir()
    ]
    return [run for run in found if run_records.parse(run / "status.json").get("status") == "ok"]
