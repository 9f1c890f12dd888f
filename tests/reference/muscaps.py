"""What acgd answers to the golden file about MusCaps: taggers, attention LSTM, greedy and beam."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import torch

from acgd.media import audio
from acgd.models.harmonic_cnn import HarmonicCNN, decibels
from acgd.models.muscaps import EOS, MusCaps, masked_softmax
from acgd.models.musicnn import Musicnn
from reference import fill, inputs
from reference.audioclip_audio import numbers, strides
from reference.files import find, needs
from reference.parts import sample, statistics

KINDS = ("muscaps",)
CASE_DEPTH = 2
ARCHITECTURE = set(MusCaps.__init__.__annotations__) - {"return"}


@torch.no_grad()
def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    """(name, value) for each array of the file; a string says what file a value would need."""
    for name, facts in meta.items():
        if isinstance(facts, dict) and "args" in facts:
            yield from tagger(name, facts, meta)
        elif isinstance(facts, dict) and "config" in facts:
            yield from captions(name, facts, meta, arrays)
    if "masked_softmax" in meta:
        yield "masked_softmax", softmax(meta["masked_softmax"])
    if "batch" in meta:
        yield "batch.logits", batch(meta["batch"]["input"], meta)


def waves(text: str) -> list[torch.Tensor]:
    """ "waveform(n, 16000, 0.8, 220 * (1 + b)) for b = 0, 1" -> a wave for each b, or the one."""
    call = re.sub(r"(\d) b\b", r"\1 * b", inputs.find_calls(text)[0])
    said = re.search(r"for b = ([\d, ]+)", text)
    count = len(said[1].split(",")) if said else 2 if "batch of two" in text else 1
    return [torch.as_tensor(inputs.evaluate(call, b=b)) for b in range(count)]


def quiet_norm(weight: torch.Tensor, meta: dict) -> None:
    """The norm that sees decibels: the file says by what it is multiplied."""
    weight.mul_(numbers(r"multiplied by ([\d.]+\d)", meta["weights"]["after the fill"])[0])


def thinned(x: torch.Tensor, meta: dict, array: str) -> torch.Tensor:
    """Every n-th entry of the last two axes, as the file says of this kind of array."""
    rows, columns = strides(meta["encoder arrays"][array] + " ")
    return x[..., ::rows, ::columns]


# --- the taggers


def tagger(name: str, facts: dict, meta: dict) -> Iterator[tuple[str, object]]:
    is_musicnn = "musicnn" in name
    net = (Musicnn if is_musicnn else HarmonicCNN)(**facts["args"]).eval()
    fill.fill_(net.state_dict(), inputs.prefix(meta["weights"]))
    quiet_norm((net.spec_bn if is_musicnn else net.hstft_bn).weight, meta)
    wave = torch.stack(waves(facts["input"]))
    for array, value in (musicnn if is_musicnn else harmonic)(net, wave, meta):
        yield f"{name}.{array}", value


def harmonic(net: HarmonicCNN, wave: torch.Tensor, meta: dict) -> Iterator[tuple[str, object]]:
    bank = net.hstft.filters()
    yield "filterbank", thinned(bank, meta, "filterbank")
    yield "filterbank_sum", bank.sum(0)
    yield "f0", net.hstft.f0
    yield "spectrogram", thinned(net.hstft.spec(wave), meta, "spectrogram")
    yield "db", thinned(net.hstft(wave), meta, "db")
    yield "out", net.features(wave)


def musicnn(net: Musicnn, wave: torch.Tensor, meta: dict) -> Iterator[tuple[str, object]]:
    yield "mel_fb", thinned(net.spec.mel_scale.fb, meta, "filterbank")
    yield "spectrogram", thinned(net.spec(wave), meta, "spectrogram")  # in mels here
    yield "db", thinned(decibels(net.spec(wave)), meta, "db")
    yield "map", thinned(net.map(wave), meta, "map")
    yield "out", net.features(wave)


def softmax(text: str) -> torch.Tensor:
    """ "make_input(...) with 6, 2 and 0 of the entries kept"."""
    values = inputs.evaluate(inputs.find_calls(text)[0])
    kept = numbers(r"with ([\d, ]+) of", text.replace(" and ", ", "))
    mask = torch.arange(values.shape[1]) < torch.tensor(kept)[:, None]
    return masked_softmax(values, mask.float())


# --- the captioner


def captioner(config: dict, meta: dict, swap: int = 0) -> MusCaps:
    """The model of a config, filled by the rule and changed as the file says."""
    if config.get("fusion", "early") != "early" or config.get("pool_type", "avg") != "avg":
        raise ValueError("only early fusion with average pooling is built")
    if config.get("attention_type", "mlp") != "mlp":
        raise ValueError("attention_type: only mlp is built")
    model = MusCaps(**{k: v for k, v in config.items() if k in ARCHITECTURE}).eval()
    state = model.state_dict()
    fill.fill_(state, inputs.prefix(meta["weights"]))
    extractor = model.audio_encoder.feature_extractor
    quiet_norm(
        (extractor.spec_bn if hasattr(extractor, "spec_bn") else extractor.hstft_bn).weight, meta
    )
    said = meta["weights"]["after the fill"]
    for key, factor in json.loads(re.search(r"\{.*?\}", said)[0]).items():
        state[key].mul_(factor)
    return swapped(model, swap)


def swapped(model: MusCaps, k: int) -> MusCaps:
    """Rows <eos> and k of the output layer exchanged, for k other than 0; again: as it was."""
    if k:
        for tensor in (p.data for p in model.decoder.dense.parameters()):
            tensor[[EOS, k]] = tensor[[k, EOS]]
    return model


def heard(text: str) -> torch.Tensor | str:
    """An input's wave (1, T), or what file it would need."""
    if inputs.find_calls(text):
        return waves(text)[0][None]
    name, sha256 = re.search(r"(\S+\.wav) \(sha256 (\w+)\)", text).groups()
    path = find(name, sha256)
    if path is None:
        return needs(name, sha256)
    rate = int(re.search(r"at (\d+) Hz", text)[1])
    return torch.from_numpy(audio.load(path, rate, duration=3600))[None]


