"""What samples are compared by: each measure's meaning, direction, chance level and value.

Scores are those of an independent judge. Two measures need a whole sweep: how well a picture
finds its own sound among all of the sweep's, and how far apart the seeds' pictures of one sound
lie; both are computed from the embeddings that the runs left, without a model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acgd.runs.folder import EMBEDDINGS
from acgd.runs.records import Record, parse, text


class Measure(NamedTuple):
    title: str
    better: str  # higher or lower
    value: Callable[[dict], float | None]  # of a record's scores; None: not known
    chance: Callable[[dict], float | None] = lambda scores: None
    without: str = ""  # what to do so that there are values
    each: bool = True  # every sample has its own; False: the pictures of a batch share one


def score(key: str) -> Callable[[dict], float | None]:
    def value(scores: dict) -> float | None:
        number = scores.get(key)
        if not isinstance(number, int | float) or isinstance(number, bool):
            return None
        return float(number) if np.isfinite(number) else None

    return value


def among(most: int, key: str) -> Callable[[dict], float | None]:
    """1.0 where the rank is at most `most`, else 0.0."""

    def value(scores: dict) -> float | None:
        rank = score(key)(scores)
        return None if rank is None else float(rank <= most)

    return value


def luck(most: int, key: str) -> Callable[[dict], float | None]:
    """The share of random ranks that are at most `most`."""

    def value(scores: dict) -> float | None:
        of = score(key)(scores)
        return min(1.0, most / of) if of else None

    return value


def middle(key: str) -> Callable[[dict], float | None]:
    """The mean of random ranks."""

    def value(scores: dict) -> float | None:
        of = score(key)(scores)
        return (of + 1) / 2 if of else None

    return value


NEEDS_HEARING = "it needs a sound and a judge that hears"
MEASURES = {
    "image_audio": Measure(
        "audio-image similarity by the judge",
        "higher",
        score("judge.image_audio"),
        without=NEEDS_HEARING,
    ),
    "image_reference": Measure(
        "image-image similarity to the reference pictures by the judge",
        "higher",
        score("judge.image_reference"),
        without="references= names the pictures",
    ),
    "first": Measure(
        "agreement: concept (named, else heard) is the judge's first",
        "higher",
        among(1, "judge.rank"),
        luck(1, "judge.of"),
        "it needs a judge",
    ),
    "five": Measure(
        "agreement: concept (named, else heard) is among the first five",
        "higher",
        among(5, "judge.rank"),
        luck(5, "judge.of"),
        "it needs a judge",
    ),
    "similarity": Measure(
        "similarity to its own prompts by the judge",
        "higher",
        score("judge.similarity"),
        without="it needs a judge",
    ),
    "follows": Measure(
        "share of a film's time in which the judge sees what is heard",
        "higher",
        score("film.follows"),
        without="film.fps=12 makes films",
    ),
    "gain": Measure(
        "gain in similarity over the unguided twin",
        "higher",
        score("gain"),
        without="twin=true makes the twins",
    ),
    "retrieval": Measure(
        "retrieval: rank of the right sound among the sweep's sounds",
        "lower",
        score("retrieval"),
        middle("sounds"),
        "it needs two sounds and a judge that hears",
    ),
    "retrieved": Measure(
        "retrieval: share whose right sound comes first among the sweep's",
        "higher",
        among(1, "retrieval"),
        luck(1, "sounds"),
        "it needs two sounds and a judge that hears",
    ),
    "diversity": Measure(
        "diversity: mean distance (1 - cosine) between the seeds' pictures of a sound",
        "higher",
        score("diversity"),
        without="it needs two seeds of a sound and a judge",
    ),
    "caption_agreement": Measure(
        "agreement of caption and sound's words by the judge",
        "higher",
        score("caption_agreement"),
        without="it needs a captioner, words and a judge",
    ),
    "audio_text": Measure(
        "agreement of the sound and its words by the judge",
        "higher",
        score("audio_text"),
        without=NEEDS_HEARING,
    ),
    "audio_caption": Measure(
        "agreement of the sound and the caption by the judge",
        "higher",
        score("audio_caption"),
        without=f"{NEEDS_HEARING}, and a captioner",
    ),
    "seconds": Measure(
        "seconds a picture: those of its batch, shared", "lower", score("seconds"), each=False
    ),
    "peak_mb": Measure("peak memory of its batch in MB", "lower", score("peak_mb"), each=False),
}


def measure(name: str) -> Measure:
    """One of MEASURES, or any score by its dotted name ("encoder.similarity")."""
    if name in MEASURES:
        return MEASURES[name]
    small = name.rpartition(".")[2] in ("rank", "seconds", "peak_mb")
    return Measure(name, "lower" if small else "higher", score(name))


def embeddings(records: Iterable[Record]) -> dict[int, dict[str, np.ndarray]]:
    """Place in records -> {"image": (D,), "audio": (D,)}, unit norm; what is torn is not there."""
    embeds = {}
    for i, record in enumerate(records):
        if record["folder"] is None or record["status"] != "ok":
            continue
        judged = parse(Path(record["folder"]) / EMBEDDINGS).get("judge")
        rows = judged.items() if isinstance(judged, dict) else ()
        arrays = {name: np.asarray(row, dtype=np.float64) for name, row in rows}
        embeds[i] = {name: row / (np.linalg.norm(row) or 1.0) for name, row in arrays.items()}
    return embeds


def retrieval(records: list[Record], embeds: dict[int, dict[str, np.ndarray]]) -> dict[int, dict]:
    """Place in records -> {"retrieval": rank, "sounds": how many sounds the judge chose among}.

    Rank 1: no other sound of the sweep is nearer to the picture. Only what one judge embedded is
    compared; a sound is a file with the part of it that was heard.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, both in embeds.items():
        if both.keys() >= {"image", "audio"}:
            groups[under(records[i], "judge.")].append(i)
    scores: dict[int, dict] = {}
    for places in groups.values():
        names = [sound(records[i]) for i in places]
        distinct = dict.fromkeys(names)
        if len(distinct) < 2:
            continue
        first = [embeds[places[names.index(name)]]["audio"] for name in distinct]
        near = np.stack([embeds[i]["image"] for i in places]) @ np.stack(first).T  # (N, sounds)
        similarity = near[np.arange(len(places)), [list(distinct).index(name) for name in names]]
        ranks = 1 + (near > similarity[:, None]).sum(1)
        scores |= {
            i: {"retrieval": int(rank), "sounds": len(distinct)}
            for i, rank in zip(places, ranks, strict=True)
        }
    return scores


def spread(rows: list[np.ndarray]) -> float | None:
    """Mean of 1 - cosine over all pairs of unit vectors (D,); None for fewer than two."""
    if len(rows) < 2:
        return None
    cosines = np.stack(rows) @ np.stack(rows).T
    return float(1 - cosines[np.triu_indices(len(rows), 1)].mean())


def sound(record: Record) -> str:
    """Which part of which file; what is said where the record has no config."""
    keys = ("prompt.path", "prompt.offset", "prompt.duration")
    texts = [text(record["config"][key]) for key in keys if key in record["config"]]
    return " ".join(texts) or str(record["label"])


def under(record: Record, prefix: str) -> str:
    """The part of a record's config below a key, as one string."""
    pairs = record["config"].items()
    return json.dumps(sorted((k, text(v)) for k, v in pairs if k.startswith(prefix)))
