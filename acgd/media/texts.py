"""One way in for every list in a text file: labels, a describer's words, tables, yamls."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from acgd.errors import UserError, one_line, say_once
from acgd.media import files

LARGEST = 16 * 2**20  # bytes
DEEPEST = 50  # levels of a yaml


# a name of its own, since a type checker follows no expression where a class is asked for
Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(Fastest):
    """Reads numbers as OmegaConf writes them: 1e-05 is one although it has no point."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def text(path: Path, key: str) -> str:
    """The text of a UTF-8 file, without a byte order mark; UserError, naming `key`, for others."""
    files.regular(path, key, "text", LARGEST)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        kind = files.looks_like(files.head(path)) or "not a text in UTF-8"
        raise UserError(f"{key}: {path} cannot be read as a text: it is {kind}") from None
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read as a text ({error.strerror})") from None


def tree(text: str) -> Any:
    """What a yaml's text holds; UserError for what is none, and for what would never end.

    A few lines of aliases to aliases are billions of values, and deep nesting is a full stack.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError("its yaml holds an alias (*), which is not read here")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"its yaml is more than {DEEPEST} levels deep")
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"its yaml cannot be read ({one_line(error)})") from None


def rows(path: Path, key: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """A csv's rows, these columns of them; UserError where its header lacks one, or a row does."""
    content = text(path, key)
    try:
        table = csv.DictReader(io.StringIO(content, newline=""), skipinitialspace=True)
        names = [name.strip() for name in table.fieldnames or ()]
        if missing := [column for column in columns if column not in names]:
            raise UserError(
                f"{key}: {path} has no column {' or '.join(missing)}; its first line is to name "
                f"the columns {', '.join(columns)}"
            )
        table.fieldnames = names
        cells = [tuple(row[column] for column in columns) for row in table]
    except csv.Error as error:
        raise UserError(f"{key}: {path} cannot be read as a csv ({error})") from None
    for number, row in enumerate(cells, start=2):
        if None in row:
            raise UserError(f"{key}: {path} lacks columns in its row {number}")
    return cells


def labels(path: Path, key: str, column: str = "concept") -> list[str]:
    """The labels of a text file, one a line ("#" starts a comment), or of a csv's column.

    With spaces for underscores and each once, in capitals or not: what comes again is named.
    UserError where there are none.
    """
    if path.suffix.lower() == ".csv":
        given = [row[0] for row in rows(path, key, [column])]
    else:
        given = text(path, key).splitlines()
    seen: dict[str, str] = {}
    again = []
    for line in given:
        label = spaced(line)
        if not label or label[0] == "#":
            continue
        if plain(label) in seen:
            again.append(label)
        seen.setdefault(plain(label), label)
    if not seen:
        raise UserError(f"{key}: {path} holds no labels (one a line)")
    if again:
        say_once(f"{key}: {path} has these more than once: {', '.join(dict.fromkeys(again))}")
    return list(seen.values())


def plain(label: str) -> str:
    """A label to compare by, in small letters with single spaces: "Dog_Bark" is "dog bark"."""
    return spaced(label).lower()


def spaced(label: str) -> str:
    return " ".join(label.replace("_", " ").split())
