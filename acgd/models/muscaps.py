"""MusCaps: an LSTM encoder-decoder that attends to chunks of a sound and says what it hears.

Manco et al., "MusCaps: Generating Captions for Music Audio", arXiv:2104.11984, with early
fusion. Key names are the published ones. B is the batch, C the chunks of a sound, D the size of a
chunk's features, L the tokens of a caption, V the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.models.harmonic_cnn import HarmonicCNN

if TYPE_CHECKING:
    from acgd.models.musicnn import Musicnn

PAD, UNK, SOS, EOS = range(4)
LONGEST = 22  # tokens that a caption may have after <sos>
OPTIONAL = ("*window", "*mel_scale.fb")  # computed; old files lack them


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where mask is 1, (..., C) each; zeros where nothing is left.

    Masked scores count as zeros in the softmax and vanish after it, as published.
    """
    shares = torch.softmax(scores * mask, -1) * mask
    return shares / (shares.sum(-1, keepdim=True) + 1e-13)


class AudioEncoder(nn.Module):
    """(B, T) waves -> features of each whole chunk (B, T // chunk, D); the rest is dropped."""

    feature_extractor: HarmonicCNN | Musicnn

    def __init__(self, kind: str, pretrained_version: str) -> None:
        super().__init__()
        if kind == "hcnn":
            self.feature_extractor = HarmonicCNN()
        elif kind == "musicnn":
            from acgd.models.musicnn import Musicnn

            self.feature_extractor = Musicnn(pretrained_version)
        else:
            raise ValueError(f"feature_extractor_type is {kind!r}: hcnn, musicnn or ears")
        self.dim, self.chunk = self.feature_extractor.dim, self.feature_extractor.chunk
        self.sample_rate = self.feature_extractor.sample_rate

    def forward(self, waves: Tensor) -> Tensor:
        chunks = waves.unfold(-1, self.chunk, self.chunk)  # (B, C, chunk)
        features = self.feature_extractor.features(chunks.flatten(0, 1))
        return features.unflatten(0, chunks.shape[:2])


class TextEncoder(nn.Module):
    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, dim)


