"""What the captioner says of finished pictures and of the previews on their way."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from acgd.pipeline.models import Models
from acgd.pipeline.sample import Sample
from acgd.runs.folder import CAPTIONS
from acgd.types import Encoder

CHUNK = 32  # previews captioned at once


def write(batch: list[Sample], models: Models, pixels: Tensor) -> None:
    """Caption a batch's pictures (B, 3, H, W) uint8 and its previews; note how well they agree.

    A sample gets its caption and, among its scores, `caption_agreement`; its folder captions.csv.
    Where the judge hears the sound, also `audio_text`, how well it goes with the words for it (the
    describer's, else the text prompts, else the concept), and `audio_caption`, with the caption.
    """
    captions = models.captioner(pixels.float() / 255)
    previews = [find_previews(sample) for sample in batch]
    of_previews = (
        look_back([path for paths in previews for path in paths], models) if any(captions) else {}
    )
    read: dict[str, Tensor] = {}  # texts by the judge, each once for a batch
    for sample, caption, paths in zip(batch, captions, previews, strict=True):
        sample.caption = caption
        words = sample.words or asked(sample)
        sample.scores["caption_agreement"] = agreement(models.judge, words, caption)
        sounds_like = ", ".join(words) or str(sample.scores.get("concept") or "")
        for name, text in (("audio_text", sounds_like), ("audio_caption", caption)):
            if models.judge is not None and sample.sound is not None and text:
                if text not in read:
                    read[text] = models.judge.text([text])[0]
                sample.scores[name] = round(float(read[text].to(sample.sound) @ sample.sound), 5)
        if caption:
            rows = [(path, of_previews[path]) for path in paths]
            name, steps = f"images/seed{sample.run.seed}.png", len(sample.record.losses)
            said = [(f"previews/{path.name}", step_of(path), text) for path, text in rows]
            sample.record.text(CAPTIONS, table([*said, (name, steps, caption)]))


def find_previews(sample: Sample) -> list[Path]:
    """The previews in a run's folder, those from before an interruption too."""
    return sorted((sample.run.folder / "previews").glob("step_*.png"))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def look_back(paths: list[Path], models: Models) -> dict[Path, str]:
    """Captions of pictures on disk, by path."""
    captions: dict[Path, str] = {}
    for i in range(0, len(paths), CHUNK):
        arrays = [np.array(Image.open(path).convert("RGB")) for path in paths[i : i + CHUNK]]
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        captions |= dict(zip(paths[i : i + CHUNK], models.captioner(x), strict=True))
    return captions


def asked(sample: Sample) -> list[str]:
    """The text prompts that the picture was steered towards."""
    return [t.label for t in sample.targets if t.kind == "text" and t.weight > 0]


def agreement(judge: Encoder | None, words: list[str], caption: str) -> float | None:
    """Cosine of the words' and the caption's embeddings by the judge, in [-1, 1].

    None where there is nobody to judge, nothing was heard or asked in words, or nothing is said.
    """
    if judge is None or not words or not caption:
        return None
    heard, seen = judge.text([", ".join(words), caption])
    return round(float(heard @ seen), 5)


def table(rows: list[tuple[str, int, str]]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("picture", "step", "caption"))
    lines.writerows(rows)
    return text.getvalue()
