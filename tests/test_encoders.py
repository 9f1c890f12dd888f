"""Encoders: the protocol, batch invariance, gradients, and weights that do not fit."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from small import guidance
from test_audioclip import HEAD, noise, small
from test_clip import RESNET, VIT

from acgd.checkpoints import load as checkpoints
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.encoders.clip import CLIPEncoder
from acgd.encoders.ensemble import Ensemble
from acgd.encoders.openclip import OpenCLIPEncoder
from acgd.errors import UserError
from acgd.media import preprocess
from acgd.models.clip import CLIP, sizes
from acgd.types import Target


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


def test_a_long_sound_is_heard_in_windows_and_at_other_speeds_too(tmp_path):
    path = str(write(tmp_path))
    waves = noise(2)
    waves[:, waves.shape[1] // 2 :] *= 0.01
    plain = AudioCLIPEncoder(path)
    size = waves.shape[1] // 2
    cut = AudioCLIPEncoder(path, window=size / plain.sample_rate)
    parts = [plain.audio(waves[:, i : i + size]) for i in (0, size // 2, size)]
    mean = F.normalize(torch.stack(parts).mean(0), dim=-1)
    torch.testing.assert_close(cut.audio(waves), F.normalize(plain.audio(waves) + mean, dim=-1))
    assert (cut.audio(waves) - plain.audio(waves)).abs().max() > 1e-4
    assert torch.equal(cut.audio(waves[:, :size]), parts[0])  # no longer than a window
    slow = AudioCLIPEncoder(path, speeds=[0.5])
    stretched = F.interpolate(waves[:, None], scale_factor=2, mode="linear")[:, 0]
    both = F.normalize(plain.audio(waves) + plain.audio(stretched), dim=-1)
    torch.testing.assert_close(slow.audio(waves), both)
    with pytest.raises(UserError, match=r"encoder\.speeds=\[0\]: factors"):
        AudioCLIPEncoder(path, speeds=[0])
    with pytest.raises(UserError, match=r"encoder\.window=0: seconds"):
        AudioCLIPEncoder(path, window=0)


def test_long_texts_can_be_refused(tmp_path):
    strict = AudioCLIPEncoder(str(write(tmp_path)), truncate=False)
    with pytest.raises(UserError, match="tokens"):
        strict.text(["rain " * 300])


def test_pictures_are_prepared(encoder):
    x = preprocess.pixels(Image.new("L", (90, 50), 128), encoder.image_size)
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


def test_sizes_come_from_the_file(tmp_path):
    heads = {"transformer_heads": 1, "vision_heads": 1}  # what 64 channels have
    save_file(CLIP(**VIT | heads).state_dict(), tmp_path / "vit.safetensors")
    encoder = CLIPEncoder(str(tmp_path / "vit.safetensors"))
    assert (encoder.image_size, encoder.dim) == (32, 16)
    assert encoder.image(pictures(2)).shape == (2, 16)


PUBLISHED = {  # parameters of OpenAI's files, and what their shapes must tell
    "RN50x4": (178_300_601, 640, 288, [4, 6, 10, 6], 80, None, 640),
    "RN50x64": (623_258_305, 1024, 448, [3, 15, 36, 10], 128, None, 1024),
    "ViT-B/16": (149_620_737, 512, 224, 12, 768, 16, 512),
    "ViT-L/14@336px": (427_944_193, 768, 336, 24, 1024, 14, 768),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_tell_every_openai_clip(name):
    parameters, embed, side, layers, width, patch, text = PUBLISHED[name]
    given = {"embed_dim": embed, "image_resolution": side, "vision_layers": layers}
    given |= {"vision_width": width, "transformer_width": text, "transformer_layers": 12}
    given |= {"vision_patch_size": patch} if patch else {}
    with checkpoints.Unfilled():
        model = CLIP(**given)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sizes(model.state_dict()) == given | {"context_length": 77, "vocab_size": 49408}


def test_picture_tower_of_another_clip(tmp_path):
    torch.manual_seed(3)
    other = CLIP(**RESNET)
    torch.nn.init.ones_(other.visual.layer1[0].bn3.weight)
    save_file(other.state_dict(), tmp_path / "rn50.safetensors")
    whole = str(write(tmp_path))
    own, sees = AudioCLIPEncoder(whole), CLIPEncoder(str(tmp_path / "rn50.safetensors"))
    mixed = AudioCLIPEncoder(whole, image_from=str(tmp_path / "rn50.safetensors"))
    assert torch.equal(mixed.image(pictures(1)), sees.image(pictures(1)))
    assert not torch.allclose(mixed.image(pictures(1)), own.image(pictures(1)), atol=1e-3)
    assert torch.equal(mixed.text(["a"]), own.text(["a"]))
    assert torch.equal(mixed.audio(noise(1)), own.audio(noise(1)))
    assert mixed.pictures_from.name == "rn50.safetensors"


def test_picture_tower_must_fit(tmp_path, monkeypatch):
    save_file(CLIP(**RESNET | {"embed_dim": 8}).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"have 8 numbers, those of the checkpoint 16"):
        AudioCLIPEncoder(str(write(tmp_path)), image_from=str(tmp_path / "other.safetensors"))
    state = CLIP(**RESNET).state_dict()
    del state["visual.bn1.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(visual.bn1.weight\)"):
        AudioCLIPEncoder(str(write(tmp_path)), image_from=str(tmp_path / "less.safetensors"))
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cache/RN50\.pt"):
        AudioCLIPEncoder(str(write(tmp_path)), image_from="rn50")


def test_only_the_picture_tower_stays_while_sampling(tmp_path):
    encoder = AudioCLIPEncoder(str(write(tmp_path)))
    before = encoder.image(pictures(1)), encoder.text(["a"]), encoder.audio(noise(1))
    encoder.park("meta")  # stands for the CPU beside a GPU
    stays = {name for name, p in encoder.model.named_parameters() if not p.is_meta}
    assert stays == {f"visual.{name}" for name, _ in encoder.model.visual.named_parameters()}
    assert not any(b.is_meta for b in encoder.model.visual.buffers())
    assert torch.equal(encoder.image(pictures(1)), before[0])
    called = AudioCLIPEncoder(str(write(tmp_path)))
    called.park()
    called.park = record = Parked(called.park)
    assert torch.equal(called.text(["a"]), before[1])
    assert torch.equal(called.audio(noise(1)), before[2])
    assert record.devices == [torch.device("cpu")] * 2  # both come back before they are asked


class Parked:
    """Where the towers were sent."""

    def __init__(self, park):
        self.park, self.devices = park, []

    def __call__(self, device):
        self.devices.append(device)
        self.park(device)


def pair(tmp_path, **weights) -> Ensemble:
    """Two that hear, see at 32 and 24 pixels, and have 16 and 8 numbers."""
    other = VIT | {"image_resolution": 24, "embed_dim": 8}
    paths = [write(tmp_path, name="a.safetensors"), write(tmp_path, other, "b.safetensors")]
    made = (AudioCLIPEncoder(str(path)) for path in paths)
    return Ensemble(dict(zip("ab", made, strict=True)), weights)


def test_ensemble_s_dot_product_is_the_mean_of_the_members_cosines(tmp_path):
    both = pair(tmp_path, a=3.0)
    a, b = (member.encoder for member in both.members)
    assert (both.dim, both.image_size) == (24, 32) and [m.weight for m in both.members] == [
        0.75,
        0.25,
    ]
    said, heard = both.text(["a cat"])[0], both.audio(noise(1))[0]
    assert torch.allclose(torch.stack([said.norm(), heard.norm()]), torch.ones(2))
    cosines = [float(e.text(["a cat"])[0] @ e.audio(noise(1))[0]) for e in (a, b)]
    assert float(said @ heard) == pytest.approx(0.75 * cosines[0] + 0.25 * cosines[1], abs=1e-5)


def test_ensemble_guides_by_the_weighted_sum(tmp_path):
    """Each member by its own cutouts, which are drawn one member after the other."""
    both, x, t = pair(tmp_path, a=3.0), torch.randn(1, 3, 48, 48), torch.tensor([4])
    said = both.text(["a cat"])[0]
    settings = {"clip": 100.0, "num_cutouts": 3, "blend": False}
    noise_, diffusion = Noise([0]), Diffusion(respacing="10")
    whole = guidance(both, [[Target(said, 1.0, "text", "")]], diffusion, noise_, **settings)
    found, apart, one_by_one = whole(x, x, t), 0.0, Noise([0])
    for member in both.members:
        own = Target(member.encoder.text(["a cat"])[0], member.weight, "text", "")
        apart += guidance(member.encoder, [[own]], diffusion, one_by_one, **settings)(x, x, t)[1]
    torch.testing.assert_close(found[1], apart, rtol=1e-3, atol=1e-5)


def test_ensemble_guides_a_sample_as_if_it_were_alone(tmp_path):
    both, x, t = pair(tmp_path, a=3.0), torch.randn(2, 3, 48, 48), torch.tensor([4, 4])
    aims = [[Target(embed, 1.0, "text", "")] for embed in both.text(["a cat", "rain"])]
    settings = {"clip": 100.0, "num_cutouts": 3, "cutout_chunk": 2}
    guide = lambda aims, seeds: guidance(  # noqa: E731
        both, aims, Diffusion(respacing="10"), Noise(seeds), **settings
    )
    grad_x, grad_x0, found = guide(aims, [5, 6])(x, x, t)
    for i in (0, 1):
        alone = guide(aims[i : i + 1], [5 + i])(x[i : i + 1], x[i : i + 1], t[:1])
        torch.testing.assert_close(grad_x0[i : i + 1], alone[1], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(grad_x[i : i + 1], alone[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found["clip"][i : i + 1], alone[2]["clip"])


def test_sounds_go_to_members_that_hear(tmp_path):
    save_file(CLIP(**RESNET).state_dict(), tmp_path / "clip.safetensors")
    deaf = CLIPEncoder(str(tmp_path / "clip.safetensors"), **RESNET)
    hears = AudioCLIPEncoder(str(write(tmp_path)))
    both, x, t = Ensemble({"a": deaf, "b": hears}), torch.randn(1, 3, 32, 32), torch.tensor([4])
    sound = both.audio(noise(1))[0]
    assert not sound[:16].any() and torch.allclose(sound[16:], hears.audio(noise(1))[0], atol=1e-6)
    guide = guidance(
        both, [[Target(sound, 1.0, "audio", "")]], Diffusion(respacing="10"), Noise([0])
    )
    assert [float(view.weights.sum()) for view in guide.losses["clip"].views] == [0.0, 0.5]
    assert guide(x, x, t)[1].any()
    with pytest.raises(UserError, match="none of these encoders hears"):
        Ensemble({"a": deaf}).audio(noise(1))
    assert both.hears and not Ensemble({"a": deaf}).hears


@pytest.mark.parametrize("weights", [{"c": 1.0}, {"a": 0.0}, {"a": -1.0}])
def test_ensemble_s_weights_are_checked(tmp_path, weights):
    with pytest.raises(UserError, match=r"encoder\.weights"):
        pair(tmp_path, **weights)


def test_openclip_is_asked_for_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'acgd\[openclip\]'"):
        OpenCLIPEncoder("ViT-B-32", "openai")


def test_an_openclip_model(tmp_path):
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    weights = tmp_path / "tiny.pt"
    torch.save(open_clip.create_model("tiny-test").state_dict(), weights)
    encoder = OpenCLIPEncoder("tiny-test", str(weights))
    assert (encoder.image_size, encoder.dim) == (32, 16) and 1 <= encoder.scale_it <= 100
    x = pictures(2).requires_grad_()
    found = encoder.image(x)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert torch.autograd.grad(found[:, 0].sum(), x)[0].any()
    assert encoder.text(["a cat", "rain"]).shape == (2, 16)
    with pytest.raises(UserError, match="hears nothing"):
        encoder.audio(noise(1))
    for wrong in (("nope", None), ("tiny-test", "nope")):
        with pytest.raises(UserError, match="nope"):
            OpenCLIPEncoder(*wrong)


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
