"""Small models of the real classes, shared by the tests of samplers and guidance."""

import torch
import torch.nn.functional as F
import yaml

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.process import Diffusion
from acgd.media.preprocess import normalise
from acgd.models.clip import CLIP
from acgd.models.unet import UNet
from acgd.paths import CONF
from acgd.pipeline import settings
from acgd.types import Target

LOSSES = yaml.safe_load((CONF / "guidance" / "default.yaml").read_text())["losses"]
OPTIONS = {
    "_target_": "acgd.diffusion.guidance.guidance.Guidance",
    "losses": LOSSES,
    **dict.fromkeys(LOSSES, 0.0),
    "clip": 1000.0,
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class SmallEncoder:
    """An untrained CLIP with a 32 pixel ModifiedResNet."""

    image_size, dim = 32, 16

    def __init__(self):
        torch.manual_seed(1)
        self.model = CLIP(16, 32, [1, 1, 1, 1], 8, None, 8, 64, 16, 1, 1).eval()
        for module in self.model.modules():  # blocks start as the identity: wake them
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(module.weight)
        self.model.requires_grad_(False)

    def image(self, pixels):
        assert pixels.shape[1:] == (3, 32, 32)
        return F.normalize(self.model.encode_image(normalise(pixels)), dim=-1)


def denoiser(respacing="8"):
    """A UNet with random weights around the ideal denoiser of unit normal data."""
    torch.manual_seed(2)
    unet = UNet(32, 32, 1, "1,1", attention_resolutions="8", learn_sigma=True, patch_size=2).eval()
    for p in unet.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return Denoiser(unet.requires_grad_(False), Diffusion(respacing=respacing), "v")


def targets(*seeds, kind="audio", weight=1.0):
    return [Target(F.normalize(normal(16, seed=s), dim=0), weight, kind, str(s)) for s in seeds]


def guidance(encoder, rows, diffusion, noise, init_image=None, **options):
    """Guidance as the pipeline puts it together; unguided by anything but clip unless asked."""
    known = {"encoder": encoder, "targets": rows, "diffusion": diffusion, "noise": noise}
    return settings.guide({**OPTIONS, **options}, init_image=init_image, **known)


def kept_bytes(module, run, x) -> int:
    """What autograd keeps of run(x) beside the module's own tensors, each storage once."""
    storages = {t.untyped_storage()._cdata for t in module.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = run(x.requires_grad_())
    del out
    return sum(kept.values())
