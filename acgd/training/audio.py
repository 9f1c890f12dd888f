"""Train an embedded encoder's audio head against its locked picture and text towers.

    python -m acgd.training.audio encoder --out runs/encoder_audio --towers runs/encoder/state.pt

As in AudioCLIP's partial training (Guzhov et al. 2021), only the audio head learns. A sound is
contrasted with a text for every concept and with pictures of the concepts. Some batches are mixed
pairwise (Tokozume et al. 2018, between-class learning): the embedding of a mix
shall lie between those of its parts. State is saved every few minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.models.audioclip import AudioCLIP
from acgd.training.data.pairs import Pairs
from acgd.training.data.sound_views import SAMPLE_RATE, Pool, Sounds, disturb, mask, mix
from acgd.training.encoder import ARCHITECTURES, SEED, encode, load_model, load_towers
from acgd.training.state import save

SECONDS = (1.5, 3.5)  # of what a batch hears, drawn anew for each; windows have the longer
FRESH = 8  # windows of a batch that are new, the others were heard before
POOL = 8192  # windows that are kept
PICTURES = 192  # pictures that a batch of sounds is contrasted with
MIXED = 0.3  # share of batches that are mixed pairwise


@torch.no_grad()
def text_table(model: AudioCLIP, pairs: Pairs) -> Tensor:
    """The mean direction of each concept's names, (C, D) unit norm."""
    rows = []
    for names in pairs.prompts.values():
        rows.append(F.normalize(model.encode_text(pairs.tokenize(names)), dim=-1).mean(0))
    return F.normalize(torch.stack(rows), dim=-1)


@torch.no_grad()
def picture_table(model: AudioCLIP, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) and labels (M,) of the concepts' training pictures."""
    index = (pairs.named & ~pairs.holdout).nonzero()[:, 0]
    return torch.cat([encode(model, pairs.images(i)) for i in index.split(128)]), pairs.label[index]


