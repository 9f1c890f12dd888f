"""Train a small Stable Diffusion of diffusers' own classes on a folder of pictures.

python -m acgd.training.small_pipeline --pictures DIR --out runs/small --steps 4000 --cooldown 3000

A picture's words are its file's name, "red disc.png". OUT/pipeline is a folder that
`model=diffusers` takes, and diffusers itself: small enough for a CPU, to try how the two agree on a
model that has learned something. Autoencoder, text encoder and network learn at once, the network
on latents in units of their own spread, which becomes the autoencoder's scaling factor.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.diffusion.scheduled import Scheduled
from acgd.errors import UserError
from acgd.media import images, preprocess
from acgd.training import loop

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1}  # fmt: skip
WITHOUT = 0.1  # share of the pictures that are shown without their words
SMOOTH = 0.99  # of the running spread of latents


class Training:
    """See `acgd.training.loop`."""

    def __init__(self, args: argparse.Namespace):
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.batch, self.out = args.batch, args.out
        self.words, self.pictures = read(args.pictures, args.size)
        self.tokenizer = letters(args.out / "tokenizer")
        tokens = len(self.tokenizer)
        torch.manual_seed(args.seed)
        shared: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 8}
        vae = AutoencoderKL(
            block_out_channels=(16, 32), latent_channels=4, sample_size=args.size,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, **shared,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64), sample_size=args.size // 2, cross_attention_dim=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **shared,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=tokens, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=self.tokenizer.model_max_length,
            bos_token_id=tokens - 2, eos_token_id=tokens - 1, pad_token_id=tokens - 1,
        ))  # fmt: skip
        self.modules: dict[str, nn.Module] = {"vae": vae, "unet": unet, "text": text}
        self.spread = nn.Parameter(torch.ones(()), requires_grad=False)
        self.modules["spread"] = nn.ParameterDict({"value": self.spread})
        parameters = [p for module in (vae, unet, text) for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.0)
        self.rng = torch.Generator().manual_seed(args.seed)
        self.process, self.step = Scheduled(SCHEDULE), 0

    def advance(self) -> dict[str, float]:
        rows = torch.randint(len(self.pictures), (self.batch,), generator=self.rng)
        pixels = self.pictures[rows]
        vae: Any = self.modules["vae"]
        latents = vae.encode(pixels).latent_dist.mean
        noisy = latents + 0.1 * torch.randn(latents.shape, generator=self.rng)  # a smooth space
        shown = F.l1_loss(vae.decode(noisy).sample, pixels) + 1e-4 * latents.square().mean()
        self.spread.lerp_(latents.detach().std(), 1 - SMOOTH if self.step else 1.0)
        denoised = self.denoised(latents.detach() / self.spread, [self.words[i] for i in rows])
        self.optimizer.zero_grad(set_to_none=True)
        (shown + denoised).backward()
        self.optimizer.step()
        return {"autoencoder": shown.item(), "network": denoised.item()}

    def denoised(self, x0: Tensor, words: Sequence[str]) -> Tensor:
        """The mean squared error of v at random steps."""
        unet: Any = self.modules["unet"]
        t = torch.randint(self.process.num_timesteps, (len(x0),), generator=self.rng)
        noise = torch.randn(x0.shape, generator=self.rng)
        x = self.process.q_sample(x0, t, noise)
        a, s = (
            self.process.pick(name, t)
            for name in ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")
        )
        kept = (torch.rand(len(x0), generator=self.rng) >= WITHOUT).tolist()
        told = self.told([one if keep else "" for one, keep in zip(words, kept, strict=True)])
        return F.mse_loss(unet(x, t, told).sample, a * noise - s * x0)

    def told(self, words: Sequence[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        how = {"padding": "max_length", "truncation": True, "max_length": length}
        ids = self.tokenizer(list(words), return_tensors="pt", **how).input_ids
        text: Any = self.modules["text"]
        return text(ids).last_hidden_state

    def preview(self, folder: Path) -> None:
        """The pipeline as it is now, in diffusers' format."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        vae: Any = self.modules["vae"]
        vae.register_to_config(scaling_factor=1 / float(self.spread))
        StableDiffusionPipeline(
            vae, self.modules["text"], self.tokenizer, self.modules["unet"],
            DDIMScheduler(set_alpha_to_one=False, **SCHEDULE),
            None, None, requires_safety_checker=False,
        ).save_pretrained(self.out / "pipeline")  # fmt: skip


def read(folder: Path, size: int) -> tuple[list[str], Tensor]:
    """Each picture's words, and the pictures' middle squares (N, 3, size, size) in [-1, 1]."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg"))
    if not paths:
        raise UserError(f"--pictures {folder}: holds no png and no jpg")
    found = [preprocess.pixels(images.load(path, "--pictures"), size) for path in paths]
    return [path.stem.replace("_", " ") for path in paths], torch.stack(found) * 2 - 1


def letters(folder: Path) -> Any:
    """A CLIPTokenizer whose tokens are letters."""
    from transformers import CLIPTokenizer

    signs = [chr(code) for code in range(33, 127)]
    tokens = [*signs, *(f"{one}</w>" for one in signs), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({one: i for i, one in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*files, model_max_length=32)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="named by their words")
    parser.add_argument("--size", type=int, default=32, help="pixels, a multiple of 4")
    args = loop.options(parser, lr=2e-3, batch=16).parse_args(arguments)
    loop.run(Training(args), args)


if __name__ == "__main__":
    main()
