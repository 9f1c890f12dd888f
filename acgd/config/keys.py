"""What every key of conf/ may be, and what it is for: one table, checked before anything is loaded.

`python -m acgd.config.keys` prints it as conf/README.md has it. Keys of parts of one's own are not
in it and are theirs to check.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# Groups whose objects hold a model; in the order in which they are built.
MODELS = ("model", "encoder", "judge", "describer", "captioner")
GROUPS = (*MODELS, "sampler", "guidance", "prompt", "logger")

# What may differ without the picture differing: where and how fast it is made, who is told.
BESIDE_THE_POINT = (
    "device",
    "precision",
    "compile",
    "logger",
    "batch_size",
    "snapshot_every",
    "outputs",
    "name",
    "force",
    "fail_fast",
    "optimize",
    "report",
    "debug",
    "trust",
    "guidance.cutout_chunk",
    "model.use_checkpoint",
)
# What each sample of a batch has for itself. Everything else must be equal.
OF_A_SAMPLE: tuple[str, ...] = ("prompt", "seed", "concept", "references", "heard")
OF_A_SAMPLE += ("name", "outputs", "force", "debug", "fail_fast", "optimize", "report")


class Kind(NamedTuple):
    """What a value may be, in words and as a question."""

    words: str
    fits: Callable[[Any], bool]
    must: str = "must be"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(least: float, most: float, above: bool = False) -> Kind:
    """From `least` (`above`: which it must exceed) to `most`."""
    if above:
        words = f"a number above {least:g}, at most {most:g}"
        return Kind(words, lambda value: is_number(value) and least < value <= most)
    words = f"a number from {least:g} to {most:g}"
    return Kind(words, lambda value: is_number(value) and least <= value <= most)


def whole(least: int, most: int | None = None) -> Kind:
    bound = "on" if most is None else f"to {most}"
    top = math.inf if most is None else most
    return Kind(
        f"a whole number from {least} {bound}",
        lambda value: is_number(value) and isinstance(value, int) and least <= value <= top,
    )


def choice(*names: str) -> Kind:
    return Kind(", ".join(names), lambda value: value in names, "choose from")


def text(words: str = "a text", pattern: str = r"(?s).*\S.*") -> Kind:
    compiled = re.compile(pattern)
    return Kind(words, lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)))


def or_null(kind: Kind) -> Kind:
    words = f"{kind.words}, or null"
    return Kind(words, lambda value: value is None or kind.fits(value), kind.must)


def or_list(kind: Kind) -> Kind:
    return Kind(f"{kind.words}, or a list of them", lambda v: kind.fits(v) or list_of(kind).fits(v))


def list_of(kind: Kind) -> Kind:
    words = re.sub(r"^an? ", "", kind.words)
    fits = lambda value: isinstance(value, list | tuple) and all(map(kind.fits, value))  # noqa: E731
    return Kind(f"a list, each {words}", fits)


def table_of(kind: Kind) -> Kind:
    """A mapping from names to such."""
    fits = lambda value: isinstance(value, dict) and all(map(kind.fits, value.values()))  # noqa: E731
    return Kind(f"{{name: {kind.words}}}", fits)


def any_of(*kinds: Kind) -> Kind:
    words = ", or ".join(kind.words for kind in kinds)
    return Kind(words, lambda value: any(kind.fits(value) for kind in kinds))


YES = Kind("true or false", lambda value: isinstance(value, bool))
AUTO = Kind("auto, true or false", lambda value: value == "auto" or isinstance(value, bool))
TEXT = text()
FILE = text("a file")
WORDS = Kind(  # a number is read as one from the command line, and meant as words
    "a text", lambda value: (isinstance(value, str) and bool(value.strip())) or is_number(value)
)
TEMPLATE = text(
    "a text in which {text}, {heard}, {described} and {words} may stand",
    r"(?s)(?=.*\S)([^{}]|\{\{|\}\}|\{(text|heard|described|words)\})+",
)
WEIGHT = or_null(number(-3e38, 3e38))
SHARE = number(0, 1)
STEPS_WRITTEN = re.compile(r"(ddim)?0*[1-9]\d{0,4}|\d{1,5}(, *\d{1,5})+|")
STEPS = Kind(
    "a number of steps as 50, ddim50, or sections as '10,10,5'",
    lambda value: (
        (isinstance(value, str) and bool(STEPS_WRITTEN.fullmatch(value)))
        or whole(1, 10000).fits(value)
        or (list_of(whole(0, 10000)).fits(value) and bool(value))
    ),
)

TABLE: dict[str, Kind] = {
    "seed": Kind("a whole number from 0 on, or a list of them", or_list(whole(0, 2**63 - 1)).fits),
    "batch_size": any_of(choice("auto"), whole(1)),
    "init_image": or_null(FILE),
    "skip_steps": whole(0),
    "class_id": or_null(whole(0, 999)),
    "picture": choice("sample", "x0"),
    "shared_noise": YES,
    "heard": SHARE,
    "concept": or_null(any_of(TEXT, table_of(TEXT))),
    "references": or_null(any_of(or_list(FILE), table_of(or_list(FILE)))),
    "labels": text("concepts, or a text file"),
    "twin": YES,
    "preview_every": whole(0),
    "snapshot_every": Kind(
        "steps as 10, seconds as 10s, or 0 for none",
        lambda value: bool(re.fullmatch(r"\d{1,9}|(\d{1,9}|\d{0,9}\.\d{1,9}) ?s", str(value))),
    ),
    "enlarge_to": whole(0, 8192),
    "name": Kind("the name of a folder in outputs", lambda value: True),  # acgd.paths.home
    "outputs": Kind("a folder", lambda value: True),
    "force": YES,
    "fail_fast": YES,
    "optimize": or_null(text("a score, as judge.similarity")),
    "report": AUTO,
    "device": text("auto, cpu, mps, cuda or cuda:0", r"auto|cpu|mps|cuda(:\d{1,3})?"),
    "compile": AUTO,
    "precision": choice("auto", "fp32", "bf16", "fp16"),
    "debug": YES,
    "trust": list_of(text("the name of a package", r"\w+(\.\w+)*")),
    # film
    "film.fps": number(0, 60),
    "film.window": number(0.1, 60),
    "film.hop": number(0.05, 60),
    "film.hold": number(0, 600),
    "film.mode": choice("morph", "cut", "init"),
    "film.morph": number(0, 60),
    "film.kept": number(0, 0.95),
    "film.pulse": number(0, 10),
    "film.pulse_on": choice("cfg_scale", "clip"),
    # model
    "model.checkpoint": FILE,
    "model.checkpoint_key": or_null(TEXT),
    "model.schedule": choice("linear", "cosine"),
    "model.steps": whole(1, 10000),
    "model.rescale_timesteps": YES,
    "model.predicts": choice("eps", "x0", "v"),
    "model.clip_denoised": YES,
    "model.adapter": or_null(FILE),
    "model.autoencoder": or_null(FILE),
    "model.scale": number(0, 1e6, above=True),
    "model.shift": number(-1e6, 1e6),
    "model.styles": or_null(table_of(whole(0))),
    "model.clean_styles": list_of(TEXT),
    "model.style": or_null(TEXT),
    "model.image_size": whole(8, 4096),
    "model.num_channels": whole(1, 4096),
    "model.num_res_blocks": whole(1, 32),
    "model.class_cond": YES,
    "model.attention_resolutions": text("sizes as '32,16,8'", r"\d{1,4}(,\d{1,4})*"),
    "model.num_heads": whole(1, 1024),
    "model.num_head_channels": whole(1, 4096),
    "model.learn_sigma": YES,
    "model.use_scale_shift_norm": YES,
    "model.resblock_updown": YES,
    "model.use_new_attention_order": YES,
    "model.download": YES,
    "model.size": or_null(whole(8, 8192)),
    "model.negative_prompt": Kind("a text", lambda value: isinstance(value, str)),
    "model.noise_level": whole(0, 999),
    "model.bridge": or_null(FILE),
    "model.ip_adapter": or_null(FILE),
    "model.ip_scale": number(-100, 100),
    "model.tiny_decoder": or_null(FILE),
    "model.tiling": YES,
    "model.use_checkpoint": YES,
    # encoder, and judge
    "encoder.checkpoint": FILE,
    "encoder.checkpoint_key": or_null(TEXT),
    "encoder.image_from": or_null(FILE),
    "encoder.window": or_null(number(0.1, 3600)),
    "encoder.speeds": or_null(list_of(number(0.25, 4))),
    "encoder.input_range": choice("int16", "unit"),
    "encoder.truncate": YES,
    "encoder.model": TEXT,
    "encoder.pretrained": or_null(TEXT),
    "encoder.download": YES,
    "encoder.weights": or_null(table_of(number(-1e6, 1e6))),
    # sampler
    "sampler.steps": STEPS,
    "sampler.eta": SHARE,
    "sampler.order": whole(1, 4),
    "sampler.ahead": or_null(number(0, 10)),
    "sampler.cautious": YES,
    # guidance
    "guidance.clip": WEIGHT,
    "guidance.tv": WEIGHT,
    "guidance.range": WEIGHT,
    "guidance.sat": WEIGHT,
    "guidance.init": WEIGHT,
    "guidance.num_cutouts": whole(1, 4096),
    "guidance.cut_pow": number(0, 100),
    "guidance.cut_min": or_null(SHARE),
    "guidance.cutout_chunk": or_null(whole(1)),
    "guidance.audio_weights": choice("own", "text"),
    "guidance.through_unet": YES,
    "guidance.blend": YES,
    "guidance.every": whole(1),
    "guidance.clamp": or_null(number(0, 3e38, above=True)),
    "guidance.cfg_scale": or_null(number(-1000, 1000)),
    "guidance.decoder": choice("full", "tiny", "linear"),
    "guidance.schedule.start": SHARE,
    "guidance.schedule.end": SHARE,
    "guidance.schedule.first": number(-1e6, 1e6),
    "guidance.schedule.last": number(-1e6, 1e6),
    "guidance.schedule.ramp": SHARE,
    # prompt
    "prompt.path": or_list(text("a sound file, a folder, a glob or demo:NAME")),
    "prompt.offset": number(0, 1e6),
    "prompt.duration": number(0, 1e6, above=True),
    "prompt.pick": choice("start", "loudest", "all"),
    "prompt.weight": number(-1e6, 1e6),
    "prompt.text": or_list(WORDS),
    "prompt.text_share": SHARE,
    "prompt.notebook_parsing": YES,
    "prompt.image": or_list(FILE),
    "prompt.template": or_null(TEMPLATE),
    # describer
    "describer.checkpoint": FILE,
    "describer.vocabulary": or_null(FILE),
    "describer.feature_extractor_type": choice("hcnn", "musicnn", "ears"),
    "describer.ears": or_null(FILE),
    "describer.lean": SHARE,
    "describer.beam_size": whole(1, 64),
    "describer.share": or_null(SHARE),
    "describer.resample": YES,
    "describer.last_chunk": choice("overlap", "drop"),
    "describer.unfinished": YES,
    "describer.clean": YES,
    "describer.lists": or_list(text("colours, genres, sounds, or a text file")),
    "describer.top_k": whole(1),
    "describer.template": text("a text with {} in it", r"(?s).*\{\}.*"),
    "describer.sample": or_null(whole(1)),
    "describer.seed": or_null(whole(0)),
    "describer.spelled": YES,
    # captioner
    "captioner.checkpoint": FILE,
    "captioner.clip": FILE,
    "captioner.tokenizer": FILE,
    "captioner.unit": YES,
    "captioner.download": YES,
    "captioner.beams": whole(1, 64),
    "captioner.length": whole(1, 1000),
    "captioner.architecture.mapper": choice("mlp", "transformer"),
    "captioner.architecture.prefix_size": whole(1, 65536),
    "captioner.architecture.prefix_length": whole(1, 1000),
    "captioner.architecture.clip_length": whole(1, 1000),
    "captioner.decoding.how": choice("beam", "greedy", "top_p"),
    "captioner.decoding.beams": whole(1, 64),
    "captioner.decoding.top_p": number(0, 1, above=True),
    "captioner.decoding.temperature": number(0, 1000, above=True),
    "captioner.decoding.likeliest": YES,
    "captioner.decoding.seed": whole(0, 2**63 - 1),
    "captioner.decoding.length": whole(1, 1000),
    # logger
    "logger.mode": choice("offline", "online"),
    "logger.project": TEXT,
    "logger.group": or_null(TEXT),
    "logger.job_type": TEXT,
    "logger.tags": list_of(TEXT),
    "logger.timeout": number(0, 1e5, above=True),
}
NODES = {key.rpartition(".")[0] for key in TABLE if "." in key}  # keys that hold others
NODES |= {"encoder.members", "describer.members"}


def kind_of(key: str) -> Kind | None:
    """The kind of a dotted key; a judge's is an encoder's, a member's is its group's."""
    return TABLE.get(plain_key(key))


def plain_key(key: str) -> str:
    key = re.sub(r"^judge(?=\.|$)", "encoder", key)
    return re.sub(r"^(\w+)\.members\.[^.]+(?=\.|$)", r"\1", key)


def as_markdown() -> str:
    """The table for conf/README.md."""
    rows = [f"| `{key}` | {kind.words} |" for key, kind in TABLE.items()]
    return "\n".join(["| key | what it may be |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    print(as_markdown(), end="")
