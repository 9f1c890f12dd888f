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

from acgd.app import views, words
from acgd.app.worker import Worker
from acgd.errors import UserError

FIELDS = ("model", "encoder", "text_share", "style", "seed", "seeds", "steps", "clip", "cfg_scale")
OWN_STYLE = "each seed its own"
ENDS = {"ok": "Done.", "failed": "", "stopped": "Stopped; drawing the same again resumes it."}
TO_RESULTS = """() => {
  const status = document.getElementById("status"), top = status.getBoundingClientRect().top;
  if (top < 0 || top > 0.8 * innerHeight) status.scrollIntoView({behavior: "smooth"});
}"""  # on a phone they are below the fields
INTRODUCTION = """# acgd
Drop or record a sound, or write words, and press **Draw**."""


class Page:
    """A page over a worker; `outputs`: the folder of runs; `remote`: whether strangers may come."""

    def __init__(self, worker: Worker, outputs: Path, remote: bool = False):
        self.worker, self.outputs, self.remote = worker, outputs, remote

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title="acgd", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.Markdown(INTRODUCTION)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    asked, fields, more = self.form()
                with gr.Column(scale=3, min_width=300):
                    shown = self.results()
            with gr.Accordion("Made before", open=False) as before:
                gallery = gr.HTML(padding=False)
            self.wire(asked, fields, more, shown)
            before.expand(self.made_before, None, gallery, queue=False, api_visibility="private")
            blocks.unload(self.leave)
        return blocks

    def form(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """What is asked for: the sound and the words, the settings, everything else."""
        asked = {
            "sound": gr.Audio(label="Sound", sources=["upload", "microphone"], type="filepath"),
            "demo": gr.Dropdown(["", *words.demos()], label="or a demo sound", elem_id="demo"),
            "text": gr.Textbox(
                label="Words", placeholder="in the snow", max_length=400, elem_id="words"
            ),
        }
        fields = {
            "text_share": gr.Slider(0, 1, 0.5, step=0.05, label="Sound and words",
                info="0: the sound alone, 1: the words alone"),
            "style": gr.Dropdown([OWN_STYLE, *words.styles()], value=OWN_STYLE, label="Style"),
            "seeds": gr.Slider(1, 8, 2, step=1, label="Pictures", elem_id="seeds"),
        }  # fmt: skip
        with gr.Row():
            asked["draw"] = gr.Button("Draw", variant="primary", elem_id="draw", min_width=100)
            asked["stop"] = gr.Button("Stop", elem_id="stop", min_width=100)
        with gr.Row():
            for name in ("vary", "weaker", "stronger"):
                asked[name] = gr.Button(name.title(), size="sm", elem_id=name, min_width=80)
        with gr.Accordion("More settings", open=False):
            fields |= {
                "seed": gr.Number(0, label="First seed", precision=0, minimum=0),
                "steps": gr.Slider(5, 250, 40, step=1, label="Steps"),
                "clip": gr.Slider(0, 5000, 250, step=50, label="Guidance (guidance.clip)"),
                "cfg_scale": gr.Slider(0, 8, 2, step=0.25, label="Condition (guidance.cfg_scale)"),
                "model": gr.Dropdown(words.installed("model"), value="tiny", label="Model"),
                "encoder": gr.Dropdown(words.installed("encoder"), value="tiny", label="Encoder"),
            }
            keys = gr.Dropdown(words.completions(self.remote), value=None, label="Find a setting")
            more = gr.Textbox(label="Everything else", lines=2, max_length=2000, elem_id="more",
                info="settings as on the command line: guidance.tv=100 sampler=ddim")  # fmt: skip
            keys.input(lambda key, text: (f"{text} {key}=".lstrip(), None), [keys, more],
                [more, keys], queue=False, show_progress="hidden",
                api_visibility="private")  # fmt: skip
        return asked, fields, more

    def results(self) -> dict[str, Any]:
        """What comes back: status, what is heard, pictures, the command."""
        shown: dict[str, Any] = {"status": gr.HTML(padding=False, elem_id="status")}
        with gr.Row(visible=False) as shown["heard"]:
            shown["odds"] = gr.Label(num_top_classes=5, label="Heard", elem_id="odds",
                show_heading=False)  # fmt: skip
            with gr.Column(min_width=200):
                shown["picture"] = gr.Image(show_label=False, buttons=[],
                    interactive=False, elem_id="heard-picture", format="png")  # fmt: skip
                shown["described"] = gr.Textbox(label="In words", interactive=False)
        shown["pictures"] = gr.HTML(padding=False, elem_id="pictures")
        shown["command"] = gr.Textbox(label="The command that makes exactly this", lines=2,
            interactive=False, buttons=["copy"], visible=False, elem_id="command")  # fmt: skip
        return shown

    def wire(self, asked: dict, fields: dict, more: Any, shown: dict) -> None:
        """Which field starts what. One job at a time; others wait in the queue, see their place."""
        hidden = {"api_visibility": "private"}
        one = {"concurrency_limit": 1, "concurrency_id": "worker", **hidden}
        heard = [shown[name] for name in ("status", "heard", "odds", "picture", "described")]
        parts = [fields["model"], fields["encoder"]]
        asked["sound"].change(self.hear, [asked["sound"], *parts], heard, **one)
        asked["demo"].input(self.hear_demo, [asked["demo"], *parts], heard, **one)
        asked["demo"].input(lambda: None, None, asked["sound"], queue=False, **hidden)
        given = [asked["sound"], asked["demo"], asked["text"], more]
        given += [fields[name] for name in FIELDS]
        drawn = [shown[name] for name in ("status", "pictures", "command")]
        draw = {"fn": self.draw, "inputs": given, "outputs": drawn, **one}
        draw |= {"show_progress": "minimal", "show_progress_on": shown["status"]}
        asked["draw"].click(**draw)
        asked["draw"].click(None, js=TO_RESULTS)
        asked["text"].submit(**draw)
        asked["stop"].click(self.stop, None, shown["status"], queue=False, **hidden)
        numbers = [fields[name] for name in ("seed", "clip", "cfg_scale")]
        for name, change in (("vary", vary), ("weaker", weaker), ("stronger", stronger)):
            inputs = [*numbers, fields["seeds"]]
            asked[name].click(change, inputs, numbers, queue=False, **hidden).then(**draw)

    def hear_demo(self, request: gr.Request, demo: str, model: str, encoder: str) -> Iterator:
        yield from self.hear(request, f"demo:{demo}" if demo else None, model, encoder)

    def hear(self, request: gr.Request, sound: str | None, model: str, encoder: str) -> Iterator:
        """What is heard in a sound, at once."""
        if not sound:
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        try:
            given = words.to_hear(
                self.here(sound), {"model": model, "encoder": encoder}, self.outputs
            )
        except (UserError, OSError) as error:
            yield views.line(str(error), "wrong"), gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        yield views.line("Listening ..."), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        for event in self.worker.ask(str(request.session_hash), "hear", given):
            if "sound" in event:
                yield "", gr.update(visible=True), *heard(event["sound"])
            elif "error" in event:
                wrong = views.line(event["error"], "wrong")
                yield wrong, gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()

    def here(self, sound: str) -> str:
        """A demo sound by its name, or the copy that is kept of an upload."""
        return sound if sound.startswith("demo:") else str(words.kept(sound, self.outputs))

    def draw(self, request: gr.Request, sound: str | None, demo: str, text: str, more: str,
             *chosen: Any) -> Iterator:  # fmt: skip
        """Pictures, their previews first."""
        job = views.Job()
        try:
            sound = sound or (f"demo:{demo}" if demo else None)
            by_name = dict(zip(FIELDS, chosen, strict=True))
            if self.remote:
                words.refuse_paths(words.typed(more))
            kept = self.here(sound) if sound else None
            given = words.to_draw(kept, text, by_name, more, self.outputs)
        except (UserError, OSError) as error:
            yield views.line(str(error), "wrong"), gr.skip(), gr.skip()
            return
        before: tuple = ()
        for event in self.worker.ask(str(request.session_hash), "draw", given):
            job.take(event)
            now = self.status(job, event), views.drawing(job, self.outputs), command(job, given)
            if now != before:
                yield now
            before = now

    def status(self, job: views.Job, event: dict) -> str:
        now = ENDS[event["done"]] if "done" in event else job.status()
        wrong = "".join(views.line(error, "wrong") for error in dict.fromkeys(job.errors))
        return wrong + "".join(map(views.line, job.notes)) + views.line(now)

    def stop(self, request: gr.Request) -> Any:
        stopping = self.worker.stop(str(request.session_hash))
        return views.line("Stopping ...") if stopping else gr.skip()

    def leave(self, request: gr.Request) -> None:
        """A closed tab: its job has nobody to draw for."""
        self.worker.stop(str(request.session_hash))

    def made_before(self) -> str:
        folder = self.outputs / words.NAME if self.remote else self.outputs
        return views.gallery(folder, self.outputs)


def heard(sound: dict[str, Any]) -> tuple[dict[str, float], Image.Image, str]:
    image = Image.open(io.BytesIO(sound["image"])).convert("RGB")
    return dict(sound["heard"]), image, sound["described"]


def command(job: views.Job, given: list[str]) -> Any:
    """The command line of a job, once something is finished."""
    return gr.update(value=shlex.join(["acgd", *given]), visible=bool(job.pictures))


def vary(seed: int, clip: float, cfg_scale: float, seeds: int) -> tuple:
    return int(seed) + int(seeds), clip, cfg_scale


def scaled(factor: float, seed: int, clip: float, cfg_scale: float, seeds: int) -> tuple:
    quarters = round(4 * cfg_scale * factor**0.5)
    return seed, min(5000, round(clip * factor / 50) * 50), min(8, quarters / 4)


weaker, stronger = partial(scaled, 0.5), partial(scaled, 2.0)
