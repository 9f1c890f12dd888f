"""What a job works with: the models, on their device.

Models are built once per process and kept for the next job of a sweep as long as their part of
the config stays the same.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from acgd.config.instantiate import build
from acgd.diffusion.model import PictureModel
from acgd.encoders import zero_shot
from acgd.errors import UserError
from acgd.pipeline import memory
from acgd.pipeline.device import keep_freed_memory, pick_device, pick_precision
from acgd.runs.run import canonical
from acgd.types import members

_built: dict[str, tuple[str, Any]] = {}  # the last object of each config group, with its key
# What holds a model goes with it, or there would be two of them while the next one is loaded.
HOLDERS = {"encoder": ("encoder viewer", "describer"), "judge": ("judge viewer", "captioner")}


class Studio:
    """The models and small parts that a job needs, on their device."""

    def __init__(self, cfg: dict):
        self.device = pick_device(cfg["device"])
        self.precision = pick_precision(cfg["precision"], self.device)
        if self.device.startswith("cuda"):
            torch.backends.cudnn.deterministic = True  # the same bytes twice
        where = {"device": self.device, "precision": self.precision}
        if self.device == "cpu":
            keep_freed_memory()
        if is_new("model", cfg["model"], **where):
            memory.check(cfg, self.device, self.precision)
        self.model: PictureModel = once("model", cfg["model"], **where)
        self.encoder = once("encoder", cfg["encoder"], **where)
        self.judge = once("judge", cfg["judge"], **where) if cfg["judge"]["_target_"] else None
        self.sampler = build(cfg["sampler"])
        self.describer = once("describer", cfg["describer"], {"encoder": self.encoder}, **where)
        self.captioner = once("captioner", cfg["captioner"], {"judge": self.judge}, **where)
        self.labels = zero_shot.read_labels(cfg["labels"])
        self.by_encoder = viewer("encoder", self.encoder, self.labels)
        self.by_judge = viewer("judge", self.judge, self.labels) if self.judge else None
        self.cfg_scale = float(cfg["guidance"].get("cfg") or 0)
        if self.cfg_scale and not self.model.cond_dim:
            self.cfg_scale = 0.0  # nothing to be conditioned on
        dim = members(self.encoder)[0].encoder.dim  # an ensemble's first member conditions
        if self.cfg_scale and self.model.cond_dim != dim:
            raise UserError(
                f"the model's condition has {self.model.cond_dim} numbers, the encoder's "
                f"embeddings {dim}: set guidance.cfg=0 or choose a matching encoder"
            )

    def make_room(self) -> None:
        """Before sampling, once the prompts are encoded: towers that wait leave the device."""
        for model in (self.encoder, self.judge):
            if hasattr(model, "park"):
                model.park()


def once(group: str, node: dict, models: dict[str, Any] | None = None, **known: Any) -> Any:
    """make(), or the object that the last job made from the same config and the same models."""
    if is_new(group, node, **known):
        _built[group] = (key(node, known), make(node, **(models or {}), **known))
    return _built[group][1]


def is_new(group: str, node: dict, **known: Any) -> bool:
    """Whether the group must be made; the old one's memory goes before the new one's comes."""
    if _built.get(group, ("", None))[0] == key(node, known):
        return False
    for name in (group, *HOLDERS.get(group, ())):
        _built.pop(name, None)
    return True


def key(node: dict, known: dict) -> str:
    return json.dumps([canonical(node), known], sort_keys=True)


def make(node: dict, **known: Any) -> Any:
    """build(), with the members of several built first, each on its device and in its precision."""
    if "members" in node:
        built = {name: build(member, **known) for name, member in node["members"].items()}
        own = {name: value for name, value in node.items() if name != "members"}
        return build(own, members=built)
    return build(node, **known)


def viewer(name: str, model: Any, labels: list[str]) -> zero_shot.Viewer:
    """A Viewer whose labels are encoded once for as long as model and labels stay."""
    last = _built.get(f"{name} viewer", ("", None))[1]
    if last is None or last.model is not model or last.labels != labels:
        _built[f"{name} viewer"] = ("", zero_shot.Viewer(model, labels))
    return _built[f"{name} viewer"][1]
