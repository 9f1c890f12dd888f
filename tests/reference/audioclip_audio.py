"""What acgd answers to the golden file about AudioCLIP: loading, FBSP, audio head, joint model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

from acgd.media import audio
from acgd.models.audioclip import AudioCLIP, query_strings
from acgd.models.esresnext import ESResNeXt, LinearFBSP, to_unit_range
from acgd.models.tokenizer import tokenizer
from reference import fill, inputs
from reference.files import find, needs
from reference.parts import sample, statistics

KINDS = ("audioclip_audio",)
CASE_DEPTH = 2
RATE, SECONDS = 44100, 10.0


@torch.no_grad()
def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    """(name, value) for each array of the file; a string says what file a value would need."""
    for part, answer in {"load": loaded, "fbsp": fbsp, "small": small, "full": full}.items():
        if part in meta:
            yield from answer(meta, arrays)


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers that the pattern's first group holds, separated by blanks or commas."""
    return [float(n) for n in re.search(pattern, text)[1].replace(",", " ").split()]


def strides(text: str) -> list[int]:
    """ "every 8th bin, every 4th frame" -> [8, 4]."""
    return [int(n) for n in re.findall(r"every (\d+)\w\w ", text)]


# --- loading


def loaded(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    clips = meta.get("full", {}).get("clips", {})
    for name, facts in meta["load"]["files"].items():
        if "wav" in facts:
            wave = load_synthetic(facts["wav"])
        else:
            sha256 = clips.get(name, {}).get("sha256")
            path = find(name, sha256)
            if path is None:
                yield f"load.{name}.sample", needs(name, sha256)
                yield f"load.{name}.stats", needs(name, sha256)
                continue
            wave = audio.load(path, RATE, duration=SECONDS)
        yield f"load.{name}.sample", sample(wave, arrays[f"load.{name}.sample"])
        yield f"load.{name}.stats", statistics(torch.from_numpy(wave))


def load_synthetic(text: str) -> np.ndarray:
    """Write the described two-channel recording and load it the way a user's file is loaded."""
    call, peak = inputs.find_calls(text)[0], numbers(r"truncate\((\d+) \*", text)[0]
    channels = [inputs.evaluate(call, f=f) for f in numbers(r"for f = ([\d., ]+)", text)]
    pcm = np.trunc(peak * np.stack([np.asarray(c, np.float64) for c in channels], 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.wav"
        soundfile.write(path, pcm.astype(np.int16), RATE, subtype="PCM_16")
        return audio.load(path, RATE, duration=SECONDS)


# --- FBSP filters alone


def fbsp(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    described, said = meta["fbsp"]["cases"], meta["fbsp"]["inputs"]
    plain, paired = (call.replace("CASE", "{}") for call in inputs.find_calls(said))
    for name in [n for n in arrays if n.startswith("fbsp.") and n.endswith(".weights")]:
        case = name.split(".")[1]
        bins, taps, _ = arrays[name].shape
        layer = fbsp_case(case, bins, described)
        x = inputs.evaluate(plain.format(case), taps=taps)
        z = inputs.evaluate(paired.format(case), taps=taps)
        re, im = layer(z[..., 0]), layer(z[..., 1])
        turned = torch.stack([-im[..., 1], im[..., 0]], -1)  # i times the imaginary part's output
        yield name, layer.filters(taps)
        yield f"fbsp.{case}.out", layer(x)
        yield f"fbsp.{case}.out_complex", re + turned


def fbsp_case(case: str, bins: int, text: str) -> LinearFBSP:
    layer = LinearFBSP(bins)
    if case == "filled":
        for key in ("m", "fb", "fc"):
            value = fill.fill_value(f"fbsp.{key}", (bins,), inputs.prefix(text))
            getattr(layer, key).copy_(torch.from_numpy(value))
    elif case != "fresh":
        described = text[text.index(f"{case}:") :]
        layer.m.copy_(torch.tensor(numbers(r"\bm = ([\d. ]+)", described)))
        layer.fb.copy_(torch.tensor(numbers(r"\bfb = ([\d. ]+)", described)))
    return layer


# --- the audio head


def quiet_norm(weight: torch.Tensor, meta: dict) -> None:
    """The first norm sees decibels, about a hundred: the files say by what it is multiplied."""
    weight.mul_(numbers(r"multiplied by ([\d.]+\d)", meta["weights"]["after the fill"])[0])


def small(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    facts = meta["small"]
    config = dict(facts["config"])
    if {config.pop("spec_height", -1), config.pop("spec_width", -1)} != {-1}:
        raise ValueError("spectrograms resized to a fixed size are not built")
    head = ESResNeXt(**config).eval()
    fill.fill_(head.state_dict(), inputs.prefix(meta["weights"]))
    quiet_norm(head.bn1.weight, meta)
    count = int(re.search(r"b = 0\.\.(\d+)", facts["input"])[1]) + 1
    call = inputs.find_calls(facts["input"])[0]
    waves = torch.stack([torch.as_tensor(inputs.evaluate(call, b=b)) for b in range(count)])
    yield from head_pieces(head, waves, facts["arrays"], arrays)
    for input_range in ("unit", "int16"):
        head.input_range = input_range
        for name, value in head_steps(head, waves, facts["arrays"], arrays, input_range):
            yield f"small.{input_range}.{name}", value


def head_pieces(head: ESResNeXt, waves, said: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    """Window, frames and filters."""
    bins, taps = strides(said["fbsp_weights"])
    (every,) = strides(said["frames"])
    yield "small.window", head.window
    yield "small.fbsp_weights", head.fbsp.filters(head.n_fft)[::bins, ::taps]
    frames = head.frames(waves) * head.window  # of the wave as it is, before any range map
    yield "small.frames", frames[:, ::every]
    yield "small.frames_shape", np.array(frames.shape)
    for name in [n for n in arrays if n.startswith("small.frames.len")]:
        ramp = torch.arange(1.0, int(name.split("len")[1]) + 1)[None]
        yield name, head.frames(ramp)[..., :: max(1, head.win_length // 40)]


def head_steps(
    head: ESResNeXt, waves, said: dict, arrays: dict, input_range: str
) -> Iterator[tuple[str, object]]:
    bins, frames = strides(said["fbsp_spec"])
    scaled = to_unit_range(waves, input_range)
    picture = head.picture(waves)
    features = head.features(picture)
    yield "scaled", scaled[:, : arrays[f"small.{input_range}.scaled"].shape[1]]
    yield "fbsp_spec", head.spectrogram(scaled)[:, ::bins, ::frames]
    yield "db", picture[:, None]
    yield "features.sample", sample(features, arrays[f"small.{input_range}.features.sample"])
    yield "features.stats", statistics(features)
    yield "reduced", head.reduce(features)
    yield "out", head(waves)


# --- the whole AudioCLIP


def full(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    facts = meta["full"]
    model = AudioCLIP().eval()
    fill.fill_(model.state_dict(), inputs.prefix(meta["weights"]))
    quiet_norm(model.audio.bn1.weight, meta)
    for key, value in facts["scales set after the fill"].items():
        getattr(model, key).fill_(value)
    wave = torch.as_tensor(inputs.evaluate(facts["wave"]))[None]
    yield from heard(model, "wave", wave, facts, arrays)
    for name, clip in facts["clips"].items():
        if not isinstance(clip, dict):
            continue
        path = find(name, clip["sha256"])
        if path is None:
            missing = [n for n in arrays if n.startswith((f"full.{name}.", f"query.{name}."))]
            yield from ((n, needs(name, clip["sha256"])) for n in missing)
            continue
        loaded_wave = torch.from_numpy(audio.load(path, RATE, duration=SECONDS))[None]
        yield from heard(model, name, loaded_wave, facts, arrays)
    yield from forward(model, wave, facts["forward"])


def heard(model, name: str, wave, facts: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    for input_range in ("unit", "int16"):
        model.audio.input_range, stem = input_range, f"full.{name}.{input_range}"
        picture = model.audio.picture(wave)
        embedding = model.encode_audio(wave)
        yield f"{stem}.db.sample", sample(picture, arrays[f"{stem}.db.sample"])
        yield f"{stem}.db.stats", statistics(picture)
        yield f"{stem}.embedding", embedding
        stem = f"query.{name}.{input_range}"
        for way, spelled in (("as_notebook", True), ("as_lists", False)):
            if f"{stem}.{way}.logits" not in arrays:
                continue
            texts = query_strings(facts["query"]["words"], spelled)
            text = F.normalize(model.encode_text(tokenizer()(texts)), dim=-1)
            logits = model.scale("at") * F.normalize(embedding, dim=-1) @ text.T
            confidence = logits.softmax(-1)
            yield f"{stem}.{way}.logits", logits
            yield f"{stem}.{way}.confidence", confidence
            yield f"{stem}.{way}.top3", confidence[0].topk(3).indices


def forward(model: AudioCLIP, wave: torch.Tensor, said: str) -> Iterator[tuple[str, object]]:
    model.audio.input_range = "int16"
    image = inputs.evaluate(inputs.find_calls(said)[0])
    lists = re.search(r"text (\[\[.*?\]\])", said)[1]
    words = [re.findall(r"'([^']*)'", group) for group in re.findall(r"\[([^\[\]]*)\]", lists)]
    text = tokenizer()([", ".join(group) for group in words])
    joint = model(torch.cat([wave, wave.flip(-1)]), image, text)
    yield "forward.audio_features", joint.audio
    yield "forward.image_features", joint.image
    yield "forward.text_features", joint.text
    yield "forward.logits_audio_image", joint.audio_image
    yield "forward.logits_audio_text", joint.audio_text
    yield "forward.logits_image_text", joint.image_text
    yield "forward.loss", joint.loss
