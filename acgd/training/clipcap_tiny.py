"""Train the embedded captioner: a mapper and a small GPT-2 over what the embedded judge sees.

    python -m acgd.training.clipcap_tiny train --data data --judge runs/judge/state.pt \\
        --out runs/clipcap --steps 4000
    python -m acgd.training.clipcap_tiny export --out runs/clipcap
    python -m acgd.training.clipcap_tiny evaluate --data data --pictures outputs

The judge's tower stays as it is: what it sees of many views of each picture (placed, coloured,
blurred and noised anew) is worked out once. A training example is the mean over some of a picture's
views, with a sentence of data/picture_sentences.py. Held-out pictures are never trained on.
`evaluate` captions them with the embedded weights and says which share names the concept, by words
that belong to that concept alone; with --pictures also those of finished runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.captioners.clipcap_tiny import TinyClipCap, glimpse
from acgd.models.audioclip import AudioCLIP
from acgd.models.clipcap import TIED, ClipCap
from acgd.training import loop
from acgd.training.data import picture_sentences
from acgd.training.data.pairs import Pairs, views
from acgd.training.encoder import ARCHITECTURES, load_towers
from acgd.training.export import WEIGHTS, write
from acgd.training.state import save

ARCHITECTURE = {
    "prefix_size": 3 * ARCHITECTURES["judge"]["vision_width"],
    "prefix_length": 4,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 96,
    "n_positions": 48,
    "dropout": 0.1,
    "light": True,
}
VOCABULARY = 1536
LENGTH = 32  # tokens of a sentence at most
MOST_VIEWS = 8  # that an example is the mean of
IGNORED = -100  # the target of padding


def read_judge(path: Path) -> AudioCLIP:
    model = AudioCLIP(**ARCHITECTURES["judge"])
    load_towers(model, path)
    return model.eval().requires_grad_(False)


def fingerprint(tower: torch.nn.Module) -> str:
    """Twelve hex digits of the tower's weights as they are embedded, in float16."""
    digest = hashlib.sha256()
    for value in tower.state_dict().values():
        digest.update(value.half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class Seen:
    """What the judge sees of the training pictures, as often as asked for each kind."""

    def __init__(self, pairs: Pairs, judge: AudioCLIP, named: int, others: int, seed: int = 0):
        rng = torch.Generator().manual_seed(seed)
        count = torch.where(pairs.named, named, others)
        count[pairs.holdout] = 0
        index = torch.arange(len(count)).repeat_interleave(count)
        parts = [self.see(pairs, judge, i, rng) for i in index.split(256)]
        self.features, self.count = torch.cat(parts), count
        self.first = count.cumsum(0) - count

    @staticmethod
    @torch.no_grad()
    def see(pairs: Pairs, judge: AudioCLIP, index: Tensor, rng: torch.Generator) -> Tensor:
        strength = 0.4 + 0.8 * float(torch.rand((), generator=rng))
        return glimpse(judge.visual, views(pairs.images(index), rng, strength)).half()

    def draw(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """For each picture (n,) the mean over one to MOST_VIEWS of its views, (n, D)."""
        u = torch.rand(len(index), MOST_VIEWS, generator=rng)
        rows = self.first[index, None] + (u * self.count[index, None]).long()
        many = torch.randint(1, MOST_VIEWS + 1, (len(index), 1), generator=rng)
        weight = (torch.arange(MOST_VIEWS) < many).float() / many  # (n, MOST_VIEWS)
        return (self.features[rows].float() * weight[..., None]).sum(1)


def all_sentences(data: Path) -> list[list[str]]:
    """What can be said of each picture of the set."""
    with np.load(data / "pictures.npz", allow_pickle=False) as arrays:
        columns = [arrays[name].tolist() for name in ("concept", "name", "keywords", "group")]
        pixels = arrays["pixels"]
    colours = [picture_sentences.colour(picture) for picture in pixels]
    rows = zip(*columns, colours, strict=True)
    return [picture_sentences.sentences(*row) for row in rows]


def train_tokenizer(texts: Sequence[str]) -> str:
    """A byte-level BPE of the sentences, as the text of a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


class Training:
    """The mapper and GPT-2, step by step."""

    def __init__(self, args: argparse.Namespace):
        from tokenizers import Tokenizer

        self.args, self.rng = args, torch.default_generator  # dropout asks no other
        judge = read_judge(args.judge)
        self.judge = fingerprint(judge.visual)
        self.pairs = Pairs(args.data, judge.context_length, args.share)
        said = all_sentences(args.data)
        shown = self.pairs.weight.gt(0).tolist()
        # the concepts' sentences as often as all the others', so that their words stay whole
        texts = [t for texts, on in zip(said, shown, strict=True) if on for t in texts]
        named = self.pairs.named.tolist()
        texts += 10 * [t for i, ts in enumerate(said) if named[i] and shown[i] for t in ts]
        self.tokenizer = train_tokenizer(texts)
        encode = Tokenizer.from_str(self.tokenizer).encode
        self.said = [[encode(text).ids[:LENGTH] for text in texts] for texts in said]
        size = Tokenizer.from_str(self.tokenizer).get_vocab_size()
        self.config = {**ARCHITECTURE, "vocab_size": size}
        torch.manual_seed(args.seed)
        self.model = ClipCap(**self.config).train()
        self.modules = {"model": self.model}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), args.lr, betas=(0.9, 0.98), weight_decay=0.05
        )
        began = time.time()
        self.seen = Seen(self.pairs, judge, args.views, args.views_of_others, args.seed)
        print(f"{len(self.seen.features)} views in {time.time() - began:.0f} s", flush=True)

    def batch(self) -> tuple[Tensor, Tensor]:
        """What is seen (n, D) and what is said of it (n, L), padded with IGNORED."""
        index = self.pairs.draw(self.args.batch, self.rng)
        u = torch.rand(len(index), generator=self.rng).tolist()
        chosen = [self.said[i] for i in index.tolist()]
        rows = [ids[int(x * len(ids))] for ids, x in zip(chosen, u, strict=True)]
        tokens = torch.full((len(rows), max(map(len, rows))), IGNORED)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return self.seen.draw(index, self.rng), tokens

    def advance(self) -> dict[str, float]:
        seen, tokens = self.batch()
        seen = F.dropout(seen, self.args.drop)
        said = self.model(tokens[:, :-1].clamp(min=0), seen)[:, self.model.prefix_length - 1 :]
        loss = F.cross_entropy(said.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED)
        loop.descend(loss, self.optimizer, self.model.parameters())
        return {"loss": loss.item()}


def train(args: argparse.Namespace) -> None:
    args.cooldown = args.cooldown or args.steps
    training = Training(args)
    loop.run(training, args)
    about = {"config": json.dumps(training.config), "tokenizer": training.tokenizer}
    save(args.out / "about.pt", about | {"judge": training.judge})


def export(args: argparse.Namespace) -> None:
    """float16 safetensors with architecture, tokenizer and the judge's fingerprint inside."""
    model = torch.load(args.out / "state.pt", weights_only=True)["modules"]["model"]
    about = torch.load(args.out / "about.pt", weights_only=True)
    tensors = {key: value for key, value in model.items() if key != TIED}
    write(args.weights / "tiny_clipcap.safetensors", tensors, about)


def right(captions: list[str], concepts: list[str]) -> list[bool]:
    """Whether each caption names its concept and no other."""
    pairs = zip(captions, concepts, strict=True)
    return [picture_sentences.names(caption) == {concept} for caption, concept in pairs]


def held_out(captioner: TinyClipCap, data: Path) -> tuple[list[str], list[str]]:
    """Captions and concepts of the pictures that were never trained on."""
    pairs = Pairs(data, context_length=8)
    index = (pairs.holdout & pairs.named).nonzero()[:, 0]
    captions = [text for i in index.split(64) for text in captioner(pairs.images(i))]
    return captions, [pairs.concepts[label] for label in pairs.label[index].tolist()]


def generated(captioner: TinyClipCap, folder: Path) -> tuple[list[str], list[str]]:
    """Captions and concepts of the pictures of finished runs below a folder."""
    from acgd.media import images

    captions, concepts = [], []
    for path in sorted(folder.rglob("metrics.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        picture = path.parent / "images" / f"seed{scores.get('seed')}.png"
        if scores.get("concept") and picture.is_file():
            pixels = np.asarray(images.load(str(picture)).convert("RGB"))
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            captions += captioner(x)
            concepts.append(scores["concept"])
    return captions, concepts


def evaluate(args: argparse.Namespace) -> None:
    captioner = TinyClipCap(
        str(args.weights / "tiny_clipcap.safetensors"),
        clip=str(args.judge_weights),
        decoding={"how": args.how, "beams": 4, "length": LENGTH},
    )
    sets = {"held-out pictures": held_out(captioner, args.data)}
    if args.pictures:
        sets["generated pictures"] = generated(captioner, args.pictures)
    for name, (captions, concepts) in sets.items():
        hits = right(captions, concepts)
        for caption, concept, hit in zip(captions, concepts, hits, strict=True):
            print(f"{'+' if hit else '-'} {concept:16} {caption}")
        print(f"{name}: {sum(hits)} of {len(hits)} captions name the concept and no other")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["train", "export", "evaluate"])
    loop.options(parser, lr=2e-3, batch=128, out=Path("runs/clipcap")).set_defaults(steps=4000)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--judge", type=Path, help="its training's state.pt, or its weights")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--drop", type=float, default=0.2, help="of what the judge sees")
    parser.add_argument("--share", type=float, default=0.7, help="of pictures of the concepts")
    parser.add_argument("--views", type=int, default=24, help="of each picture of a concept")
    parser.add_argument("--views-of-others", type=int, default=4)
    parser.add_argument("--judge-weights", type=Path, default=WEIGHTS / "tiny_judge.safetensors")
    parser.add_argument("--pictures", type=Path, help="a folder of finished runs")
    parser.add_argument("--how", default="beam", help="beam, greedy or top_p")
    args = parser.parse_args(argv)
    if args.what == "train":
        train(args)
    elif args.what == "export":
        export(args)
    else:
        evaluate(args)


if __name__ == "__main__":
    main()
