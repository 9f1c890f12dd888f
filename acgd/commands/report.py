"""The page of a run, of a sweep or of outputs/NAME, made again from the files.

    acgd report outputs/main/sweeps/2026-03-14_10-00-00-000000
    acgd report outputs/main
    acgd report outputs/main/dog-seed0-1a2b3c4d5e6f

Also of a sweep that was killed: what is unfinished is shown as such. Prints the page's path.
"""

from __future__ import annotations

import argparse

from acgd import report
from acgd.errors import UserError, say
from acgd.paths import command


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{command()} report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="+", metavar="DIR")
    code = 0
    for folder in parser.parse_args(arguments).folder:
        try:
            print(report.build(folder))
        except (UserError, OSError) as error:
            say(str(error))
            code = 1
    return code
