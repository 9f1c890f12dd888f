"""Write the trainings' results as embedded weights: float16 safetensors with their sizes inside.

python -m acgd.training.export unet    --state runs/diffusion/state.pt
python -m acgd.training.export encoder --state runs/encoder/state.pt --audio runs/ears/state.pt
python -m acgd.training.export judge   --state runs/judge/state.pt --audio runs/judge_ears/state.pt
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from acgd.models.audioclip import AudioCLIP
from acgd.paths import WEIGHTS
from acgd.training.diffusion import ARCHITECTURE as UNET
from acgd.training.encoder import ARCHITECTURES, load_towers


def halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float16 where it is floating point; batch norms' running variances are small but in range."""
    return {
        k: (v.half() if v.is_floating_point() else v).contiguous().clone()
        for k, v in tensors.items()
    }


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """The tensors, halved, and what is to be known of them: a whole file or none."""
    temporary = path.with_suffix(".tmp")
    save_file(halve(tensors), temporary, metadata=about)
    os.replace(temporary, path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def audioclip(role: str, state: Path, audio: Path | None) -> dict[str, Tensor]:
    model = AudioCLIP(**ARCHITECTURES[role])
    load_towers(model, state)
    if audio:
        head = torch.load(audio, weights_only=True)
        model.audio.load_state_dict(head["audio"])
        model.logit_scale_at.data.copy_(head["scale"])
        model.logit_scale_ai.data.copy_(head["scale"])
    return model.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["unet", "encoder", "judge"])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    if args.what == "unet":
        config, tensors = UNET, torch.load(args.state, weights_only=True)["ema"]
    else:
        config = ARCHITECTURES[args.what]
        tensors = audioclip(args.what, args.state, args.audio)
    about = {"config": json.dumps(config)}
    write(args.out / f"tiny_{args.what}.safetensors", tensors, about)


if __name__ == "__main__":
    main()
