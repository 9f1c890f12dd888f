"""What a finished sample leaves: its files, and its lines on the terminal."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from acgd.errors import say
from acgd.pipeline.models import Models
from acgd.pipeline.sample import Sample
from acgd.pipeline.scoring import verdict
from acgd.prompts import vocabulary
from acgd.runs.run import is_film


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
    identity = {"label": run.label, "seed": run.seed, "signature": run.signature}
    said: dict[str, object] = {"caption": sample.caption or run.label}
    said |= {"words": sample.words} if sample.words else {}
    record.json("metrics.json", {**identity, **said, **sample.scores})


def show(sample: Sample, pixels: Tensor, suffix: str = "") -> str:
    """The picture as it is looked at and, where that is enlarged, as it came; returns its path."""
    record, side = sample.record, sample.run.cfg["enlarge_to"]
    array = pixels.permute(1, 2, 0).numpy()
    name = f"images/seed{sample.run.seed}{suffix}"
    if min(array.shape[:2]) < side:
        record.picture(f"{name}-native.png", array)
    return str(record.picture(f"{name}.png", array, side))


UNSURE = 0.25  # odds below which a sound counts as not recognised


def tell_heard(batch: list[Sample], models: Models, alone: bool, printed: set[str]) -> None:
    """What is heard, before anything is drawn of it; each sound once, whatever its seeds. And what
    the embedded models have no picture of. told: what this command has said already."""
    for label, like in unknown(batch, models, printed).items():
        say(vocabulary.drawn_as(label, like))
    for sample in batch:
        if not sample.heard or sample.run.label in printed or is_film(sample.run.cfg):
            continue  # a film says what it hears when
        printed.add(sample.run.label)
        heard = ", ".join(f"{label} {percent(p)}" for label, p in sample.heard[:3])
        words = ", ".join(sample.words)
        if alone:
            lines = {"heard": heard, "described": words}
            show_lines([f"{name:9}  {line}" for name, line in lines.items() if line])
        else:
            show_lines([f"heard      {sample.run.label}: {heard}"])
        best, odds = sample.heard[0]
        if odds < UNSURE:
            say(
                f"{sample.run.label}: nothing is heard clearly, the best guess is {best} with"
                f" {percent(odds)}: say what it is with concept= or in words (prompt=mixed)"
            )


def unknown(batch: list[Sample], models: Models, printed: set[str]) -> dict[str, list[str]]:
    """Text prompts of embedded models that name nothing they know, with the nearest names."""
    if not batch or not str(batch[0].run.cfg["model"].get("checkpoint")).startswith("embedded:"):
        return {}
    asked = dict.fromkeys(words for one in batch for words in asked_in_words(one))
    strange = [w for w in asked if w not in printed and not vocabulary.is_known(w)]
    printed.update(strange)
    return {words: vocabulary.nearest(words, models.encoder) for words in strange}


def asked_in_words(sample: Sample) -> list[str]:
    """The texts that the prompt itself gave, without what a describer said of a sound."""
    words = [t.label for t in sample.targets if t.kind == "text" and t.weight > 0]
    return [label for label in words if label not in sample.words]


def tell(sample: Sample, alone: bool, beside: str = "") -> None:
    """A line for each thing known of a single picture, one line for each of several.

    beside: what this one has to itself, such as a sweep's values.
    """
    by, said = verdict_in_words(sample)
    if not alone:
        caption = f"  {sample.caption}" if sample.caption else ""
        beside = f"{beside}  " if beside else ""
        show_lines([f"{beside}{sample.picture}  {by} {said}{caption}"])
        return
    lines: dict[str, object] = {} if sample.heard else {"asked": sample.run.label}
    lines |= {"film": sample.run.folder / "film.mp4"} if is_film(sample.run.cfg) else {}
    lines |= {"picture": sample.picture, "caption": sample.caption, by: said}
    if sample.run.cfg["report"]:
        lines["page"] = sample.run.folder / "report.html"
    lines |= {"folder": sample.run.folder}
    show_lines([f"{name:9}  {line}" for name, line in lines.items() if line])


def verdict_in_words(sample: Sample) -> tuple[str, str]:
    """Who judges, and what it says: that it recognises the concept only where somebody named it;
    what was heard may be wrong, and then the judge can do no more than agree."""
    if (follows := sample.scores.get("film", {}).get("follows")) is not None:
        return "judge", f"sees what is heard in {percent(follows)} of the film"
    by, score = verdict(sample)
    if not score:
        return by, "there is none that sees the picture"
    (seen, odds), concept = score["names"][0], score.get("concept")
    is_named = sample.scores["concept_from"] != "heard"
    if concept is None:
        said = f"sees {seen} {percent(odds)}"
    elif score["rank"] == 1 and seen == concept:
        said = f"{'recognises it' if is_named else 'agrees'}: {concept} {percent(odds)}"
    else:
        place = f"{concept} is number {score['rank']} of {score['of']}"
        said = f"sees {seen} {percent(odds)}, {place}"
    if score["similarity"] is not None:
        said += f", similarity {score['similarity']:.2f}"
    return by, said


def percent(odds: float) -> str:
    return f"{100 * odds:.0f} %"


def show_lines(lines: list[str]) -> None:
    """Print what is finished, which it is though it cannot be shown."""
    with suppress(OSError, ValueError):
        print("\n".join(lines))
