"""Train the embedded describer: MusCaps' attention LSTM on what the encoder's own ears hear.

    python -m acgd.training.muscaps_tiny features --data data --out runs/muscaps_tiny.npz
    python -m acgd.training.muscaps_tiny train --features runs/muscaps_tiny.npz

The first hears disturbed windows of the training clips once, by the embedded encoder's ears or
those of the weights at --encoder. The second learns sentences about them
(data/sound_sentences.py), made anew for every batch, and writes
acgd/weights/tiny_muscaps.safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from acgd.describers.muscaps import SPECIAL, ear_features
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.models.muscaps import EOS, PAD, SOS, MusCaps
from acgd.training.data.pairs import concept_prompts
from acgd.training.data.sound_sentences import count_bursts, grammars, sentence
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds, disturb, resampled, window
from acgd.training.encoder import ARCHITECTURES
from acgd.training.export import WEIGHTS, write

ENCODER = "embedded:tiny_encoder"
SECONDS = 5.0  # of a window
ARCHITECTURE = {
    "feature_extractor_type": "ears",
    "feature_dim": 2 * ARCHITECTURES["encoder"]["embed_dim"],
    "word_embed_dim": 64,
    "hidden_dim_encoder": 160,
    "hidden_dim_decoder": 160,
    "attention_dim": 96,
}
NOISE = 0.07  # added to features, whose 128 numbers are of the size 0.09
NAMED = 0.8  # share of windows whose features move towards the concept's name
EXAMPLES = 400  # sentences of each concept and count that the vocabulary is collected from


def hear(args: argparse.Namespace) -> None:
    """Write features (N, C, D), labels (N,) and counts of bursts (N,) of disturbed windows."""
    sounds = Sounds(args.data, list(concept_prompts()))
    model, rng = AudioCLIPEncoder(args.encoder).model, torch.Generator().manual_seed(11)
    weight = sounds.weight * (1 - args.evenly) + evenly(sounds) * args.evenly
    index = torch.multinomial(weight, args.windows, replacement=True, generator=rng)
    found, bursts = [], []
    for part in tqdm(index.split(16)):
        waves = [window(sounds.clip(i), int(SECONDS * SAMPLE_RATE), rng) for i in part.tolist()]
        bursts += [count_bursts(wave.numpy(), SAMPLE_RATE) for wave in waves]
        heard = resampled(disturb(torch.stack(waves), rng), model.sample_rate)
        found.append(ear_features(model.audio, heard).half())
    temporary = args.out.with_suffix(".tmp.npz")
    label = sounds.label[index]
    np.savez(temporary, features=torch.cat(found), label=label, bursts=np.array(bursts))
    os.replace(temporary, args.out)


def evenly(sounds: Sounds) -> Tensor:
    """Weights of the clips that give every concept the same say."""
    weight = sounds.weight.clone()
    for concept in sounds.label.unique():
        own = sounds.label == concept
        weight[own] /= weight[own].sum().clamp(min=1e-12)
    return weight / weight.sum()


class Sentences:
    """Token ids of fresh sentences about clips; `words` is the vocabulary by id."""

    def __init__(self, seed: int = 0):
        self.grammars, self.draw = list(grammars().values()), random.Random(seed)
        found: dict[str, None] = {}
        for grammar in self.grammars:
            for bursts in (0, 1, 2, 3, 4):
                for _ in range(EXAMPLES):
                    found |= dict.fromkeys(sentence(grammar, bursts, self.draw).split())
        self.words = [*SPECIAL, *found]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def tokens(self, label: Tensor, bursts: Tensor) -> Tensor:
        """(B, L): <sos>, a sentence about each, <eos>, <pad>."""
        rows = []
        for concept, count in zip(label.tolist(), bursts.tolist(), strict=True):
            words = sentence(self.grammars[concept], count, self.draw).split()
            rows.append(torch.tensor([SOS, *(self.ids[w] for w in words), EOS]))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def names() -> Tensor:
    """The embedded encoder's embedding of each concept's name, (C, D), unit norm."""
    return AudioCLIPEncoder(ENCODER).text(list(concept_prompts()))


def vary(heard: Tensor, name: Tensor) -> Tensor:
    """Features (B, C, 2 D) as of clips that the ears know less well, name (B, D) unit norm.

    The ears know the training clips by heart, held-out ones they hear as something between: so
    noise is added (as CapDec does, Nukrai et al. 2022), and most lie on the way to the name, for
    sentences to follow what the encoder would answer.
    """
    own = heard.float().unflatten(-1, (2, -1))  # chunk and whole
    way = torch.rand(len(heard), 1, 1, 1) * (torch.rand(len(heard), 1, 1, 1) < NAMED)
    own = F.normalize((1 - way) * own + way * name[:, None, None], dim=-1)
    return (own + NOISE * torch.randn(own.shape)).flatten(-2)


def train(args: argparse.Namespace) -> None:
    data = np.load(args.features)
    features, label, bursts = (torch.from_numpy(data[k]) for k in ("features", "label", "bursts"))
    torch.manual_seed(7)
    sentences, name = Sentences(), names()
    config = {**ARCHITECTURE, "vocab_size": len(sentences.words)}
    model = MusCaps(**config).train()
    opt = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=1e-2)
    running, start = None, time.time()
    for step in (bar := tqdm(range(args.steps))):
        index = torch.randint(len(label), (args.batch,))
        first, last = sorted(torch.randperm(features.shape[1] + 1)[:2].tolist())
        heard = vary(features[index, first:last], name[label[index]])  # any stretch of a window
        tokens = sentences.tokens(label[index], bursts[index])
        logits = model(model.remember(heard), tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        for group in opt.param_groups:  # warm up, then down to nothing
            group["lr"] = args.lr * min(1.0, (step + 1) / 50) * (1 - step / args.steps)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        bar.set_postfix(loss=f"{running:.3f}")
    export(model, config, sentences.words, args.out)
    print(json.dumps({"loss": round(running, 3), "seconds": round(time.time() - start)}))


def export(model: MusCaps, config: dict, words: list[str], path: Path) -> None:
    """float16 weights that carry their sizes and their vocabulary."""
    about = {"config": json.dumps(config), "vocabulary": json.dumps(words)}
    write(path, model.state_dict(), about)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("features", help="what the ears hear in the training clips")
    first.add_argument("--data", type=Path, default=Path("data"))
    first.add_argument("--encoder", default=ENCODER, help="weights of the encoder that hears")
    first.add_argument("--windows", type=int, default=6000)
    first.add_argument("--evenly", type=float, default=0.5, help="share drawn concept by concept")
    first.add_argument("--out", type=Path, required=True)
    second = commands.add_parser("train", help="sentences about them")
    second.add_argument("--features", type=Path, required=True)
    second.add_argument("--steps", type=int, default=2500)
    second.add_argument("--batch", type=int, default=128)
    second.add_argument("--lr", type=float, default=3e-3)
    second.add_argument("--out", type=Path, default=WEIGHTS / "tiny_muscaps.safetensors")
    args = parser.parse_args(argv)
    with torch.no_grad() if args.command == "features" else torch.enable_grad():
        (hear if args.command == "features" else train)(args)


if __name__ == "__main__":
    main()
