"""hydra/launcher=cluster_ray: jobs on a Ray cluster whose nodes share the folder of the outputs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from acgd.errors import UserError, say
from acgd.sweep.launchers import gpus
from acgd.sweep.launchers.base import Elsewhere, Lost, attempt

PATIENCE = 20  # seconds for the cluster's head to answer


class Ray(Elsewhere):
    """ray.init: where the cluster is; ray.remote: what a job takes of it, num_cpus and so on.

    A worker process keeps its models for its next job, and torch takes num_cpus threads. What jobs
    print is in Ray's own logs; ray.init.log_to_driver=true brings it here.
    """

    heard = False

    def open(self) -> None:
        import ray

        if not ray.is_initialized():
            connect(**self.options["ray"]["init"])

    def spread(self, jobs: dict[int, list[str]]) -> Iterator[tuple[int, Any]]:
        import ray

        run = ray.remote(**{"max_retries": 0, **self.takes()})(attempt)
        work = ray.put(self.work)
        left = {run.remote(work, number, given): number for number, given in jobs.items()}
        while left:
            for ref in ray.wait(list(left))[0]:
                number = left.pop(ref)
                try:
                    yield ray.get(ref)
                except ray.exceptions.RayError as error:
                    what = type(error).__name__
                    yield number, Lost(f"its process was lost ({what}); repeat the command")

    def takes(self) -> dict[str, Any]:
        """What a job takes of the cluster; a GPU where there are any, unless it is said."""
        import ray

        takes = dict(self.options["ray"]["remote"])
        if gpus.wanted(self.device) and ray.cluster_resources().get("GPU"):
            if takes.get("num_gpus") is None:
                takes["num_gpus"] = 1
            elif not takes["num_gpus"]:
                say("jobs get none of this cluster's GPUs: hydra.launcher.ray.remote.num_gpus=0")
        return {name: value for name, value in takes.items() if value is not None}


def connect(address: str | None = None, **options: Any) -> None:
    """Join the cluster; UserError where there is none, which ray itself would wait for in vain."""
    import ray

    asked = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    how = "start one with `ray start --head`, or name its head: hydra.launcher.ray.init.address="
    if asked not in ("auto", "local", None) and not answers(asked):
        raise UserError(f"{asked}: no Ray cluster answers there; {how}HOST:6379")
    try:
        quiet = {"logging_level": "error", "log_to_driver": False}
        ray.init(**{**quiet, **options, "address": asked})
    except ConnectionError:
        raise UserError(f"no Ray cluster runs on this machine; {how}HOST:6379") from None


def answers(address: str) -> bool:
    """Whether the head of a Ray cluster (or, for ray://, its server for clients) is there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        if address.startswith("ray://"):
            return True
        ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        return subprocess.run(ask, capture_output=True, timeout=PATIENCE).returncode == 0
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
