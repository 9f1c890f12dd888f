"""The linear map that model.bridge= reads: from an encoder's space to another one.

    python scripts/fit_bridge.py --from NAME --to WHAT --pictures DIR --out FILE [KEY=VALUE ...]

Both models look at the same pictures (--pictures, with all folders below it) and, where both can,
read the same texts (--texts, one a line). --from is a choice of conf/encoder/, with KEY=VALUE of
it. --to is another one, with to.KEY=VALUE of it; a weights file of a CLIP or AudioCLIP; or the
folder of a diffusers pipeline that has an image_encoder, or of an image_encoder alone. Its
embeddings are taken as they come, since the network that reads them counts on their length.

The map is a ridge regression with a bias, in float64. A fifth of pictures and of texts is left out
and the map is tried on it; another fifth chooses the ridge. What is written is fitted to all. A
sound is led where a picture of the same embedding would be, so a bridge is as good as sounds and
pictures of a thing are near each other in the encoder's space.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from acgd import atomic_files
from acgd.checkpoints import hub
from acgd.checkpoints import load as checkpoints
from acgd.config.compose import compose
from acgd.config.explain import explain
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.encoders.clip import CLIPEncoder
from acgd.errors import UserError, say
from acgd.evaluation.references import is_picture
from acgd.media import images, texts
from acgd.media.preprocess import pixels
from acgd.paths import CONF
from acgd.pipeline.device import pick_device
from acgd.pipeline.models import make
from acgd.runs.run import resolve
from acgd.types import sees

LEAST = 20  # pictures and texts: four for each fifth
CHUNK = 32  # embedded at once
RIDGES = tuple(10.0**power for power in range(-12, 3))  # as shares of the inputs' variance
T = TypeVar("T")


class Side(NamedTuple):
    """A model on one end of the bridge: N pictures, or N texts, to (N, D)."""

    name: str
    look: Callable[[Sequence[Image.Image]], Tensor]
    read: Callable[[Sequence[str]], Tensor] | None  # None: it reads nothing in this space


class Bridge(NamedTuple):
    weight: Tensor  # (E, D), float64
    bias: Tensor  # (E,)

    def __call__(self, embeds: Tensor) -> Tensor:
        """(N, D) of unit length to (N, E)."""
        return F.linear(embeds, self.weight, self.bias)


def solve(x: Tensor, y: Tensor, ridges: Sequence[float]) -> Iterator[Bridge]:
    """The ridge regression of y (N, E) on x (N, D), float64, for each ridge; the bias is free."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    values, vectors = torch.linalg.eigh((x - mean_x).T @ (x - mean_x))
    shared = vectors.T @ ((x - mean_x).T @ (y - mean_y))
    values, mean = values.clamp(min=0), values.mean().clamp(min=torch.finfo(x.dtype).tiny)
    for ridge in ridges:
        weight = (vectors @ (shared / (values + ridge * mean)[:, None])).T
        yield Bridge(weight, mean_y - weight @ mean_x)


def fit(x: Tensor, y: Tensor, fifth: Tensor) -> tuple[Bridge, Bridge, float]:
    """The bridge from all, the one that has not seen fifth 0, and the ridge that both have.

    fifth (N,): 0 to 4; fifth 1 chooses the ridge by its squared error.
    """
    inside = fifth > 1
    tried = solve(x[inside], y[inside], RIDGES)
    errors = [float((bridge(x[fifth == 1]) - y[fifth == 1]).square().mean()) for bridge in tried]
    ridge = RIDGES[min(range(len(RIDGES)), key=errors.__getitem__)]
    (blind,), (whole,) = (solve(x[kept], y[kept], [ridge]) for kept in (fifth > 0, fifth >= 0))
    return whole, blind, ridge


