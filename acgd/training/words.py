"""Teach the embedded encoder's text tower everyday words: "a kitty on the sofa" is like "cat".

    python -m acgd.training.words --teacher all-MiniLM-L6-v2 --out runs/words --steps 8000
    python -m acgd.training.export encoder --state runs/words/state.pt

Every noun that is near a drawn thing (acgd.training.data.meanings) learns that thing's embedding,
alone and in phrases; two things in one text learn the sum of both. What the diffusion model was
told while it learned, the names in their templates, keeps the embedding that it had, so that the
other models need not be trained again. Only the text tower changes, and of its tokens only those
that occur.
"""

from __future__ import annotations

import argparse
import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.models.audioclip import AudioCLIP
from acgd.models.tokenizer import tokenizer
from acgd.paths import WEIGHTS
from acgd.training import loop
from acgd.training.data import meanings, wordnet
from acgd.training.data.pairs import TEMPLATES, concept_prompts
from acgd.training.encoder import ARCHITECTURES, load_towers

NEAR = 0.4  # how near a noun has to be to a drawn thing to be taught
ALIKE = 0.5  # the same for words that WordNet does not have
KEPT, PAIRS, NAMES = 0.35, 0.1, 0.2  # shares of a batch: kept phrases, two things, drawn things
SHARP = 20.0  # scale of the cross entropy over drawn things
PLAIN = 0.3  # share of the words without a phrase around them
PHRASES = (
    "a {}", "the {}", "my {}", "one {}", "some {}", "a photo of a {}", "a picture of a {}",
    "a drawing of a {}", "a painting of the {}", "an image of a {}", "a sketch of a {}",
    "the sound of a {}", "{} sound", "two {}s", "{}s", "many {}s", "a {like} {}", "the {like} {}",
    "{like} {}", "{like} {}s", "a {} {where} the {other}", "a {like} {} {where} a {other}",
    "{} {where} {other}", "a photo of a {like} {}", "a {} {where} the {other}, {like}",
)  # fmt: skip
LIKE = (
    "small", "big", "little", "large", "old", "new", "young", "happy", "sad", "angry", "cute",
    "beautiful", "ugly", "red", "green", "blue", "yellow", "black", "white", "brown", "grey",
    "pink", "orange", "purple", "golden", "silver", "wooden", "dark", "bright", "cold", "hot",
    "wet", "dry", "loud", "quiet", "noisy", "soft", "fast", "slow", "flying", "running",
    "sleeping", "wild", "funny", "scary", "shiny", "broken", "fresh", "sweet", "tiny", "huge",
    "heavy", "tall", "long", "round", "lonely", "friendly", "strange", "modern", "ancient",
    "colorful", "detailed", "realistic",
)  # fmt: skip
WHERE = ("in", "on", "at", "near", "under", "with", "behind", "beside", "over", "in front of")


class Texts:
    """Draws texts with the embeddings that they shall have."""

    def __init__(self, args: argparse.Namespace, old: AudioCLIP):
        self.tokenize = tokenizer(old.context_length)
        self.old = old
        nouns = wordnet.words(args.wordnet)
        things = meanings.drawn(nouns)
        self.names = [thing.name for thing in things]
        self.targets = self.embed(self.names)  # (things, D)
        first, others = kept_phrases(args.data, self.names)
        self.kept, self.first = [*first, *others], len(first)
        self.kept_embed = self.embed(self.kept)
        own = {text.lower(): i for i, thing in enumerate(things) for text in thing.texts}
        self.words, self.thing = taught(args, things, own)
        self.own, self.own_thing = list(own), torch.tensor(list(own.values()))
        told = f"{len(self.words)} words, {len(self.names)} drawn things, {len(self.kept)} kept"
        print(told, flush=True)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """As the text tower has it before the training, (N, D)."""
        parts = [texts[i : i + 512] for i in range(0, len(texts), 512)]
        spoken = [self.old.encode_text(self.tokenize(part)) for part in parts]
        return F.normalize(torch.cat(spoken), dim=-1)

    def draw(self, n: int, rng: torch.Generator) -> tuple[list[str], Tensor, Tensor]:
        """n texts, their embeddings (n, D), and the drawn thing that is meant (n,), -1 for none."""
        kept, pairs, named = (int(n * share) for share in (KEPT, PAIRS, NAMES))
        first = self.several(n - kept - pairs - named, rng)
        second = self.several(named, rng, drawn=True)
        one, other = self.several(pairs, rng), self.several(pairs, rng)
        both = [f"a {a} and a {b}" for (a, _), (b, _) in zip(one, other, strict=True)]
        texts = [self.phrase(word, rng) for word, _ in first + second] + both
        things = torch.tensor([thing for _, thing in first + second])
        mixed = sum(self.targets[[thing for _, thing in side]] for side in (one, other))
        most = torch.tensor([self.first if i % 2 else len(self.kept) for i in range(kept)])
        index = (torch.rand(kept, generator=rng) * most).long()
        texts += [self.kept[i] for i in index.tolist()]
        embeds = torch.cat([self.targets[things], mixed, self.kept_embed[index]])
        things = torch.cat([things, torch.full((pairs + kept,), -1)])
        return texts, F.normalize(embeds, dim=-1), things

    def several(self, n: int, rng: torch.Generator, drawn: bool = False) -> list[tuple[str, int]]:
        """n words with their things: everyday ones, or those of the drawn things themselves."""
        words, things = (self.own, self.own_thing) if drawn else (self.words, self.thing)
        index = torch.randint(len(words), (n,), generator=rng)
        return [(words[i], int(things[i])) for i in index.tolist()]

    def phrase(self, word: str, rng: torch.Generator) -> str:
        """A word alone or with others around it that do not change what is meant."""
        plain, which, like, where, other = torch.rand(5, generator=rng).tolist()
        if plain < PLAIN:
            return word
        text = PHRASES[int(which * len(PHRASES))].format(
            word,
            like=LIKE[int(like * len(LIKE))],
            where=WHERE[int(where * len(WHERE))],
            other=self.words[int(other * len(self.words))],
        )
        return articles(text)


