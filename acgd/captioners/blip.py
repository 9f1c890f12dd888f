"""Captions by BLIP, through transformers."""

from __future__ import annotations

import torch
from torch import Tensor

from acgd.captioners.clipcap import square
from acgd.checkpoints import hub


class BlipCaptioner:
    """A sentence for each picture (Li et al. 2022, arXiv:2201.12086).

    checkpoint: a folder as transformers saves it, or a name on its hub, taken from its cache;
    with download=True what is missing there is fetched. beams: 1 for greedy search.
    """

    def __init__(
        self,
        checkpoint: str,
        download: bool = False,
        beams: int = 3,
        length: int = 40,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        with hub.told(checkpoint, "BLIP", "captioner.download=true"):
            from transformers.models.blip import BlipForConditionalGeneration, BlipProcessor

            local = not download
            self.processor = BlipProcessor.from_pretrained(checkpoint, local_files_only=local)
            model = BlipForConditionalGeneration.from_pretrained(
                checkpoint, dtype=getattr(torch, precision), local_files_only=local
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self.asked = {"num_beams": beams, "max_new_tokens": length, "do_sample": False}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[str]:
        """(B, 3, H, W) in [0, 1] of any size to B captions."""
        side = self.model.config.vision_config.image_size
        x = square(images.to(self.model.device).float(), side)
        mean, std = (
            x.new_tensor(values).view(3, 1, 1)
            for values in (
                self.processor.image_processor.image_mean,
                self.processor.image_processor.image_std,
            )
        )
        tokens = self.model.generate(((x - mean) / std).to(self.model.dtype), **self.asked)
        texts = self.processor.batch_decode(
            tokens[:, 1:], skip_special_tokens=True
        )  # less the start
        return [text.strip() for text in texts]
