"""Train MusCaps on Clotho (Drossos et al. 2020, arXiv:1910.09387) as Zenodo publishes it.

The folder holds clotho_captions_{development,validation,evaluation}.csv and the unpacked audio
archives. The tagger that hears is frozen, so each file is heard once and its features are kept.
A training that was stopped goes on where it was, to the bit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from acgd import atomic_files
from acgd.checkpoints import load as checkpoints
from acgd.describers.muscaps import CHUNKS, cut_chunks, read_vocabulary
from acgd.errors import UserError
from acgd.media import audio
from acgd.models.muscaps import EOS, OPTIONAL, PAD, SOS, UNK, Memory, MusCaps
from acgd.training import loop
from acgd.training.state import save

COLUMNS = ["file_name", *(f"caption_{i}" for i in range(1, 6))]
EXTRACTORS = {"hcnn": "mtat_hcnn_best_model.pth", "musicnn": "mtat_musicnn_best_model.pth"}


@dataclass
class Item:
    """A recording and what five people wrote about it."""

    path: Path
    captions: list[list[str]]  # words


def split_words(caption: str) -> list[str]:
    """Lower case, no punctuation."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", caption.lower())


def read_captions(folder: Path, split: str) -> dict[str, list[str]]:
    """File name -> its captions as they were written."""
    path = folder / f"clotho_captions_{split}.csv"
    if not path.is_file():
        raise UserError(f"{path} is not there: --data must hold Clotho's three captions files")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or [])]:
            raise UserError(f"{path}: has no column {missing[0]} (needs {', '.join(COLUMNS)})")
        found = {row["file_name"].strip(): [row[c] or "" for c in COLUMNS[1:]] for row in rows}
    if not found:
        raise UserError(f"{path}: holds no captions")
    return found


def read_split(folder: Path, split: str) -> list[Item]:
    """The recordings of a split in the captions' order; UserError for what is missing."""
    captions = read_captions(folder, split)
    named = folder / f"clotho_audio_{split}"
    places = [named / split, named, folder / split]
    place = next((p for p in places if p.is_dir() and any(p.glob("*.wav"))), None)
    if place is None:
        tried = ", ".join(str(p) for p in places)
        raise UserError(f"no wav files of {split}: unpack clotho_audio_{split}.7z (tried {tried})")
    if absent := [name for name in captions if not (place / name).is_file()]:
        raise UserError(
            f"{place}: {len(absent)} of {len(captions)} files are missing, such as {absent[0]}:"
            " unpack the archive again"
        )
    return [Item(place / n, [split_words(c) for c in texts]) for n, texts in captions.items()]


def write_vocabulary(items: list[Item], path: Path) -> list[str]:
    """Count the words into `path` unless it is there; the words by id."""
    if not path.is_file():
        counts = Counter(word for item in items for words in item.captions for word in words)
        atomic_files.write(path, json.dumps(counts, indent=0))
    return read_vocabulary(str(path))


@torch.no_grad()
def hear(model: MusCaps, items: list[Item], path: Path, device: str, name: str) -> list[Tensor]:
    """Features (C, D) of each recording; kept in `path` for the next start."""
    net = model.audio_encoder
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    key = [digest.hexdigest(), *(item.path.name for item in items)]
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        if kept["key"] == key:
            return kept["features"]
    features = []
    for item in tqdm(items, desc=f"hearing {name}"):
        wave = audio.load(item.path, net.sample_rate, duration=3600)
        chunks = torch.from_numpy(cut_chunks(wave, net.chunk, "overlap")).to(device)
        heard = [net.feature_extractor.features(part) for part in chunks.split(CHUNKS)]
        features.append(torch.cat(heard).cpu())
    save(path, {"key": key, "features": features})
    return features


def load_glove(path: Path, words: list[str], rows: Tensor) -> int:
    """Overwrite the rows (V, E) of the words that a GloVe text file knows; how many those are."""
    place, known = {word: i for i, word in enumerate(words)}, 0
    with open(path, encoding="utf-8") as file:
        for line in tqdm(file, desc=path.name, unit=" words"):
            word, *numbers = line.rstrip().split(" ")
            if word in place:
                if len(numbers) != rows.shape[1]:
                    raise UserError(f"{path}: vectors of {len(numbers)}, not {rows.shape[1]}")
                rows[place[word]] = torch.tensor([float(n) for n in numbers])
                known += 1
    return known


class Split:
    """The features of a split's recordings, and one example for each caption."""

    def __init__(self, items: list[Item], features: list[Tensor], words: list[str]) -> None:
        ids = {word: i for i, word in enumerate(words)}
        self.features = features
        self.examples = [
            (i, torch.tensor([SOS, *(ids.get(w, UNK) for w in caption), EOS]))
            for i, item in enumerate(items)
            for caption in item.captions
            if caption
        ]

    def batch(self, chosen: list[int], model: MusCaps, device: str) -> tuple[Memory, Tensor]:
        """What is heard, and captions (B, L)."""
        pad = torch.nn.utils.rnn.pad_sequence
        heard = [self.features[self.examples[i][0]] for i in chosen]
        counts = torch.tensor([len(f) for f in heard])
        tokens = pad([self.examples[i][1] for i in chosen], True, PAD).to(device)
        return model.remember(pad(heard, True).to(device), counts, own=True), tokens


