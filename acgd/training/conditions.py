"""Embed what the diffusion model may be conditioned on: texts, pictures and sounds of its pictures.

    python -m acgd.training.conditions --data data --towers runs/encoder/state.pt \\
        --out runs/cond.npz
    ... --audio embedded:tiny_encoder    adds the sounds

Only the text and audio towers must stay as they are after this; the picture tower may learn on,
since no picture's embedding is a condition at sampling time unless somebody prompts with one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.models.audioclip import AudioCLIP
from acgd.training.data.pairs import TEMPLATES, Pairs
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds, disturb, resampled, window
from acgd.training.encoder import ARCHITECTURES, encode, load_towers


def pad(rows: list[list[int]]) -> np.ndarray:
    """Lists of different length as one array (N, K), filled with -1."""
    width = max(1, *(len(r) for r in rows))
    return np.array([r + [-1] * (width - len(r)) for r in rows], dtype=np.int32)


@torch.no_grad()
def sound_embeddings(model: AudioCLIP, sounds: Sounds, per_concept: int) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) and labels (M,) of disturbed windows of training clips."""
    rng = torch.Generator().manual_seed(0)
    embeds, labels = [], []
    for concept in sounds.label.unique().tolist():
        weight = sounds.weight * (sounds.label == concept)
        if not weight.any():
            continue
        chosen = torch.multinomial(weight, per_concept, replacement=True, generator=rng)
        waves = [window(sounds.clip(i), 5 * SAMPLE_RATE, rng) for i in chosen.tolist()]
        heard = resampled(disturb(torch.stack(waves), rng), model.sample_rate)
        embeds.append(F.normalize(model.encode_audio(heard), dim=-1))
        labels.append(torch.full((per_concept,), concept))
    return torch.cat(embeds), torch.cat(labels)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--towers", type=Path, required=True)
    parser.add_argument("--audio", help="weights whose ears hear: embedded:tiny_encoder")
    parser.add_argument("--per-concept", type=int, default=48, help="sounds of each concept")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    model = AudioCLIP(**ARCHITECTURES["encoder"]).eval()
    load_towers(model, args.towers)
    pairs = Pairs(args.data, model.context_length)
    everything = torch.arange(len(pairs.label))
    image = torch.cat([encode(model, pairs.images(i)) for i in everything.split(256)])

    # a picture of a concept goes by all of the concept's names, another one by its own
    strings: dict[str, int] = {}
    text_rows = []
    for prompts, name, _ in pairs.texts:
        texts = [t.format(p) for p in prompts or [name] for t in dict.fromkeys(TEMPLATES)]
        text_rows.append([strings.setdefault(t, len(strings)) for t in texts])
    tokens = pairs.tokenize(list(strings))
    text = F.normalize(torch.cat([model.encode_text(t) for t in tokens.split(256)]), dim=-1)

    parts, audio_rows = [image, text], [[] for _ in text_rows]
    if args.audio:
        hears = AudioCLIPEncoder(args.audio).model
        audio, label = sound_embeddings(hears, Sounds(args.data, pairs.concepts), args.per_concept)
        base = len(image) + len(text)
        of = {c: (label == c).nonzero()[:, 0] + base for c in label.unique().tolist()}
        audio_rows = [of[c].tolist() if c in of else [] for c in pairs.label.tolist()]
        parts.append(audio)
    temporary = args.out.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        embed=torch.cat(parts).half().numpy(),
        image=pad([[i] for i in range(len(image))]),
        text=pad([[len(image) + r for r in rows] for rows in text_rows]),
        audio=pad(audio_rows),
    )
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
