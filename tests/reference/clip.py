"""What acgd answers to the golden files about CLIP: towers, tokenizer, preprocessing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from acgd.errors import UserError
from acgd.media.preprocess import normalise, pixels
from acgd.models.clip import CLIP
from acgd.models.tokenizer import VOCABULARY, tokenizer
from reference import fill, inputs, manifests
from reference.files import find, needs
from reference.parts import parts, whole

# Full-size files (clip_rn50_full) differ: "config": "as manifests/clip_rn50.json"; arrays that are
# parts of one (grad.corner, grad.sample, grad.stats); "photo": a picture named with its sha256,
# whose arrays are photo.encode_image and the like.
KINDS = ("clip_rn50", "clip_vit", "clip_bpe", "clip_preprocess")


def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    """(name, value) for each array of the file; a string says what file a value would need."""
    if "strings" in meta:
        yield from tokens(meta)
    elif "config" in meta:
        yield from towers(meta, arrays)
    else:
        yield from preprocessed(meta, arrays)


def towers(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    model = CLIP(**manifests.config(meta)).eval()
    fill.fill_(model.state_dict(), inputs.prefix(meta["weights"]))
    images = inputs.evaluate(inputs.find_calls(meta["image"])[0]).requires_grad_()
    ids = tokenizer(model.context_length)(meta["texts"])
    image, text = model.encode_image(images), model.encode_text(ids)
    similarity = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    probe = inputs.cotangent(meta["grad"], similarity)
    (grad,) = torch.autograd.grad((similarity * probe).sum(), images)
    found = {"tokens": ids, "encode_image": image, "encode_text": text, "grad": grad}
    found |= {"similarity": similarity, "logits_per_image": model(images, ids)[0]}
    if any(whole(name)[0] == "visual_before_attnpool" for name in arrays):
        found["visual_before_attnpool"] = model.visual.features(images)
    yield from parts(found, arrays, arrays)
    if "photo" in meta:
        yield from seen_in_photo(model, text, meta["photo"], arrays)


@torch.no_grad()
def seen_in_photo(
    model: CLIP, text: torch.Tensor, said: str | dict, arrays: dict
) -> Iterator[tuple[str, object]]:
    """The arrays photo.WHAT, or photo.FILE.WHAT: one photo, preprocessed as CLIP's are."""
    said = json.dumps(said)
    photo = re.search(r"[\w.-]+\.(?:jpe?g|png)\b", said)
    digest = re.search(r"\b[0-9a-f]{64}\b", said)
    if not photo or not digest:
        raise ValueError(f"photo: a file name and its sha256 expected: {said}")
    own = f"photo.{photo[0]}."
    stem = own if any(name.startswith(own) for name in arrays) else "photo."
    names = [name for name in arrays if name.startswith(stem)]
    path = find(photo[0], digest[0])
    if path is None:
        yield from ((name, needs(photo[0], digest[0])) for name in names)
        return
    with Image.open(path) as image:
        x = normalise(pixels(image, model.image_resolution))[None]
    seen = model.encode_image(x)
    similarity = F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).T
    found = {"pixels": x[0], "encode_image": seen, "similarity": similarity}
    found["logits_per_image"] = model.logit_scale.exp() * similarity
    yield from parts({stem + name: value for name, value in found.items()}, arrays, names)


def tokens(meta: dict) -> Iterator[tuple[str, object]]:
    encoder = tokenizer()
    yield "tokens", encoder(meta["strings"])
    yield "n_tokens", np.array([len(encoder.encode(text)) for text in meta["strings"]])


def checks(meta: dict) -> Iterator[tuple[str, bool]]:
    """What a tokenizer file says in words: decoded texts, and which texts are refused."""
    if "strings" not in meta:
        return
    encoder, refused = tokenizer(), []
    for i, text in enumerate(meta["strings"]):
        try:
            encoder(text, truncate=False)
        except UserError:
            refused.append(i)
    yield "too_long", refused == meta["too_long_without_truncate"]
    ids = map(encoder.encode, meta["strings"])
    yield "decoded", [encoder.decode(one) for one in ids] == meta["decoded"]
    digest = hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()
    yield "vocabulary", digest == meta["vocabulary"]["sha256"]


def preprocessed(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    for name in arrays:
        kind, *rest = name.split(".")
        if kind == "synthetic":
            image = synthetic(*rest)
            yield name, normalise(pixels(image, meta["n"]))
    photos = meta.get("photos", {})
    size = int(re.search(r"\bn = (\d+)", photos.get("of", "n = 224"))[1])
    for photo, facts in photos.items():
        if not isinstance(facts, dict):
            continue
        names = [name for name in arrays if name.startswith(f"photo.{photo}.")]
        path = find(photo, facts["sha256"])
        if path is None:
            yield from ((name, needs(photo, facts["sha256"])) for name in names)
            continue
        with Image.open(path) as image:
            x = normalise(pixels(image, size)).flatten()
        yield from parts({f"photo.{photo}": x}, arrays, names)


def synthetic(size: str, mode: str) -> Image.Image:
    """The golden file's picture of "WIDTHxHEIGHT" (by its own rule) in mode L, RGB or RGBA."""
    width, height = (int(n) for n in size.split("x"))
    y, x = np.mgrid[:height, :width]
    red, green, blue = 7 * x + 3 * y, x * y, 5 * x + 11 * y + x**2 // 3
    channels = {"L": [red], "RGB": [red, green, blue]}
    channels["RGBA"] = [red, green, blue, 255 - 2 * x - y]
    values = (np.stack(channels[mode], -1) % 256).astype(np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values)
