"""Fetch the published files that a run names: acgd fetch [GROUP=NAME | FILE ...]

    acgd fetch model=openai_256 encoder=audioclip captioner=clipcap
    acgd fetch experiment=published
    acgd fetch RN50.pt gpt2
    acgd fetch RN50.pt --mirror https://mirror.example/weights/ --mirror ~/backup/
    acgd fetch RN50.pt --mirror RN50.pt=~/Downloads/RN50-from-elsewhere.pt

It shows what is wanted and the free disk first. What is cut is gone on with the next time; a file
appears in the cache ($ACGD_CACHE or ~/.cache/acgd) when its size and sha256 are right.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from acgd.checkpoints import registry
from acgd.checkpoints.registry import Published, cache_dir, gigabytes
from acgd.errors import UserError
from acgd.paths import command


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when all that was asked for is here, 1, or 130 after Ctrl-C."""
    from acgd.config.explain import explain
    from acgd.errors import say

    try:
        return run(read(arguments))
    except KeyboardInterrupt:
        say("interrupted; what has come stays, the same command resumes with it")
        return 130
    except Exception as error:
        say(explain(error))
        return 1


def read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{command()} fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="*", help="a run's overrides, or names of the table's files; none: the table"
    )
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="PLACE",
        help="a folder of files (URL or path) in place of the table's mirrors, or FILE=PLACE",
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="also write FILE.safetensors beside each, which starts faster; FILE may be a path",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what is wanted")
    return parser.parse_intermixed_args(arguments)


def run(options: argparse.Namespace) -> int:
    """What `main` does; raises UserError for what cannot be."""
    from acgd.errors import say

    if not options.what:
        show(list(registry.table().values()), cache_dir())
        return 0
    rows, files = chosen(options.what)
    for path in files:
        if Path(path).suffix or Path(path).is_file():
            print(f"{path}: a file of your own, {'here' if Path(path).is_file() else 'NOT here'}")
        else:
            print(f"{path}: a name on the Hugging Face hub, which transformers fetches")
    if not rows and not files:
        print("nothing to fetch: all weights that this names are embedded")
    if rows:
        show(rows, cache_dir())
    if options.dry_run:
        return 0
    failures = fetch(rows, cache_dir(), options.mirror)
    for failure in failures:
        say(failure)
    if options.convert and not failures:
        for source in [row.name for row in rows] + files:
            convert(source)
    return 1 if failures else 0


def chosen(what: list[str]) -> tuple[list[Published], list[str]]:
    """The table's files that names and overrides ask for, and the other files that they name."""
    names = [one for one in what if "=" not in one or Path(one).is_file()]
    overrides = [one for one in what if one not in names]
    rows, files = [], []
    for name in names:
        if not (published := registry.named(name)) and not Path(name).expanduser().is_file():
            raise UserError(f"{name}: no published file; {registry.command()} lists them")
        rows += published
        files += [] if published else [name]
    if overrides:
        config = compose(overrides)
        rows += registry.named_in(config)
        files += [one for one in checkpoints_in(config) if not registry.named(one)]
    return list(dict.fromkeys(rows)), list(dict.fromkeys(files))


def compose(overrides: list[str]) -> Any:
    """The config that a run with these overrides has, as plain dicts and lists."""
    from omegaconf import OmegaConf

    from acgd.commands.run import quoted
    from acgd.config.compose import compose as composed

    return OmegaConf.to_container(composed([quoted(one) for one in overrides]), resolve=True)


def checkpoints_in(node: Any) -> list[str]:
    """Every `checkpoint:` of a config that is not embedded."""
    if isinstance(node, list):
        return [one for value in node for one in checkpoints_in(value)]
    if not isinstance(node, dict):
        return []
    checkpoint = node.get("checkpoint")
    here = (
        [checkpoint]
        if isinstance(checkpoint, str) and not checkpoint.startswith("embedded:")
        else []
    )
    return here + [one for value in node.values() for one in checkpoints_in(value)]


def show(rows: list[Published], cache: Path) -> None:
    """A line for each file, what they come to together, and the room that there is."""
    from acgd.checkpoints.download import free_bytes

    for row in rows:
        size = ("" if row.size else "~") + gigabytes(row.about) if row.about else "?"
        note = "" if row.sha256 else ", hash not known"
        print(f"{row.name:45} {size:>8}  {state(row, cache):16} {row.licence}{note}")
        print(f"    {row.purpose}")
    total = sum(row.about for row in rows)
    print(
        f"together {gigabytes(total)}, of which to fetch {gigabytes(wanted(rows, cache))};"
        f" {cache} has {gigabytes(free_bytes(cache))} free"
    )


def state(row: Published, cache: Path) -> str:
    from acgd.checkpoints.download import part_of, size_of

    place = cache / row.name
    if place.is_file():
        return "here"
    if came := size_of(part_of(place)):
        return f"{gigabytes(came)} came"
    return "to fetch" if row.mirrors else "by hand"


def wanted(rows: list[Published], cache: Path) -> int:
    """Bytes that are still to come, as far as they are known."""
    from acgd.checkpoints.download import part_of, size_of

    missing = [row for row in rows if not (cache / row.name).is_file() and row.mirrors]
    return sum(max(row.about - size_of(part_of(cache / row.name)), 0) for row in missing)


def fetch(rows: list[Published], cache: Path, mirrors: list[str]) -> list[str]:
    """Bring every file that is not here into the cache; returns why those failed that did."""
    from acgd.checkpoints.download import Patience, download, need_room

    need_room(cache, wanted(rows, cache))
    failures = []
    for row in rows:
        try:
            came = download(row, cache / row.name, mirrors_of(row, mirrors), Patience())
            print(f"{row.name}: {came}")
        except UserError as error:
            failures.append(str(error))
    return failures


def mirrors_of(row: Published, given: list[str]) -> list[str]:
    """This file's (NAME=PLACE) and any file's of the command line, else the table's."""
    exact = [one.removeprefix(f"{row.name}=") for one in given if one.startswith(f"{row.name}=")]
    others = [name for name in registry.table() if name != row.name]
    folders = [
        f"{one.rstrip('/')}/{row.name}"
        for one in given
        if not one.startswith(tuple(f"{name}=" for name in (row.name, *others)))
    ]
    return exact + folders or list(row.mirrors)


def convert(source: str) -> None:
    """Write the .safetensors twin, and say where and how long it took."""
    from acgd.checkpoints import load as checkpoints

    if not source.endswith((".pt", ".pth", ".tar", ".ckpt", ".bin")):
        return
    begun = time.perf_counter()
    twin = checkpoints.convert(source)
    size = gigabytes(os.path.getsize(twin))
    print(f"{twin}: {size}, written in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
