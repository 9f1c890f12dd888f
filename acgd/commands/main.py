"""Entry point of `acgd`, `python -m acgd` and `python run.py`: which command is meant.

A command's name comes first. Sound files in its place are short for prompt.path=..., and anything
else is a run's overrides, Hydra's to read.
"""

from __future__ import annotations

import atexit
import gc
import sys
from importlib import import_module
from pathlib import Path

from acgd import __version__
from acgd.commands import signals, terminal
from acgd.config.words import quoted
from acgd.errors import UserError, say
from acgd.paths import at_home, command

COMMANDS = {  # name -> module with main(arguments) -> exit code
    "app": "acgd.commands.app",
    "compare": "acgd.commands.compare",
    "report": "acgd.commands.report",
    "repeat": "acgd.commands.repeat",
    "fetch": "acgd.commands.fetch",
    "sync": "acgd.commands.sync_wandb",
    "verify": "acgd.commands.verify",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


RUBBISH = 20_000  # objects made and not freed between two searches for cycles; Python's own is 700


def main() -> None:
    gc.set_threshold(RUBBISH)  # imports make half a million that stay: a tenth of their time
    atexit.register(gc.freeze)  # Python would look through all of it at its end: half a second
    signals.at_once()
    terminal.prepare()
    words = sys.argv[1:]
    if words[:1] in (["--version"], ["-V"]):
        print(f"acgd {__version__}")
        return
    if words and words[0] in COMMANDS:
        command = import_module(COMMANDS[words[0]])
        signals.in_order()
        try:
            sys.exit(command.main(words[1:]))
        except KeyboardInterrupt:
            say(signals.SAID)
            sys.exit(signals.code())
    try:
        sys.argv[1:] = with_files(words)
    except UserError as error:
        say(str(error))
        sys.exit(1)
    from acgd.commands import run

    run.main()


def with_files(words: list[str]) -> list[str]:
    """The words with sound files named alone as prompt.path=...; UserError for other bare words."""
    bare = [word for word in words if is_bare(words, word)]
    if not bare:
        return words
    for word in bare:
        complain_of(word)
    path = bare[0] if len(bare) == 1 else f"[{','.join(map(quoted, bare))}]"
    given = f"prompt.path={path if len(bare) > 1 else quoted(path)}"
    return [given, *(word for word in words if word not in bare)]


def is_bare(words: list[str], word: str) -> bool:
    """Neither KEY=VALUE, nor a flag, nor the value behind one (--config-dir DIR)."""
    at = words.index(word)
    behind = at > 0 and words[at - 1].startswith("-") and words[at - 1] not in ("-m", "--multirun")
    removal = word.startswith("~") and not Path(word).exists()  # Hydra's ~KEY
    return "=" not in word and not word.startswith("-") and not behind and not removal


def complain_of(word: str) -> None:
    """UserError for a bare word that is no sound, with the command that was perhaps meant."""
    suffix = Path(word).suffix.lower()
    if suffix in PICTURES:
        raise UserError(f"{word} is a picture: {command()} prompt=image prompt.image={word}")
    is_input = at_home(word).exists() or word.startswith("demo:") or set("*?[") & set(word)
    if not is_input:
        raise UserError(
            f"{word}: neither a file nor a command ({', '.join(COMMANDS)}); settings are KEY=VALUE,"
            f" see {command()} --help"
        )
