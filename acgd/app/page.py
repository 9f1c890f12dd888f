"""The page itself: its fields, and what happens when they are used."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from acgd.app import form, views, words
from acgd.app.turns import Turns
from acgd.app.worker import Worker
from acgd.errors import UserError
from acgd.paths import home
from acgd.runs import records as run_records

TAKEN = ("text_share", "style", "seed", "seeds", "steps", "clip", "cfg_scale")
KEYS = {"text_share": "prompt.text_share", "style": "model.style", "seed": "seed",
        "steps": "sampler.steps", "clip": "guidance.clip",
        "cfg_scale": "guidance.cfg_scale"}  # fmt: skip
FIELDS = ("model", "encoder", "film", *TAKEN)
KEPT = 12  # pictures of a tab that are shown beside the new ones
ENDS = {"ok": "Done.", "failed": "", "stopped": "Stopped; drawing the same again resumes it."}
MADE_BEFORE = "These were made before: the same settings make the same. Vary draws others."
TO_RESULTS = """() => {
  const status = document.getElementById("status"), top = status.getBoundingClientRect().top;
  if (top < 0 || top > 0.8 * innerHeight) status.scrollIntoView({behavior: "smooth"});
}"""  # on a phone they are below the fields
INTRODUCTION = """# acgd
Draws what it hears. Drop or record a sound, or write words, and press **Draw**. The small
model that comes along knows some eighty things that make a sound, from dogs to cash registers."""


class Page:
    """A page over a worker; `outputs`: the folder of runs; `remote`: whether strangers may come."""

    def __init__(self, worker: Worker, outputs: Path, remote: bool = False):
        self.worker, self.outputs, self.remote = worker, outputs, remote
        self.turns = Turns()
        self.drawn: dict[str, list[views.Drawn]] = {}  # by each open tab, the newest first

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title="acgd", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.Markdown(INTRODUCTION)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    asked, fields, more = form.asked_for(self.remote)
                with gr.Column(scale=3, min_width=300):
                    shown = form.answers()
                    with gr.Accordion("Made before", open=False) as before:
                        gallery = gr.HTML(padding=False)
            self.wire(asked, fields, more, shown)
            hidden = {"queue": False, "api_visibility": "private"}
            before.expand(self.made_before, None, gallery, **hidden)
            taken = [asked[name] for name in ("sound", "demo", "text")]
            blocks.load(self.take_up, None, [*taken, *(fields[n] for n in TAKEN)], **hidden)
            blocks.unload(self.leave)
        return blocks

    def wire(self, asked: dict, fields: dict, more: Any, shown: dict) -> None:
        """Which field starts what. One job at a time; others wait in the queue, see their place."""
        hidden = {"api_visibility": "private"}
        one = {"concurrency_limit": 1, "concurrency_id": "worker", **hidden}
        heard = [shown[name] for name in ("status", "heard", "odds", "picture", "described")]
        parts = [fields["model"], fields["encoder"]]
        asked["sound"].change(self.hear, [asked["sound"], *parts], heard, **one)
        # `select`, as `input` also comes when the list is left again without a choice
        asked["demo"].select(self.hear_demo, [asked["demo"], *parts], heard, **one)
        asked["demo"].select(lambda: None, None, asked["sound"], queue=False, **hidden)
        given = [asked["sound"], asked["demo"], asked["text"], more]
        given += [fields[name] for name in FIELDS]
        drawn = [shown[name] for name in ("status", "pictures", "command")]
        draw = {"fn": self.draw, "inputs": given, "outputs": drawn, **one}
        draw |= {"show_progress": "minimal", "show_progress_on": shown["status"]}
        press = {"fn": self.press, "queue": False, **hidden}
        asked["draw"].click(**press)
        asked["draw"].click(**draw)
        asked["draw"].click(None, js=TO_RESULTS)
        asked["sound"].upload(None, js=TO_RESULTS)
        asked["text"].submit(**press)
        asked["text"].submit(**draw)
        asked["stop"].click(self.stop, None, shown["status"], queue=False, **hidden)
        numbers = [fields[name] for name in ("seed", "clip", "cfg_scale")]
        for name, change in (("vary", vary), ("weaker", weaker), ("stronger", stronger)):
            inputs = [*numbers, fields["seeds"]]
            asked[name].click(**press)
            asked[name].click(change, inputs, numbers, queue=False, **hidden).then(**draw)

    def hear_demo(self, request: gr.Request, demo: str, model: str, encoder: str) -> Iterator:
        yield from self.hear(request, f"demo:{demo}" if demo else None, model, encoder)

    def hear(self, request: gr.Request, sound: str | None, model: str, encoder: str) -> Iterator:
        """What is heard in a sound, at once."""
        if not sound:
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        try:
            given = words.to_hear(sound, {"model": model, "encoder": encoder}, self.outputs)
        except (UserError, OSError) as error:
            wrong = views.line(named(str(error), sound), "wrong")
            yield wrong, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        yield views.line("Listening ..."), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        for event in self.worker.ask(str(request.session_hash), "hear", given):
            if "sound" in event:
                yield "", gr.update(visible=True), *heard(event["sound"])
            elif "error" in event:
                wrong = views.line(named(event["error"], sound), "wrong")
                yield wrong, gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()

    def draw(self, request: gr.Request, sound: str | None, demo: str, text: str, more: str,
             *chosen: Any) -> Iterator:  # fmt: skip
        """Pictures, their previews first."""
        job, kept, tab = views.Job(), None, str(request.session_hash)
        if self.turns.is_off(tab):
            yield views.line("Stopped before its turn came."), gr.skip(), gr.skip()
            return
        try:
            sound = sound or (f"demo:{demo}" if demo else None)
            by_name = dict(zip(FIELDS, chosen, strict=True))
            if self.remote:
                words.refuse_paths(words.typed(more))
            kept = words.Kept(sound, self.outputs) if sound else None
            given = words.to_draw(kept.name if kept else None, text, by_name, more, self.outputs)
        except (UserError, OSError) as error:
            yield views.line(str(error), "wrong"), gr.skip(), gr.skip()
            return
        job.setting = views.setting(by_name)
        earlier = self.drawn.get(tab, [])
        before: tuple = ()
        for event in self.worker.ask(tab, "draw", given):
            if "error" in event and kept:
                event["error"] = named(event["error"], kept.name)
            job.take(event)
            pictures = views.drawing(job, self.outputs, earlier)
            now = self.status(job, event), pictures, command(job, given)
            if now != before:
                yield now
            before = now
        self.drawn[tab] = views.newest([*job.drawn, *earlier], KEPT)
        if kept and not job.folders and not job.drawn:
            kept.drop()  # nothing was made of it

    def status(self, job: views.Job, event: dict) -> str:
        now = ENDS[event["done"]] if "done" in event else job.status()
        if "done" in event and job.drawn and all(one.made_before for one in job.drawn):
            now = MADE_BEFORE
        wrong = "".join(views.line(error, "wrong") for error in dict.fromkeys(job.errors))
        notes = "".join(views.line(note, "notice") for note in dict.fromkeys(job.notes))
        return wrong + notes + views.line(now)

    def press(self, request: gr.Request) -> None:
        self.turns.wait(str(request.session_hash))

    def stop(self, request: gr.Request) -> Any:
        session = str(request.session_hash)
        if self.worker.stop(session):
            return views.line("Stopping ...")
        waits = self.turns.call_off(session)
        return views.line("Stopped; it will not be drawn.") if waits else gr.skip()

    def leave(self, request: gr.Request) -> None:
        """A closed tab: its jobs have nobody to draw for."""
        self.worker.stop(str(request.session_hash))
        self.turns.call_off(str(request.session_hash))
        self.drawn.pop(str(request.session_hash), None)

    def take_up(self, request: gr.Request) -> list[Any]:
        """The prompt and the settings of a run that was made before, which the address names."""
        folder = home(self.outputs, words.NAME) / str(request.query_params.get("run", ""))
        if folder.parent != home(self.outputs, words.NAME) or not (folder / "config.yaml").exists():
            return [gr.skip()] * (3 + len(TAKEN))
        config = run_records.settings(folder)
        path, text = str(config.get("prompt.path") or ""), config.get("prompt.text")
        demo = path.removeprefix("demo:") if path.startswith("demo:") else ""
        sound = path if path and not demo and Path(path).exists() else None
        found = {name: config.get(key) for name, key in KEYS.items()} | {"seeds": 1}
        found["style"] = found["style"] or form.OWN_STYLE
        values = [gr.skip() if found[name] is None else found[name] for name in TAKEN]
        return [sound, demo, text if isinstance(text, str) else "", *values]

    def made_before(self) -> str:
        folder = self.outputs / words.NAME if self.remote else self.outputs
        return views.gallery(folder, self.outputs)


def named(error: str, path: str) -> str:
    """A line with the name of an uploaded file in place of where its copy lies."""
    return error if path.startswith("demo:") else error.replace(path, Path(path).name)


def heard(sound: dict[str, Any]) -> tuple[dict[str, float], Image.Image, str]:
    image = Image.open(io.BytesIO(sound["image"])).convert("RGB")
    return dict(sound["heard"]), image, sound["described"]


def command(job: views.Job, given: list[str]) -> Any:
    """The command line of a job, once something is finished."""
    return gr.update(value=shlex.join(["acgd", *given]), visible=bool(job.drawn))


def vary(seed: int, clip: float, cfg_scale: float, seeds: int) -> tuple:
    return int(seed) + int(seeds), clip, cfg_scale


def scaled(factor: float, seed: int, clip: float, cfg_scale: float, seeds: int) -> tuple:
    quarters = round(4 * cfg_scale * factor**0.5)
    return seed, min(5000, round(clip * factor / 50) * 50), min(8, quarters / 4)


weaker, stronger = partial(scaled, 0.5), partial(scaled, 2.0)
