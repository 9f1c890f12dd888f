"""A process of its own that hears and draws, so that the page answers while it works.

It keeps the models warm from one job to the next. A job is stopped as Ctrl-C stops a command: what
is finished stays, and the same job later goes on from its snapshot. What a job tells comes as
events, dicts with one of the keys

    sound    what is heard: label, heard, described, image (WebP bytes)
    batch    the folders that are drawn into from now on, and `total`, their steps
    note     a line that is worth showing
             and whether it is a `film`
    picture  a finished run, as acgd.Picture, and whether it was `made_before`
    error    the one line that says what is wrong
    done     the last event: "ok", "failed" or "stopped"

and, each `TICK`, `{}`, for whoever watches the folders grow.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

TICK = 0.15  # seconds
PATIENCE = 8.0  # seconds that a stopped job has to write down where it stood


class Worker:
    """The process as the page sees it; one job at a time."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.owner: str | None = None  # whose job it is at work on
        self.stopped = threading.Event()
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True, name="acgd worker")
        self.process.start()
        other.close()

    def ask(self, owner: str, kind: str, words: list[str]) -> Iterator[dict[str, Any]]:
        """The events of a job; kind: "hear" or "draw", words: a command line's overrides.

        Closing the iterator stops the job.
        """
        with self.turn:
            self.owner = owner
            self.stopped.clear()
            try:
                yield from self.events(kind, words)
            finally:
                self.owner = None

    def events(self, kind: str, words: list[str]) -> Iterator[dict[str, Any]]:
        if not self.process.is_alive():
            self.start()
        self.pipe.send((kind, words))
        done = False
        try:
            while not done and not self.stopped.is_set():
                event = self.next_event()
                done = "done" in event
                yield event
        finally:
            if not done:
                self.end_job()
        if not done:
            yield {"done": "stopped"}

    def next_event(self) -> dict[str, Any]:
        try:
            return self.pipe.recv() if self.pipe.poll(TICK) else {}
        except (EOFError, OSError):  # killed, out of memory
            self.start()
            return {"error": "the process that draws has ended; try again", "done": "failed"}

    def end_job(self) -> None:
        """Interrupt the job and wait until it has said that it ended; a process that does not is
        ended itself, at the cost of what came after its last snapshot."""
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, signal.SIGINT)
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(EOFError, OSError):
            while time.monotonic() < until:
                if self.pipe.poll(TICK) and "done" in self.pipe.recv():
                    return
        self.process.kill()
        self.start()

    def stop(self, owner: str) -> bool:
        """End the owner's job, nobody else's; whether there was one."""
        if self.owner != owner:
            return False
        self.stopped.set()
        return True

    def wait(self) -> None:
        """Until Ctrl-C."""
        threading.Event().wait()

    def close(self) -> None:
        self.process.terminate()


def serve(pipe: Connection) -> None:
    """The process: jobs one after another until the page is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the page
    from acgd.pipeline import face

    with contextlib.suppress(Exception):  # whatever is wrong is said of the first job
        face.hear("demo:horse", "logger=none")  # nobody waits for the models then
    while True:
        try:
            kind, words = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send({"done": work(pipe, kind, words)})


def work(pipe: Connection, kind: str, words: list[str]) -> str:
    """One job; how it ended."""
    from acgd.config.explain import explain
    from acgd.errors import printable

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return {"hear": hear, "draw": draw}[kind](pipe, words)
    except KeyboardInterrupt:
        return "stopped"
    except Exception as error:
        pipe.send({"error": printable(explain(error))})
        return "failed"
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def hear(pipe: Connection, words: list[str]) -> str:
    from acgd.pipeline import face
    from acgd.report import waveforms

    (sound,) = face.hear(None, *words)
    about = {"label": sound.label, "heard": sound.heard, "described": sound.described}
    pipe.send({"sound": about | {"image": waveforms.drawn(sound.wave)}})
    return "ok"


def draw(pipe: Connection, words: list[str]) -> str:
    from acgd.config.explain import explain
    from acgd.errors import printable
    from acgd.pipeline import face, outputs, runner, sampling, settings
    from acgd.prompts import vocabulary
    from acgd.runs import environment
    from acgd.runs.run import is_film

    runs, failed = face.runs_of(words, None), False

    def begun(batch: list, models: Any) -> None:
        for label, near in outputs.unknown(batch, models, set()).items():
            pipe.send({"note": vocabulary.drawn_as(label, near)})
        chosen = settings.read([one.run.cfg for one in batch], batch[0].init_image)
        total = sampling.count_steps(models, chosen)
        film = is_film(batch[0].run.cfg)
        pipe.send({"batch": [one.run.folder for one in batch], "total": total, "film": film})

    with environment.command(["acgd", *words]):
        for sample in runner.make(runs, begun):
            if sample.error is None:
                picture = face.read(sample.run, words)
                pipe.send({"picture": picture, "made_before": sample.made_before})
            else:
                failed = True
                pipe.send({"error": printable(explain(sample.error))})
    return "failed" if failed else "ok"