@torch.no_grad()
def measure(model: AudioCLIP, sounds: Sounds, texts: Tensor) -> dict[str, float]:
    """Share of held-out sounds whose concept's name ranks first and among five, by source."""
    model.audio.eval()
    hits: dict[str, list[tuple[float, float]]] = {}
    held: dict[str, list[int]] = {}
    for i in (~sounds.train).nonzero()[:, 0].tolist():
        held.setdefault(sounds.rows[i]["source"], []).append(i)
    # at most 80 of a source, spread over all of them: its concepts follow each other
    for source, i in ((s, i) for s, own in held.items() for i in own[:: -(-len(own) // 80)]):
        wave = sounds.clip(i)[: SAMPLE_RATE * 10]
        similarity = F.normalize(model.encode_audio(wave[None]), dim=-1)[0] @ texts.T
        rank = int((similarity > similarity[sounds.label[i]]).sum())
        hits.setdefault(source, []).append((rank < 1, rank < 5))
    model.audio.train()
    out = {}
    for source, pairs in sorted(hits.items()):
        one, five = torch.tensor(pairs).float().mean(0).tolist()
        out[source] = f"{one:.2f}/{five:.2f} of {len(pairs)}"
    return out


class Training:
    """An audio head beside locked towers, step by step."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step, self.running = args, 0, None
        args.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED[args.role] + 100)
        self.rng = torch.Generator().manual_seed(SEED[args.role] + 100)
        self.model = AudioCLIP(**ARCHITECTURES[args.role]).eval()
        load_towers(self.model, args.towers)
        self.model.requires_grad_(False)
        self.head = self.model.audio.requires_grad_(True).to(memory_format=torch.channels_last)
        # the front end stays at the short-time Fourier transform that it starts as: its filters
        # are then computed once, and Adam would push m below 0, where the window has no meaning
        self.head.fbsp.requires_grad_(False)
        # filters without a mean see the shape of a spectrum, not its level: decibels add up
        weight = self.head.conv1.weight.data
        weight -= weight.mean(dim=(2, 3), keepdim=True)
        self.scale = torch.tensor(3.0, requires_grad=True)  # log of the audio-text scale
        self.trained = [p for p in self.head.parameters() if p.requires_grad] + [self.scale]
        self.opt = torch.optim.AdamW(
            self.trained, args.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )
        self.state_file = args.out / "state.pt"
        self.load()
        self.pairs = Pairs(args.data, self.model.context_length)
        self.sounds, self.pool = Sounds(args.data, self.pairs.concepts), Pool(POOL)
        self.texts = text_table(self.model, self.pairs)
        self.pictures, self.picture_label = picture_table(self.model, self.pairs)
        self.head.train()
        self.first, self.start = self.step, time.time()

    def load(self) -> None:
        """An earlier state of this training, or else the weights to start from, if there are."""
        if self.state_file.exists():
            state = torch.load(self.state_file, weights_only=True)
            self.head.load_state_dict(state["audio"])
            self.opt.load_state_dict(state["opt"])
            self.rng.set_state(state["rng"])
            self.step = state["step"]
            self.scale.data.copy_(state["scale"])
        elif self.args.init:
            whole = load_model(self.args.init)
            audio = {k[6:]: v for k, v in whole.items() if k.startswith("audio.")}
            self.head.load_state_dict(audio)
            self.scale.data.copy_(whole["logit_scale_at"])

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, rows, frames) and what they show as shares of the concepts (n, C)."""
        rng, (short, long), n = self.rng, SECONDS, self.args.batch
        fresh = FRESH if self.pool.count >= 8 * n else n
        wave, label = self.sounds.draw(fresh, long, rng)
        with torch.no_grad():
            self.pool.add(self.head.picture(disturb(wave, rng)), label)
            seconds = short + (long - short) * torch.rand((), generator=rng).item()
            frames = int(seconds * SAMPLE_RATE / self.head.hop_length)
            picture, label = self.pool.draw(n, frames, rng)
            target = F.one_hot(label, len(self.texts)).float()
            if torch.rand((), generator=rng) < MIXED:
                order = torch.randperm(n, generator=rng)
                share = torch.rand(n, 1, generator=rng) * 0.5
                picture = mix(picture, picture[order], share[:, :, None, None])
                target = (1 - share) * target + share * target[order]
        return mask(picture, rng), target

    def loss(self, picture: Tensor, target: Tensor) -> Tensor:
        """Against a text for each concept and, less, against pictures of the concepts."""
        picture = picture.to(memory_format=torch.channels_last)
        audio = F.normalize(self.head.fc(self.head.reduce(self.head.features(picture))), dim=-1)
        audio = audio * self.scale.exp().clamp(max=50)
        to_text = F.log_softmax(audio @ self.texts.T, dim=1)
        seen = torch.randint(len(self.pictures), (PICTURES,), generator=self.rng)
        same = target[:, self.picture_label[seen]]  # (n, PICTURES), a mix is right for both parts
        to_picture = F.log_softmax(audio @ self.pictures[seen].T, dim=1)
        mass = same.sum(1)
        likeness = (same * to_picture).sum(1)[mass > 0] / mass[mass > 0]
        return -(target * to_text).sum(1).mean() - 0.3 * likeness.mean()

    def advance(self, left: float) -> None:
        """One step; `left` is the share of the time that is left, from 1 to 0."""
        loss = self.loss(*self.draw())
        for group in self.opt.param_groups:
            group["lr"] = self.args.lr * min(1.0, (self.step - self.first + 1) / 100) * left**0.5
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 2.0)
        self.opt.step()
        self.step += 1
        last = self.running if self.running is not None else loss.item()
        self.running = 0.98 * last + 0.02 * loss.item()

    def save(self) -> None:
        """State, and a line on how far it is."""
        state = {"audio": self.head.state_dict(), "opt": self.opt.state_dict(), "step": self.step}
        state |= {"rng": self.rng.get_state(), "scale": self.scale.detach()}
        save(self.state_file, state)
        pace = (self.step - self.first) * self.args.batch / (time.time() - self.start)
        line = {"step": self.step, "loss": round(self.running, 3), "per_s": round(pace, 1)}
        print(json.dumps({**line, **measure(self.model, self.sounds, self.texts)}), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--towers", type=Path, required=True, help="the encoder's state.pt")
    parser.add_argument("--init", type=Path, help="weights to start from where no state is")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args(argv)
    training = Training(args)
    saved, end = time.time(), time.time() + 60 * args.minutes
    while time.time() < end:
        training.advance(left=max(0.0, (end - time.time()) / (60 * args.minutes)))
        if time.time() - saved > 420:
            training.save()
            saved = time.time()
    training.save()


if __name__ == "__main__":
    main()
