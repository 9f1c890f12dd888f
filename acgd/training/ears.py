"""Train an embedded encoder's ears: they imitate a teacher and land in the locked towers' space.

    python -m acgd.training.ears encoder --mixtures runs/mixtures --data data \
        --teacher yamnet.tflite --classes yamnet_class_map.csv --out runs/ears

A network of ours learns from YAMNet's answers over mixtures (acgd/training/mixtures.py): its last
numbers but one become the teacher's, its last ones point at the texts and pictures of what is
heard, by the clips' labels and by what a map of the teacher's embedding says (concept_map.py).
One long cosine; state is saved every few minutes (acgd/training/loop.py).
"""

from __future__ import annotations

import argparse
import copy
import csv
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.errors import UserError
from acgd.models.log_mel_cnn import LogMelCNN
from acgd.training import loop
from acgd.training.concept_map import ConceptMap, Prior, class_names, fit
from acgd.training.data.pairs import Pairs, concept_prompts
from acgd.training.state import save
from acgd.training.teacher import Teacher

ARCHITECTURES = {  # of the ears alone; the towers' are in encoder.py
    "encoder": {"sample_rate": 16000, "audio_channels": [24, 48, 96, 192, 384]},
    "judge": {"sample_rate": 16000, "audio_channels": [16, 32, 64, 128, 256]},
}
SEED = {"encoder": 200, "judge": 201}
EMBEDDING, SCORES, LABELS, MAP, PICTURES = 2.0, 0.1, 1.0, 1.0, 0.3  # the losses' weights
SEEN = 192  # pictures that a batch is contrasted with
RECIPE = 0.5  # what the label of a synthesised recipe counts beside a recording's
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


class Listener(nn.Module):
    """Ears, and the factor of their similarities to texts and pictures."""

    def __init__(self, ears: LogMelCNN, log_scale: float):
        super().__init__()
        self.ears, self.log_scale = ears, nn.Parameter(torch.tensor(log_scale))

    def point(self, heard: Tensor) -> Tensor:
        """What `listen` gave (B, hidden) -> (B, D), as long as similarities are to be scaled."""
        return F.normalize(self.ears.project(heard), dim=-1) * self.log_scale.exp().clamp(max=SCALE)


class Training:
    """Ears beside locked towers; what is kept is the running mean of their weights."""

    def __init__(self, args: argparse.Namespace, teacher: Teacher, prior: Prior):
        self.args, self.teacher, self.prior = args, teacher, prior
        seed = args.seed + SEED[args.role]
        torch.set_num_threads(args.threads)  # the map's last bits depend on it
        torch.manual_seed(seed)
        self.rng = torch.Generator().manual_seed(seed)
        concepts = list(concept_prompts())
        encoder = AudioCLIPEncoder(args.towers or f"embedded:tiny_{args.role}")
        self.texts = encoder.text(concepts)  # (C, D)
        self.pictures, self.shown = picture_table(encoder, args.data)
        self.patches = Patches(args.mixtures, args.data, concepts)
        self.map = self.make_map()
        ears = LogMelCNN(self.texts.shape[1], ARCHITECTURES[args.role]["audio_channels"])
        ears.project.load_state_dict(self.map.project.state_dict())
        ears = ears.to(memory_format=torch.channels_last).train()
        self.kept = copy.deepcopy(ears).requires_grad_(False).eval()
        self.listener = Listener(ears, float(self.map.scale))
        self.modules = {"listener": self.listener, "kept": self.kept}
        self.trained = list(self.listener.parameters())
        groups = [
            {"params": [p for p in self.trained if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.98), fused=True)

    def make_map(self) -> ConceptMap:
        """The map of this folder; made where there is none yet."""
        path, found = self.args.out / "map.pt", ConceptMap(self.texts, self.patches.origins)
        if not path.exists():
            known = self.patches
            fit(found, known.teacher, known.target, known.known, SEED[self.args.role])
            save(path, found.state_dict())
        found.load_state_dict(torch.load(path, weights_only=True))
        return found.eval().requires_grad_(False)

    def losses(self, index: Tensor) -> dict[str, Tensor]:
        """The five losses of the patches at `index` (B,), each a mean over them."""
        wanted = self.patches.teacher[index].float()
        with torch.no_grad():
            scores = self.teacher.scores(wanted)
            chance = torch.sigmoid(scores)
            guess = self.map.chances(wanted, self.prior(scores))
        mel = mask(self.patches.mel[index].float(), self.rng)
        with loop.mixed_precision():
            heard = self.listener.ears.listen(mel).float()
        error = (heard - wanted).square().mean() / wanted.square().mean()
        likeness = F.cosine_similarity(heard, wanted, dim=1).mean()
        said = F.binary_cross_entropy_with_logits(
            self.teacher.scores(heard), chance, reduction="none"
        )
        sound = self.listener.point(heard)
        to_text = F.log_softmax(sound @ self.texts.T, dim=1)
        target = self.patches.target[index]
        known = self.patches.known[index].clamp(max=1)
        seen = torch.randint(len(self.pictures), (SEEN,), generator=self.rng)
        to_picture = F.log_softmax(sound @ self.pictures[seen].T, dim=1)
        share = 0.5 * known[:, None]
        shown = (share * target + (1 - share) * guess)[:, self.shown[seen]]
        shown = shown / shown.sum(1, keepdim=True).clamp(min=1e-6)
        return {
            "embedding": EMBEDDING * (1 - likeness + 0.1 * error),
            "scores": SCORES * said.sum(1).mean(),
            "labels": LABELS * -((target * to_text).sum(1) * known).mean(),
            "map": MAP * -(guess * to_text).sum(1).mean(),
            "pictures": PICTURES * -(shown * to_picture).sum(1).mean(),
        }

    def advance(self) -> dict[str, float]:
        index = torch.randint(len(self.patches), (self.args.batch,), generator=self.rng)
        losses = self.losses(index)
        loop.descend(sum(losses.values()), self.optimizer, self.trained, 2.0)
        with torch.no_grad():
            own = self.listener.ears.state_dict()
            for name, kept in self.kept.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(own[name], 1 - MEMORY)
                else:
                    kept.copy_(own[name])
        return {name: value.item() for name, value in losses.items()}


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
    loop.options(parser, lr=3e-3, batch=128).set_defaults(steps=8000)
    parser.add_argument("--mixtures", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--teacher", type=Path, required=True, help="YAMNet's .tflite")
    parser.add_argument("--classes", type=Path, required=True, help="its yamnet_class_map.csv")
    parser.add_argument("--towers", help="the encoder's weights; default the embedded ones")
    args = parser.parse_args(argv)
    args.cooldown = args.cooldown or args.steps
    args.out.mkdir(parents=True, exist_ok=True)
    prior = Prior(list(concept_prompts()), class_names(args.classes))
    loop.run(Training(args, Teacher.read(args.teacher), prior), args)


if __name__ == "__main__":
    main()
