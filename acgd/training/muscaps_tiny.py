"""Train the embedded describer: MusCaps' attention LSTM on what the encoder's own ears hear.

    python -m acgd.training.muscaps_tiny features --data data --out runs/muscaps_tiny.npz
    python -m acgd.training.muscaps_tiny train --features runs/muscaps_tiny.npz \\
        --out runs/muscaps_tiny

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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from acgd.describers.muscaps import SPECIAL, ear_features
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.models.muscaps import EOS, PAD, SOS, MusCaps
from acgd.training import loop
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


class Training:
    """MusCaps' LSTM over the features, sentences made anew for every batch."""

    def __init__(self, args: argparse.Namespace):
        data = np.load(args.features)
        self.features, self.label = (torch.from_numpy(data[k]) for k in ("features", "label"))
        self.bursts = torch.from_numpy(data["bursts"])
        torch.manual_seed(args.seed)
        self.rng = torch.default_generator  # dropout asks no other
        self.args, self.sentences, self.name = args, Sentences(), names()
        self.config = {**ARCHITECTURE, "vocab_size": len(self.sentences.words)}
        self.model = MusCaps(**self.config).train()
        self.modules = {"model": self.model}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), args.lr, weight_decay=1e-2)

    def advance(self) -> dict[str, float]:
        index = torch.randint(len(self.label), (self.args.batch,))
        # any stretch of a window
        first, last = sorted(torch.randperm(self.features.shape[1] + 1)[:2].tolist())
        label = self.label[index]
        heard = vary(self.features[index, first:last], self.name[label])
        self.sentences.draw.seed(f"{self.args.seed}/{self.step}")
        tokens = self.sentences.tokens(label, self.bursts[index])
        logits = self.model(self.model.remember(heard), tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        loop.descend(loss, self.optimizer, self.model.parameters())
        return {"loss": loss.item()}


def train(args: argparse.Namespace) -> None:
    args.cooldown = args.cooldown or args.steps
    training = Training(args)
    loop.run(training, args)
    export(training.model, training.config, training.sentences.words, args.weights)


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
    loop.options(second, lr=3e-3, batch=128).set_defaults(
        seed=7, steps=2500, warmup=50, decay="linear"
    )
    second.add_argument("--features", type=Path, required=True)
    second.add_argument("--weights", type=Path, default=WEIGHTS / "tiny_muscaps.safetensors")
    args = parser.parse_args(argv)
    with torch.no_grad() if args.command == "features" else torch.enable_grad():
        (hear if args.command == "features" else train)(args)


if __name__ == "__main__":
    main()
