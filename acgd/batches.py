"""Which samples go through the network together, whatever jobs they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator

from acgd import claim
from acgd.config.validate import SCALES
from acgd.sample import Sample

MODELS = ("model", "encoder", "judge", "describer", "captioner")
# What each sample of a batch has for itself. Everything else must be equal.
OWN = ("prompt", "seed", "concept", "references", "heard")
OWN += ("name", "outputs", "force", "debug", "fail_fast", "optimize", "report")


def together(samples: list[Sample]) -> list[list[Sample]]:
    """Groups that may share batches; those with the same models one behind the other."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(company(sample.run.cfg), []).append(sample)
    models: dict[str, list[list[Sample]]] = {}
    for group in groups.values():
        nodes = [group[0].run.cfg[name] for name in MODELS]
        models.setdefault(json.dumps(nodes, sort_keys=True), []).append(group)
    return [group for same in models.values() for group in same]


def company(cfg: dict) -> str:
    """What samples of a batch have in common; equal for those that may share one.

    Of guidance's weights that is whether they are 0 (of cfg, which of the network's ways it takes),
    so that a sample computes, draws and records the same alone as in company.
    """
    shared = {key: value for key, value in cfg.items() if key not in OWN}
    guidance = dict(cfg["guidance"])
    for name in {*SCALES} & guidance.keys():
        guidance[name] = bool(guidance[name])
    if (scale := guidance.get("cfg") or 0) not in (0, 1):
        guidance["cfg"] = "some"
    else:
        guidance["cfg"] = int(scale)
    return json.dumps(shared | {"guidance": guidance}, sort_keys=True)


def batches(group: list[Sample], cfg: dict) -> Iterator[list[Sample]]:
    """Those of a group's batches that are this process's to make, see `acgd.claim`."""
    return claim.turns(group, 1 if cfg["shared_noise"] else cfg["batch_size"])