def articles(text: str) -> str:
    """ "a owl" is "an owl"."""
    words = text.split(" ")
    for i, (word, following) in enumerate(pairwise(words)):
        if word == "a" and following[:1] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def kept_phrases(data: Path, drawn: list[str]) -> tuple[list[str], list[str]]:
    """What the diffusion model was told: names in its templates, those of the drawn things and
    the concepts, which matter most, and those of all other emoji."""
    first = [*drawn, *(name for names in concept_prompts().values() for name in names)]
    rest = np.load(data / "pictures.npz", allow_pickle=False)["name"].tolist()
    both = [[t.format(name) for name in own for t in dict.fromkeys(TEMPLATES)]
            for own in (first, rest)]  # fmt: skip
    first = list(dict.fromkeys(both[0]))
    return first, sorted(set(both[1]) - set(first))


def taught(
    args: argparse.Namespace, things: list[meanings.Drawn], own: dict[str, int]
) -> tuple[list[str], Tensor]:
    """The everyday words and the number of the drawn thing that each is nearest to."""
    kinds, encode = meanings.Kinds(things, args.wordnet), meanings.SentenceEncoder(args.teacher)
    pieces = {s[:-4] for s in tokenizer().symbols if s.endswith("</w>")}
    usual = pieces | encode.vocabulary()
    usual = {word for word in usual if word.isascii() and word.isalpha() and len(word) > 1}
    nouns = [noun for noun in kinds.common(usual) if noun not in own]
    place, near = meanings.nearest(nouns, things, kinds, encode)
    rest = sorted(usual - kinds.nouns.keys() - own.keys())
    place_rest, near_rest = meanings.likest(rest, things, encode)
    chosen = torch.cat([near >= NEAR, near_rest >= ALIKE])
    place = torch.cat([place, place_rest])
    words = nouns + rest
    return [words[i] for i in chosen.nonzero()[:, 0].tolist()], place[chosen]


class Training:
    """The text tower alone, step by step."""

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.args, self.rng = args, torch.Generator().manual_seed(args.seed)
        self.model = AudioCLIP(**ARCHITECTURES["encoder"])
        load_towers(self.model, args.init)
        self.texts = Texts(args, copy.deepcopy(self.model).requires_grad_(False))
        self.modules = {"model": self.model}
        text = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_proj")
        self.trained = []
        for name, p in self.model.named_parameters():
            p.requires_grad_(name.startswith(text))
            self.trained += [p] if p.requires_grad else []
        # without weight decay tokens that never occur keep every bit
        self.optimizer = torch.optim.AdamW(self.trained, args.lr, (0.9, 0.98), weight_decay=0.0)
        self.progress = self.measure()

    def encode(self, texts: list[str]) -> Tensor:
        return F.normalize(self.model.encode_text(self.texts.tokenize(texts)), dim=-1)

    def advance(self) -> dict[str, float]:
        texts, wanted, thing = self.texts.draw(self.args.batch, self.rng)
        found = self.encode(texts)
        apart = 1 - (found * wanted).sum(-1)
        meant = thing >= 0
        logits = SHARP * found[meant] @ self.texts.targets.T
        loss = 4 * apart.mean() + 0.25 * F.cross_entropy(logits, thing[meant])
        loop.descend(loss, self.optimizer, self.trained)
        return {"loss": loss.item(), "apart": apart.mean().item()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Share of a thousand words that are nearest to their drawn thing, and how well phrases
        are kept."""
        texts, rng = self.texts, torch.Generator().manual_seed(0)
        words, things = zip(*texts.several(1000, rng), strict=True)
        likeness = self.encode(list(words)) @ texts.targets.T
        right = (likeness.argmax(-1) == torch.tensor(things)).float().mean()
        index = torch.randperm(len(texts.kept), generator=rng)[:2000]
        same = (self.encode([texts.kept[i] for i in index]) * texts.kept_embed[index]).sum(-1)
        return {"words": round(float(right), 3), "kept": round(float(same.mean()), 4)}

    def preview(self, folder: Path) -> None:
        """How far it is, for the log."""
        self.progress |= self.measure()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    loop.options(parser, lr=1e-3, batch=512)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", type=Path, default=wordnet.FOLDER)
    parser.add_argument("--init", type=Path, default=WEIGHTS / "tiny_encoder.safetensors")
    args = parser.parse_args(argv)
    loop.run(Training(args), args)


if __name__ == "__main__":
    main()
