"""A sound in a sentence, by MusCaps (Manco et al., arXiv:2104.11984).

The published model hears 5 s chunks through a music tagger; the embedded one hears through the
encoder that guides, whose ears the models hands over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from acgd.checkpoints import load as checkpoints
from acgd.encoders.zero_shot import Viewer, read_labels
from acgd.errors import UserError, fraction
from acgd.media import audio
from acgd.models.esresnext import ESResNeXt
from acgd.models.log_mel_cnn import LogMelCNN
from acgd.models.muscaps import EOS, OPTIONAL, PAD, SOS, UNK, MusCaps
from acgd.types import Encoder

Ears = ESResNeXt | LogMelCNN
SPECIAL = ("<pad>", "<unk>", "<sos>", "<eos>")
LEAST = 2  # times that a word of the vocabulary's file must have been seen
CHUNKS = 16  # heard at once


class MusCapsDescriber:
    """One sentence for a sound.

    checkpoint: the captioner's weights. vocabulary: its vocab.json; embedded weights carry theirs.
    ears: weights of the encoder whose ears are used where `encoder` has others
    (feature_extractor_type "ears" alone).
    lean: in [0, 1], how far what those ears hear moves towards the concepts that the encoder hears
    in the whole sound; the embedded captioner has learned from features on that way.
    beam_size: 1 is greedy. share: what the sentence weighs among all targets, in [0, 1].
    resample=False takes the samples as they come for samples at the model's rate;
    last_chunk="drop" leaves out what is no whole chunk and refuses shorter sounds, where
    "overlap" hears the last 5 s once more and repeats a short sound; unfinished=False answers
    nothing where no beam ends; clean=False leaves <unk> and <pad> in the sentence: all four as
    the notebook did. The model is small and stays in float32, whatever
    `precision` says of the others.
    """

    def __init__(
        self,
        checkpoint: str,
        encoder: Encoder | None = None,
        vocabulary: str | None = None,
        ears: str | None = None,
        lean: float = 0.0,
        beam_size: int = 1,
        share: float = 0.5,
        resample: bool = True,
        last_chunk: str = "overlap",
        unfinished: bool = True,
        clean: bool = True,
        device: str = "cpu",
        precision: str = "float32",
        **architecture: object,
    ) -> None:
        if last_chunk not in ("overlap", "drop"):
            raise UserError(f"describer.last_chunk={last_chunk}: choose overlap or drop")
        if not isinstance(beam_size, int) or beam_size < 1:
            raise UserError(f"describer.beam_size={beam_size}: a whole number from 1 on")
        self.share = fraction(share, "describer.share")
        self.lean = fraction(lean, "describer.lean")
        self.beam_size, self.resample, self.last_chunk = beam_size, resample, last_chunk
        self.unfinished, self.clean, self.device = unfinished, clean, torch.device(device)
        path = checkpoints.locate(checkpoint)
        state = checkpoints.load_state(path)
        self.words = read_vocabulary(vocabulary) if vocabulary else carried_vocabulary(path)
        rows = state.get("text_encoder.word_embeddings.weight", torch.empty(0)).shape[0]
        if rows and rows != len(self.words):
            raise UserError(
                f"{path} knows {rows} words, {vocabulary or 'its own list'} has {len(self.words)}:"
                " describer.vocabulary must be the file that was saved beside the weights"
            )
        model = checkpoints.empty(MusCaps, path, {**architecture, "vocab_size": len(self.words)})
        checkpoints.load_into(model, state, path, ignore=OPTIONAL, assign=True)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.ears = None if model.audio_encoder else self.find_ears(encoder, ears)

    def find_ears(self, encoder: Encoder | None, source: str | None) -> Ears:
        """The audio head of the encoder at hand where it fits, else that of `source`."""
        from acgd.encoders.audioclip import AudioCLIPEncoder

        head = encoder.model.audio if isinstance(encoder, AudioCLIPEncoder) else None
        if encoder is None or head is None or 2 * head.dim != self.model.audio_linear.in_features:
            if source is None:
                raise UserError("describer.ears: name the encoder whose ears this captioner has")
            encoder = AudioCLIPEncoder(source, device=self.device)
            head = encoder.model.audio
        self.rate, self.viewer = encoder.sample_rate, Viewer(encoder, read_labels("concepts"))
        return head

    def rank(self, wave: np.ndarray, sample_rate: int) -> dict[str, list[tuple[str, float]]]:
        """It does not choose among labels."""
        return {}

    def __call__(self, wave: np.ndarray, sample_rate: int) -> list[str]:
        """A list of one sentence, or of none, for a sound (T,) in [-1, 1] at `sample_rate` Hz."""
        return self.batch([wave], sample_rate)[0]

    def batch(self, waves: Sequence[np.ndarray], sample_rate: int) -> list[list[str]]:
        """The same for several sounds at once."""
        heard = [self.features(wave, sample_rate) for wave in waves]
        padded = torch.nn.utils.rnn.pad_sequence(heard, batch_first=True)  # (B, C, D)
        memory = self.model.remember(padded, torch.tensor([len(f) for f in heard]), own=True)
        if self.beam_size == 1:
            tokens = self.model.greedy(memory)
        else:
            tokens = self.model.beam(memory, self.beam_size, self.unfinished)
        return [[text] if (text := self.sentence(ids)) else [] for ids in tokens]

    @torch.no_grad()
    def features(self, wave: np.ndarray, sample_rate: int) -> Tensor:
        """(T,) -> (C, D) for the chunks of one sound."""
        wave = np.asarray(wave, dtype=np.float32)
        if self.ears is not None:
            waves = torch.from_numpy(audio.resample(wave, sample_rate, self.rate))[None]
            found = ear_features(self.ears, waves.to(self.device))[0]
            return self.leaning(found, waves) if self.lean else found
        net = self.model.audio_encoder
        assert net is not None  # without ears it has its own
        if self.resample:
            wave = audio.resample(wave, sample_rate, net.sample_rate)
        chunks = torch.from_numpy(cut_chunks(wave, net.chunk, self.last_chunk)).to(self.device)
        heard = [net.feature_extractor.features(part) for part in chunks.split(CHUNKS)]
        return torch.cat(heard)

    def leaning(self, features: Tensor, waves: Tensor) -> Tensor:
        """Features (C, 2 D) of waves (1, T), moved towards what the encoder hears."""
        heard = self.viewer.direction(self.viewer.model.audio(waves)[0])
        pairs = features.unflatten(-1, (2, -1))
        return F.normalize(pairs + self.lean * (heard.to(pairs) - pairs), dim=-1).flatten(-2)

    def sentence(self, ids: list[int]) -> str:
        """The words of ids, without <sos>, <eos> and, if clean, without <pad> and <unk>."""
        silent = {SOS, EOS, PAD, UNK} if self.clean else {SOS, EOS}
        return " ".join(self.words[i] for i in ids if i not in silent)


def cut_chunks(wave: np.ndarray, chunk: int, last_chunk: str) -> np.ndarray:
    """(T,) -> (C, chunk). "overlap": the end is heard whole, a short sound is repeated."""
    if len(wave) < chunk:
        if last_chunk == "drop":
            raise UserError(
                f"the sound has {len(wave)} samples, MusCaps hears chunks of {chunk}:"
                " describer.last_chunk=overlap repeats short sounds"
            )
        wave = np.resize(wave, chunk)
    whole = wave[: len(wave) // chunk * chunk].reshape(-1, chunk)
    if last_chunk == "overlap" and len(wave) % chunk:
        whole = np.concatenate([whole, wave[None, -chunk:]])
    return np.ascontiguousarray(whole)


@torch.no_grad()
def ear_features(head: Ears, waves: Tensor) -> Tensor:
    """(B, T) waves -> (B, C, 2 D): each chunk's embedding beside that of the whole sound.

    Both unit norm; the ears say what a chunk is, about a second in the embedded ones.
    """
    chunks, whole = head.parts(waves)
    chunks, whole = F.normalize(chunks, dim=-1), F.normalize(whole, dim=-1)
    return torch.cat([chunks, whole[:, None].expand_as(chunks)], -1)


def read_vocabulary(source: str) -> list[str]:
    """The words by id: four of our own, then those that a vocab.json counts twice or more.

    The file is {word: count, ...} or [[word, count], ...]; its order is that of the ids.
    """
    path = checkpoints.locate(source)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs = list(found.items()) if isinstance(found, dict) else [(w, n) for w, n in found]
        words = [str(word) for word, count in pairs if int(count) >= LEAST]
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path}: no vocabulary; it is to be JSON, {{word: count, ...}}") from None
    return [*SPECIAL, *words]


def carried_vocabulary(path: Path) -> list[str]:
    """The words that a .safetensors file of ours carries."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            words = json.loads((file.metadata() or {}).get("vocabulary", "[]"))
        if words:
            return words
    raise UserError(f"{path} carries no words: name its vocab.json with describer.vocabulary")
