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
import os
import re
from collections import Counter
from dataclasses import dataclass
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
from acgd.training.state import save

COLUMNS = ["file_name", *(f"caption_{i}" for i in range(1, 6))]
EXTRACTORS = {"hcnn": "mtat_hcnn_best_model.pth", "musicnn": "mtat_musicnn_best_model.pth"}
SAVE_EVERY = 200  # steps


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
        self.args, self.out = args, args.out
        splits = {name: read_split(args.data, name) for name in ("development", "validation")}
        self.out.mkdir(parents=True, exist_ok=True)
        vocabulary = self.out / "muscaps_vocab.json"
        self.words = write_vocabulary(splits["development"], vocabulary)
        torch.manual_seed(args.seed)
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
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.opt = torch.optim.Adam(learning, args.lr)
        self.epoch = self.place = self.stale = 0  # place: steps taken in this epoch
        self.best = float("inf")
        self.load()

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self.splits["development"].examples) // self.args.batch)

    def load(self) -> None:
        path = self.out / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location=self.args.device)
        try:
            checkpoints.load_into(self.model, state["model"], path, ignore=["audio_encoder*"])
            self.opt.load_state_dict(state["opt"])
        except (UserError, RuntimeError, ValueError):
            raise UserError(
                f"{path} is of another configuration: choose another --out, or remove it"
            ) from None
        torch.set_rng_state(state["rng"].cpu())
        self.epoch, self.place, self.stale = state["epoch"], state["place"], state["stale"]
        self.best = state["best"]

    def save(self) -> None:
        own = {k: v for k, v in self.model.state_dict().items() if "audio_encoder" not in k}
        state = {"model": own, "opt": self.opt.state_dict(), "rng": torch.get_rng_state()}
        where = {"epoch": self.epoch, "place": self.place, "stale": self.stale, "best": self.best}
        save(self.out / "state.pt", {**state, **where})

    def order(self) -> list[int]:
        """The epoch's examples, shuffled; the same whenever the epoch is asked again."""
        draw = torch.Generator().manual_seed(self.args.seed * 100003 + self.epoch)
        return torch.randperm(len(self.splits["development"].examples), generator=draw).tolist()

    def advance(self, chosen: list[int]) -> float:
        """One step at a rate that falls linearly to nothing at the last epoch's end."""
        done = (self.epoch * self.steps + self.place) / (self.args.epochs * self.steps)
        for group in self.opt.param_groups:
            group["lr"] = self.args.lr * (1 - done)
        loss = loss_of(self.model, self.splits["development"], chosen, self.args.device)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.opt.step()
        self.place += 1
        return loss.item()

    def run_epoch(self) -> float:
        """The steps of this epoch that are left; their mean loss."""
        order, batch, losses = self.order(), self.args.batch, []
        self.model.train()
        bar = tqdm(total=self.steps, initial=self.place, desc=f"epoch {self.epoch + 1}")
        while self.place < self.steps:
            chosen = order[self.place * batch : (self.place + 1) * batch]
            losses.append(self.advance(chosen))
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if self.place % SAVE_EVERY == 0 and self.place < self.steps:
                self.save()
        bar.close()
        return sum(losses) / max(1, len(losses))

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

    def run(self, log) -> None:
        """Epochs until the last, or until patience ends."""
        while self.epoch < self.args.epochs and self.stale < self.args.patience:
            line = {"epoch": self.epoch + 1, "loss": self.run_epoch(), "val": self.validate()}
            self.epoch, self.place = self.epoch + 1, 0
            if line["val"] < self.best:
                self.best, self.stale = line["val"], 0
                state = self.model.state_dict()
                best = {"epoch": self.epoch, "state_dict": state}
                save(self.out / "best_model.pth.tar", best)
            else:
                self.stale += 1
            self.save()
            with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            log(line)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="Clotho's folder: captions files and audio")
    add("--out", type=Path, required=True, help="checkpoints, vocabulary, features, log")
    add("--extractor", choices=list(EXTRACTORS), default="hcnn")
    add("--weights", help="the tagger's file; by default the published one in the cache")
    add("--glove", type=Path, help="glove.6B.300d.txt; without it the word vectors learn")
    add("--epochs", type=int, default=150)
    add("--patience", type=int, default=10, help="epochs without a lower validation loss")
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=1e-4)
    add("--word-dim", type=int, default=300)
    add("--hidden", type=int, default=256)
    add("--attention", type=int, default=256)
    add("--longest", type=int, default=22, help="words of a caption when it is decoded")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--wandb", metavar="PROJECT", help="also log to W&B (offline unless WANDB_MODE says so)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    try:
        training = Training(args)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if not args.wandb:
        training.run(lambda line: print(json.dumps(line), flush=True))
    else:
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        with wandb.init(project=args.wandb, dir=str(args.out), config=config, mode=mode) as run:
            training.run(run.log)
    print(f"best validation loss {training.best:.4f}: {args.out / 'best_model.pth.tar'}")
