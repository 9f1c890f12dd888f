"""Train an embedded encoder's audio head against its locked picture and text towers.

    python -m acgd.train.audio encoder --out runs/encoder_audio --towers runs/encoder/state.pt

As in AudioCLIP's partial training (Guzhov et al. 2021), only the audio head learns. A sound is
contrasted with a text for every concept and with the batch's pictures of the concepts. Half of the
batches are mixed pairwise (Tokozume et al. 2018, between-class learning): the embedding of a mix
shall lie between those of its parts. State is saved every few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.models.audioclip import AudioCLIP
from acgd.train.encoder import ARCHITECTURES, SEED, encode
from acgd.train.pairs import Pairs
from acgd.train.sound_views import Sounds, disturb, mask

SECONDS = 4.0  # of a training window


def load_towers(model: AudioCLIP, path: Path) -> None:
    """The picture and text towers of an encoder training's state; the audio head stays as it is."""
    state = torch.load(path, weights_only=True)["model"]
    own = model.state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith("audio.") and k in own}
    model.load_state_dict({**own, **kept})


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
    for i in (~sounds.train).nonzero()[:, 0].tolist():
        source = sounds.rows[i]["source"]
        if len(hits.get(source, [])) >= 80:
            continue
        wave = sounds.clip(i)[: 22050 * 10]
        similarity = F.normalize(model.encode_audio(wave[None]), dim=-1)[0] @ texts.T
        rank = int((similarity > similarity[sounds.label[i]]).sum())
        hits.setdefault(source, []).append((rank < 1, rank < 5))
    model.audio.train()
    out = {}
    for source, pairs in sorted(hits.items()):
        one, five = torch.tensor(pairs).float().mean(0).tolist()
        out[source] = f"{one:.2f}/{five:.2f} of {len(pairs)}"
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("role", choices=list(ARCHITECTURES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--towers", type=Path, required=True, help="the encoder training's state.pt"
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    seed = SEED[args.role] + 100
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = AudioCLIP(**ARCHITECTURES[args.role]).eval()
    load_towers(model, args.towers)
    model.requires_grad_(False)
    head = model.audio.requires_grad_(True).to(memory_format=torch.channels_last)
    # the front end stays at the short-time Fourier transform that it starts as: its filters are
    # then computed once, and Adam would push m below 0, where the window has no meaning
    head.fbsp.requires_grad_(False)
    step, state_file = 0, args.out / "state.pt"
    scale = torch.tensor(3.0, requires_grad=True)  # log of the audio-text scale
    trained = [p for p in head.parameters() if p.requires_grad] + [scale]
    opt = torch.optim.AdamW(trained, args.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        head.load_state_dict(state["audio"])
        opt.load_state_dict(state["opt"])
        rng.set_state(state["rng"])
        step = state["step"]
        scale.data.copy_(state["scale"])
    pairs = Pairs(args.data, model.context_length)
    sounds = Sounds(args.data, pairs.concepts)
    texts = text_table(model, pairs)
    pictures, picture_label = picture_table(model, pairs)
    head.train()
    start = saved = time.time()
    first, running = step, None
    while True:
        wave, label = sounds.draw(args.batch, SECONDS, rng)
        wave = disturb(wave, rng)
        target = F.one_hot(label, len(texts)).float()
        if torch.rand((), generator=rng) < 0.5:
            order = torch.randperm(len(wave), generator=rng)
            share = torch.rand(len(wave), 1, generator=rng) * 0.5
            wave = (1 - share) * wave + share * wave[order]
            target = (1 - share) * target + share * target[order]
        with torch.no_grad():
            picture = mask(head.picture(wave), rng).to(memory_format=torch.channels_last)
        audio = F.normalize(head.fc(head.reduce(head.features(picture))), dim=-1)
        to_text = F.log_softmax(scale.exp().clamp(max=50) * audio @ texts.T, dim=1)
        seen = torch.randint(len(pictures), (192,), generator=rng)
        same = target[:, picture_label[seen]]  # (n, 192), a mix is right for both its parts
        to_picture = F.log_softmax(scale.exp().clamp(max=50) * audio @ pictures[seen].T, dim=1)
        mass = same.sum(1)
        likeness = (same * to_picture).sum(1)[mass > 0] / mass[mass > 0]
        loss = -(target * to_text).sum(1).mean() - 0.3 * likeness.mean()
        left = 1 - (time.time() - start) / (60 * args.minutes)
        for group in opt.param_groups:
            group["lr"] = args.lr * min(1.0, (step - first + 1) / 100) * max(left, 0.0) ** 0.5
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        opt.step()
        step += 1
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done = left <= 0
        if done or time.time() - saved > 240:
            temporary = state_file.with_suffix(".tmp")
            torch.save({"audio": head.state_dict(), "opt": opt.state_dict(), "step": step,
                        "rng": rng.get_state(), "scale": scale.detach()}, temporary)  # fmt: skip
            os.replace(temporary, state_file)
            pace = round((step - first) * args.batch / (time.time() - start), 1)
            line = {
                "step": step,
                "clips": step * args.batch,
                "loss": round(running, 3),
                "per_s": pace,
            }
            print(json.dumps({**line, **measure(model, sounds, texts)}), flush=True)
            saved = time.time()
        if done:
            return


if __name__ == "__main__":
    main()
