"""What a job works with: the models, on their device.

A ModelCache keeps them for the next job of the process as long as their part of the config stays
the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from acgd.config.instantiate import build
from acgd.config.keys import MODELS
from acgd.diffusion.interfaces import Sampler
from acgd.diffusion.model import PictureModel
from acgd.encoders import zero_shot
from acgd.errors import UserError
from acgd.pipeline import compiled, memory
from acgd.pipeline.device import (
    keep_freed_memory,
    pick_device,
    pick_precision,
    repeat_exactly,
)
from acgd.runs.run import canonical
from acgd.types import Captioner, Describer, Encoder, members, sees

# What holds a model goes with it, or there would be two of them while the next one is loaded.
HOLDERS = {"encoder": ("encoder viewer", "describer"), "judge": ("judge viewer", "captioner")}


class ModelCache:
    """The last object of each config group, with what it was made from."""

    def __init__(self):
        self.kept: dict[str, tuple[str, Any]] = {}

    def holds(self, group: str, key: str) -> bool:
        return self.kept.get(group, ("", None))[0] == key

    def get(self, group: str, key: str, make: Callable[[], Any]) -> Any:
        """The group's object if it was made from the same `key`, else a new one.

        The old one's memory is released before the new one's is taken.
        """
        if not self.holds(group, key):
            for name in (group, *HOLDERS.get(group, ())):
                self.kept.pop(name, None)
            self.kept[group] = (key, make())
        return self.kept[group][1]

    def viewer(self, name: str, model: Any, labels: list[str]) -> zero_shot.Viewer:
        """A Viewer whose labels are encoded once for as long as model and labels stay."""
        last = self.kept.get(f"{name} viewer", ("", None))[1]
        if last is None or last.model is not model or last.labels != labels:
            self.kept[f"{name} viewer"] = ("", zero_shot.Viewer(model, labels))
        return self.kept[f"{name} viewer"][1]


CACHE = ModelCache()  # the process's own: a sweep's jobs follow one another in one process


class Models:
    """The models and small parts that a job needs, on their device."""

    def __init__(self, cfg: dict, cache: ModelCache = CACHE, draws: bool = True):
        """draws=False: nothing will be drawn, so that the encoder need not fit the model."""
        self.device = pick_device(cfg["device"])
        large = cfg["precision"] == "auto" and memory.is_large(cfg)
        self.precision = pick_precision(cfg["precision"], self.device, large)
        if self.device.startswith("cuda"):
            repeat_exactly(self.precision)
        if self.device == "cpu":
            keep_freed_memory()
        where = {"device": self.device, "precision": self.precision}

        def once(group: str, **models: Any) -> Any:
            node = cfg[group]
            return cache.get(group, key(node, where), lambda: make(node, **models, **where))

        self.batch_size: int = cfg["batch_size"]
        if cfg["batch_size"] == "auto":  # chosen once, while the models' memory is still free
            counted = {name: cfg[name] for name in (*MODELS, "guidance")}
            self.batch_size = cache.get(
                "batch_size",
                key(counted, where),
                lambda: memory.batch_size(cfg, self.device, self.precision),
            )
            cfg = {**cfg, "batch_size": self.batch_size}
        self.cfg = cfg
        if not cache.holds("model", key(cfg["model"], where)):
            memory.check(cfg, self.device, self.precision)
        self.model: PictureModel = once("model")
        self.encoder: Encoder = once("encoder")
        self.judge: Encoder | None = once("judge") if cfg["judge"]["_target_"] else None
        self.sampler: Sampler = build(cfg["sampler"])
        self.describer: Describer = once("describer", encoder=self.encoder)
        self.captioner: Captioner = once("captioner", judge=self.judge)
        self.labels = zero_shot.read_labels(cfg["labels"])
        self.by_encoder = cache.viewer("encoder", self.encoder, self.labels)
        self.by_judge: zero_shot.Viewer | None = None  # of pictures
        if self.judge and sees(self.judge):
            self.by_judge = cache.viewer("judge", self.judge, self.labels)
        if draws:
            self._check_sight(cfg)
            self._check_condition(cfg)
            self._compile(cfg)

    def _check_sight(self, cfg: dict) -> None:
        """UserError where pictures are to be guided by an encoder that sees none."""
        if cfg["guidance"].get("clip") and not sees(self.encoder):
            raise UserError(
                "this encoder hears and reads, but sees no pictures, so it cannot guide them: let "
                "one that sees join it, encoder=ensemble encoder@encoder.members.a=clip "
                "encoder@encoder.members.b=clap"
            )

    def _check_condition(self, cfg: dict) -> None:
        """UserError where the encoder's embeddings do not fit the model's condition."""
        dim = members(self.encoder)[0].encoder.dim  # an ensemble's first member conditions
        if cfg["guidance"].get("cfg_scale") and self.model.cond_dim not in (0, None, dim):
            raise UserError(
                f"the model's condition has {self.model.cond_dim} numbers, the encoder's "
                f"embeddings {dim}: set guidance.cfg_scale=0 or choose a matching encoder"
            )

    def _compile(self, cfg: dict) -> None:
        """The network and the picture towers that guide, compiled or not, as this job wants."""
        steps = self.model.diffusion(self.sampler.steps).num_timesteps
        on = compiled.wanted(cfg["compile"], self.device, steps)
        seeing = [getattr(one.encoder, "model", None) for one in members(self.encoder)]
        towers = [getattr(model, "visual", None) for model in seeing]
        graphs = on and self.device.startswith("cuda") and not memory.is_large(cfg)
        for module in filter(None, [self.model.unet, *towers]):
            compiled.set_compiled(module, on, graphs)

    def make_room(self) -> None:
        """Before sampling, once the prompts are encoded: towers that wait leave the device where
        a step needs their room. Fetched again for each batch's prompts, they would cost time."""
        if self.device != "cpu" and memory.crowded(self.cfg, self.device, self.precision):
            for model in filter(None, (self.encoder, self.judge)):
                model.park()


def key(node: dict, where: dict) -> str:
    return json.dumps([canonical(node), where], sort_keys=True)


def make(node: dict, **provided: Any) -> Any:
    """build(), with the members of several built first, each on its device and in its precision."""
    if "members" in node:
        built = {name: build(member, **provided) for name, member in node["members"].items()}
        settings = {name: value for name, value in node.items() if name != "members"}
        return build(settings, members=built)
    return build(node, **provided)
