"""Finished and failed run folders as W&B runs: the child of `acgd.loggers.wandb` and `acgd sync`.

Each line of stdin is an order {"folder", "mode", "project", "group", "job_type", "tags",
"timeout"}; the answer has "error" where something went wrong, and "whose" fault it is: the
folder's, or W&B's. Online runs that cannot be sent are recorded offline unless "strict" is true.
What was mirrored is written down in the run's folder, in wandb/mirrored.json.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from acgd.atomic_files import write
from acgd.errors import UserError, one_line
from acgd.media import texts
from acgd.media.find import resolve
from acgd.runs import folder as folders
from acgd.runs.folder import CAPTIONS

MARK = "wandb/mirrored.json"
LARGEST_SOUND = 10 * 2**20  # bytes that are sent
_unsent = ""  # why online runs are recorded offline from now on


def obey(order: dict) -> dict:
    """Replay the folder; {} or what went wrong."""
    global _unsent
    folder, strict = Path(order.pop("folder")), order.pop("strict", False)
    try:
        about = read(folder)
    except Exception as error:
        return {"whose": "folder", "error": f"{folder.name}: {one_line(error)}"}
    if order["mode"] == "online" and _unsent:
        order["mode"] = "offline"
    try:
        send(folder, about, **order)
    except Exception as error:
        if strict or order["mode"] == "offline":
            return {"whose": "wandb", "error": reason(error)}
        import wandb

        wandb.teardown()  # the id of the run that could not start is free again
        _unsent = f"recorded offline: {reason(error)}"
        return {**obey({**order, "folder": folder}), "error": _unsent}
    return {}


def reason(error: Exception) -> str:
    """wandb's words without its advice to wait longer."""
    return one_line(error).split(" Consider increasing")[0]


def read(folder: Path) -> dict:
    """What W&B is told of a run; raises where its folder is not one of a finished or failed run."""
    if folders.state(folder).get("status") == "failed":
        return failure(folder)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    config = texts.tree(texts.text(folder / "config.yaml", "config.yaml"))
    pictures = sorted((folder / "images").glob("*.png"))
    if not pictures or not isinstance(metrics, dict) or not isinstance(config, dict):
        raise ValueError("this is not the folder of a finished run")
    return {
        "id": metrics["signature"],
        "caption": metrics["caption"],
        "config": config,
        "pictures": pictures,
        "losses": rows(folder / "losses.csv"),
        "said": {row["picture"]: row["caption"] for row in rows(folder / CAPTIONS)},
        "summary": plot_names(metrics),
    }


def failure(folder: Path) -> dict:
    """What W&B is told of a run that failed: its settings, how far it came and why it ended."""
    state = folders.state(folder)
    return {
        "id": state["signature"],
        "caption": "",
        "config": texts.tree(texts.text(folder / "config.yaml", "config.yaml")),
        "pictures": [],
        "losses": rows(folder / "losses.csv"),
        "said": {},
        "summary": {"status": "failed", "error": state.get("error", "")},
    }


def send(
    folder: Path,
    about: dict,
    mode: Literal["offline", "online"],
    project: str,
    group: str | None,
    job_type: str,
    tags: list[str],
    timeout: float,
) -> None:
    """One W&B run: losses and previews by step, pictures, scores."""
    import wandb

    config = about["config"]
    group = group or str(config["name"])
    kinds = [str(config["name"]), part(config["sampler"]), part(config["prompt"]), *tags]
    run = wandb.init(
        id=identity(about["id"]),
        name=folder.name,
        dir=str(folder),
        mode=mode,
        project=project,
        group=group,
        job_type=job_type,
        tags=list(dict.fromkeys(kind[:64] for kind in kinds)),  # W&B takes no longer ones
        config=config,
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_machine_info=True,
            init_timeout=timeout / 3,
        ),
    )
    try:
        for row in about["losses"]:
            known: dict[str, Any] = {
                key: float(value) for key, value in row.items() if value not in ("", None)
            }
            step = int(known["step"])
            name = f"previews/step_{step:04d}.png"
            if name in about["said"] and (folder / name).is_file():
                known["preview"] = wandb.Image(str(folder / name), caption=about["said"][name])
            run.log(known, step=step)
        images = {
            image_name(path): wandb.Image(str(path), caption=about["caption"])
            for path in about["pictures"]
        }
        sound = sound_of(folder, config)
        heard = {} if sound is None else {"sound": wandb.Audio(str(sound), caption=folder.name)}
        run.log({**images, **heard, **about["summary"]})
        run.summary.update(about["summary"])
    finally:
        run.finish(exit_code=int(about["summary"].get("status") == "failed"))
    mark = {"mode": mode, "project": project, "group": group, "id": run.id, "of": digest(folder)}
    write(folder / MARK, json.dumps(mark, indent=1) + "\n")


def image_name(path: Path) -> str:
    """A key that runs of all seeds share: seed3.png is the picture, seed3-twin.png the twin."""
    return path.stem.partition("-")[2] or "picture"


def sound_of(folder: Path, config: dict) -> Path | None:
    """The sound as the page plays it, cut to what was heard, else the prompt's own file."""
    path = (config.get("prompt") or {}).get("path")
    places = [folder / "report" / "sound.mp3"] if path else []
    with suppress(UserError):  # a demo sound of another version
        places += [resolve(str(path))] if path else []
    return next((p for p in places if p.is_file() and p.stat().st_size <= LARGEST_SOUND), None)


def identity(signature: str) -> str:
    """The run's id: its signature, or once what `wandb agent` gave this process."""
    agent = os.environ.pop("WANDB_SWEEP_ID", None)
    given = os.environ.pop("WANDB_RUN_ID", None)
    if agent and given:
        os.environ["WANDB_SWEEP_ID"] = agent
        return given
    return signature


def part(node: dict) -> str:
    """ "ddim" for acgd.diffusion.samplers.ddim.DDIM."""
    return str(node["_target_"]).split(".")[-2]


def plot_names(node: dict, prefix: str = "") -> dict:
    """Scores by names that W&B can plot: "judge/similarity", "twin/judge/similarity"."""
    names: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            names |= plot_names(
                value, prefix if key == "picture" and not prefix else f"{prefix}{key}/"
            )
        else:
            names[f"{prefix}{key}"] = value
    return names


def rows(path: Path) -> list[dict[str, str]]:
    """A csv's rows; [] where there is no such file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> str:
    """Changes when the run is made again with other results."""
    failed = folders.state(folder).get("status") == "failed"
    told = (folder / ("status.json" if failed else "metrics.json")).read_bytes()
    return hashlib.sha256(told).hexdigest()[:12]


def mirrored(folder: Path, mode: str) -> bool:
    """Whether this state of the run is in W&B already; an offline record is not, for `online`."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return mark["of"] == digest(folder) and mode in ("offline", mark["mode"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def main() -> None:
    """Answer each line of stdin; whatever wandb prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as place:
        for name in ("DATA", "CACHE", "ARTIFACT"):  # else wandb writes into the user's home
            os.environ.setdefault(f"WANDB_{name}_DIR", place)
        import wandb  # its seconds pass before the first order comes

        for line in sys.stdin:
            print(json.dumps(obey(json.loads(line))), file=answers, flush=True)
        wandb.teardown()


if __name__ == "__main__":
    main()
