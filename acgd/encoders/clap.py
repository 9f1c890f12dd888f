"""Sounds and texts through CLAP, by transformers; pictures it does not know."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.checkpoints import hub
from acgd.encoders.audioclip import windows
from acgd.errors import UserError


class CLAPEncoder:
    """An Encoder (see acgd.types) that hears and reads (Wu et al. 2023, arXiv:2211.06687).

    checkpoint: a folder as transformers saves it, or a name on its hub, taken from its cache; with
    download=True what is missing there is fetched. Sounds longer than the model takes (10 s) are
    heard in windows of that length that overlap by about half, and their mean direction is taken;
    transformers would draw a random part. All is computed in float32.
    """

    sees, hears = False, True
    image_size, scale_it = 0, 0.0

    def __init__(
        self,
        checkpoint: str,
        download: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        local = not download
        with hub.told(checkpoint, "CLAP", "encoder.download=true, or judge.download=true"):
            from transformers.models.clap import ClapModel, ClapProcessor

            processor = ClapProcessor.from_pretrained(checkpoint, local_files_only=local)
            model = hub.whole(ClapModel, checkpoint, dtype=torch.float32, local_files_only=local)
        self.device, self.model = torch.device(device), model.to(device)
        self.features, self.tokenizer = processor.feature_extractor, processor.tokenizer
        self.sample_rate = int(self.features.sampling_rate)
        self.longest = int(self.features.nb_max_samples)
        self.dim = int(model.config.projection_dim)
        self.scale_at = float(model.logit_scale_a.exp().clamp(1.0, 100.0))

    def park(self, device: str | torch.device = "cpu") -> None:
        """No picture tower stays on the device: the model waits until it is asked again."""
        self.model.to(device)

    def image(self, pixels: Tensor) -> Tensor:
        raise UserError(
            "CLAP sees no pictures: let one that sees join it, encoder=ensemble "
            "encoder@encoder.members.a=clip encoder@encoder.members.b=clap"
        )

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """N strings -> (N, D), unit norm, float32; what is too long loses its end."""
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        self.park(self.device)
        room = self.model.config.text_config.max_position_embeddings - 2  # two are for the padding
        how = {"padding": True, "truncation": True, "max_length": room, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), **how).to(self.device)
        found = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(self.model.text_projection(found.pooler_output), dim=-1)

    @torch.no_grad()
    def audio(self, waves: Tensor) -> Tensor:
        """(N, T) float32 in [-1, 1] at sample_rate -> (N, D), unit norm, float32."""
        if waves.ndim != 2:
            raise ValueError(f"waves are {tuple(waves.shape)}, not (N, T)")
        self.park(self.device)
        parts = windows(waves, self.longest) if waves.shape[1] > self.longest else [waves]
        heard = torch.stack([self.hear(part) for part in parts])  # (parts, N, D)
        return F.normalize(heard.mean(0), dim=-1) if len(parts) > 1 else heard[0]

    def hear(self, waves: Tensor) -> Tensor:
        """(N, T), T at most `longest` -> (N, D), unit norm."""
        # one by one: of several the extractor would choose one at random to be heard as a long one
        asked = {"sampling_rate": self.sample_rate, "return_tensors": "pt"}
        each = [self.features(wave.float().cpu().numpy(), **asked) for wave in waves]
        mel, longer = (
            torch.cat([one[name] for one in each]).to(self.device)
            for name in ("input_features", "is_longer")
        )
        found = self.model.audio_model(input_features=mel.float(), is_longer=longer)
        return F.normalize(self.model.audio_projection(found.pooler_output), dim=-1)
