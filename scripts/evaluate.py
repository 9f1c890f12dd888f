"""How well the pictures show what was asked, as a judge sees it that never guided.

    python scripts/evaluate.py [--data DIR] [--seeds 4] [--only text,default,audio] [KEY=VALUE ...]

Four tables, each with chance beside it and a picture grid in outputs/evaluation/:
    text     every concept's name as prompt, pure CLIP guidance (guidance.cfg_scale=0)
    default  the same at the default settings
    audio    held-out recordings alone as prompt, default settings (--data: build_dataset's folder)
    sounds   the same recordings to words, by the encoder alone
and for text prompts the judge's similarity against an unguided twin of the same seed. The
captioner's captions of all these pictures are counted too. --blind OUT makes grids for people
instead, of the concepts or of the names in --names FILE, a line each, or with --data of held-out
sounds that the ears hear rightly; --answers FILE with it scores what they saw (scripts/blind.py).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import blind
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from acgd.config.compose import compose
from acgd.pipeline import settings
from acgd.pipeline.models import Models
from acgd.pipeline.sampling import sample, to_bytes
from acgd.runs.run import resolve
from acgd.training.data import picture_sentences
from acgd.training.data.pairs import concept_prompts
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds, resampled
from acgd.types import Target


@dataclass
class Prompt:
    concept: int  # its place in the judge's labels
    targets: list[Target]  # by the encoder
    group: str  # which line of the summary it counts in
    seed: int
    sound: Tensor | None = None  # (D,), as the encoder hears it


@torch.no_grad()
def paint(models: Models, cfg: dict, prompts: list[Prompt], scale: float, guided: bool) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], each its prompt's only target."""
    own = {**cfg, "guidance": {**cfg["guidance"], "cfg_scale": scale}}
    chosen = settings.read([{**own, "seed": prompt.seed} for prompt in prompts])
    chosen = chosen if guided else chosen.unguided()
    for step in sample(models, [prompt.targets for prompt in prompts], chosen, chosen.noise()):
        x = step.x
    return to_bytes(models.model.decode(x)).float() / 255


def batches(prompts: list[Prompt], size: int) -> Iterator[list[Prompt]]:
    for i in tqdm(range(0, len(prompts), size), leave=False):
        yield prompts[i : i + size]


