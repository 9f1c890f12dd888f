"""A sample's prompt, opened and turned into targets; what several samples share is done once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from acgd.config.instantiate import build
from acgd.errors import UserError
from acgd.evaluation import references
from acgd.media import images
from acgd.pipeline.sample import Sample
from acgd.runs.run import existing_file, is_film
from acgd.types import PromptSource, Target

if TYPE_CHECKING:
    from acgd.pipeline.models import Models

MOST = 256  # prompts remembered at a time


def look(sample: Sample, sources: dict[str, Any]) -> None:
    """Open the prompt and the init image, before any model is loaded; raises what is wrong."""
    prompt = sample.run.cfg["prompt"]
    if is_film(sample.run.cfg) and "pick" in prompt:
        prompt = {**prompt, "pick": "all"}  # a film hears the whole recording
    key = json.dumps(prompt, sort_keys=True)
    if key not in sources:
        source = build(prompt)
        source.check()
        sources[key] = source
    sample.source = sources[key]
    sample.init_image = open_once(sample.run.cfg["init_image"], sources)
    references.check(sample.run.cfg.get("references"))


def open_once(init_image: str | None, opened: dict[str, Any]) -> Image.Image | None:
    """The init image, kept for other samples; UserError where there is none that can be read."""
    if not init_image:
        return None
    path = existing_file(str(init_image))
    if path is None:
        raise UserError(f"init_image={init_image}: no such picture file")
    key = f"init_image {path}"
    if key not in opened:
        opened[key] = images.load(path, "init_image")
    return opened[key]


@dataclass
class Heard:
    """A prompt as the models take it."""

    words: list[str]
    described: dict[str, list]
    heard: list[tuple[str, float]]
    targets: list[Target]
    judged: list[Target]
    taken: dict[str, str]  # texts by the things that the embedded models take them for


def listen(sample: Sample, models: Models, heard_before: dict[str, Heard]) -> None:
    """The prompt as targets, by the encoder and, for the metrics only, by the judge.

    `known`: what the same models made of earlier samples' prompts, which is not asked again.
    """
    cfg = sample.run.cfg
    key = json.dumps([cfg["prompt"], cfg["heard"]], sort_keys=True)
    if key not in heard_before:
        if len(heard_before) >= MOST:
            heard_before.pop(next(iter(heard_before)))
        assert sample.source is not None  # it has been looked at
        heard_before[key] = ask(sample.source, cfg["heard"], models, is_embedded(cfg))
    heard = heard_before[key]
    sample.words, sample.described, sample.heard = heard.words, heard.described, heard.heard
    sample.targets, sample.judged, sample.taken = heard.targets, heard.judged, heard.taken


def is_embedded(cfg: dict) -> bool:
    """Whether encoder and judge are those that come with the package."""
    files = [str(cfg[group].get("checkpoint")) for group in ("encoder", "judge")]
    return all(file.startswith("embedded:") for file in files)


def ask(source: PromptSource, share_heard: float, models: Models, embedded: bool) -> Heard:
    """What the prompt is to the models. The embedded judge reads few words: it is asked for the
    things that the encoder takes them for."""
    from acgd.describers.several import told
    from acgd.errors import fraction
    from acgd.pipeline import finite
    from acgd.prompts import vocabulary
    from acgd.prompts.text import join

    wave, described = source.wave(models.encoder.sample_rate), dict[str, list]()
    share: float | list[float] = 0.0
    words: list[str] = []  # with a share of 0 the words steer nothing
    if wave is not None:
        words, share = told(models.describer, wave, models.encoder.sample_rate)
        described = models.describer.rank(wave, models.encoder.sample_rate)
    prompts = source(models.encoder)
    finite.check_targets(prompts, "encoder")
    heard = models.by_encoder.heard(prompts)
    spoken = models.by_encoder.spoken(prompts, fraction(share_heard, "heard"))
    targets, judged = join(spoken, words, models.encoder, share), []
    if models.by_judge is not None and (wave is None or models.by_judge.model.hears):
        judged = join(source(models.by_judge.model), words, models.by_judge.model, share)
    taken: dict[str, str] = {}
    if embedded:
        said = [target.label for target in prompts if target.kind == "text"]
        taken = vocabulary.taken_for(said, models.encoder)
        judged = [read_as(target, taken, models) for target in judged]
    finite.check_targets(targets, "encoder")
    finite.check_targets(judged, "judge")
    return Heard(words, described, heard, targets, judged, taken)


def read_as(target: Target, taken: dict[str, str], models: Models) -> Target:
    """A target of the judge's, with the embedding of what its text is taken for."""
    if target.kind != "text" or target.label not in taken:
        return target
    assert models.by_judge is not None  # it has given the target
    return replace(target, embed=models.by_judge.model.text([taken[target.label]])[0])
