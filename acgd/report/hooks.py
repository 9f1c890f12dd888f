"""What is made of the records when a run or a sweep has ended: report.html and the tables."""

from __future__ import annotations

from pathlib import Path

from acgd.errors import say


def of_run(folder: Path) -> None:
    """The run's page. One that fails is a line on stderr and never a failed run."""
    try:
        from acgd import report

        report.build(folder)
    except Exception as error:
        complain(folder, error)


def of_name(folder: Path) -> None:
    """The page of outputs/NAME, where one command made several pictures."""
    try:
        from acgd import report

        print(f"page       {report.build(folder)}")
    except Exception as error:
        complain(folder, error)


def of_sweep(folder: Path) -> None:
    """The sweep's tables and its page."""
    if not any(folder.glob("*/status.json")):
        return
    try:
        from acgd import report
        from acgd.evaluation import compare
        from acgd.runs import records as run_records

        compare.write(folder, run_records.read(folder))
        print(f"page       {report.build(folder)}")
    except Exception as error:
        complain(folder, error)


def complain(folder: Path, error: Exception) -> None:
    say(f"{folder} has no report: {type(error).__name__}: {error}".replace("\n", " "))
