"""3x3 convolutions by Winograd's way: PyTorch's values and gradients, and where it steps in."""

import pytest
import torch
import torch.nn.functional as F

from acgd.models import frozen, onednn, winograd

PLACES = (1, 1), (1, 1), (1, 1), 1


def layer_and_picture(height=16, width=16, inward=6, outward=5, batch=2, bias=True):
    torch.manual_seed(0)
    layer = frozen.Conv2d(inward, outward, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(batch, inward, height, width)
    return layer, x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def small(monkeypatch):
    """Small maps are worth it, in strips of a few squares; the list gets the calls."""
    calls, filtered = [], winograd.filtered
    monkeypatch.setattr(frozen, "WORTH", 0)
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 16)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "SQUARES", 8)
    monkeypatch.setattr(winograd, "filtered", lambda *a: calls.append(a) or filtered(*a))
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("height, width", [(16, 16), (4, 4), (8, 40), (28, 4)])
def test_values_and_gradients(small, height, width, bias):
    layer, x = layer_and_picture(height, width, bias=bias)
    x.requires_grad_()
    wide = layer.weight.double(), layer.bias.double() if bias else None
    expected, own = F.conv2d(x.double(), *wide, padding=1), layer(x)
    assert own.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5)
    probe = torch.randn_like(own)
    grads = [torch.autograd.grad(y, x, probe.to(y))[0].double() for y in (expected, own)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
    assert len(small) == 2


def test_as_exact_as_float32_at_the_width_of_the_published_models(small):
    layer, x = layer_and_picture(inward=256, outward=256, batch=1)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    assert 0 < float((layer(x) - exact).norm() / exact.norm()) < 1e-5 and small


def test_a_picture_is_the_same_alone_and_in_a_batch(small):
    layer, x = layer_and_picture(batch=3)
    assert torch.equal(layer(x)[1:2], layer(x[1:2])) and len(small) == 2


def test_weights_that_change_are_seen(small):
    layer, x = layer_and_picture()
    before = layer(x)
    layer.load_state_dict({key: 2 * value for key, value in layer.state_dict().items()})
    torch.testing.assert_close(layer(x), 2 * before)
    assert len(small) == 2


def test_half_precision_in_float32_where_the_processor_has_no_other(small, monkeypatch):
    monkeypatch.setattr(frozen, "capability", lambda: "AVX2")
    layer, x = layer_and_picture()
    expected = layer(x)
    x = x.bfloat16().requires_grad_()
    y = layer.bfloat16()(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == grad.dtype == torch.bfloat16 and len(small) == 3
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


def test_everything_else_is_left_to_pytorch(small, monkeypatch):
    """Other shapes, layouts and dtypes, training, autocast, and where the operation is missing."""
    layer, x = layer_and_picture()
    weight = layer.weight
    assert winograd.pays(x, weight, *PLACES)
    others = {
        "stride": (x, weight, (2, 2), *PLACES[1:]),
        "padding": (x, weight, (1, 1), (0, 0), (1, 1), 1),
        "dilation": (x, weight, (1, 1), (2, 2), (2, 2), 1),
        "groups": (x, weight[:, :3], *PLACES[:3], 2),
        "1x1": (x, weight[..., :1, :1], *PLACES),
        "no multiple of 4": (x[..., :15], weight, *PLACES),
        "channels first": (x.contiguous(), weight, *PLACES),
        "double": (x.double(), weight.double(), *PLACES),
        "bf16": (x.bfloat16(), weight.bfloat16(), *PLACES),
        "elsewhere": (x.to("meta"), weight.to("meta"), *PLACES),
        "learning": (x, weight.clone().requires_grad_(), *PLACES),
    }
    assert [name for name, given in others.items() if winograd.pays(*given)] == []
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    monkeypatch.setattr(onednn, "works_here", lambda: False)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.bias, padding=1))
    assert not small


def test_small_and_thin_maps_are_left_to_pytorch():
    for size, channels in ((60, 128), (64, 64)):
        layer, x = layer_and_picture(size, size, channels, channels, batch=1)
        assert not winograd.pays(x, layer.weight, *PLACES)
    layer, x = layer_and_picture(64, 64, 128, 128, batch=1)
    assert winograd.pays(x, layer.weight, *PLACES)
