"""The page of a run, of a sweep or of outputs/NAME, made again from the files.

    python scripts/report.py outputs/main/sweeps/2026-03-14_10-00-00-000000
    python scripts/report.py outputs/main
    python scripts/report.py outputs/main/dog-seed0-1a2b3c4d5e6f

Also of a sweep that was killed: what is unfinished is shown as such. Prints the page's path.
"""

from __future__ import annotations

import argparse
import sys

from acgd import report
from acgd.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="+", metavar="DIR")
    code = 0
    for folder in parser.parse_args().folder:
        try:
            print(report.build(folder))
        except (UserError, OSError) as error:
            print(f"acgd: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
