"""Write the trainings' results as embedded weights: float16 safetensors with their sizes inside.

python -m acgd.training.export unet        --state runs/diffusion/state.pt
python -m acgd.training.export adapter     --state runs/names/state.pt
python -m acgd.training.export autoencoder --state runs/ae256/state.pt
python -m acgd.training.export encoder --state runs/encoder/state.pt
python -m acgd.training.export encoder --audio runs/ears/state.pt

An adapter's factors are written as whole numbers of six bits, see `acgd.models.low_rank`.
--state writes new towers and keeps the file's ears, --audio new ears and keeps the file's towers.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from acgd.checkpoints.load import fingerprint, read_config
from acgd.models import low_rank
from acgd.models.audioclip import AudioCLIP
from acgd.models.unet import UNet
from acgd.paths import WEIGHTS
from acgd.training import ears
from acgd.training.autoencoder import ARCHITECTURES as AUTOENCODERS
from acgd.training.encoder import ARCHITECTURES, load_towers
from acgd.training.latent_diffusion import ARCHITECTURE as UNET_ARCHITECTURE

EARS = ("sample_rate", "n_fft", "hop_length", "win_length", "window", "normalized", "onesided",
        "apply_attention", "input_range")  # fmt: skip


def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16 where it is floating point; batch norms' running variances are small but in range."""
    return {
        k: (v.half() if v.is_floating_point() else v).contiguous().clone()
        for k, v in tensors.items()
    }


def adapter(ema: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file of what `latent_diffusion --rank` has trained."""
    ups = [value for key, value in ema.items() if key.endswith(".0.up")]
    if not ups:
        raise SystemExit("--state is of no adapter: it is trained with latent_diffusion --rank")
    unet = UNet(**UNET_ARCHITECTURE)
    low_rank.adapt(unet, ups[0].shape[1])
    unet.load_state_dict(ema)
    return low_rank.factors(unet)


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """The tensors, halved, and what is to be known of them: a whole file or none."""
    temporary = path.with_suffix(".tmp")
    save_file(halve(tensors), temporary, metadata=about)
    os.replace(temporary, path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def audioclip(path: Path, state: Path | None, audio: Path | None) -> tuple[dict, dict]:
    """Architecture and tensors of an embedded AudioCLIP's file with new towers, new ears or both.

    What is not made anew keeps every bit that the file at `path` has.
    """
    config, tensors = read_config(path), load_file(path)
    role = path.stem.removeprefix("tiny_")
    if state:
        own = {k: v for k, v in ARCHITECTURES[role].items() if not is_audio(k)}
        model = AudioCLIP(**own)
        load_towers(model, state)
        towers = {k: v for k, v in model.state_dict().items() if not is_ear(k)}
        words = "token_embedding.weight"
        towers[words] = rounded(towers[words].half(), tensors[words])
        tensors = towers | {k: v for k, v in tensors.items() if is_ear(k)}
        config = own | {k: v for k, v in config.items() if is_audio(k)}
    if audio:
        head = torch.load(audio, weights_only=True)["modules"]
        scale = head["listener"]["log_scale"]
        tensors = {k: v for k, v in tensors.items() if not is_ear(k)}
        tensors |= {f"audio.{k}": v for k, v in head["kept"].items()}
        tensors |= {f"logit_scale_{pair}": scale for pair in ("at", "ai")}
        config = {k: v for k, v in config.items() if not is_audio(k)}
        config |= ears.ARCHITECTURES[role]
    AudioCLIP(**config).load_state_dict(tensors)  # says what is missing or of another shape
    return config, tensors


def rounded(rows: Tensor, before: Tensor) -> Tensor:
    """float16 rows (N, D); those that are not as before with four bits behind the leading one.

    No word moves by that, and of the new file a repository has a third less to keep.
    """
    bits = rows.view(torch.int16).int()
    short = (bits + 32 >> 6 << 6).to(torch.int16).view(torch.float16)
    return torch.where((rows == before).all(-1, keepdim=True), rows, short)


def is_ear(tensor: str) -> bool:
    """Whether a tensor of an AudioCLIP belongs to its ears."""
    return tensor.startswith("audio.") or tensor in ("logit_scale_at", "logit_scale_ai")


def is_audio(setting: str) -> bool:
    """Whether an argument of AudioCLIP is one of its ears'."""
    return setting.startswith("audio_") or setting in EARS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["unet", "adapter", "autoencoder", "encoder", "judge"])
    parser.add_argument("--state", type=Path, help="what the training of the network has saved")
    parser.add_argument("--audio", type=Path, help="what the training of the ears has saved")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    path = args.out / f"tiny_{args.what}.safetensors"
    if args.what in ("unet", "adapter", "autoencoder"):
        if not args.state:
            parser.error(f"{args.what} needs --state, what its training has saved")
        modules = torch.load(args.state, weights_only=True)["modules"]
        if args.what == "unet":
            config, tensors = UNET_ARCHITECTURE, modules["ema"]
        elif args.what == "adapter":
            base = args.out / "tiny_unet.safetensors"
            config, tensors = {"of": fingerprint(base)}, adapter(modules["ema"])
        else:
            config, tensors = AUTOENCODERS[256], modules["model"]
    else:
        config, tensors = audioclip(path, args.state, args.audio)
    write(path, tensors, {"config": json.dumps(config)})


if __name__ == "__main__":
    main()
