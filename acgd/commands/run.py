"""The command line: compose with Hydra, run the jobs, say in one line what went wrong.

torch is imported by the runner only, when the config has been found good.
Exit code: 0, 1 for any failure, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from acgd import atomic_files
from acgd.commands import signals
from acgd.config import words
from acgd.config.compose import config_dir_of, own_parts, refuse_no_part
from acgd.config.explain import explain
from acgd.errors import UserError, causes, say
from acgd.paths import CONF
from acgd.runs.run import expand
from acgd.sweep.jobs import FAILED, STOPPED, Job, summary

LONG = 2000  # values that take seconds to read


class Sweep(Callback):
    """Remembers where a sweep's jobs write; told by Hydra at the start of a multirun."""

    folder: Path | None = None
    page = True

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        signals.in_order()
        with suppress(OSError, OmegaConfBaseException):  # the sweeper comes upon it, and it is told
            Sweep.folder = Path(config.hydra.sweep.dir)
            Sweep.page = config.report
            Sweep.folder.mkdir(parents=True, exist_ok=True)  # optuna opens its file before any job


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or SIGTERM behind an error; Hydra makes one of its own of what stops a compose."""
    return next((one for one in causes(error) if isinstance(one, KeyboardInterrupt)), None)


def main() -> None:
    """Entry point of `acgd`, `python -m acgd` and `python run.py`."""
    # -m may stand anywhere: argparse wants overrides in one piece
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    debug = "debug=true" in [argument.lower() for argument in sys.argv[1:]]
    debug = debug or os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on: they are told here
    code = 0
    try:
        longest = max((argument.count(",") + 1 for argument in sys.argv[1:]), default=0)
        if longest > LONG:
            say(f"reading a list of {longest} values, {longest / 400:.0f} s")  # Hydra's parser
        refuse_no_part(sys.argv[1:])
        if folder := config_dir_of(sys.argv[1:]):
            own_parts(folder)
        start()
    except (Exception, KeyboardInterrupt) as error:
        code = 1
        if signals.asked or interruption(error):  # libraries make other errors of it
            say(signals.SAID)
            code = signals.code() or 130
        elif debug:
            traceback.print_exc()
        else:
            say(explain(error))
    code = max(code, end_sweep(code))
    signals.at_once()
    sys.exit(code)


def quoted(argument: str) -> str:
    """KEY=VALUE with its value in quotes where Hydra's grammar has no letters for it.

    That is so for emoji, accents, apostrophes and brackets. Lists and sweeps stay as they are, and
    the name of a file that is there stands for nothing else, whatever it looks like.
    """
    key, equals, value = argument.partition("=")
    if "${" in value and os.path.lexists(value):
        return f"{key}={words.quoted(value)}"
    if not equals or key.startswith("-") or value[:1] in "[{'\"" or "," in value:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return key + "='" + value.replace("'", r"\'") + "'"
    return argument


def start() -> None:
    """Let Hydra compose and run; raises what went wrong, a lone job's failure included."""
    plugins: Any = Plugins.instance()  # Hydra imports its own once more for that
    from acgd.sweep import plugin
    from acgd.sweep.launchers import registry

    plugins.class_name_to_class |= plugin.REPLACED | registry.REPLACED
    Hydra.get_mode = GET_MODE if may_say_mode(sys.argv[1:]) else no_mode  # type: ignore
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    if failures:
        raise failures[0]


GET_MODE = Hydra.get_mode


def no_mode(*_: Any, **__: Any) -> None:
    """That hydra.mode is not set, without composing the whole config to see."""


def may_say_mode(arguments: list[str]) -> bool:
    """Whether something may set hydra.mode: a flag, a key of Hydra's. Nothing in conf/ does."""
    return any(not re.match(r"[+~]*(?!hydra)[\w.@/]+=", argument) for argument in arguments)


failures: list[Exception] = []  # of a lone job: raised outside Hydra, which would add its own words


def job(cfg: DictConfig) -> float | None:
    """A lone job, or one of a sweep whose launcher gives each a process; its value.

    In a sweep its failure is written down, and the others go on.
    """
    from acgd.pipeline import runner

    signals.in_order()
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        try:
            runner.render(expand(cfg))
        except Exception as error:
            failures.append(error)
        return None
    this_job = Job(Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task))
    if cfg.fail_fast and (this_job.folder.parent / FAILED).exists():
        this_job.write("not started", UserError(STOPPED))
        return this_job.value()
    try:
        this_job.announce(this_job.expand(cfg), "running")
        runner.render(this_job.runs)
        this_job.write("ok")
    except KeyboardInterrupt:
        this_job.write("interrupted")
        raise
    except Exception as error:
        this_job.fail(error)
        if cfg.debug:
            traceback.print_exc()
    return this_job.value()


def end_sweep(code: int) -> int:
    """After a multirun: its failures and its page; 1 if a job did not end well."""
    if Sweep.folder is None:
        return 0
    code = max(code, summary(Sweep.folder))
    if Sweep.page and code < 130:
        from acgd.report import hooks

        hooks.of_sweep(Sweep.folder)
    with suppress(OSError):  # tables and pages can be made again
        atomic_files.flush([Sweep.folder])
    return code
