"""Settings side by side: means with intervals, and differences over the same sounds and seeds.

    records = collect.read("outputs/main")
    compare.table(records, ["guidance.clip"])      a row for each setting and measure
    compare.pairs(records, ["guidance.clip"])      a row for each two settings and measure

A setting is one value of each of the `by` keys. Two settings are compared over the samples that
they share: the same sound or words, the same seed, and the same of all else that varied. Intervals
take the samples as independent draws: they speak for sounds and seeds like these.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acgd import atomic_files
from acgd.errors import UserError
from acgd.evaluation.metrics import measure
from acgd.evaluation.pairing import Grid, Setting, arrange, near
from acgd.evaluation.statistics import holm, interval, paired_p
from acgd.runs.records import Record

Row = dict[str, Any]


def table(
    records: list[Record], by: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> list[Row]:
    """A row for each measure and setting.

    Keys: those of `by`, metric, better (higher or lower), mean, low and high (the 95 % interval;
    None for fewer than two values, and for what the pictures of a batch share), n (values), chance
    (what guessing gives, else None), samples, failed (those of them that are not ok: they have no
    values).
    """
    return tabulate(arrange(records, by), metrics)


def tabulate(grid: Grid, asked: Sequence[str] | None) -> list[Row]:
    rows, counts = [], defaultdict(list)
    for sample in grid.samples:
        if sample.status:
            counts[sample.setting].append(sample.status != "ok")
    for metric in grid.metrics(asked):
        known = measure(metric)
        chances = defaultdict(list)
        for sample in grid.samples:
            if (chance := known.chance(sample.scores)) is not None:
                chances[sample.setting].append(chance)
        for setting, units in grid.values(metric).items():
            numbers = list(units.values())
            low, high = interval(numbers) if known.each else (None, None)
            row: Row = dict(zip(grid.by, setting, strict=True))
            rows.append(
                row
                | {
                    "metric": metric,
                    "better": known.better,
                    "mean": mean(numbers),
                    "low": low,
                    "high": high,
                    "n": len(numbers),
                    "chance": mean(chances[setting]),
                    "samples": len(counts[setting]),
                    "failed": sum(counts[setting]),
                }
            )
    return rows


def mean(numbers: list[float]) -> float | None:
    return float(np.mean(numbers)) if numbers else None


def pairs(
    records: list[Record],
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    against: str | None = None,
) -> list[Row]:
    """A row for each measure and two settings: b less a, over the samples that they share.

    against: the label of the setting that all others are compared with, the first one unless
    given; "all" compares all with all. Keys: metric, better, a, b (labels), difference (mean of
    b - a), low, high (95 % interval), n (pairs), p (two-sided, permutation test of the paired
    differences), p_holm (adjusted for the number of pairs of this measure), unpaired_a,
    unpaired_b (values that the other has no partner for).
    """
    return contrast(arrange(records, by), metrics, against)


def contrast(grid: Grid, asked: Sequence[str] | None, against: str | None) -> list[Row]:
    rows, twosomes = [], couples(grid, against)
    for metric in grid.metrics(asked) if twosomes else []:
        values, own, each = grid.values(metric), list[Row](), measure(metric).each
        for a, b in twosomes:
            shared = [unit for unit in values[a] if unit in values[b]]
            differences = [values[b][unit] - values[a][unit] for unit in shared]
            low, high = interval(differences) if each else (None, None)
            own.append(
                {
                    "metric": metric,
                    "better": measure(metric).better,
                    "a": grid.label(a),
                    "b": grid.label(b),
                    "difference": mean(differences),
                    "low": low,
                    "high": high,
                    "n": len(shared),
                    "p": paired_p(differences) if each else None,
                    "unpaired_a": len(values[a]) - len(shared),
                    "unpaired_b": len(values[b]) - len(shared),
                }
            )
        adjusted = holm([row["p"] for row in own])
        rows += [row | {"p_holm": p} for row, p in zip(own, adjusted, strict=True)]
    return rows


def couples(grid: Grid, against: str | None) -> list[tuple[Setting, Setting]]:
    """Which settings are compared: (baseline, other), or all two with the first of them before."""
    if against == "all":
        settings = grid.settings
        return [(a, b) for i, a in enumerate(settings) for b in settings[i + 1 :]]
    by_label = {grid.label(setting): setting for setting in grid.settings}
    if against is not None and against not in by_label:
        raise UserError(f"there is no setting {against}{near(against, list(by_label))}")
    if not grid.settings:
        return []
    first = by_label[against] if against is not None else grid.settings[0]
    return [(first, setting) for setting in grid.settings if setting != first]


def write(
    folder: Path,
    records: list[Record],
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    against: str | None = None,
) -> dict:
    """compare.csv, pairs.csv and compare.json in `folder`, and .parquet where pyarrow is there.

    Returns what compare.json holds: by, settings, samples (how many, by status), measures, table
    and pairs.
    """
    grid = arrange(records, by)
    statuses = [sample.status for sample in grid.samples if sample.status]
    rows, twos = tabulate(grid, metrics), contrast(grid, metrics, against)
    used = dict.fromkeys(row["metric"] for row in rows)
    tables = {
        "by": grid.by,
        "settings": [grid.label(setting) for setting in grid.settings],
        "samples": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "measures": {name: measure(name).title for name in used},
        "table": rows,
        "pairs": twos,
    }
    folder = Path(folder)
    atomic_files.write(
        folder / "compare.json", json.dumps(tables, indent=1, ensure_ascii=False) + "\n"
    )
    for name, content in (("compare", rows), ("pairs", twos)):
        atomic_files.write(folder / f"{name}.csv", as_csv(content))
        write_parquet(folder / f"{name}.parquet", content)
    return tables


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    lines = csv.DictWriter(out, list(rows[0]) if rows else ["metric"], lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return out.getvalue()


def write_parquet(path: Path, rows: list[Row]) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        return
    if rows:
        buffer = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(rows), buffer)
        atomic_files.write(path, buffer.getvalue())
