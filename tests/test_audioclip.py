"""AudioCLIP: published keys and numbers, the FBSP front end, training."""

import pytest
import torch
from reference import audioclip_audio as reference
from test_clip import RESNET, VIT, described, golden_errors, manifest

from acgd.models.audioclip import AudioCLIP, query_strings
from acgd.models.esresnext import ESResNeXt, LinearFBSP, to_unit_range
from acgd.models.tokenizer import tokenizer

HEAD = {
    "n_fft": 128,
    "hop_length": 100,
    "win_length": 120,
    "audio_layers": [1, 1, 1, 1],
    "audio_groups": 2,
    "audio_width_per_group": 16,
    "audio_width": 8,
    "sample_rate": 8000,
}


def small(config=RESNET, **changes) -> AudioCLIP:
    torch.manual_seed(0)
    return AudioCLIP(**config, **HEAD, **changes)


def noise(n: int, samples: int = 4000) -> torch.Tensor:
    return 0.3 * torch.randn(n, samples, generator=torch.Generator().manual_seed(1))


def test_keys_shapes_and_dtypes_are_the_published_ones():
    published = manifest("audioclip_partial")
    with torch.device("meta"):
        model = AudioCLIP(**{k: v for k, v in published["config"].items() if k in PUBLISHED})
    assert described(model) == published["keys"]


PUBLISHED = {
    *("embed_dim", "image_resolution", "vision_layers", "vision_width", "context_length"),
    *("vocab_size", "transformer_width", "transformer_heads", "transformer_layers", "n_fft"),
    *("hop_length", "win_length", "window", "normalized", "onesided", "apply_attention"),
    *("audio_layers", "audio_groups", "audio_width_per_group"),
}


def test_golden():
    """All but the demo recordings, which are not ours to ship."""
    shares = golden_errors("audioclip_audio", reference)
    assert len(shares) > 40 and max(shares.values()) <= 1, shares


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_three_towers_train(config):
    model = small(config).train()
    tokens = tokenizer()(["a", "b c", "d e f", "g"])
    joint = model(noise(4), torch.randn(4, 3, 32, 32), tokens)
    joint.loss.backward()
    assert joint.audio_text.shape == (4, 4) and joint.loss.isfinite()
    for name in ("audio.fc.weight", "audio.fbsp.fc", "logit_scale_at", "logit_scale_ai"):
        grad = model.get_parameter(name).grad
        assert grad is not None and grad.isfinite().all() and grad.any(), name


def test_towers_can_be_asked_alone_and_in_pairs():
    model = small().eval()
    tokens = tokenizer()(["a", "b"])
    alone = model(text=tokens)
    assert alone.loss is None and alone.audio is None
    pair = model(image=torch.randn(2, 3, 32, 32), text=tokens)
    assert pair.image_text.shape == (2, 2) and pair.audio_text is None
    assert torch.allclose(pair.text.norm(dim=-1), torch.ones(2))


def test_scales_are_clamped():
    model = small()
    with torch.no_grad():
        model.logit_scale_at.fill_(9.0)
        model.logit_scale_ai.fill_(-3.0)
    assert model.scale("at") == 100 and model.scale("ai") == 1


def test_query_of_lists_and_of_letters():
    assert query_strings(["red", "car horn"]) == ["red", "car horn"]
    assert query_strings(["red"], spelled=True) == ["r, e, d"]


def test_range_map_is_the_published_one_in_float32():
    wave = torch.tensor([-1.0, 0.0, 32767 / 32768])
    assert torch.allclose(to_unit_range(wave), torch.tensor([-1.0, 1 / 65535, 1.0]), atol=1e-7)
    quiet = to_unit_range(wave, "unit")
    assert quiet.abs().max() < 1e-4  # the notebook's way: next to nothing is left
    exact = ((wave.double() + 32768) * 2 / 65535 - 1).float()
    assert not torch.equal(to_unit_range(wave * 0.3, "unit"), exact)  # rounding is part of it


def test_frames_are_padded_with_the_smaller_half_in_front():
    head = ESResNeXt(**small_head())
    ramp = torch.arange(1.0, 124.0)[None]  # 123 samples: one frame of 120 and 97 to complete
    frames = head.frames(ramp)
    assert frames.shape == (1, 2, 120)
    assert not frames[0, 0, :48].any() and frames[0, 0, 48] == 1
    assert not frames[0, 1, -49:].any() and frames[0, 1, -50] == 123
    assert head.frames(ramp[:, :120]).shape == (1, 1, 120)
    assert head.frames(ramp[:, :3]).shape == (1, 1, 120)


def small_head() -> dict:
    names = ("n_fft", "hop_length", "win_length")
    head = {name: HEAD[name] for name in names}
    return {**head, "layers": [1, 1, 1, 1], "groups": 2, "width_per_group": 16, "width": 8}


def test_silence_becomes_the_floor_in_decibels():
    head = ESResNeXt(**small_head(), num_classes=4).eval()
    head.fbsp.m.data.fill_(0.3)
    with torch.no_grad():
        head.fbsp.fb.zero_()  # filters of nothing: power is exactly zero
        assert torch.allclose(head.picture(noise(1)), torch.tensor(-180.0))


def test_kept_filters_follow_the_parameters():
    layer = LinearFBSP(9)
    with torch.no_grad():
        first = layer.cached_filters(32)
        assert layer.cached_filters(32) is first
        layer.fc.add_(0.5)
        assert not torch.equal(layer.cached_filters(32), first)
    assert layer.cached_filters(32).requires_grad
    layer.requires_grad_(False)
    assert not layer.cached_filters(32).requires_grad


def test_a_wave_sounds_the_same_alone_and_in_a_batch():
    model = small().eval()
    with torch.no_grad():
        many, one = model.encode_audio(noise(3)), model.encode_audio(noise(3)[1:2])
    assert torch.allclose(many[1:2], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"input_range": "int8"}, {"win_length": 200}])
def test_impossible_heads_are_refused(change):
    with pytest.raises(ValueError):
        ESResNeXt(**{**small_head(), **change})
