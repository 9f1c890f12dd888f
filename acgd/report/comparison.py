"""The comparison's tables as the page shows them: a card for each measure, one set for each key."""

from __future__ import annotations

from pathlib import Path

from acgd.evaluation import compare
from acgd.evaluation.metrics import measure
from acgd.evaluation.pairing import Grid
from acgd.runs import records as run_records
from acgd.runs.records import Record

MOST = 40  # settings that are compared on the page; compare.csv has them all


def tables(folder: Path, records: list[Record], keys: list[str]) -> list[dict]:
    """By all that varies together, then by each key alone: {"by", "cards"} each.

    Empty where there are not two finished samples. Writes compare.csv and its like, unless they
    are newer than all records.
    """
    if sum(record["status"] == "ok" for record in records) < 2:
        return []
    found = []
    if len(combinations(records, keys)) <= MOST:
        content = run_records.parse(folder / "compare.json") if up_to_date(folder, records) else {}
        if content.get("by") != keys:
            content = compare.write(folder, records)
        found.append(shown(keys, content["measures"], content["table"], content["pairs"]))
    for key in keys if len(keys) > 1 else []:
        if len(combinations(records, [key])) <= MOST:
            table, pairs = compare.table(records, [key]), compare.pairs(records, [key])
            titles = {row["metric"]: measure(row["metric"]).title for row in table}
            found.append(shown([key], titles, table, pairs))
    return [one for one in found if one["cards"]]


def combinations(records: list[Record], keys: list[str]) -> set[tuple]:
    return set(zip(*(run_records.values(records, key) for key in keys), strict=True))


def up_to_date(folder: Path, records: list[Record]) -> bool:
    """Whether compare.json was written after every run's last word."""
    paths = [record["folder"] / "status.json" for record in records if record["folder"]]
    try:
        written = (folder / "compare.json").stat().st_mtime
        return all(path.stat().st_mtime < written for path in paths)
    except OSError:
        return False


def shown(by: list[str], titles: dict[str, str], table: list[dict], pairs: list[dict]) -> dict:
    """A card for each measure.

    means: [setting, mean, low, high, n, failed]; pairs: [a, b, difference, low, high, n, p].
    """
    grid = Grid(by, [], [])
    cards = []
    for metric, title in titles.items():
        rows = [row for row in table if row["metric"] == metric]
        twos = [row for row in pairs if row["metric"] == metric]
        label = {id(row): grid.label(tuple(row[key] for key in by)) for row in rows}
        chances = [row["chance"] for row in rows if row["chance"] is not None]
        cards.append(
            {
                "metric": metric,
                "title": title,
                "better": rows[0]["better"],
                "chance": chances[0] if chances else None,
                "means": [
                    [label[id(row)], *(row[key] for key in ("mean", "low", "high", "n", "failed"))]
                    for row in rows
                ],
                "pairs": [
                    [row[key] for key in ("a", "b", "difference", "low", "high", "n", "p_holm")]
                    for row in twos
                ],
            }
        )
    return {"by": ", ".join(by), "cards": cards}
