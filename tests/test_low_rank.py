"""Adapters: low-rank steps away from a network's weights, in a file of their own."""

import pytest
import torch
from conftest import write_weights
from safetensors.torch import load_file, save_file
from test_latents import LATENT_UNET

from acgd.checkpoints.load import fingerprint
from acgd.diffusion.model import PictureModel
from acgd.errors import UserError
from acgd.models import low_rank
from acgd.models.unet import UNet


@pytest.fixture
def unet(tmp_path):
    path = tmp_path / "unet.safetensors"
    write_weights(path, UNet(**LATENT_UNET), LATENT_UNET, 0)
    return path


@pytest.fixture
def taught(unet):
    """The network after some training of an adapter."""
    torch.manual_seed(1)
    model = UNet(**LATENT_UNET)
    model.load_state_dict(load_file(unet))
    for part in low_rank.adapt(model, 4):
        torch.nn.init.normal_(part, std=0.1)
    return model.eval()


@pytest.fixture
def adapter(unet, taught, tmp_path):
    path = tmp_path / "adapter.safetensors"
    of = {"config": f'{{"of": "{fingerprint(unet)}"}}'}
    save_file({k: v.contiguous() for k, v in low_rank.factors(taught).items()}, path, of)
    return path


def answer(unet: UNet) -> torch.Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = torch.ones(2, 16) / 4
    with torch.no_grad():
        return unet(x, torch.tensor([100.0, 700.0]), y=torch.tensor([0, 1]), cond=cond)


def test_only_the_factors_learn_and_at_first_they_change_nothing(unet):
    model = UNet(**LATENT_UNET)
    model.load_state_dict(load_file(unet))
    before = answer(model.eval())
    trained = low_rank.adapt(model, 4)
    assert torch.allclose(answer(model), before, atol=1e-5)
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in wanted} == {id(p) for p in trained}
    assert sum(p.numel() for p in trained) < 0.3 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_with_its_adapter_draws_what_was_taught(unet, taught, adapter, precision):
    own = PictureModel(str(unet), adapter=str(adapter), precision=precision).unet
    plain = PictureModel(str(unet), precision=precision).unet
    asked, found, before = answer(taught), answer(own).float(), answer(plain).float()
    assert (before - asked).norm() > 0.1 * asked.norm()
    assert (found - asked).norm() < 0.1 * (before - asked).norm()  # six bits a number
    assert not any(p.requires_grad for p in own.parameters())


def test_factors_are_whole_numbers_of_six_bits(adapter):
    tensors = load_file(adapter)
    factors = [v for k, v in tensors.items() if not k.endswith(".scale")]
    assert {v.dtype for v in factors} == {torch.int8}
    assert max(int(v.abs().max()) for v in factors) == low_rank.LEVELS


def test_an_adapter_of_other_weights_is_one_line(adapter, tmp_path):
    other = tmp_path / "other.safetensors"
    write_weights(other, UNet(**LATENT_UNET), LATENT_UNET, 7)
    with pytest.raises(UserError, match=r"no adapter of .*other.safetensors: model.adapter=null"):
        PictureModel(str(other), adapter=str(adapter))
