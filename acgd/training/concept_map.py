"""From the teacher's embedding of a patch to the concepts: a small learned map, and a prior.

The prior is a table made by hand, data/audioset.csv: AudioSet's classes for each concept. What the
teacher says of them holds for thousands of recordings; the map learns the rest from ours, and has
less to say the fewer we have of a concept.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.errors import UserError
from acgd.models.log_mel_cnn import projection

TABLE = Path(__file__).parent / "data" / "audioset.csv"
HINT = 0.3  # what a class that only hints at a concept counts
FLOOR = 1e-3  # added to the prior's chances before their logarithm
TRUST = 0.3  # the power of the prior where the map has much to say
FEW = 3.0  # where a concept has so many recordings, map and prior have an equal say
STEPS = 1500


class Prior:
    """Chances of the concepts by the teacher's classes alone."""

    def __init__(self, concepts: list[str], names: list[str]):
        with open(TABLE, encoding="utf-8", newline="") as f:
            rows = {row["concept"]: row for row in csv.DictReader(f)}
        self.weight = torch.zeros(len(concepts), len(names))
        for i, concept in enumerate(concepts):
            for column, weight in (("classes", 1.0), ("hints", HINT)):
                for name in filter(None, rows[concept][column].split("|")):
                    self.weight[i, names.index(name)] = weight

    def __call__(self, scores: Tensor) -> Tensor:
        """Logits of the classes (B, K) -> (B, C) in [0, 1], each its likeliest class's chance."""
        chance = torch.sigmoid(scores)
        parts = [(chance[:, row > 0] * row[row > 0]).amax(1) for row in self.weight]
        return torch.stack(parts, 1)


def class_names(path: Path) -> list[str]:
    """The names in a yamnet_class_map.csv, in their order."""
    if not path.is_file():
        raise UserError(f"{path}: no file; it lists the teacher's classes")
    with open(path, encoding="utf-8", newline="") as f:
        return [row["display_name"] for row in csv.DictReader(f)]


class ConceptMap(nn.Module):
    """Embeddings (B, 1024) to concepts, by way of the texts' space; the prior counts as well.

    texts (C, D) unit norm; origins (C,): how many recordings there are of each concept.
    """

    def __init__(self, texts: Tensor, origins: Tensor, between: int = 256, drop: float = 0.3):
        super().__init__()
        self.register_buffer("doubt", 1 / (1 + origins / FEW), persistent=False)
        self.register_buffer("texts", texts, persistent=False)
        self.drop = nn.Dropout(drop)
        self.project = projection(1024, between, texts.shape[1], drop)
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, 1024) -> logits (B, C)."""
        found = F.normalize(self.project(self.drop(embedding)), dim=-1)
        return found @ self.texts.T * self.scale.exp().clamp(max=50)

    def chances(self, embedding: Tensor, prior: Tensor) -> Tensor:
        """(B, 1024) and the prior's (B, C) -> (B, C), each row 1 in all."""
        both = (self(embedding) + TRUST * (prior + FLOOR).log()).softmax(1)
        alone = prior / prior.sum(1, keepdim=True).clamp(min=0.1)  # it may know of nothing here
        found = (1 - self.doubt) * both + self.doubt * alone
        return found / found.sum(1, keepdim=True)


def fit(found: ConceptMap, embedding: Tensor, target: Tensor, known: Tensor, seed: int) -> None:
    """Train the map on patches' embeddings (N, 1024), concepts' shares (N, C), weights (N,)."""
    torch.manual_seed(seed)
    opt = torch.optim.AdamW(found.parameters(), weight_decay=0.05)
    index = (known > 0).nonzero()[:, 0]
    found.train()
    for step in range(STEPS):
        rate = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / STEPS) ** 0.5
        for group in opt.param_groups:
            group["lr"] = rate
        i = index[torch.randint(len(index), (256,))]
        said = F.log_softmax(found(embedding[i].float()), 1)
        loss = -((target[i] * said).sum(1) * known[i].clamp(max=1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    found.eval()
