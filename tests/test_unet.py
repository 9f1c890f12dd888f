"""The UNet: published keys, golden behaviour's fine print, and our two extras."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from acgd.models.unet import UNet

MANIFESTS = Path(__file__).parent / "golden" / "manifests"
SMALL = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "16",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}


def small(**changes) -> UNet:
    """A small UNet whose every weight counts (new ones end in zeros)."""
    torch.manual_seed(0)
    unet = UNet(**{**SMALL, **changes}).eval()
    for p in unet.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return unet


@pytest.mark.parametrize("name", ["guided_diffusion_256_uncond", "guided_diffusion_512_finetune"])
def test_published_keys_shapes_and_half_precision(name):
    published = json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))
    known = set(UNet.__init__.__annotations__)
    with torch.device("meta"):
        unet = UNet(**{k: v for k, v in published["config"].items() if k in known})
    state = unet.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == {
        k: v["shape"] for k, v in published["keys"].items()
    }
    assert sum(p.numel() for p in unet.parameters()) == published["n_parameters"]
    half = {
        k for k, v in unet.convert_torso("float16").state_dict().items() if v.dtype.itemsize == 2
    }
    assert len(half) == published["float16_after_convert_to_fp16"]["n_keys"]


def test_checkpointing_changes_memory_only():
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    t = torch.tensor([3.0, 700.0])
    grads = []
    for use_checkpoint in (False, True):
        out = small(use_checkpoint=use_checkpoint)(x, t)
        grads.append(torch.autograd.grad(out.square().sum(), x)[0])
    torch.testing.assert_close(*grads)


def test_a_sample_is_the_same_alone_and_in_a_batch():
    unet, x, t = small(), torch.randn(4, 3, 32, 32), torch.tensor([1.0, 10.0, 100.0, 900.0])
    with torch.no_grad():
        together, alone = unet(x, t), unet(x[2:3], t[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)


def test_condition_counts_where_it_is_not_dropped():
    unet, x, t = small(cond_dim=8), torch.randn(2, 3, 32, 32), torch.tensor([5.0, 5.0])
    cond = torch.randn(2, 8)
    with torch.no_grad():
        free = unet(x, t)
        mixed = unet(x, t, cond=cond, cond_mask=torch.tensor([True, False]))
        given = unet(x, t, cond=cond)
    torch.testing.assert_close(mixed[1], free[1])
    torch.testing.assert_close(mixed[0], given[0])
    assert (mixed[0] - free[0]).abs().max() > 1e-3


def test_patches_work_on_a_smaller_map():
    unet = small(patch_size=4, image_size=64, learn_sigma=True)
    sides = []
    unet.input_blocks[0].register_forward_hook(lambda m, i, out: sides.append(out.shape[-1]))
    with torch.no_grad():
        out = unet(torch.randn(1, 3, 64, 64), torch.tensor([10.0]))
    assert out.shape == (1, 6, 64, 64) and sides == [16]


def test_classes_must_be_named():
    unet = small(class_cond=True, num_classes=5)
    with pytest.raises(ValueError, match="class ids"):
        unet(torch.randn(1, 3, 32, 32), torch.tensor([1.0]))
    with torch.no_grad():
        x, t = torch.randn(1, 3, 32, 32), torch.tensor([1.0])
        a, b = (unet(x, t, torch.tensor([k])) for k in (0, 4))
    assert (a - b).abs().max() > 1e-4
