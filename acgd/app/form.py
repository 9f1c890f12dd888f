"""The page's fields: what is asked for, and where the answers stand."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acgd.app import words
from acgd.prompts import vocabulary

OWN_STYLE = "each seed its own"
STYLES = {
    "noto": "Noto: soft and rounded",
    "twemoji": "Twemoji: flat",
    "fluent3d": "Fluent: solid, lit",
    "fluentflat": "Fluent: flat",
    "any": "no style in particular",
}


def asked_for(remote: bool) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The prompt and the buttons; the settings by name; the field for everything else."""
    asked = prompt()
    with gr.Row():
        asked["draw"] = gr.Button("Draw", variant="primary", elem_id="draw", min_width=100)
        asked["stop"] = gr.Button("Stop", elem_id="stop", min_width=100)
    with gr.Row():
        for name in ("vary", "weaker", "stronger"):
            asked[name] = gr.Button(name.title(), size="sm", elem_id=name, min_width=80)
    fields = {
        "film": gr.Checkbox(False, label="A film of the whole sound", elem_id="film",
            info="it follows what is heard; a minute of sound takes a minute or two"),
        "text_share": gr.Slider(0, 1, 0.5, step=0.05, label="Sound and words",
            info="0: the sound alone, 1: the words alone"),
        "style": gr.Dropdown(styles(), value=OWN_STYLE, label="Style"),
        "seeds": gr.Slider(1, 8, 2, step=1, label="Pictures", elem_id="seeds"),
    }  # fmt: skip
    with gr.Accordion("More settings", open=False):
        fields |= settings()
        keys = gr.Dropdown(words.completions(remote), value=None, label="Find a setting")
        more = gr.Textbox(label="Everything else", lines=2, max_length=2000, elem_id="more",
            info="settings as on the command line: guidance.tv=100 sampler=ddim")  # fmt: skip
        keys.input(lambda key, text: (f"{text} {key}=".lstrip(), None), [keys, more],
            [more, keys], queue=False, show_progress="hidden",
            api_visibility="private")  # fmt: skip
    return asked, fields, more


def prompt() -> dict[str, Any]:
    """The sound and the words."""
    demos = [("none", ""), *((name.replace("_", " "), name) for name in words.demos())]
    asked = {
        "sound": gr.Audio(label="Sound", sources=["upload", "microphone"], type="filepath",
            elem_id="sound"),
        "demo": gr.Dropdown(demos, value="", label="or a demo sound", elem_id="demo"),
        "text": gr.Textbox(label="Words", placeholder="a guitar", max_length=400, elem_id="words"),
    }  # fmt: skip
    thing = gr.Dropdown(sorted(vocabulary.known()), value=None, elem_id="thing",
        label="or a thing that the small model draws")  # fmt: skip
    thing.select(lambda name: (name, None), thing, [asked["text"], thing], queue=False,
        show_progress="hidden", api_visibility="private")  # fmt: skip
    return asked


def settings() -> dict[str, Any]:
    return {
        "seed": gr.Number(0, label="First seed", precision=0, minimum=0,
            info="another number draws another picture of the same; Vary takes the next ones"),
        "steps": gr.Slider(4, 250, 8, step=1, label="Steps", info="more take longer"),
        "clip": gr.Slider(0, 5000, 250, step=50, label="Guidance",
            info="how hard each step is pulled towards the sound (guidance.clip)"),
        "cfg_scale": gr.Slider(0, 8, 2, step=0.25, label="Condition",
            info="how closely the small model follows what it was told (guidance.cfg_scale)"),
        "model": gr.Dropdown(words.installed("model"), value="tiny", label="Model",
            info="what draws"),
        "encoder": gr.Dropdown(words.installed("encoder"), value="tiny", label="Encoder",
            info="what listens and guides"),
    }  # fmt: skip


def styles() -> list[tuple[str, str]]:
    known = [(STYLES.get(name, name), name) for name in words.styles()]
    return [(OWN_STYLE, OWN_STYLE), *known]


def answers() -> dict[str, Any]:
    """What comes back: status, pictures, what is heard, the command."""
    shown: dict[str, Any] = {"status": gr.HTML(padding=False, elem_id="status")}
    shown["pictures"] = gr.HTML(padding=False, elem_id="pictures")
    with gr.Row(visible=False) as shown["heard"]:
        shown["odds"] = gr.Label(num_top_classes=5, label="Heard", elem_id="odds",
            show_heading=False)  # fmt: skip
        with gr.Column(min_width=200):
            shown["picture"] = gr.Image(show_label=False, buttons=[],
                interactive=False, elem_id="heard-picture", format="png")  # fmt: skip
            shown["described"] = gr.Textbox(label="In words", interactive=False)
    shown["command"] = gr.Textbox(label="The command that makes exactly this", lines=2,
        interactive=False, buttons=["copy"], visible=False, elem_id="command")  # fmt: skip
    return shown