def loss_of(model: MusCaps, split: Split, chosen: list[int], device: str) -> Tensor:
    memory, tokens = split.batch(chosen, model, device)
    logits = model(memory, tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)


class Training:
    """Epochs of shuffled captions until the validation loss has not fallen for a while."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.step = args, args.out, 0
        splits = {name: read_split(args.data, name) for name in ("development", "validation")}
        self.out.mkdir(parents=True, exist_ok=True)
        vocabulary = self.out / "muscaps_vocab.json"
        self.words = write_vocabulary(splits["development"], vocabulary)
        torch.manual_seed(args.seed)
        self.rng = torch.default_generator  # dropout asks no other
        self.model = MusCaps(
            vocab_size=len(self.words),
            feature_extractor_type=args.extractor,
            word_embed_dim=args.word_dim,
            hidden_dim_encoder=args.hidden,
            hidden_dim_decoder=args.hidden,
            attention_dim=args.attention,
            max_caption_len=args.longest,
        ).to(args.device)
        source = args.weights or EXTRACTORS[args.extractor]
        tagger = self.model.audio_encoder.feature_extractor
        checkpoints.load_into(tagger, checkpoints.load_state(source), source, ignore=OPTIONAL)
        self.model.eval()
        self.splits = {}
        for name, items in splits.items():
            kept = self.out / f"features_{name}.pt"
            features = hear(self.model, items, kept, args.device, name)
            self.splits[name] = Split(items, features, self.words)
        embeddings = self.model.text_encoder.word_embeddings.weight
        if args.glove:
            known = load_glove(args.glove, self.words, embeddings.data)
            print(f"{args.glove}: {known} of {len(self.words)} words; they stay as they are")
            embeddings.requires_grad_(False)
        parts = self.model.named_children()
        self.modules = {name: part for name, part in parts if name != "audio_encoder"}
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learning, args.lr)
        self.progress = {"epoch": 0, "val": nan, "best": inf, "stale": 0}

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self.splits["development"].examples) // self.args.batch)

    @property
    def finished(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs."""
        return self.progress["stale"] >= self.args.patience

    def order(self) -> list[int]:
        """The epoch's examples, shuffled; the same whenever the epoch is asked again."""
        seed = self.args.seed * 100003 + self.step // self.steps
        draw = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.splits["development"].examples), generator=draw).tolist()

    def advance(self) -> dict[str, float]:
        """A step; after an epoch's last one, the validation loss."""
        self.model.train()
        place, batch = self.step % self.steps, self.args.batch
        chosen = self.order()[place * batch : (place + 1) * batch]
        loss = loss_of(self.model, self.splits["development"], chosen, self.args.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if place == self.steps - 1:
            self.end_epoch(self.step // self.steps + 1)
        return {"loss": loss.item()}

    def end_epoch(self, epoch: int) -> None:
        """Keep the model where it is the best so far."""
        self.progress |= {"epoch": epoch, "val": self.validate()}
        if self.progress["val"] < self.progress["best"]:
            self.progress |= {"best": self.progress["val"], "stale": 0}
            best = {"epoch": epoch, "state_dict": self.model.state_dict()}
            save(self.out / "best_model.pth.tar", best)
        else:
            self.progress["stale"] += 1

    @torch.no_grad()
    def validate(self) -> float:
        """The validation captions' mean loss."""
        self.model.eval()
        split, batch = self.splits["validation"], self.args.batch
        places = list(range(len(split.examples)))
        parts = [places[i : i + batch] for i in range(0, len(places), batch)]
        losses = [loss_of(self.model, split, part, self.args.device).item() for part in parts]
        sizes = [len(part) for part in parts]
        return sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    loop.options(parser, lr=1e-4, batch=16).set_defaults(warmup=0, decay="linear")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="Clotho's folder: captions files and audio")
    add("--extractor", choices=list(EXTRACTORS), default="hcnn")
    add("--weights", help="the tagger's file; by default the published one in the cache")
    add("--glove", type=Path, help="glove.6B.300d.txt; without it the word vectors learn")
    add("--epochs", type=int, default=150, help="in place of --steps")
    add("--patience", type=int, default=10, help="epochs without a lower validation loss")
    add("--word-dim", type=int, default=300)
    add("--hidden", type=int, default=256)
    add("--attention", type=int, default=256)
    add("--longest", type=int, default=22, help="words of a caption when it is decoded")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    try:
        training = Training(args)
        args.steps = args.cooldown = args.epochs * training.steps
        loop.run(training, args)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    best = training.progress["best"]
    print(f"best validation loss {best:.4f}: {args.out / 'best_model.pth.tar'}")
