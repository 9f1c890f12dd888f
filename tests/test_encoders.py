"""Encoders: the protocol, batch invariance, gradients, and weights that do not fit."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_audioclip import HEAD, noise, small
from test_clip import RESNET, VIT

from acgd import checkpoints
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.encoders.clip import CLIPEncoder
from acgd.models.clip import CLIP
from acgd.types import UserError


def write(folder, config=RESNET, name="weights.safetensors"):
    """A small model of the real class, in float16 with its architecture, as embedded ones are."""
    model = small(config)
    torch.nn.init.ones_(model.audio.layer1[0].bn3.weight)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path = folder / name
    save_file(state, path, metadata={"config": json.dumps({**config, **HEAD})})
    return path


@pytest.fixture(scope="module", params=[RESNET, VIT], ids=["resnet", "vit"])
def encoder(request, tmp_path_factory):
    return AudioCLIPEncoder(str(write(tmp_path_factory.mktemp("encoder"), request.param)))


def pictures(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_every_sense_gives_unit_rows(encoder):
    texts = ["a cat", "", "rain " * 300]
    for found in (encoder.image(pictures(3)), encoder.text(texts), encoder.audio(noise(3))):
        assert found.shape == (3, encoder.dim) and found.dtype == torch.float32
        assert torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-5)
        assert not found.requires_grad
    assert (encoder.image_size, encoder.sample_rate, encoder.dim) == (32, 8000, 16)
    assert 1 <= encoder.scale_at <= 100 and 1 <= encoder.scale_ia <= 100
    assert encoder.text([]).shape == (0, 16)


def test_alone_and_in_a_batch(encoder):
    """The tolerance is that of float32 sums in another order."""
    texts = ["a cat", "one two three four five six", "rain"]
    pairs = [
        (encoder.image(pictures(3)), encoder.image(pictures(3)[1:2])),
        (encoder.text(texts), encoder.text(texts[1:2])),
        (encoder.audio(noise(3)), encoder.audio(noise(3)[1:2])),
    ]
    for many, one in pairs:
        assert torch.allclose(many[1:2], one, atol=2e-5)


def test_gradient_reaches_the_pixels(encoder):
    x = pictures(2).requires_grad_()
    (grad,) = torch.autograd.grad((encoder.image(x) * torch.arange(16.0)).sum(), x)
    assert grad.isfinite().all() and grad.any()


def test_gradient_is_the_loss_s_slope(encoder):
    """Against a finite difference along the gradient, in a direction that one can take."""
    x = pictures(1).requires_grad_()
    goal = encoder.text(["a cat"])
    (grad,) = torch.autograd.grad((encoder.image(x) * goal).sum(), x)
    step = 1e-3 * grad / grad.norm()
    with torch.no_grad():
        up, down = ((encoder.image(x + s) * goal).sum() for s in (step, -step))
    assert float(up - down) == pytest.approx(float(2e-3 * grad.norm()), rel=0.1)


def test_half_precision_is_close(tmp_path):
    path = str(write(tmp_path))
    whole, half = AudioCLIPEncoder(path), AudioCLIPEncoder(path, precision="bfloat16")
    assert torch.cosine_similarity(whole.image(pictures(2)), half.image(pictures(2))).min() > 0.99
    assert torch.equal(whole.audio(noise(1)), half.audio(noise(1)))  # sound stays in float32
    assert half.image(pictures(2)).dtype == torch.float32


def test_notebook_s_input_range_hears_something_else(tmp_path):
    path = str(write(tmp_path))
    ours, theirs = AudioCLIPEncoder(path), AudioCLIPEncoder(path, input_range="unit")
    assert not torch.allclose(ours.audio(noise(1)), theirs.audio(noise(1)), atol=1e-3)


def test_long_texts_can_be_refused(tmp_path):
    strict = AudioCLIPEncoder(str(write(tmp_path)), truncate=False)
    with pytest.raises(UserError, match="tokens"):
        strict.text(["rain " * 300])


def test_pictures_are_prepared(encoder):
    x = encoder.pixels(Image.new("L", (90, 50), 128))
    assert x.shape == (3, 32, 32) and torch.allclose(x, torch.tensor(128 / 255))
    with pytest.raises(ValueError, match="32 square"):
        encoder.image(torch.zeros(1, 3, 40, 40))


def test_plain_clip_is_deaf(tmp_path):
    model = CLIP(**RESNET)
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    encoder = CLIPEncoder(str(tmp_path / "clip.safetensors"), **RESNET)
    assert encoder.text(["a"]).shape == (1, 16)
    with pytest.raises(UserError, match="hears nothing"):
        encoder.audio(noise(1))


def test_embedded_weights_have_an_address():
    with pytest.raises(UserError, match=r"nothing_like_it\.safetensors"):
        AudioCLIPEncoder("embedded:nothing_like_it")


def test_absent_published_weights_say_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        AudioCLIPEncoder("AudioCLIP-Partial-Training.pt")
    assert f"{tmp_path}/cache/AudioCLIP-Partial-Training.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_are_found_in_the_cache(tmp_path, monkeypatch):
    write(tmp_path, name="mine.safetensors")
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path))
    monkeypatch.chdir("/")
    assert AudioCLIPEncoder("mine.safetensors").dim == 16


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_damaged_files_end_in_one_line(tmp_path, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    state = CLIP(**RESNET).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "junk": b"junk" * 999, "empty": b""}[damage])
    with pytest.raises(UserError) as caught:
        checkpoints.load_state(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"weight": Canary(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UserError):
        checkpoints.load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


class Canary:
    """Unpickling it without care would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_pt_files_of_both_formats_and_scripts_load(tmp_path):
    model = CLIP(**RESNET).eval()
    state = model.state_dict()
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        found = checkpoints.load_state(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archive_gives_its_weights(tmp_path):
    layer = torch.nn.Linear(3, 2)
    layer.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.save(torch.jit.script(layer), tmp_path / "script.pt")
    found = checkpoints.load_state(tmp_path / "script.pt")
    assert found.keys() == {"weight", "bias"} and torch.equal(found["weight"], layer.weight)


def test_another_model_s_weights_are_named(tmp_path):
    path = tmp_path / "unet.pt"
    torch.save({"input_blocks.0.0.weight": torch.zeros(4, 3, 3, 3)}, path)
    with pytest.raises(UserError) as caught:
        AudioCLIPEncoder(str(path), **RESNET, **HEAD)
    message = str(caught.value)
    assert "looks like a guided-diffusion UNet" in message and "missing" in message
    assert "1 unexpected (input_blocks.0.0.weight)" in message and "\n" not in message


def test_other_sizes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"of another shape .*\(77, 64\) for \(77, 32\)"):
        AudioCLIPEncoder(str(write(tmp_path)), transformer_width=32, transformer_heads=2)


def test_loading_converts_and_ignores_by_pattern():
    layer = torch.nn.Linear(3, 2)
    state = {"weight": torch.ones(2, 3, dtype=torch.float16), "extra.mask": torch.zeros(1)}
    with pytest.raises(UserError, match=r"1 missing \(bias\); 1 unexpected \(extra.mask\)"):
        checkpoints.load_into(layer, state, "file")
    checkpoints.load_into(layer, state, "file", ignore=("bias", "*.mask"))
    assert layer.weight.dtype == torch.float32 and (layer.weight == 1).all()
