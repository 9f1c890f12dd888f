"""Which published model a state dict is of, told by a few keys and their shapes; and what a file is
that holds no weights at all."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

# name and the keys that tell, with the shape where that tells, the telling ones first
SIGNS: tuple[tuple[str, dict[str, tuple[int, ...] | None]], ...] = (
    ("AudioCLIP", {"audio.fbsp.fc": None}),
    ("AudioCLIP's audio head alone", {"fbsp.fc": None}),
    ("ClipCap with the MLP mapper", {"clip_project.model.0.weight": None}),
    ("ClipCap with the transformer mapper", {"clip_project.prefix_const": None}),
    ("GPT-2", {"transformer.wte.weight": None}),
    ("CLIP RN50", {"visual.attnpool.c_proj.weight": (1024, 2048)}),
    ("CLIP RN101", {"visual.attnpool.c_proj.weight": (512, 2048)}),
    ("CLIP RN50x4", {"visual.attnpool.c_proj.weight": (640, 2560)}),
    ("CLIP RN50x16", {"visual.attnpool.c_proj.weight": (768, 3072)}),
    ("CLIP RN50x64", {"visual.attnpool.c_proj.weight": (1024, 4096)}),
    ("CLIP with a ResNet", {"visual.attnpool.c_proj.weight": None}),
    ("CLIP ViT-B/32", {"visual.conv1.weight": (768, 3, 32, 32)}),
    ("CLIP ViT-B/16", {"visual.conv1.weight": (768, 3, 16, 16)}),
    ("CLIP ViT-L/14", {"visual.positional_embedding": (257, 1024)}),
    ("CLIP ViT-L/14 at 336 pixels", {"visual.positional_embedding": (577, 1024)}),
    ("CLIP with a ViT", {"visual.class_embedding": None}),
    (
        "the 64 x 64 guided-diffusion UNet with classes",
        {"input_blocks.0.0.weight": (192, 3, 3, 3), "label_emb.weight": None},
    ),
    (
        "the 512 x 512 guided-diffusion UNet with classes",
        {"input_blocks.20.0.in_layers.0.weight": None, "label_emb.weight": None},
    ),
    ("the 512 x 512 guided-diffusion UNet", {"input_blocks.20.0.in_layers.0.weight": None}),
    (
        "the 256 x 256 guided-diffusion UNet with classes",
        {"input_blocks.17.0.in_layers.0.weight": None, "label_emb.weight": None},
    ),
    ("the 256 x 256 guided-diffusion UNet", {"input_blocks.17.0.in_layers.0.weight": None}),
    (
        "the 128 x 128 guided-diffusion UNet with classes",
        {"input_blocks.14.0.in_layers.0.weight": None, "label_emb.weight": None},
    ),
    ("a guided-diffusion UNet", {"input_blocks.0.0.weight": None}),
    ("MusCaps", {"decoder.dense.weight_g": None}),
    ("MusCaps' HarmonicCNN", {"hstft.bw_Q": None}),
    ("MusCaps' MusiCNN", {"layers.0.conv.weight": None, "spec_bn.weight": None}),
)


def looks_like(state: dict[str, Tensor]) -> str | None:
    """The published model that a state dict's keys belong to, if any."""
    for name, signs in SIGNS:
        if all(k in state and shape in (None, tuple(state[k].shape)) for k, shape in signs.items()):
            return name
    return None


def other_kind(path: Path) -> str | None:
    """What has come in place of weights, in a few words; None if that cannot be told."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return None
    return kind_of(head)


def kind_of(head: bytes) -> str | None:
    """The same of a file's first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros: its disk lost it"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "it is a web page, not weights"
    if start.startswith(b"version https://git-lfs"):
        return "it is Git LFS's pointer to the file, not the file"
    return None
