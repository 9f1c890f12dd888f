"""Convolutions with weights in oneDNN's order, and the decoder's way back: PyTorch's to the bit."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_frozen import filled
from torch import nn

from acgd.models import packed
from acgd.models.autoencoder import enlarge
from acgd.models.frozen import Conv2d

LAST = torch.channels_last
here = pytest.mark.skipif(not packed.works_here(), reason="PyTorch without oneDNN, or no AVX2")


MORE = {
    "3x3": {},
    "no bias": {"bias": False},
    "5x5": {"kernel_size": 5, "padding": 2},
    "1x1": {"kernel_size": 1, "padding": 0},
}


@pytest.fixture
def two_threads():
    """With one, PyTorch's 1x1 kernels are matrix products."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def layer(**more):
    sizes = {"kernel_size": 3, "padding": 1, **more}
    return filled(Conv2d(32, 48, **sizes)).to(memory_format=LAST)


def picture(side=8, count=2, channels=32, seed=0):
    x = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=LAST)


def by_pytorch(conv, x):
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)


@here
@pytest.mark.parametrize("side, count", [(1, 2), (4, 2), (8, 16), (32, 1)])
@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_values_and_gradients_are_pytorch_s(side, count, more, two_threads):
    conv, x = layer(**more), picture(side, count)
    assert packed.pays(conv, x)
    found = []
    for run in (conv, lambda given: by_pytorch(conv, given)):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = run(given)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride() and ours.any()
    assert torch.equal(conv(x), found[0][0])  # without a graph


@here
def test_other_numbers_other_weights_and_other_sizes_are_seen():
    conv, x = layer(), picture()
    conv(x)
    with torch.no_grad():
        conv.weight *= 2
    assert torch.equal(conv(x), by_pytorch(conv, x))
    state = {key: value + 1 for key, value in conv.state_dict().items()}
    conv.load_state_dict(state, assign=True)
    assert torch.equal(conv.requires_grad_(False)(x), by_pytorch(conv, x))
    for side, count in ((4, 2), (32, 1), (8, 2)):
        assert torch.equal(conv(picture(side, count)), by_pytorch(conv, picture(side, count)))
    twin = copy.deepcopy(conv)  # what is packed stays behind
    assert torch.equal(twin(x), conv(x)) and list(twin.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    "given",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 4},
        {"kernel_size": 1, "padding": 1},
        {"padding": 0},
        {"padding_mode": "circular"},
    ],
)
def test_all_other_layers_are_left_to_pytorch(given):
    conv = layer(**given)
    assert not packed.pays(conv, picture()) and conv(picture()).isfinite().all()


def test_so_are_weights_in_training_large_maps_and_other_numbers(monkeypatch):
    assert not packed.pays(layer().requires_grad_(), picture())
    assert not packed.pays(layer(), picture(side=64))
    assert not packed.pays(layer(), picture(side=4, count=1))  # nor does PyTorch take oneDNN there
    assert not packed.pays(layer().double(), picture().double())
    assert not packed.pays(layer().to(memory_format=torch.contiguous_format), picture())
    assert not packed.pays(layer(), picture().to("meta"))
    monkeypatch.setattr(packed, "LARGEST", 1000)
    assert not packed.pays(layer(), picture())


def test_training_has_its_gradients():
    conv, x = layer().requires_grad_(), picture().requires_grad_()
    conv(x).sum().backward()
    assert conv.weight.grad.any() and x.grad.any()


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_the_decoder_s_shuffle_has_pytorch_s_way_back(layout):
    x = picture(channels=12).contiguous(memory_format=layout)
    found = []
    for shuffle in (enlarge, lambda given: nn.functional.pixel_shuffle(given, 2)):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = shuffle(given)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and ours.any()
