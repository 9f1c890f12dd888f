"""What is said about a finished picture: scores, files and the lines on the terminal."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from acgd import metrics
from acgd.encoders import zero_shot
from acgd.evaluation import references
from acgd.runs.folder import EMBEDDINGS
from acgd.sample import Sample
from acgd.studio import Studio


def judge(batch: list[Sample], studio: Studio, pixels: Tensor, twins: Tensor | None) -> None:
    """Fill each sample's scores: of the picture and of its twin, by judge and by encoder.

    pixels and twins (B, 3, H, W) uint8, as they are on disk. The gain is over the twin, in the
    judge's similarity to the sound, or to the prompts where there is none.
    """
    for sample in batch:
        # what the user was told is heard: the picture is asked for that
        asked = sample.run.cfg["concept"]
        asked = asked.get(sample.run.label) if isinstance(asked, dict) else asked
        concept = metrics.concept_of(asked, sample.targets, studio.by_encoder)
        sample.scores = {"concept": concept}
    sounds = [hear(sample, studio) for sample in batch]
    for of, images in (("picture", pixels), ("twin", twins)):
        for name, view in (("judge", studio.by_judge), ("encoder", studio.by_encoder)):
            if images is None or view is None:
                continue
            embeds = view.images((images.float() / 255).to(studio.device))
            for sample, embed, sound in zip(batch, embeds, sounds, strict=True):
                targets = sample.judged if name == "judge" else sample.targets
                scores = view.score(embed, targets, sample.scores["concept"])
                if name == "judge":
                    scores |= beside(sample, view, embed, sound, scores)
                    if of == "picture":
                        keep(sample, embed, sound)
                sample.scores.setdefault(of, {})[name] = scores
    for sample in batch:
        sample.scores |= metrics.gain(sample.scores)


def hear(sample: Sample, studio: Studio) -> Tensor | None:
    """The prompt's sound (D,) as the judge hears it, also where only its words steered."""
    for target in sample.judged:
        if target.kind == "audio":
            return target.embed
    if not hasattr(studio.judge, "scale_at"):
        return None
    wave = sample.source.wave(studio.judge.sample_rate)
    return None if wave is None else studio.judge.audio(torch.from_numpy(wave)[None])[0]


def beside(
    sample: Sample, view: zero_shot.Viewer, embed: Tensor, sound: Tensor | None, scores: dict
) -> dict:
    """The judge's similarities to what did not steer: the sound itself, reference pictures."""
    found, run = {}, sample.run
    if sound is not None and "image_audio" not in scores:
        found["image_audio"] = round(float(embed @ sound.to(embed)), 5)
    places = run.cfg.get("references")
    if paths := references.find(places, run.label, sample.scores["concept"]):
        near = view.references(paths).to(embed) @ embed  # (pictures,)
        found["image_reference"] = round(float(near.mean()), 5)
    elif places:
        sample.record.log(f"no reference pictures for {run.label}")
    return found


def keep(sample: Sample, picture: Tensor, sound: Tensor | None) -> None:
    """The judge's embeddings (D,), rounded: a sweep is compared without a model."""
    both = {"image": picture} | ({} if sound is None else {"audio": sound})
    rounded = {name: [round(x, 4) for x in embed.tolist()] for name, embed in both.items()}
    sample.record.text(EMBEDDINGS, json.dumps({"judge": rounded}) + "\n")


def verdict(sample: Sample) -> tuple[str, dict]:
    """Who has the last word on the picture, and what it is: the judge's where there is one."""
    scores = sample.scores["picture"]
    return next((name, scores[name]) for name in ("judge", "encoder") if name in scores)


def write(sample: Sample, pixels: Tensor) -> None:
    """The picture (3, H, W) uint8, what it was steered towards and how it scored."""
    run, record = sample.run, sample.record
    sample.picture = show(sample, pixels)
    by, score = verdict(sample)
    similarity = {k: v for k, v in score.items() if k.startswith("image_")}
    targets = [
        {"kind": target.kind, "label": target.label, "weight": round(target.weight, 6)}
        for target in sample.targets
    ]
    about = {"targets": targets, "heard": sample.heard, by: similarity}
    about |= {"described": sample.described} if sample.described else {}
    record.json("targets.json", about)
    named = {"label": run.label, "seed": run.seed, "signature": run.signature}
    said = {"caption": sample.caption or run.label}
    said |= {"words": sample.words} if sample.words else {}
    record.json("metrics.json", {**named, **said, **sample.scores})


def show(sample: Sample, pixels: Tensor, suffix: str = "") -> str:
    """The picture as it is looked at and, where that is enlarged, as it came; returns its path."""
    record, side = sample.record, sample.run.cfg["enlarge_to"]
    array = pixels.permute(1, 2, 0).numpy()
    name = f"images/seed{sample.run.seed}{suffix}"
    if min(array.shape[:2]) < side:
        record.picture(f"{name}-native.png", array)
    return str(record.picture(f"{name}.png", array, side))


def tell(sample: Sample, alone: bool) -> None:
    """A line for each thing known of a single picture, one line for each of several."""
    by, score = verdict(sample)
    heard = ", ".join(f"{label} {100 * p:.0f} %" for label, p in sample.heard[:3])
    said = [] if score["similarity"] is None else [f"similarity {score['similarity']:.3f}"]
    if "rank" in score:
        said.append(f'"{score["concept"]}" is number {score["rank"]} of {score["of"]} labels')
    said = ", ".join(said) or f"sees {score['names'][0][0]}"
    if not alone:
        caption = f"  {sample.caption}" if sample.caption else ""
        print(f"{sample.picture}  {by}: {said}{caption}")
        return
    lines = {"heard": heard, "described": ", ".join(sample.words)}
    lines = lines if heard else {"asked": sample.run.label}
    lines |= {"picture": sample.picture, "caption": sample.caption, by: said}
    lines |= {"folder": sample.run.folder}
    print("\n".join(f"{name:9}  {line}" for name, line in lines.items() if line))