def fifths(count: int) -> Tensor:
    """Which fifth each of `count` is in, the same every time."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order % 5


def scores(found: Tensor, right: Tensor, mean: Tensor) -> dict[str, float]:
    """How near found (N, E) is to right (N, E), and how near the same answer to all, mean (E,)."""
    near = F.normalize(found, dim=1) @ F.normalize(right, dim=1).T
    place = (near > near.diagonal()[:, None]).sum(1)
    alone = F.cosine_similarity(mean[None], right).mean()
    return {
        "cosine": float(near.diagonal().mean()),
        "cosine of the mean alone": float(alone),
        "first": float((place < 1).double().mean()),
        "among five": float((place < 5).double().mean()),
        "of": len(right),
    }


def report(kind: str, found: dict[str, float]) -> str:
    of = int(found["of"])
    return (
        f"{of} {kind} left out: cosine {found['cosine']:.3f} (their mean alone "
        f"{found['cosine of the mean alone']:.3f}), nearest is their own {found['first']:.1%} "
        f"(chance {1 / of:.1%}), among five {found['among five']:.1%} (chance {min(1, 5 / of):.1%})"
    )


def encoder(name: str, overrides: Sequence[str], device: str) -> Side:
    """A choice of conf/encoder/, or a CLIP's or AudioCLIP's weights."""
    if (CONF / "encoder" / f"{name}.yaml").is_file():
        cfg = resolve(compose([f"encoder={name}", *overrides]))
        model = make(cfg["encoder"], device=device, precision="float32")
    elif overrides:
        raise UserError(f"{overrides[0]}: is for a choice of conf/encoder/, which {name} is not")
    else:
        path = checkpoints.locate(name)
        hears = any(key.startswith("audio.") for key in checkpoints.load_state(path))
        make_encoder = AudioCLIPEncoder if hears else CLIPEncoder
        model = make_encoder(str(path), device=device, precision="float32")

    def look(seen: Sequence[Image.Image]) -> Tensor:
        if not sees(model):
            raise UserError(f"--pictures: {name} sees none; give --texts alone")
        return model.image(torch.stack([pixels(one, model.image_size) for one in seen]))

    return Side(" ".join([name, *overrides]), look, lambda said: model.text(list(said)))


def picture_tower(folder: Path, device: str) -> Side:
    """A pipeline's image_encoder, prepared for as the pipeline says."""
    tower = folder if (folder / "config.json").is_file() else folder / "image_encoder"
    if not (tower / "config.json").is_file():
        raise UserError(f"--to {folder}: has no image_encoder, so it takes no picture embeddings")
    with hub.told(str(tower), "CLIPVisionModelWithProjection", "a folder that is whole"):
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        model = hub.whole(CLIPVisionModelWithProjection, str(tower), local_files_only=True)
        if (prepared := folder / "feature_extractor").is_dir():
            prepare = CLIPImageProcessor.from_pretrained(prepared, local_files_only=True)
        else:
            size = int(model.config.image_size)
            prepare = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
    model = model.to(device, torch.float32)

    def look(seen: Sequence[Image.Image]) -> Tensor:
        given = prepare(images=list(seen), return_tensors="pt").pixel_values
        return model(given.to(device)).image_embeds

    return Side(str(folder), look, None)


