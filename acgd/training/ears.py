"""Train an embedded encoder's ears: they imitate a teacher and land in the locked towers' space.

    python -m acgd.training.ears encoder --mixtures runs/mixtures --data data \
        --teacher yamnet.tflite --classes yamnet_class_map.csv --out runs/ears

A network of ours learns from YAMNet's answers over mixtures (acgd/training/mixtures.py): its last
numbers but one become the teacher's, its last ones point at the texts and pictures of what is
heard, by the clips' labels and by what a map of the teacher's embedding says (concept_map.py).
State is saved every few minutes and training goes on from it as if it had never stopped.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.errors import UserError
from acgd.models.log_mel_cnn import LogMelCNN
from acgd.training.concept_map import ConceptMap, Prior, class_names, fit
from acgd.training.data.pairs import Pairs, concept_prompts
from acgd.training.encoder import ARCHITECTURES
from acgd.training.state import save
from acgd.training.teacher import Teacher

SEED = {"encoder": 200, "judge": 201}
EMBEDDING, SCORES, LABELS, MAP, PICTURES = 2.0, 0.1, 0.5, 1.0, 0.3  # the losses' weights
SEEN = 192  # pictures that a batch is contrasted with
RECIPE = 0.2  # what the label of a synthesised recipe counts beside a recording's
FONT = 3.0  # a soundfont's instruments are worth so many recordings
MEMORY = 0.998  # of the weights' running mean, which is what is kept
SCALE = 50.0  # of similarities, at most


class Patches:
    """The mixtures' patches, and what is known of each: labels as shares of the concepts."""

    def __init__(self, folder: Path, data: Path, concepts: list[str]):
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(f"{folder} has no mixtures: run acgd.training.mixtures first")
        parts = [load_file(path) for path in files]
        self.mel = torch.cat([part.pop("mel") for part in parts])  # (N, 96, 64) float16
        self.teacher = torch.cat([part.pop("teacher") for part in parts])  # (N, 1024) float16
        rows = torch.cat([part["rows"] for part in parts]).long()
        share = torch.cat([part["share"] for part in parts]).float()
        with open(data / "sounds.csv", encoding="utf-8", newline="") as f:
            sounds = [row for row in csv.DictReader(f)]
        names = [concepts.index(row["concept"]) if row["concept"] else -1 for row in sounds]
        made_up = torch.tensor([row["kind"] == "recipe" for row in sounds] + [False])[rows]
        label = torch.tensor([*names, -1])[rows]
        share = share * (label >= 0)
        self.target = torch.zeros(len(rows), len(concepts))
        self.target.scatter_add_(1, label.clamp(min=0), share)
        known = self.target.sum(1)
        self.target /= known[:, None].clamp(min=1e-6)
        # where most is something else the label says little, and a recipe only resembles its name
        recipes = (share * made_up).sum(1) / known.clamp(min=1e-6)
        self.known = known * (known > 0.4) * (1 - (1 - RECIPE) * recipes)
        self.origins = origins(sounds, concepts)

    def __len__(self) -> int:
        return len(self.mel)


def origins(sounds: list[dict], concepts: list[str]) -> Tensor:
    """How many independent origins each concept has in training, (C,); a soundfont counts FONT."""
    worth = {"real": 1.0, "soundfont": FONT, "speech": FONT}
    found = {}
    for row in sounds:
        if row["split"] == "train" and row["kind"] in worth:
            found.setdefault(row["concept"], {})[row["group"]] = worth[row["kind"]]
    return torch.tensor([sum(found.get(c, {}).values()) for c in concepts])


def mask(mel: Tensor, rng: torch.Generator, widest: int = 8) -> Tensor:
    """A few neighbouring bands of each patch (n, 96, 64) go quiet (Park et al. 2019)."""
    first = torch.randint(mel.shape[2], (len(mel), 1, 1), generator=rng)
    width = torch.randint(widest + 1, (len(mel), 1, 1), generator=rng)
    at = torch.arange(mel.shape[2])
    hit = (at >= first) & (at < first + width)
    return torch.where(hit, mel.amin((1, 2), keepdim=True), mel)


