"""Compare settings: acgd compare DIR [--by KEY] [--metrics NAME] [--against SETTING]

    acgd compare outputs/main/sweeps/2026-01-31_12-00-00-000000
    acgd compare outputs/main --by guidance.clip --by sampler
    acgd compare outputs/main --by guidance.clip,seed --metrics image_audio,first
    acgd compare outputs/main --by sampler --against all

DIR is outputs/NAME or a sweep's folder, or several. For every setting of the --by keys (those
that vary, unless given) come the mean over samples and its bootstrap 95 % interval; for every
setting against the first one, or --against another, or all against all, the mean difference over
the same sounds and seeds, its interval, the p-value of a paired permutation test and the same
adjusted for many pairs (Holm). compare.csv, pairs.csv and compare.json (and .parquet where pyarrow
is installed) are written into the first DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from acgd.config.explain import explain
from acgd.errors import UserError, say
from acgd.evaluation import compare, tables
from acgd.evaluation.metrics import MEASURES
from acgd.paths import command
from acgd.runs import records as run_records


def main(arguments: list[str] | None = None) -> int:
    options = read(arguments)
    try:
        records = gather(options.folders)
        asked = {"by": options.by, "metrics": options.metrics, "against": options.against}
        found = compare.write(options.out or options.folders[0], records, **asked)
    except (UserError, OSError) as error:
        say(explain(error))
        return 1
    print(tables.text(found))
    return 0


def read(arguments: list[str] | None) -> argparse.Namespace:
    lines = [f"  {name:18} {one.title} ({one.better})" for name, one in MEASURES.items()]
    parser = argparse.ArgumentParser(
        prog=f"{command()} compare",
        description=__doc__,
        epilog="measures:\n" + "\n".join(lines) + "\n  or any score of metrics.json by its dotted"
        " name: judge.rank, encoder.similarity, twin.judge.similarity",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    keys: dict[str, Any] = {"action": "extend", "type": lambda words: words.split(",")}
    parser.add_argument("--by", metavar="KEY", **keys, help="a config key or group; also several")
    parser.add_argument("--metrics", metavar="NAME", **keys, help="all that have values otherwise")
    parser.add_argument("--against", metavar="SETTING", help="the baseline, or all")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the tables go")
    return parser.parse_args(arguments)


def gather(folders: list[Path]) -> list[run_records.Record]:
    """The folders' records, each run once."""
    records = [record for folder in folders for record in run_records.read(folder)]
    if not records:
        raise UserError(f"{folders[0]}: no runs in here; DIR is outputs/NAME or a sweep's folder")
    once = {record["folder"] or i: record for i, record in enumerate(records)}
    return list(once.values())