def captions(tag: str, facts: dict, meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    names = [n for n in arrays if n.startswith(f"{tag}.")]
    model = captioner(facts["config"], meta)
    for key, text in facts["inputs"].items():
        own = [n for n in names if key in n.split(".")]
        wave = heard(text)
        if isinstance(wave, str):
            yield from ((n, wave) for n in own)
            continue
        memory = model.hear(wave)
        yield f"{tag}.{key}.chunk_features", memory.features
        ids = torch.tensor(model.greedy(memory))
        logits = model(memory, ids[:, :-1])
        stem = f"{tag}.{key}.greedy_logits"
        yield stem, logits
        if f"{stem}.sample" in arrays:
            yield f"{stem}.sample", sample(logits, arrays[f"{stem}.sample"])
            yield f"{stem}.stats", statistics(logits)
        for name in own:
            found = re.search(r"\.swap(\d+)\..*\.(?:greedy|beam(\d+))$", name)
            if found:
                yield name, decoded(swapped(model, int(found[1])), memory, found[2])
                swapped(model, int(found[1]))


def decoded(model: MusCaps, memory, size: str | None) -> np.ndarray:
    if size is None:
        return np.array(model.greedy(memory)[0])
    return np.array(model.beam(memory, int(size), unfinished=False)[0], dtype=np.int64)


def batch(text: str, meta: dict) -> torch.Tensor:
    """Logits of given captions for a batch of sounds of different length."""
    rows = torch.stack(waves(text))
    lengths = torch.tensor(json.loads(re.search(r"audio_len (\[.*?\])", text)[1]))
    ids = torch.tensor(json.loads(re.search(r"caption ids (\[\[.*?\]\])", text)[1]))
    for row, length in zip(rows, lengths.tolist(), strict=True):
        row[length:] = 0
    tag = re.search(r"'(\w+)' caption model", text)[1]
    model = captioner(meta[tag]["config"], meta)
    return model(model.hear(rows, lengths), ids)
