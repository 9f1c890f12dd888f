"""The Python face: `acgd.draw`, `acgd.hear`, `acgd.steps`; the same config as the command line."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from acgd.config.compose import compose
from acgd.config.explain import explain
from acgd.config.words import quoted
from acgd.errors import UserError
from acgd.paths import home
from acgd.pipeline import runner
from acgd.pipeline.sample import Sample
from acgd.pipeline.shown import Frame, Picture, Pictures, Sound, Sounds
from acgd.report import waveforms
from acgd.runs import environment
from acgd.runs.records import flat
from acgd.runs.run import Run, expand

if TYPE_CHECKING:
    from acgd.pipeline.models import Models


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


def hear(
    sound: Any = None,
    *overrides: str,
    sample_rate: int | None = None,
    config_dir: str | Path | None = None,
    **options: Any,
) -> Sounds:
    """What is heard in each sound, by the encoder and the describer; nothing is drawn or written.

    The arguments are `draw`'s.
    """
    words = spelled(sound, sample_rate, None, None, overrides, options)
    batch, _ = listened(runs_of(words, config_dir), draws=False)
    return Sounds(sound_of(sample) for sample in {one.run.label: one for one in batch}.values())


def sound_of(sample: Sample) -> Sound:
    wave = sample.source.wave(waveforms.RATE) if sample.source else None
    assert wave is not None  # its prompt is a sound
    return Sound(sample.run.label, sample.heard, ", ".join(sample.words), wave)


def listened(runs: list[Run], draws: bool = True) -> tuple[list[Sample], Models]:
    """The runs as samples whose prompts have been heard, and the first run's models."""
    from acgd.pipeline.models import Models
    from acgd.pipeline.targets import listen, look

    opened, heard = dict[str, Any](), dict[str, Any]()
    batch = [Sample(run) for run in runs]
    for one in batch:
        look(one, opened)
    models = Models(runs[0].cfg, draws=draws)
    for one in batch:
        listen(one, models, heard)
    return batch, models


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
    from acgd.pipeline.sampling import sample

    options |= {"sampler": sampler} if isinstance(sampler, str) else {}
    words = spelled(sound, sample_rate, text, image, overrides, options)
    batch, models = listened(runs_of(words, config_dir))
    if sampler is not None and not isinstance(sampler, str):
        models.sampler = sampler
    chosen = settings.read([one.run.cfg for one in batch], batch[0].init_image)
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
