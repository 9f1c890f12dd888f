"""Frozen layers: PyTorch's values and gradients, with less kept for the way back."""

import pytest
import torch
import torch.nn.functional as F
from conftest import UNET
from small import kept_bytes
from test_clip import RESNET

from acgd.models import frozen, onednn
from acgd.models.clip import CLIP
from acgd.models.unet import GroupNorm32, UNet

CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1, no bias": {"kernel_size": 1, "bias": False},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated, in groups": {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
}


@pytest.fixture(params=["plain", "frozen"])
def which(request, monkeypatch):
    """PyTorch's layers, or ours at any size."""
    monkeypatch.setattr(frozen, "WORTH", 2**60 if request.param == "plain" else 0)
    return request.param


def filled(module):
    """Random weights and statistics that nobody asks a gradient of."""
    torch.manual_seed(0)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2.0) if "var" in key else value.normal_()
    return module.eval().requires_grad_(False)


def both(monkeypatch, run, x):
    """(value, gradient) by PyTorch's layers, then by ours."""
    found = []
    for worth in (2**60, 0):
        monkeypatch.setattr(frozen, "WORTH", worth)
        given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        out = run(given)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
        found.append((out.detach(), torch.autograd.grad(out, given, weights)[0]))
    return found


def same(found):
    (value, grad), (own_value, own_grad) = found
    assert torch.equal(value, own_value) and grad.any()
    torch.testing.assert_close(own_grad, grad)
    for ours, theirs in ((own_value, value), (own_grad, grad)):
        assert ours.dtype == theirs.dtype and ours.stride() == theirs.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(monkeypatch, sizes, dtype, layout):
    layer = filled(frozen.Conv2d(8, 12, **sizes)).to(dtype).to(memory_format=layout)
    x = torch.randn(2, 8, 9, 7, dtype=dtype).to(memory_format=layout)
    same(both(monkeypatch, layer, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm(monkeypatch, dtype):
    same(both(monkeypatch, filled(frozen.BatchNorm2d(6)), torch.randn(2, 6, 5, 5).to(dtype)))


@pytest.mark.parametrize("channels", [8, 64])  # of 4 groups
@pytest.mark.parametrize("film", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_norm_with_film_and_silu(monkeypatch, dtype, film, channels):
    """Samples of a batch have FiLM of their own. In half precision gradients are nearer to exact
    ones than PyTorch's, which rounds on the way."""
    norm, given = filled(GroupNorm32(4, channels)), torch.randn(2, 2, channels, 1, 1).to(dtype)
    x = torch.randn(2, channels, 5, 5).to(dtype).contiguous(memory_format=torch.channels_last)

    def run(x):
        return frozen.norm_silu(norm, x + 3, *(given.to(x.dtype) if film else ()))

    (value, grad), (own_value, own_grad) = found = both(monkeypatch, run, x)
    if dtype not in frozen.HALF:
        return same(found)
    torch.testing.assert_close(own_value, value)
    assert own_grad.dtype == dtype and own_grad.stride() == grad.stride()
    (_, exact), _ = both(monkeypatch, run, x.float())
    assert (own_grad - exact).norm() < 1.05 * (grad - exact).norm() < 0.05 * exact.norm()


def test_a_sample_s_film_is_its_own(monkeypatch):
    monkeypatch.setattr(frozen, "WORTH", 0)
    norm, given = filled(GroupNorm32(4, 8)), torch.randn(2, 3, 8, 1, 1)
    x = torch.randn(3, 8, 5, 5, requires_grad=True)
    together = frozen.norm_silu(norm, x, *given)
    alone = [frozen.norm_silu(norm, x[i : i + 1], *given[:, i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (together, torch.cat(alone))]
    assert torch.equal(*grads)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_doubling_a_map_whose_gradient_is_a_part_of_another(monkeypatch, layout):
    x = torch.randn(2, 3, 5, 4).to(memory_format=layout)
    same(both(monkeypatch, lambda x: torch.cat([frozen.doubled(x), x.repeat(1, 1, 2, 2)], 1), x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "1x1"])
def test_large_products_go_to_onednn(monkeypatch, kind, bias):
    """Values and gradients; but not what learns, autocast, or where oneDNN is missing."""
    calls, linear = [], onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *a: calls.append(a) or linear(*a))
    module, x = frozen.Linear(8, 12, bias=bias), torch.randn(2, 5, 8)
    if kind == "1x1":
        module, x = frozen.Conv2d(8, 12, 1, bias=bias), torch.randn(2, 8, 5, 3)
        x = x.contiguous(memory_format=torch.channels_last)
    filled(module)
    plain = both(monkeypatch, module, x)[0]
    assert not calls
    monkeypatch.setattr(onednn, "LEAST", 1)
    for ours, theirs in zip(both(monkeypatch, module, x)[1], plain, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain[0])
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    assert module.requires_grad_()(x).requires_grad
    monkeypatch.setattr(onednn, "works_here", lambda: False)
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain[0])
    assert not calls


def unet_and_resnet():
    unet = filled(UNet(**UNET | {"resblock_updown": True}))
    for p in unet.parameters():
        p.mul_(0.1)
    tower = filled(CLIP(**RESNET)).visual
    step = torch.tensor([300.0])
    return {
        "unet": (unet, lambda x: unet(x, step.to(x.device)), torch.randn(1, 3, 32, 32)),
        "resnet": (tower, tower, torch.randn(1, 3, 32, 32)),
    }


@pytest.mark.parametrize("name, share", [("unet", 0.5), ("resnet", 0.7)])
def test_whole_networks_keep_less_for_the_same_gradient(monkeypatch, name, share):
    network, run, x = unet_and_resnet()[name]
    (value, grad), (own_value, own_grad) = both(monkeypatch, run, x)
    assert torch.equal(value, own_value)
    torch.testing.assert_close(own_grad, grad, rtol=1e-3, atol=float(grad.abs().max()) * 1e-5)
    own, counted = kept_bytes(network, run, x), kept_bytes(network.to("meta"), run, x.to("meta"))
    assert 0.95 * own < counted < 1.25 * own  # attention is counted by its parts
    monkeypatch.setattr(frozen, "WORTH", 2**60)
    assert counted < share * kept_bytes(network, run, x.to("meta"))


def test_training_is_left_alone(which):
    """Weights, and an embedding before the norm, get their gradients."""
    layer, bn = frozen.Conv2d(4, 4, 3), frozen.BatchNorm2d(4).eval()
    scale = torch.zeros(1, 4, 1, 1, requires_grad=True)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    norm = filled(GroupNorm32(2, 4))
    frozen.norm_silu(norm, bn(layer(x)), scale, scale).square().sum().backward()
    assert all(t.grad.any() for t in (x, scale, *layer.parameters(), *bn.parameters()))
    learning = filled(frozen.BatchNorm2d(4)).train()
    before = learning.running_mean.clone()
    learning(x)
    assert not torch.equal(before, learning.running_mean)


def test_small_maps_and_pictures_without_gradient_take_the_plain_way(monkeypatch):
    monkeypatch.setattr(frozen.FrozenConvolution, "apply", lambda *_: pytest.fail("ours"))
    layer = filled(frozen.Conv2d(3, 3, 1))
    layer(torch.randn(1, 3, 8, 8, requires_grad=True))  # small
    large = torch.randn(1, 3, 512, 512)
    assert large.nbytes > frozen.WORTH
    layer(large)
    with torch.no_grad():
        layer(large.requires_grad_())
    with pytest.raises(pytest.fail.Exception):
        layer(large)


def test_second_derivatives_are_refused(monkeypatch):
    monkeypatch.setattr(frozen, "WORTH", 0)
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    out = filled(frozen.Conv2d(3, 3, 1))(x).square().sum()
    grad = torch.autograd.grad(out, x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("size", [8, 192])  # PyTorch's own layer, and the frozen one
def test_half_precision_is_computed_in_float32_where_the_processor_cannot(monkeypatch, size):
    monkeypatch.setattr(frozen, "capability", lambda: "AVX2")
    torch.manual_seed(0)
    conv = frozen.Conv2d(16, 16, 3, padding=1).bfloat16().requires_grad_(False)
    x = torch.randn(1, 16, size, size, dtype=torch.bfloat16, requires_grad=True)
    y = conv(x)
    weight, bias = conv.weight.float(), conv.bias.float()
    wide = x.detach().float().requires_grad_()
    expected = F.conv2d(wide, weight, bias, padding=1)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    (of_wide,) = torch.autograd.grad(expected, wide, torch.ones_like(expected))
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, of_wide.bfloat16())
    assert frozen.arithmetic(x) == torch.float32
    monkeypatch.setattr(frozen, "capability", lambda: "AVX512")
    assert frozen.arithmetic(x) == torch.bfloat16