class Training:
    """Ears beside locked towers, step by step."""

    def __init__(self, args: argparse.Namespace, teacher: Teacher, prior: Prior):
        self.args, self.step, self.running, self.turn = args, 0, {}, -1
        args.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED[args.role])
        concepts = list(concept_prompts())
        encoder = AudioCLIPEncoder(args.towers or f"embedded:tiny_{args.role}")
        self.texts = encoder.text(concepts)  # (C, D)
        self.pictures, self.shown = picture_table(encoder, args.data)
        self.teacher, self.prior = teacher, prior
        self.patches = Patches(args.mixtures, args.data, concepts)
        self.ears = LogMelCNN(self.texts.shape[1], ARCHITECTURES[args.role]["audio_channels"])
        self.map = self.make_map()
        self.ears.project.load_state_dict(self.map.project.state_dict())
        self.ears = self.ears.to(memory_format=torch.channels_last).train()
        self.scale = torch.tensor(float(self.map.scale.detach()), requires_grad=True)
        self.kept = copy.deepcopy(self.ears).requires_grad_(False).eval()
        trained = [*self.ears.parameters(), self.scale]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.opt = torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.98), fused=True)
        self.state_file = args.out / "state.pt"
        if self.state_file.exists():
            self.load(torch.load(self.state_file, weights_only=True))

    def make_map(self) -> ConceptMap:
        """The map of this folder; made where there is none yet."""
        path, found = self.args.out / "map.pt", ConceptMap(self.texts, self.patches.origins)
        if not path.exists():
            known = self.patches
            fit(found, known.teacher, known.target, known.known, SEED[self.args.role])
            save(path, found.state_dict())
        found.load_state_dict(torch.load(path, weights_only=True))
        return found.eval().requires_grad_(False)

    def rng(self, step: int) -> torch.Generator:
        """A step's own chance, so that a resumed training draws what it would have drawn."""
        return torch.Generator().manual_seed(SEED[self.args.role] * 1_000_003 + step)

    def draw(self) -> Tensor:
        """The places (B,) of this step's patches: all in turn, in a new order each time."""
        n = max(1, len(self.patches) // self.args.batch)
        turn = self.step // n
        if turn != self.turn:
            self.order = torch.randperm(len(self.patches), generator=self.rng(-1 - turn))
            self.turn = turn
        return self.order.split(self.args.batch)[self.step % n]

    def losses(self, index: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The five losses of the patches at `index` (B,), each a mean over them."""
        wanted = self.patches.teacher[index].float()
        with torch.no_grad():
            scores = self.teacher.scores(wanted)
            chance = torch.sigmoid(scores)
            guess = self.map.chances(wanted, self.prior(scores))
        heard = self.ears.listen(mask(self.patches.mel[index].float(), rng))
        error = (heard - wanted).square().mean() / wanted.square().mean()
        likeness = F.cosine_similarity(heard, wanted, dim=1).mean()
        said = F.binary_cross_entropy_with_logits(
            self.teacher.scores(heard), chance, reduction="none"
        )
        sound = F.normalize(self.ears.project(heard), dim=-1) * self.scale.exp().clamp(max=SCALE)
        to_text = F.log_softmax(sound @ self.texts.T, dim=1)
        target = self.patches.target[index]
        known = self.patches.known[index].clamp(max=1)
        seen = torch.randint(len(self.pictures), (SEEN,), generator=rng)
        to_picture = F.log_softmax(sound @ self.pictures[seen].T, dim=1)
        shown = (0.5 * known[:, None] * target + (1 - 0.5 * known[:, None]) * guess)[
            :, self.shown[seen]
        ]
        shown = shown / shown.sum(1, keepdim=True).clamp(min=1e-6)
        return {
            "embedding": EMBEDDING * (1 - likeness + 0.1 * error),
            "scores": SCORES * said.sum(1).mean(),
            "labels": LABELS * -((target * to_text).sum(1) * known).mean(),
            "map": MAP * -(guess * to_text).sum(1).mean(),
            "pictures": PICTURES * -(shown * to_picture).sum(1).mean(),
        }

    def advance(self) -> None:
        """One step of one long cosine, after a short rise."""
        rise = min(1.0, (self.step + 1) / 100)
        rate = rise * 0.5 * (1 + math.cos(math.pi * self.step / self.args.steps))
        for group in self.opt.param_groups:
            group["lr"] = self.args.lr * rate
        losses = self.losses(self.draw(), self.rng(self.step))
        self.opt.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 2.0)
        self.opt.step()
        self.step += 1
        keep = min(MEMORY, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            own = self.ears.state_dict()
            for name, kept in self.kept.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(own[name], 1 - keep)
        for name, value in losses.items():
            last = self.running.get(name, value.item())
            self.running[name] = 0.98 * last + 0.02 * value.item()

    def save(self) -> None:
        state = {"ears": self.ears.state_dict(), "audio": self.kept.state_dict()}
        state |= {"opt": self.opt.state_dict(), "step": self.step, "running": self.running}
        save(self.state_file, state | {"scale": self.scale.detach()})

    def load(self, state: dict) -> None:
        self.ears.load_state_dict(state["ears"])
        self.kept.load_state_dict(state["audio"])
        self.opt.load_state_dict(state["opt"])
        self.scale.data.copy_(state["scale"])
        self.step, self.running = state["step"], state["running"]


@torch.no_grad()
def picture_table(encoder: AudioCLIPEncoder, data: Path) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) and labels (M,) of the concepts' training pictures."""
    pairs = Pairs(data, encoder.model.context_length)
    index = (pairs.named & ~pairs.holdout).nonzero()[:, 0]
    size = encoder.image_size
    parts = [F.adaptive_avg_pool2d(pairs.images(i), size) for i in index.split(128)]
    return torch.cat([encoder.image(part) for part in parts]), pairs.label[index]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--mixtures", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--teacher", type=Path, required=True, help="YAMNet's .tflite")
    parser.add_argument("--classes", type=Path, required=True, help="its yamnet_class_map.csv")
    parser.add_argument("--towers", help="the encoder's weights; default the embedded ones")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    prior = Prior(list(concept_prompts()), class_names(args.classes))
    training = Training(args, Teacher.read(args.teacher), prior)
    saved, begun, first = time.time(), time.time(), training.step
    while training.step < args.steps:
        training.advance()
        if time.time() - saved > 240 or training.step == args.steps:
            training.save()
            saved = time.time()
            pace = (saved - begun) / ((training.step - first) * args.batch) * 1e3
            said = {name: round(value, 3) for name, value in training.running.items()}
            print(json.dumps({"step": training.step, "ms": round(pace, 2), **said}), flush=True)


if __name__ == "__main__":
    main()
