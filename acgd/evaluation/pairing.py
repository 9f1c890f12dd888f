"""Records by setting: what stands beside what, and what is paired with what.

A setting is one value of each of the `by` keys. A unit is what two settings share a sample in: the
same sound or words, the same seed, and the same of all else that varied.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from acgd.errors import UserError
from acgd.evaluation.metrics import MEASURES, embeddings, measure, retrieval, spread
from acgd.runs import records as run_records
from acgd.runs.records import OWN, Record

Setting = tuple[str, ...]


@dataclass
class Sample:
    """A record's place in the comparison; also a sound's, which holds what its seeds have."""

    setting: Setting
    unit: tuple  # what it is paired by
    status: str
    scores: dict[str, float]


@dataclass
class Grid:
    by: list[str]
    settings: list[Setting]  # numbers by size, names as they came
    samples: list[Sample]

    def label(self, setting: Setting) -> str:
        """ "500", or "clip=500 sampler=ddim" where several keys vary."""
        if len(self.by) < 2:
            return "".join(setting) or "all"
        names = [key.rpartition(".")[2] for key in self.by]
        return " ".join(f"{name}={value}" for name, value in zip(names, setting, strict=True))

    def values(self, metric: str) -> dict[Setting, dict[tuple, float]]:
        """Each setting's values by unit; the mean of those that share one."""
        found: dict = {setting: defaultdict(list) for setting in self.settings}
        value = measure(metric).value
        for sample in self.samples:
            if (number := value(sample.scores)) is not None:
                found[sample.setting][sample.unit].append(number)
        return {
            setting: {unit: float(np.mean(numbers)) for unit, numbers in units.items()}
            for setting, units in found.items()
        }

    def metrics(self, asked: Sequence[str] | None) -> list[str]:
        """Those asked for, or all that have values; UserError for one that nobody has.

        The similarity to a sample's own prompts is left out where that to the sound is there,
        which stays the same thing when settings change the prompts.
        """
        measures = {name: measure(name) for name in asked or MEASURES}
        scores = [sample.scores for sample in self.samples]
        there = [n for n, m in measures.items() if any(m.value(s) is not None for s in scores)]
        if not asked and {"image_audio", "similarity"} <= set(there):
            there.remove("similarity")
        for name in [name for name in asked or () if name not in there]:
            others = [*MEASURES, *dict.fromkeys(key for one in scores for key in one)]
            if name in MEASURES:
                raise UserError(
                    f"no sample here has {name}: {measures[name].without or 'none is ok'}"
                )
            raise UserError(f"no sample here has {name}{near(name, others)}")
        return there


def arrange(records: list[Record], by: Sequence[str] | None = None) -> Grid:
    """Records by setting; by: dotted keys or groups, those that vary unless given."""
    varied = run_records.varied(records)
    by = varied if by is None else list(dict.fromkeys(by))
    rows = {key: run_records.values(records, key) for key in dict.fromkeys([*by, *varied, *OWN])}
    for key in by:
        if records and all(value is None for value in rows[key]):
            keys = dict.fromkeys(key for record in records for key in record["config"])
            raise UserError(f"no sample here has the key {key}{near(key, list(keys))}")
    shared = [key for key in rows if key not in by]
    apart = [key for key in shared if key != "seed"]
    samples, embeds = [], embeddings(records)
    retrieved, seeds = retrieval(records, embeds), defaultdict(list)
    for i, record in enumerate(records):
        setting = tuple(rows[key][i] or "-" for key in by)
        unit = tuple(rows[key][i] for key in shared)
        ok = record["status"] == "ok"
        scores = {**record["scores"], **retrieved.get(i, {})} if ok else {}
        samples.append(Sample(setting, unit, record["status"], scores))
        if "image" in embeds.get(i, {}):
            seeds[setting, tuple(rows[key][i] for key in apart)].append(embeds[i]["image"])
    settings = in_order(list(dict.fromkeys(sample.setting for sample in samples)))
    for (setting, unit), rows_of_seeds in seeds.items() if "seed" not in by else ():
        if (distance := spread(rows_of_seeds)) is not None:
            samples.append(Sample(setting, unit, "", {"diversity": distance}))
    return Grid(by, settings, samples)


def near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3) or [
        key for key in names if key.rpartition(".")[2] == name.rpartition(".")[2]
    ]
    return f" (did you mean {', '.join(close[:3])}?)" if close else ""


def in_order(settings: list[Setting]) -> list[Setting]:
    """By size where all is numbers, else as they came."""
    with suppress(ValueError):
        return sorted(settings, key=lambda setting: [float(value) for value in setting])
    return settings