class Attention(nn.Module):
    """Additive attention (Bahdanau et al. 2015): features (B, C, D), query (B, H) -> (B, D)."""

    def __init__(self, audio_dim: int, query_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.audio_projection = nn.Linear(audio_dim, dim)
        self.query_projection = nn.Linear(query_dim, dim)
        self.linear = nn.Linear(dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        x = torch.tanh(self.audio_projection(features) + self.query_projection(query)[:, None])
        scores = self.linear(self.dropout(x))[..., 0]  # (B, C)
        return (masked_softmax(scores, mask)[..., None] * features).sum(1)


class WeightNormLinear(nn.Module):
    """A linear layer whose rows are weight_g * weight_v / ||weight_v|| (Salimans & Kingma 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = nn.Linear(inputs, outputs).weight.detach()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_g = nn.Parameter(weight.norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight_v / self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(x, self.weight_g * rows, self.bias)


class Decoder(nn.Module):
    def __init__(self, inputs: int, hidden: int, vocab_size: int, dropout: float) -> None:
        super().__init__()
        self.lstm_cell = nn.LSTMCell(inputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.dense = WeightNormLinear(hidden, vocab_size)


@dataclass
class Memory:
    """What a caption's steps look back at, a row for each caption."""

    features: Tensor  # (B, C, D)
    mask: Tensor  # (B, C)
    pooled: Tensor  # (B, H), the whole sound

    def rows(self, index: Tensor) -> Memory:
        return Memory(self.features[index], self.mask[index], self.pooled[index])


State = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c of encoder and decoder, each (B, H)


class MusCaps(nn.Module):
    """Chunk features and the tokens so far to the next token's logits.

    feature_extractor_type: "hcnn" or "musicnn", networks under `audio_encoder`, or "ears": the
    features, of feature_dim numbers, come from outside. pretrained_version is "mtt" or "msd".
    finetune: whether the feature extractor learns; frozen it also stays in eval mode.
    """

    def __init__(
        self,
        vocab_size: int = 4000,
        feature_extractor_type: str = "hcnn",
        pretrained_version: str = "mtt",
        feature_dim: int | None = None,
        word_embed_dim: int = 300,
        hidden_dim_encoder: int = 256,
        hidden_dim_decoder: int = 256,
        attention_dim: int = 256,
        attention_dropout: float = 0.25,
        dropout_decoder: float = 0.25,
        max_caption_len: int = LONGEST,
        finetune: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim_encoder != hidden_dim_decoder:
            raise ValueError("hidden_dim_encoder and hidden_dim_decoder start alike: one size")
        self.audio_encoder: AudioEncoder | None = None
        if feature_extractor_type != "ears":
            self.audio_encoder = AudioEncoder(feature_extractor_type, pretrained_version)
            self.audio_encoder.requires_grad_(finetune)
            feature_dim = self.audio_encoder.dim
        if feature_dim is None:
            raise ValueError("features from outside need feature_dim, how many numbers they have")
        hidden, self.finetune = hidden_dim_encoder, finetune
        self.max_caption_len = max_caption_len
        self.text_encoder = TextEncoder(vocab_size, word_embed_dim)
        self.audio_linear = nn.Linear(feature_dim, hidden)
        self.batch_norm = nn.BatchNorm1d(hidden)
        self.encoder = nn.LSTMCell(word_embed_dim + 2 * hidden, hidden)
        self.attention = Attention(feature_dim, hidden, attention_dim, attention_dropout)
        self.decoder = Decoder(feature_dim + hidden, hidden, vocab_size, dropout_decoder)

    def train(self, mode: bool = True) -> MusCaps:
        super().train(mode)
        if self.audio_encoder is not None and not self.finetune:
            self.audio_encoder.eval()
        return self

    def hear(self, waves: Tensor, lengths: Tensor | None = None) -> Memory:
        """(B, T) waves at the feature extractor's rate, `lengths` (B,) samples of each."""
        assert self.audio_encoder is not None, "features come from outside: see remember"
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            features = self.audio_encoder(waves)
        counts = None if lengths is None else lengths // self.audio_encoder.chunk
        return self.remember(features, counts)

    def remember(self, features: Tensor, counts: Tensor | None = None, own: bool = False) -> Memory:
        """(B, C, D) features, of which the first counts (B,) chunks are a sound's own.

        The whole sound is the plain mean over all C, padding or not, as published; with own=True
        over its own chunks, so that a sound is the same alone and among longer ones.
        """
        b, c, _ = features.shape
        mask = features.new_ones(b, c)
        if counts is not None:
            at = torch.arange(c, device=features.device)
            mask = (at < counts.to(at.device)[:, None]).to(features.dtype)
        mean = features.mean(1)
        if own:
            mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Memory(features, mask, F.relu(self.batch_norm(self.audio_linear(mean))))

    def start(self, memory: Memory) -> State:
        """All four states begin as the whole sound."""
        return (memory.pooled,) * 4

    def step(self, tokens: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Tokens (B,) -> the next one's logits (B, V) and the state after it."""
        h_encoder, c_encoder, h_decoder, c_decoder = state
        words = self.text_encoder.word_embeddings(tokens)
        seen = torch.cat([words, memory.pooled, h_decoder], 1)
        h_encoder, c_encoder = self.encoder(seen, (h_encoder, c_encoder))
        attended = self.attention(memory.features, memory.mask, h_encoder)
        seen = torch.cat([attended, h_encoder], 1)
        h_decoder, c_decoder = self.decoder.lstm_cell(seen, (h_decoder, c_decoder))
        logits = self.decoder.dense(self.decoder.dropout(h_decoder))
        return logits, (h_encoder, c_encoder, h_decoder, c_decoder)

    def forward(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Given captions (B, L), <sos> first -> logits (B, L, V) of the token after each."""
        state, out = self.start(memory), []
        for i in range(tokens.shape[1]):
            logits, state = self.step(tokens[:, i], memory, state)
            out.append(logits)
        return torch.stack(out, 1)

    @torch.no_grad()
    def greedy(self, memory: Memory) -> list[list[int]]:
        """The likeliest token each time: a list of ids for each sound, <sos> first.

        <eos> is last unless max_caption_len came before it.
        """
        tokens = torch.full((len(memory.pooled), 1), SOS, device=memory.pooled.device)
        state, done = self.start(memory), torch.zeros_like(tokens[:, 0], dtype=torch.bool)
        for _ in range(self.max_caption_len):
            logits, state = self.step(tokens[:, -1], memory, state)
            tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], 1)
            done |= tokens[:, -1] == EOS
            if done.all():
                break
        return [cut(row) for row in tokens.tolist()]

    @torch.no_grad()
    def beam(self, memory: Memory, size: int = 2, unfinished: bool = True) -> list[list[int]]:
        """Beam search: the ids of the likeliest finished caption of each sound, <sos> first.

        A finished beam leaves and makes its sound's search narrower; scores are sums of log
        probabilities. Where no beam finishes, unfinished=True takes the best one as it is; False
        answers [], as published.
        """
        searches = [Search(size) for _ in range(len(memory.pooled))]
        owner = torch.arange(len(searches), device=memory.pooled.device)  # a row's sound
        tokens, state = torch.full_like(owner, SOS), self.start(memory)
        for _ in range(self.max_caption_len):
            logits, state = self.step(tokens, memory.rows(owner), state)
            scores, sounds = F.log_softmax(logits, 1), owner.tolist()
            kept: list[tuple[int, int, int]] = []  # row it came from, sound, token
            for i in dict.fromkeys(sounds):
                rows = [r for r, sound in enumerate(sounds) if sound == i]
                kept += [(rows[r], i, token) for r, token in searches[i].advance(scores[rows])]
            if not kept:
                break
            chosen, owner, tokens = torch.tensor(kept, device=owner.device).T
            h, c, h_out, c_out = (part[chosen] for part in state)
            state = h, c, h_out, c_out
        return [search.best(unfinished) for search in searches]


class Search:
    """The beams of one sound."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.beams: list[tuple[float, list[int]]] = [(0.0, [SOS])]
        self.finished: list[tuple[float, list[int]]] = []

    def advance(self, scores: Tensor) -> list[tuple[int, int]]:
        """Take the best continuations; scores (beams, V) log probabilities of the next token.

        Returns (beam that it came from, token) of each that goes on.
        """
        sums = scores + scores.new_tensor([score for score, _ in self.beams])[:, None]
        top = sums.flatten().topk(min(self.size - len(self.finished), sums.numel()))
        going, beams = [], []
        for score, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            row, token = divmod(place, scores.shape[1])
            beam = (score, [*self.beams[row][1], token])
            if token == EOS:
                self.finished.append(beam)
            else:
                beams.append(beam)
                going.append((row, token))
        self.beams = beams
        return going

    def best(self, unfinished: bool) -> list[int]:
        candidates = self.finished or (self.beams if unfinished else [])
        return max(candidates, key=lambda beam: beam[0], default=(-math.inf, []))[1]


def cut(ids: list[int]) -> list[int]:
    """Ids up to and with the first <eos>."""
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids
