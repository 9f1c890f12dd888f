"""The Python face: `acgd.draw` and `acgd.steps`, with the same config as the command line."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acgd.config.compose import compose
from acgd.config.explain import explain
from acgd.config.words import quoted
from acgd.errors import UserError
from acgd.paths import home
from acgd.pipeline import runner
from acgd.runs import environment
from acgd.runs.records import flat
from acgd.runs.run import Run, expand


@dataclass
class Picture:
    """A finished run, read from its folder; shows itself in a notebook."""

    folder: Path
    seed: int
    label: str  # of the sound, else the text
    command: str  # makes exactly this on the command line
    heard: list[tuple[str, float]] = field(default_factory=list)  # what, and how likely
    described: str = ""  # the sound in words
    caption: str = ""  # the picture in words
    scores: dict[str, Any] = field(default_factory=dict)  # by judge and encoder, see metrics.json

    @cached_property
    def image(self) -> Image.Image:
        """The picture as it is looked at (enlarged where the model is small)."""
        with Image.open(self.folder / "images" / f"seed{self.seed}.png") as image:
            return image.convert("RGB")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode()
        heard = ", ".join(f"{label} {100 * p:.0f} %" for label, p in self.heard[:3])
        lines = [f"<b>{html.escape(self.label)}</b>, seed {self.seed}"]
        lines += [html.escape(line) for line in (heard, self.described, self.caption) if line]
        return (
            f'<figure style="display:inline-block;margin:4px;max-width:260px">'
            f'<img src="data:image/png;base64,{data}" width="256">'
            f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
        )


class Pictures(list[Picture]):
    """What `draw` returns: a list that shows all its pictures in a notebook."""

    def _repr_html_(self) -> str:
        return "".join(picture._repr_html_() for picture in self)


class Frame:
    """A step on its way to the picture, for loops of one's own."""

    def __init__(self, step: Any, model: Any):
        self.step, self._model = step, model
        self.index, self.total, self.losses = step.index, step.total, step.losses

    @cached_property
    def images(self) -> list[Image.Image]:
        """The prediction of each sample's picture as it stands; decoded when it is asked for."""
        return self._pictures(self.step.x0)

    @cached_property
    def samples(self) -> list[Image.Image]:
        """The samples themselves, noise included; after the last step, the pictures."""
        return self._pictures(self.step.x)

    def _pictures(self, x: Any) -> list[Image.Image]:
        from acgd.pipeline.sampling import to_bytes

        pixels = to_bytes(self._model.decode(x)).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(one) for one in pixels]


def draw(
    sound: Any = None,
    *overrides: str,
    sample_rate: int | None = None,
    text: str | Sequence[str] | None = None,
    image: str | Path | None = None,
    config_dir: str | Path | None = None,
    **options: Any,
) -> Pictures:
    """Pictures of sounds, words or pictures, one for each sound and seed.

    sound: a file, a list of files, a folder, a glob, "demo:dog", or samples (T,) or (T, channels)
    in [-1, 1] with their `sample_rate` in Hz; none: the demo sound. With `text` both steer.
    overrides: as on the command line, "guidance.clip=500"; options: the same as keywords, nested
    ones as dicts: seed=[0, 1], sampler="ddim", guidance={"clip": 500}. config_dir: a folder of
    configs of your own. Finished runs are read, not made again; interrupted ones resume.
    Raises UserError for whatever the command line would refuse, KeyboardInterrupt on Ctrl-C.
    """
    words = spelled(sound, sample_rate, text, image, overrides, options)
    runs = runs_of(words, config_dir)
    with environment.command(["acgd", *words]):
        errors = [one.error for one in runner.make(runs) if one.error is not None]
    if errors:
        error = errors[0]
        raise error if isinstance(error, UserError) else UserError(explain(error)) from error
    return Pictures(read(run, words) for run in runs)


def steps(
    sound: Any = None,
    *overrides: str,
    sample_rate: int | None = None,
    text: str | Sequence[str] | None = None,
    image: str | Path | None = None,
    config_dir: str | Path | None = None,
    sampler: Any = None,
    **options: Any,
) -> Iterator[Frame]:
    """The steps of the same runs as `draw`'s, as one batch; nothing is written.

    sampler: a name, or a sampler of your own: an object that is called as those in
    acgd/diffusion/samplers are.
    """
    from acgd.pipeline import settings
    from acgd.pipeline.models import Models
    from acgd.pipeline.sample import Sample
    from acgd.pipeline.sampling import sample
    from acgd.pipeline.targets import listen, look

    options |= {"sampler": sampler} if isinstance(sampler, str) else {}
    words = spelled(sound, sample_rate, text, image, overrides, options)
    runs, opened, heard = runs_of(words, config_dir), dict[str, Any](), dict[str, Any]()
    batch = [Sample(run) for run in runs]
    for one in batch:
        look(one, opened)
    models = Models(runs[0].cfg)
    for one in batch:
        listen(one, models, heard)
    if sampler is not None and not isinstance(sampler, str):
        models.sampler = sampler
    chosen = settings.read([run.cfg for run in runs], batch[0].init_image)
    targets = [one.targets for one in batch]
    for step in sample(models, targets, chosen, chosen.noise()):
        yield Frame(step, models.model)


def runs_of(words: Sequence[str], config_dir: str | Path | None) -> list[Run]:
    try:
        return expand(compose(words, config_dir))
    except UserError:
        raise
    except Exception as error:  # Hydra's and OmegaConf's own
        raise UserError(explain(error)) from error


def spelled(
    sound: Any,
    sample_rate: int | None,
    text: str | Sequence[str] | None,
    image: str | Path | None,
    overrides: Sequence[str],
    options: dict[str, Any],
) -> list[str]:
    """The words of the command line that say the same."""
    prompt: dict[str, Any] = {}
    if image is not None:
        prompt = {"prompt": "image", "prompt.image": str(image)}
    elif text is not None:
        kind = "text" if sound is None else "mixed"
        prompt = {"prompt": kind, "prompt.text": text if isinstance(text, str) else list(text)}
    options = {"name": "python", **options}
    if sound is not None:
        folder = home(options.get("outputs", "outputs"), options["name"])
        prompt["prompt.path"] = path_of(sound, sample_rate, folder)
    words = [f"{key}={value_of(value)}" for key, value in (prompt | flat(options)).items()]
    return [*words, *overrides]


def path_of(sound: Any, sample_rate: int | None, outputs: Path) -> str | list[str]:
    """The file of a sound; samples are written into one that is named by what they are."""
    if isinstance(sound, str | Path):
        return str(sound)
    if isinstance(sound, list | tuple) and sound and isinstance(sound[0], str | Path):
        return [str(one) for one in sound]
    if sample_rate is None:
        raise UserError("samples need their sample_rate, in Hz: draw(samples, sample_rate=44100)")
    import soundfile

    wave = np.asarray(sound, dtype=np.float32)
    if wave.ndim not in (1, 2) or not wave.size:
        raise UserError(f"samples of shape {wave.shape}: (T,) or (T, channels) is expected")
    if not np.isfinite(wave).all():
        raise UserError("the samples are not all finite numbers")
    name = hashlib.sha256(wave.tobytes() + str((wave.shape, sample_rate)).encode()).hexdigest()
    path = outputs / "sounds" / f"samples-{name[:12]}.wav"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, int(sample_rate), subtype="FLOAT")
    return str(path)


def value_of(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple | range | np.ndarray):
        return f"[{','.join(value_of(one) for one in list(value))}]"
    if isinstance(value, np.generic):
        return value_of(value.item())
    return quoted(str(value))


def read(run: Run, words: Sequence[str]) -> Picture:
    """A finished run from its folder."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    about = json.loads((run.folder / "targets.json").read_text(encoding="utf-8"))
    overrides = [word for word in words if not word.startswith(("seed=", "prompt.path="))]
    overrides += [f"seed={run.seed}"]
    if path := run.cfg["prompt"].get("path"):
        overrides += [f"prompt.path={value_of(path)}"]
    aside = ("label", "seed", "signature", "caption", "words")
    return Picture(
        folder=run.folder,
        seed=run.seed,
        label=run.label,
        command=shlex.join(["acgd", *overrides]),
        heard=[(label, p) for label, p in about["heard"]],
        described=", ".join(metrics.get("words", [])),
        caption=metrics["caption"],
        scores={key: value for key, value in metrics.items() if key not in aside},
    )