def target(name: str, overrides: Sequence[str], device: str) -> Side:
    if (folder := Path(name).expanduser()).is_dir():
        return picture_tower(folder, device)
    return encoder(name, overrides, device)


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, in order, each content once."""
    if not folder.is_dir():
        raise UserError(f"--pictures {folder}: there is no such folder")
    found: dict[bytes, Path] = {}
    for path in sorted(filter(is_picture, folder.rglob("*"))):
        found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    if not found:
        raise UserError(f"--pictures {folder}: holds no pictures (.png, .jpg, .webp ...)")
    return list(found.values())


def opened(paths: Sequence[Path]) -> list[Image.Image]:
    """Those that can be read; the others are named."""
    seen = []
    for path in paths:
        try:
            seen.append(images.load(path, "--pictures"))
        except UserError as error:
            say(f"left out: {error}")
    return seen


def chunks(rows: Sequence[T], what: str) -> Iterator[Sequence[T]]:
    for i in tqdm(range(0, len(rows), CHUNK), what, leave=False, disable=None):
        yield rows[i : i + CHUNK]


@torch.no_grad()
def embed(start: Side, end: Side, paths: Sequence[Path], lines: Sequence[str]) -> dict[str, Any]:
    """kind -> (x (N, D) of unit length, y (N, E)), float64, for what there is of each kind."""
    both: dict[str, Any] = {}
    if paths:
        seen = [one for part in chunks(paths, "pictures") if (one := opened(part))]
        both["pictures"] = [(start.look(one), end.look(one)) for one in seen]
    if lines:
        if end.read is None or start.read is None:
            raise UserError("--texts: a picture tower reads nothing; give --pictures alone")
        read = chunks(lines, "texts")
        both["texts"] = [(start.read(one), end.read(one)) for one in read]
    joined = {
        kind: [torch.cat(side).double().cpu() for side in zip(*pairs, strict=True)]
        for kind, pairs in both.items()
        if pairs
    }
    return {kind: (F.normalize(x, dim=1), y) for kind, (x, y) in joined.items()}


def build(
    start: Side, end: Side, paths: Sequence[Path], lines: Sequence[str]
) -> tuple[Bridge, dict]:
    """The bridge, and what is to be known of it."""
    rows = embed(start, end, paths, lines)
    count = sum(len(x) for x, _ in rows.values())
    if count < LEAST:
        raise UserError(f"{count} pictures and texts: too few, a bridge takes {LEAST} at least")
    fifth = {kind: fifths(len(x)) for kind, (x, _) in rows.items()}
    x, y = (torch.cat([pair[side] for pair in rows.values()]) for side in (0, 1))
    if not (x.isfinite().all() and y.isfinite().all()):
        raise UserError("some embeddings are no numbers (NaN or infinity): are the weights whole?")
    bridge, unseen, ridge = fit(x, y, torch.cat(list(fifth.values())))
    told: dict[str, Any] = {"from": start.name, "to": end.name, "ridge": ridge}
    for kind, (x, y) in rows.items():
        out = fifth[kind] == 0
        if out.any():
            told[kind] = {"seen": len(x), **scores(unseen(x[out]), y[out], y[~out].mean(0))}
    return bridge, told


def write(bridge: Bridge, told: dict, path: Path) -> None:
    content = {"weight": bridge.weight.float().contiguous(), "bias": bridge.bias.float()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write(path, save(content, {"fitted": json.dumps(told)}))


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--from", dest="start", required=True, metavar="NAME")
    parser.add_argument("--to", required=True, metavar="WHAT")
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    parser.add_argument("--texts", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="auto")
    return parser.parse_intermixed_args(words)


def run(args: argparse.Namespace) -> None:
    if args.pictures is None and args.texts is None:
        raise UserError("there is nothing to look at: give --pictures, --texts or both")
    paths = pictures(args.pictures) if args.pictures is not None else []
    lines = texts.labels(args.texts, "--texts", "text") if args.texts is not None else []
    theirs = [word for word in args.overrides if word.startswith("to.")]
    ours = [word for word in args.overrides if word not in theirs]
    device = pick_device(args.device)
    start = encoder(args.start, ours, device)
    end = target(args.to, [word.replace("to.", "encoder.", 1) for word in theirs], device)
    bridge, told = build(start, end, paths, lines)
    write(bridge, told, args.out)
    for kind in ("pictures", "texts"):
        if kind in told:
            print(report(kind, told[kind]))
    print(f"ridge {told['ridge']:g}; {args.out}: model.bridge={args.out}")


def main(words: Sequence[str] | None = None) -> None:
    try:
        run(parsed(words))
    except (UserError, OSError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"fit_bridge: {explain(error)}")


if __name__ == "__main__":
    main()
