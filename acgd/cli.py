"""The command line: compose with Hydra, run the jobs, say in one line what went wrong.

torch is imported by the runner only, when the config has been found good.
Exit code: 0, 1 for any failure, 130 after Ctrl-C.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from acgd import config
from acgd.types import UserError

HERE = Path(__file__).resolve().parent
IN_REPOSITORY = (HERE.parent / "pyproject.toml").is_file() and (HERE.parent / "conf").is_dir()
CONF = HERE.parent / "conf" if IN_REPOSITORY else HERE / "conf"


class Sweep(Callback):
    """Remembers where a sweep's jobs write; told by Hydra at the start of a multirun."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)


def main() -> None:
    """Entry point of `acgd`, `python -m acgd` and `python run.py`."""
    # torch's threads wait asleep: spinning ones starve each other where the cores are shared,
    # and a picture then takes ten times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # -m may stand anywhere: argparse wants overrides in one piece
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    debug = "debug=true" in [argument.lower() for argument in sys.argv[1:]]
    debug = debug or os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on: they are told here
    code = 0
    try:
        start()
    except KeyboardInterrupt:
        say("interrupted; what was finished stays")
        code = 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            say(explain(error))
        code = 1
    sys.exit(max(code, report_sweep()))


def quoted(argument: str) -> str:
    """KEY=VALUE with its value in quotes where Hydra's grammar has no letters for it.

    That is so for emoji, accents, apostrophes and brackets. Lists and sweeps stay as they are.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-") or value[:1] in "[{'\"" or "," in value:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return key + "='" + value.replace("'", r"\'") + "'"
    return argument


def start() -> None:
    """Let Hydra compose and run; raises what went wrong, a lone job's failure included."""
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    if failures:
        raise failures[0]


failures: list[Exception] = []  # of a lone job: raised outside Hydra, which would add its own words


def job(cfg: DictConfig) -> None:
    """One job: in a sweep its failure is written down and the next one starts."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        try:
            work(cfg)
        except Exception as error:
            failures.append(error)
        return
    status = JobStatus(Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task))
    try:
        work(cfg)
        status.write("ok")
    except KeyboardInterrupt:
        status.write("interrupted")
        raise
    except Exception as error:
        status.write("failed", error)
        say(explain(error))
        if cfg.debug:
            traceback.print_exc()


def work(cfg: DictConfig) -> None:
    runs = config.expand(cfg)
    from acgd import runner

    runner.render(runs)


class JobStatus:
    """status.json of a sweep's job: running, ok, failed with its traceback, interrupted."""

    def __init__(self, folder: Path, overrides: list[str]):
        self.path, self.overrides = folder / "status.json", overrides
        self.write("running")

    def write(self, status: str, error: Exception | None = None) -> None:
        from acgd.loggers.disk import write

        content = {"status": status, "overrides": self.overrides}
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            content |= {"error": explain(error), "traceback": trace}
        write(self.path, json.dumps(content, indent=1))


def report_sweep() -> int:
    """After a multirun: a line for each job that did not end well; 1 if there is one."""
    if Sweep.folder is None:
        return 0
    paths = sorted(Sweep.folder.glob("*/status.json"))
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    bad = [job for job in jobs if job["status"] != "ok"]
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if jobs else set()
    for job in bad:
        own = " ".join(one for one in job["overrides"] if one not in common)
        why = job.get("error", "its process ended before it could say why")
        say(f"{job['status']}: {own}: {why}")
    say(f"sweep: {len(jobs) - len(bad)} of {len(jobs)} jobs ok, {Sweep.folder}")
    return 1 if bad else 0


def say(line: str) -> None:
    print(f"acgd: {line}", file=sys.stderr)


def explain(error: BaseException) -> str:
    """An error in one line a person can act on."""
    if isinstance(error, UserError):
        return str(error)
    line = config.one_line(error)
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        if "override_grammar" in line:
            what = line.split(" ^ ")[0].removeprefix("LexerNoViableAltException: ")
            return f"{what}: Hydra cannot read this; give the value its own quotes: KEY='\"...\"'"
        return line + suggestion(line)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else line
    return f"{type(error).__name__}: {line} (debug=true shows where)"


def suggestion(line: str) -> str:
    """For an unknown key, the known ones that look like it."""
    wrong = re.search(r"Could not override '([^']+)'", line)
    if not wrong:
        return ""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        known = dotted_keys(hydra.compose("config"))
    near = difflib.get_close_matches(wrong[1], known, n=3)
    return f" (did you mean {', '.join(near)}?)" if near else ""


def dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a config, "guidance.clip" for nested ones."""
    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            keys += dotted_keys(child, f"{prefix}{key}.")
    return keys
