"""How close a finished picture came to its prompt, as judge and encoder see it.

The encoder that guided and a judge that did not are asked the same questions; only the judge's
answers mean anything about the picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from acgd.encoders import zero_shot
from acgd.encoders.zero_shot import Viewer
from acgd.evaluation import references
from acgd.media import texts
from acgd.pipeline.models import Models
from acgd.pipeline.sample import Sample
from acgd.runs.folder import EMBEDDINGS
from acgd.types import Target, sees


def judge(batch: list[Sample], models: Models, pixels: Tensor, twins: Tensor | None) -> None:
    """Fill each sample's scores: of the picture and of its twin, by judge and by encoder.

    pixels and twins (B, 3, H, W) uint8, as they are on disk. The gain is over the twin, in the
    judge's similarity to the sound, or to the prompts where there is none. Who does not see has no
    scores of pictures.
    """
    for sample in batch:
        # where nobody named it, what the user was told is heard: the picture is asked for that
        asked = named(sample)
        concept = concept_of(asked, sample.targets, models.by_encoder)
        concept = sample.taken.get(concept or "", concept)
        source = "named" if asked is not None else "heard" if sample.heard else "prompt"
        sample.scores = {"concept": concept, "concept_from": source}
        sample.sound = hear(sample, models)
    for of, images in (("picture", pixels), ("twin", twins)):
        for name, view in (("judge", models.by_judge), ("encoder", models.by_encoder)):
            if images is None or view is None or not sees(view.model):
                continue
            embeds = view.images((images.float() / 255).to(models.device))
            for sample, embed in zip(batch, embeds, strict=True):
                targets = sample.judged if name == "judge" else sample.targets
                scores = view.score(embed, targets, sample.scores["concept"])
                if name == "judge":
                    scores |= beside(sample, view, embed, scores)
                    if of == "picture":
                        keep(sample, embed, sample.sound)
                sample.scores.setdefault(of, {})[name] = scores
    for sample in batch:
        sample.scores |= gain(sample.scores)


def named(sample: Sample) -> str | None:
    """What the picture should show as somebody named it: concept=, or a demo sound's own name."""
    cfg = sample.run.cfg
    concept = cfg["concept"]
    asked = concept.get(sample.run.label) if isinstance(concept, dict) else concept
    if asked is not None:
        return str(asked)
    path = str(cfg["prompt"].get("path"))
    if path.startswith("demo:") and not cfg["prompt"].get("text"):
        return path.removeprefix("demo:").lower().replace("_", " ")
    return None


def hear(sample: Sample, models: Models) -> Tensor | None:
    """The prompt's sound (D,) as the judge hears it, also where only its words steered."""
    for target in sample.judged:
        if target.kind == "audio":
            return target.embed
    if models.judge is None or sample.source is None or not models.judge.hears:
        return None
    wave = sample.source.wave(models.judge.sample_rate)
    return None if wave is None else models.judge.audio(torch.from_numpy(wave)[None])[0]


def beside(sample: Sample, view: zero_shot.Viewer, embed: Tensor, scores: dict) -> dict:
    """The judge's similarities to what did not steer: the sound itself, reference pictures."""
    found, run = dict[str, float](), sample.run
    if sample.sound is not None and "image_audio" not in scores:
        near = view.cosine(sample.sound, embed)
        found |= {} if near is None else {"image_audio": round(near, 5)}
    places = run.cfg.get("references")
    if paths := references.find(places, run.label, sample.scores["concept"]):
        alike = view.references(paths).to(embed) @ embed  # (pictures,)
        found["image_reference"] = round(float(alike.mean()), 5)
    elif places:
        sample.record.log(f"no reference pictures for {run.label}")
    return found


def keep(sample: Sample, picture: Tensor, sound: Tensor | None) -> None:
    """The judge's embeddings (D,), rounded: a sweep is compared without a model."""
    both = {"image": picture} | ({} if sound is None else {"audio": sound})
    rounded = {name: [round(x, 4) for x in embed.tolist()] for name, embed in both.items()}
    sample.record.text(EMBEDDINGS, json.dumps({"judge": rounded}) + "\n")


def verdict(sample: Sample) -> tuple[str, dict]:
    """Who has the last word on the picture, and what it is: the judge's where there is one that
    sees; nothing where nobody sees."""
    scores = sample.scores.get("picture", {})
    found = ((name, scores[name]) for name in ("judge", "encoder") if name in scores)
    return next(found, ("judge", {}))


def gain(scores: dict) -> dict:
    """{"gain": x}: how much nearer than its unguided twin the judge finds the picture; {} if none.

    In the similarity to the sound where both have one, else in that to the prompts.
    """
    both = [(scores.get(of) or {}).get("judge") or {} for of in ("picture", "twin")]
    for key in ("image_audio", "similarity"):
        picture, twin = (score.get(key) for score in both)
        if picture is not None and twin is not None:
            return {"gain": round(picture - twin, 5)}
    return {}


def concept_of(asked: str | None, targets: Sequence[Target], viewer: Viewer | None) -> str | None:
    """What the picture should show: as asked, what the viewer hears, or the heaviest text."""
    if asked is not None:
        return known_as(str(asked), viewer)
    words = [target for target in targets if target.kind == "text" and target.weight > 0]
    sounds = [target for target in targets if target.kind == "audio" and target.weight > 0]
    if sounds and viewer is not None:
        return viewer.heard(sounds, most=1)[0][0]
    if not words:
        return None
    return known_as(max(words, key=lambda target: target.weight).label, viewer)


def known_as(text: str, viewer: Viewer | None) -> str:
    """The viewer's label that says the same ("A Dog_Bark" is "dog bark"), else the text itself."""
    plain = re.sub(r"^(an?|the) ", "", texts.plain(text))
    return plain if viewer is not None and plain in viewer.labels else text
