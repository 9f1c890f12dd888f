"""What compare.write found, for a terminal of 100 columns."""

from __future__ import annotations

from acgd.evaluation.compare import Row

LABEL = 36  # letters of a setting's name; longer ones lose their middle


def text(tables: dict) -> str:
    """Two tables for each measure: the settings, and their differences."""
    counts = ", ".join(f"{n} {status}" for status, n in tables["samples"].items())
    lines = [f"samples: {counts or 'none'}"]
    if "failed" in tables["samples"]:
        lines[0] += " (the failed ones count nowhere; their status.json says why)"
    for metric, title in tables["measures"].items():
        rows = [row for row in tables["table"] if row["metric"] == metric]
        lines += ["", f"{title} [{metric}, {rows[0]['better']} is better]"]
        lines += means(rows, tables["by"], tables["settings"])
        lines += differences([row for row in tables["pairs"] if row["metric"] == metric])
    return "\n".join(lines)


def means(rows: list[Row], by: list[str], labels: list[str]) -> list[str]:
    header = [", ".join(by), "mean", "95 % interval", "values", "chance", "failed"]
    cells = [
        [
            short(label),
            number(row["mean"]),
            span(row["low"], row["high"]),
            str(row["n"]),
            number(row["chance"]),
            f"{row['failed']} of {row['samples']}" if row["failed"] else "",
        ]
        for label, row in zip(labels, rows, strict=True)
    ]
    return aligned([short(header[0] or "setting"), *header[1:]], cells)


def differences(rows: list[Row]) -> list[str]:
    """A table for each baseline; its rows are the others less the baseline."""
    lines = []
    for base in dict.fromkeys(row["a"] for row in rows):
        header = [f"less {short(base)}", "mean", "95 % interval", "pairs", "p", "Holm", "unpaired"]
        cells = [
            [
                short(row["b"]),
                number(row["difference"], "+"),
                span(row["low"], row["high"], "+"),
                str(row["n"]),
                chance(row["p"]),
                chance(row["p_holm"]),
                str(row["unpaired_a"] + row["unpaired_b"] or ""),
            ]
            for row in rows
            if row["a"] == base
        ]
        lines += aligned(header, cells)
    return lines


def aligned(header: list[str], cells: list[list[str]]) -> list[str]:
    """Lines of a table, its first column to the left; columns without content are left out."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in cells)]
    rows = [[row[i] for i in kept] for row in [header, *cells]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def short(label: str) -> str:
    """The beginning and the end of a long label."""
    half = LABEL // 2 - 1
    return label if len(label) <= LABEL else f"{label[:half]}..{label[-half:]}"


def number(x: float | None, sign: str = "") -> str:
    if x is None:
        return ""
    digits = 3 if abs(x) < 10 else 1 if abs(x) < 1000 else 0
    return f"{x:{sign}.{digits}f}"


def span(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None else f"{number(low, sign)} to {number(high, sign)}"


def chance(p: float | None) -> str:
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
