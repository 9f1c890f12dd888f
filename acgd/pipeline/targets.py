"""A sample's prompt, opened and turned into targets; what several samples share is done once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acgd.config.instantiate import build
from acgd.evaluation import references
from acgd.pipeline.sample import Sample
from acgd.types import Target

if TYPE_CHECKING:
    from acgd.pipeline.models import Studio

MOST = 256  # prompts remembered at a time


def look(sample: Sample, sources: dict[str, Any]) -> None:
    """Open the prompt, before any model is loaded; raises what is wrong with it."""
    prompt = sample.run.cfg["prompt"]
    key = json.dumps(prompt, sort_keys=True)
    if key not in sources:
        source = build(prompt)
        source.check()
        sources[key] = source
    sample.source = sources[key]
    references.check(sample.run.cfg.get("references"))


@dataclass
class Heard:
    """A prompt as the models take it."""

    words: list[str]
    described: dict[str, list]
    heard: list[tuple[str, float]]
    targets: list[Target]
    judged: list[Target]


def listen(sample: Sample, studio: Studio, known: dict[str, Heard]) -> None:
    """The prompt as targets, by the encoder and, for the metrics only, by the judge.

    `known`: what the same models made of earlier samples' prompts, which is not asked again.
    """
    cfg = sample.run.cfg
    key = json.dumps([cfg["prompt"], cfg["heard"]], sort_keys=True)
    if key not in known:
        if len(known) >= MOST:
            known.pop(next(iter(known)))
        known[key] = ask(sample.source, cfg["heard"], studio)
    found = known[key]
    sample.words, sample.described, sample.heard = found.words, found.described, found.heard
    sample.targets, sample.judged = found.targets, found.judged


def ask(source: Any, share_heard: float, studio: Studio) -> Heard:
    from acgd.describers.several import told
    from acgd.errors import fraction
    from acgd.prompts.text import join

    wave, described = source.wave(studio.encoder.sample_rate), {}
    words, share = [], 0.0  # with a share of 0 the words steer nothing
    if wave is not None:
        words, share = told(studio.describer, wave, studio.encoder.sample_rate)
        if hasattr(studio.describer, "rank"):  # one that chooses can say how sure it is
            described = studio.describer.rank(wave, studio.encoder.sample_rate)
    prompts = source(studio.encoder)
    heard = studio.by_encoder.heard(prompts)
    spoken = studio.by_encoder.spoken(prompts, fraction(share_heard, "heard"))
    targets, judged = join(spoken, words, studio.encoder, share), []
    if studio.judge is not None and (wave is None or hasattr(studio.judge, "scale_at")):
        judged = join(source(studio.judge), words, studio.judge, share)
    return Heard(words, described, heard, targets, judged)
