"""What the latent diffusion model learns from: latents, conditions and styles of the emoji.

    python -m acgd.training.latents --data data --autoencoder runs/ae128/state.pt --out runs/latents

The autoencoder is a training's state.pt, or a .safetensors file such as the shipped one, for a
diffusion model that goes on from shipped weights. Writes latents.npz (latents of all pictures and
of their mirror images, float16; their style, concept, group and emoji; the texts' and pictures'
embeddings by the embedded encoder with the rows that fit each picture) and autoencoder.pt; after a
training, the statistics of its norm are those of all pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints.load import empty
from acgd.diffusion.model import filled
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.media.preprocess import resized
from acgd.models.autoencoder import Autoencoder
from acgd.training.autoencoder import ARCHITECTURES, FASTER
from acgd.training.data.pairs import TEMPLATES, concept_prompts
from acgd.training.state import save

CHUNK = 128


def trained(path: Path, size: int) -> Autoencoder:
    """The autoencoder in a training's state.pt."""
    model = Autoencoder(**ARCHITECTURES[size]).to(**FASTER)
    model.load_state_dict(torch.load(path, weights_only=True)["modules"]["model"])
    return model


def exported(path: Path) -> Autoencoder:
    """The autoencoder that training.export wrote."""
    return filled(empty(Autoencoder, path, {}), path, "cpu")


def pixels(data: np.ndarray, size: int) -> Tensor:
    """(N, 256, 256, 3) uint8 to (N, 3, size, size) in [-1, 1]."""
    x = torch.from_numpy(data).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(x, 256 // size) if size < 256 else x


@torch.no_grad()
def settle(model: Autoencoder, pictures: np.ndarray) -> None:
    """Give the latents' norm the statistics of these pictures in place of its running ones."""
    norm = model.encoder.norm
    norm.reset_running_stats()
    norm.momentum = None  # the plain mean over all batches
    model.encoder.train()
    for i in range(0, len(pictures), CHUNK):
        model.encode(pixels(pictures[i : i + CHUNK], model.image_size).contiguous(**FASTER))
    model.eval()


@torch.no_grad()
def encode(model: Autoencoder, pictures: np.ndarray) -> np.ndarray:
    """(N, 2, C, s, s) float16: each picture's latents and those of its mirror image."""
    found = []
    for i in range(0, len(pictures), CHUNK):
        x = pixels(pictures[i : i + CHUNK], model.image_size)
        both = [model.encode(view.contiguous(**FASTER)) for view in (x, x.flip(-1))]
        found.append(torch.stack(both, 1).half().numpy())
    return np.concatenate(found)


def embeddings(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`embed` (M, D): pictures first, then texts; `text` (N, K): a picture's rows, -1 for none."""
    encoder = AudioCLIPEncoder("embedded:tiny_encoder")
    seen = []
    for i in range(0, len(data["pixels"]), CHUNK):
        x = (pixels(data["pixels"][i : i + CHUNK], 256) + 1) / 2
        seen.append(encoder.image(resized(x, encoder.image_size).clamp(0, 1)))
    prompts, strings, rows = concept_prompts(), {}, []
    for concept, name in zip(data["concept"].tolist(), data["name"].tolist(), strict=True):
        texts = prompts[concept] if concept else [name]
        said = [t.format(text) for text in texts for t in dict.fromkeys(TEMPLATES)]
        rows.append([strings.setdefault(text, len(strings)) for text in said])
    texts = list(strings)
    spoken = torch.cat([encoder.text(texts[i : i + 256]) for i in range(0, len(texts), 256)])
    width = max(map(len, rows))
    padded = [[len(data["pixels"]) + r for r in row] + [-1] * (width - len(row)) for row in rows]
    embed = torch.cat([*seen, spoken]).detach().half().numpy()
    labels = encoder.text(list(prompts)).detach().half().numpy()  # what heard sounds are mixed of
    return {"embed": embed, "text": np.array(padded, np.int32), "labels": labels}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--autoencoder", type=Path, required=True, help="its training's state.pt")
    parser.add_argument("--size", type=int, default=128, choices=ARCHITECTURES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = dict(np.load(args.data / "pictures_256.npz"))
    if args.autoencoder.suffix == ".safetensors":
        model = exported(args.autoencoder)
    else:
        model = trained(args.autoencoder, args.size)
        settle(model, data["pixels"][data["concept"] != ""])
    state = {"modules": {"model": model.state_dict()}, "size": model.image_size}
    save(args.out / "autoencoder.pt", state)
    kept = {key: data[key] for key in ("style", "concept", "group", "emoji", "name", "holdout")}
    z = encode(model, data["pixels"])
    print("latents", z.shape, "mean", z.mean(), "std", z.astype(np.float32).std((0, 1, 3, 4)))
    np.savez(args.out / "latents.npz", latents=z, **kept, **embeddings(data))


if __name__ == "__main__":
    main()