def interval(values: Tensor) -> str:
    """Mean and its 95 % interval, normal approximation."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def ranks(similarity: Tensor, concepts: Tensor) -> Tensor:
    """Place of the right label for each row, 0 is first."""
    return (similarity > similarity.gather(1, concepts[:, None])).sum(1)


def table(title: str, place: Tensor, prompts: list[Prompt], labels: list[str], each: bool) -> dict:
    """Print and return the share of firsts and of places among five, in all and by group."""
    n = len(labels)
    print(f"\n{title}: {len(place)} pictures, chance {1 / n:.1%} first, {5 / n:.1%} among five")
    out = {}
    for group in dict.fromkeys(["all", *(p.group for p in prompts)]):
        own = torch.tensor([group in ("all", p.group) for p in prompts])
        first, five = (place[own] < 1).float().mean(), (place[own] < 5).float().mean()
        out[group] = {
            "first": round(float(first), 3),
            "five": round(float(five), 3),
            "n": int(own.sum()),
        }
        print(f"  {group:24} {first:6.1%} first  {five:6.1%} among five   ({int(own.sum())})")
    if each:
        concept = torch.tensor([p.concept for p in prompts])
        rows = []
        for c in concept.unique().tolist():
            own = place[concept == c]
            rows.append(
                (float((own < 1).float().mean()), float((own < 5).float().mean()), labels[c])
            )
        out["concepts"] = {name: [round(a, 2), round(b, 2)] for a, b, name in rows}
        rows.sort(reverse=True)
        for i in range(0, len(rows), 4):
            print(
                "  " + "  ".join(f"{a:4.0%}/{b:4.0%} {name:16}" for a, b, name in rows[i : i + 4])
            )
    return out


def grid(pixels: Tensor, columns: int, path: Path) -> None:
    """Pictures (N, 3, H, W) in [0, 1], row by row."""
    pixels = F.pad(pixels, (1, 1, 1, 1), value=0.8)
    blank = pixels.new_ones(-len(pixels) % columns, *pixels.shape[1:])
    rows = torch.cat([pixels, blank]).unflatten(0, (-1, columns))
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().byte().numpy()).save(path)
    print(f"  pictures: {path}")


class Evaluation:
    def __init__(self, args: argparse.Namespace):
        self.cfg = resolve(compose(args.overrides))
        self.args, self.models = args, Models(self.cfg)
        self.view, self.labels = self.models.by_judge, self.models.labels
        self.result: dict = {"overrides": args.overrides}

    def run(self, name: str, prompts: list[Prompt], scale: float, twin: bool = False) -> None:
        pictures, twins = [], []
        for batch in batches(prompts, self.args.batch):
            pictures.append(paint(self.models, self.cfg, batch, scale, guided=True))
            if twin:
                twins.append(paint(self.models, self.cfg, batch, 0.0, guided=False))
        pictures = torch.cat(pictures)
        concepts = torch.tensor([p.concept for p in prompts])
        similarity = self.judge(pictures)
        found = table(
            f"{name} (cfg {scale:g})", ranks(similarity, concepts), prompts, self.labels, True
        )
        found["captions"] = self.caption(pictures, concepts)
        if twin:
            own = similarity.gather(1, concepts[:, None])[:, 0]
            base = self.judge(torch.cat(twins)).gather(1, concepts[:, None])[:, 0]
            found["gain"] = interval(own - base)
            print(f"  judge's similarity: {own.mean():.3f}, unguided twin {base.mean():.3f},"
                  f" gain {found['gain']}")  # fmt: skip
        self.result[name] = found
        grid(pictures, 4 * self.args.seeds, self.args.out / f"{name}.png")

    def judge(self, pictures: Tensor) -> Tensor:
        """Similarity (N, labels) by the judge, label texts as they are."""
        return torch.cat([self.view.images(p) for p in pictures.split(64)]) @ self.view.embeds.T

    def caption(self, pictures: Tensor, concepts: Tensor) -> float | None:
        """Share of the pictures whose caption names the concept and no other."""
        said = [text for p in pictures.split(64) for text in self.models.captioner(p)]
        if not any(said):
            return None  # captioner=none
        asked = [self.labels[c] for c in concepts.tolist()]
        pairs = zip(said, asked, strict=True)
        right = [picture_sentences.names(caption) == {concept} for caption, concept in pairs]
        share = sum(right) / len(right)
        print(f"  captions that name the concept and no other: {share:.1%}")
        return round(share, 3)

    def names(self) -> list[Prompt]:
        embeds, n = self.models.encoder.text(self.labels), self.args.seeds
        return [
            Prompt(c, [Target(embeds[c], 1.0, "text", "")], "all", n * c + s)
            for c in range(len(self.labels)) for s in range(n)
        ]  # fmt: skip

    def sounds(self) -> list[Prompt]:
        """Held-out recordings, and clips of the held-out soundfont, as prompts."""
        sounds = Sounds(self.args.data, self.labels)
        prompts, taken = [], {}
        for i, group in sounds.held_out():
            c = int(sounds.label[i])
            taken[group, c] = taken.get((group, c), 0) + 1
            if taken[group, c] > self.args.clips:
                continue
            encoder = self.models.encoder
            wave = resampled(sounds.clip(i)[None, : 10 * SAMPLE_RATE], encoder.sample_rate)
            embed = encoder.audio(wave)[0]
            sound = Target(embed, 1.0, "audio", "")
            targets = self.models.by_encoder.spoken([sound], self.cfg["heard"])
            prompts += [
                Prompt(c, targets, group, 10000 + len(prompts) + s, embed)
                for s in range(self.args.seeds)
            ]
        return sorted(prompts, key=lambda p: (p.group, p.concept))

    def retrieval(self, prompts: list[Prompt]) -> None:
        once = prompts[:: self.args.seeds]
        similarity = torch.stack([p.sound for p in once]) @ self.models.by_encoder.embeds.T
        place = ranks(similarity, torch.tensor([p.concept for p in once]))
        self.result["sounds"] = table("sounds to words, encoder", place, once, self.labels, True)


def looked_at_blindly(args: argparse.Namespace) -> None:
    """Grids of one picture a prompt, or the score of what was seen in them; see blind.py."""
    if args.answers:
        found = blind.score(args.blind, args.answers, concept_prompts())
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    args.seeds = 1
    evaluation = Evaluation(args)
    prompts, names = asked(evaluation, args)
    scale, pictures = evaluation.cfg["guidance"]["cfg_scale"], []
    for batch in batches(prompts, args.batch):
        pictures += paint(evaluation.models, evaluation.cfg, batch, scale, guided=True)
    arrays = [(p.permute(1, 2, 0) * 255).round().byte().numpy() for p in pictures]
    shown = [Image.fromarray(array) for array in arrays]
    blind.write(args.blind, shown, [names[p.concept] for p in prompts])
    print(f"grids and key: {args.blind}")


def asked(evaluation: Evaluation, args: argparse.Namespace) -> tuple[list[Prompt], list[str]]:
    """What is drawn for people to name, and the names that the prompts' numbers stand for."""
    encoder, labels = evaluation.models.encoder, evaluation.labels
    if args.names:
        names = args.names.read_text(encoding="utf-8").split("\n")
        names = [name for name in names if name.strip()]
        embeds = encoder.text(names)
        targets = [[Target(embed, 1.0, "text", "")] for embed in embeds]
        return [Prompt(i, own, "all", i) for i, own in enumerate(targets)], names
    if args.data:
        known = evaluation.models.by_encoder.embeds
        heard = [p for p in evaluation.sounds() if int((known @ p.sound).argmax()) == p.concept]
        return heard, labels
    return evaluation.names(), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--data", type=Path, help="build_dataset's folder, for the sounds")
    parser.add_argument("--only", default="text,default,audio,sounds")
    parser.add_argument("--seeds", type=int, default=4, help="pictures of a prompt")
    parser.add_argument(
        "--clips", type=int, default=8, help="sounds of a concept and source, at most"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--blind", type=Path, metavar="OUT", help="numbered grids and a key, alone")
    parser.add_argument("--names", type=Path, help="what to draw for --blind, a name a line")
    parser.add_argument("--answers", type=Path, help="what somebody saw in them, to be scored")
    parser.add_argument("--out", type=Path, default=Path("outputs/evaluation"))
    args = parser.parse_intermixed_args()
    if args.blind:
        return looked_at_blindly(args)
    evaluation, only = Evaluation(args), args.only.split(",")
    cfg_scale = evaluation.cfg["guidance"]["cfg_scale"]
    if "text" in only:
        evaluation.run("text", evaluation.names(), 0.0, twin=True)
    if "default" in only:
        evaluation.run("default", evaluation.names(), cfg_scale, twin="text" not in only)
    if args.data and {"audio", "sounds"} & set(only):
        prompts = evaluation.sounds()
        if "sounds" in only:
            evaluation.retrieval(prompts)
        if "audio" in only:
            evaluation.run("audio", prompts, cfg_scale)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "figures.json").write_text(json.dumps(evaluation.result, indent=1))


if __name__ == "__main__":
    main()
