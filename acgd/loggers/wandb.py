"""W&B as a mirror of finished run folders, in a process of its own.

The child imports wandb while the parent samples, is told the folders at the end and has `timeout`
seconds for them. Whatever it does (no network, no key, a prompt, a crash), the run is complete on
disk and the parent goes on with one line. By hand, for folders of any age:

    python -m acgd.loggers.wandb online outputs/main/dog-seed0-*

Everything wandb writes stays in the run's folder, under wandb/.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from acgd.config import one_line
from acgd.loggers.disk import CAPTIONS
from acgd.types import UserError

MODES = ("offline", "online")


class WandB:
    """`mode`: offline (upload later with `wandb sync`) or online; `timeout` in seconds a run."""

    def __init__(
        self,
        mode: str = "offline",
        project: str = "acgd",
        group: str | None = None,
        timeout: float = 60.0,
    ):
        if mode not in MODES:
            raise UserError(f"logger.mode={mode}: choose from {', '.join(MODES)}")
        self.arguments = {"mode": mode, "project": project, "group": group}
        self.timeout, self.child = float(timeout), None

    def begin(self) -> None:
        """Start the child, so that its imports cost no time of their own."""
        try:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "acgd.loggers.wandb"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is the parent's to handle
                env=environment(),
            )
        except OSError as error:
            complain(error)

    def mirror(self, folders: Sequence[Path]) -> None:
        """Record these folders; at worst one line on stderr after `timeout` seconds each."""
        child, self.child = self.child, None
        if child is None:
            return
        order = self.arguments | {"folders": [str(folder.absolute()) for folder in folders]}
        try:
            _, said = child.communicate(
                json.dumps(order).encode(), timeout=self.timeout * max(1, len(folders))
            )
            lines = said.decode(errors="replace").strip().splitlines() or ["it failed in silence"]
            if child.returncode:
                complain(lines[-1])
        except subprocess.TimeoutExpired:
            complain("no answer in time")
        except OSError as error:
            complain(error)
        finally:
            stop(child)


def complain(problem: object) -> None:
    print(f"acgd: W&B: {problem}; the runs' folders hold everything", file=sys.stderr)


def stop(child: subprocess.Popen) -> None:
    """End the child and what it started; nothing is waited for longer than a moment."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, 9)
        except (OSError, AttributeError):
            child.kill()
        child.wait(5)


def environment() -> dict[str, str]:
    """The child's: this package importable from anywhere, and no console of wandb's."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}


def record(folder: Path, mode: str, project: str, group: str | None) -> None:
    """Replay one finished folder into a W&B run whose id is the run's signature."""
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        place = folder / "wandb" / name.lower() if name != "DIR" else folder
        place.mkdir(parents=True, exist_ok=True)
        os.environ[f"WANDB_{name}"] = str(place)
    import wandb

    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        init_timeout=20,
    )
    run = wandb.init(
        id=metrics["signature"],
        name=folder.name,
        dir=str(folder),
        mode=mode,
        project=project,
        group=group or str(config["name"]),
        config=config,
        settings=settings,
    )
    try:
        said = captions(folder / CAPTIONS)
        for row in losses(folder / "losses.csv"):
            step = int(row["step"])
            preview = folder / "previews" / f"step_{step:04d}.png"
            if caption := said.get(f"previews/{preview.name}"):
                row = {**row, "preview": wandb.Image(str(preview), caption=caption)}
            run.log(row, step=step)
        pictures = {
            path.stem: wandb.Image(str(path), caption=metrics["caption"])
            for path in sorted((folder / "images").glob("*.png"))
        }
        run.log(pictures)
        run.summary.update(metrics)
    finally:
        run.finish()


def captions(path: Path) -> dict[str, str]:
    """Picture -> caption; {} where no captioner was asked."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["picture"]: row["caption"] for row in csv.DictReader(file)}


def losses(path: Path) -> list[dict[str, float]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def main(arguments: Sequence[str]) -> None:
    """With arguments MODE FOLDER...; without, as the child of a runner that writes to stdin."""
    import wandb  # its seconds pass before the order comes

    if arguments:
        order = {"mode": arguments[0], "project": "acgd", "group": None, "folders": arguments[1:]}
    else:
        order = json.loads(sys.stdin.read() or "{}")
    folders = [Path(folder).absolute() for folder in order.pop("folders", [])]
    for i, folder in enumerate(folders):
        try:
            record(folder, **order)
        except Exception as error:
            if order["mode"] == "offline":
                raise
            wandb.teardown()  # the id of the run that could not start is free again
            for rest in folders[i:]:
                record(rest, **order | {"mode": "offline"})
            sys.exit(f"recorded offline, for `wandb sync`: {one_line(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
