"""Models that work in latents: the same line from noise to picture, with a decoder behind it."""

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import compose, write_weights
from PIL import Image
from small import SmallEncoder, guidance, normal, targets

from acgd.diffusion.model import PictureModel
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError
from acgd.models.autoencoder import Autoencoder
from acgd.models.unet import UNet
from acgd.pipeline import drawing, runner
from acgd.runs.run import expand

AUTOENCODER = {
    "image_size": 64,
    "channels": 4,
    "latent_size": 8,
    "encoder_widths": [16, 16],
    "encoder_depths": [1, 1],
    "decoder_widths": [16, 16, 16],
    "decoder_depths": [1, 1, 1],
}
LATENT_UNET = {
    "image_size": 8,
    "in_channels": 4,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "4",
    "num_head_channels": 32,
    "class_cond": True,
    "num_classes": 3,
    "cond_dim": 16,
}
STYLES = {"flat": 0, "round": 1, "any": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    models = {"unet": (UNet, LATENT_UNET), "autoencoder": (Autoencoder, AUTOENCODER)}
    for seed, (name, (make, config)) in enumerate(models.items()):
        torch.manual_seed(seed)
        write_weights(folder / f"{name}.safetensors", make(**config), config, seed)
    return folder


@pytest.fixture
def latent(files):
    """Overrides that make the model a latent one."""
    own = {
        "checkpoint": files / "unet.safetensors",
        "adapter": "null",
        "autoencoder": files / "autoencoder.safetensors",
        "predicts": "v",
        "clip_denoised": "false",
        "styles": "{flat:0,round:1,any:2}",
        "clean_styles": "[flat,round]",
    }
    return [f"++model.{key}={value}" for key, value in own.items()]


@pytest.fixture
def model(files) -> PictureModel:
    own = {"autoencoder": str(files / "autoencoder.safetensors"), "schedule": "cosine"}
    styles = {"styles": STYLES, "clean_styles": ["flat", "round"]}
    return PictureModel(str(files / "unet.safetensors"), predicts="v", **own, **styles)


@pytest.fixture
def render(tiny, latent, sounds, tmp_path):
    def go(*overrides: str):
        base = [f"prompt.path={sounds / 'tone.wav'}", f"outputs={tmp_path / 'outputs'}"]
        runs = expand(compose(*tiny, *latent, "logger=none", *base, *overrides))
        runner.render(runs)
        return runs

    return go


def picture(run, suffix="-native") -> np.ndarray:
    return np.asarray(Image.open(run.folder / f"images/seed{run.seed}{suffix}.png")).astype(int)


def test_pictures_previews_and_twins_are_decoded(render):
    (run,) = render("twin=true")
    for pixels in (picture(run), picture(run, "-twin-native")):
        assert pixels.shape == (64, 64, 3) and pixels.std() > 1
    preview = run.folder / "previews" / "step_0002.png"
    assert Image.open(preview).size == (256, 256)  # enlarged from 64
    assert abs(picture(run) - picture(run, "-twin-native")).max() > 1


def test_the_gradient_goes_back_through_the_decoder(model):
    """As autograd takes it through decoder and losses in one piece."""
    encoder, rows = SmallEncoder(), [targets(0), targets(1)]
    diffusion, t = Diffusion("cosine", respacing="10"), torch.tensor([4, 4])
    x, x0 = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    options = {"clip": 30.0, "tv": 2.0, "range": 3.0, "num_cutouts": 3, "decode": model.decode}
    for blend in (False, True):
        guide = guidance(encoder, rows, diffusion, Noise([0, 1]), blend=blend, **options)
        found = guide(x, x0, t)[1]
        z = x0.clone().requires_grad_()
        f = diffusion.pick("sqrt_one_minus_alphas_cumprod", t) if blend else 1.0
        same = guidance(encoder, rows, diffusion, Noise([0, 1]), blend=blend, **options).losses
        seen, plain = model.decode(z * f + x * (1 - f)), model.decode(z)
        total = 2 * same["tv"](seen).sum() + 30 * same["clip"](seen).sum()
        total = total + 3 * same["range"](plain).sum()
        torch.testing.assert_close(found, torch.autograd.grad(total, z)[0], rtol=1e-3, atol=1e-5)


def test_latents_are_decoded_once_for_as_long_as_they_stay(model):
    z = normal(2, 4, 8, 8)
    seen = model.decode(z.detach().requires_grad_())  # by guidance
    assert model.decode(z).data_ptr() == seen.data_ptr()  # by a preview
    assert not torch.equal(model.decode(z + 0.1), seen)
    first = model.decode(z)
    z += 0.1
    assert not torch.equal(model.decode(z), first)
    assert torch.autograd.grad(model.decode(z.requires_grad_()).sum(), z)[0].any()


def test_weights_are_in_the_layout_that_convolutions_take(model):
    for weight in [*model.unet.parameters(), *model.autoencoder.parameters()]:
        last = weight.ndim != 4 or weight.is_contiguous(memory_format=torch.channels_last)
        assert last and not weight.requires_grad


def test_a_sample_alone_equals_itself_in_a_batch(render):
    together = render("seed=[0,1,2]")
    (alone,) = render("seed=1", "name=alone")
    assert abs(picture(together[1]) - picture(alone)).max() <= 1


def test_an_interrupted_run_resumes_to_the_same_bytes(render, monkeypatch, tmp_path):
    whole = render("sampler=plms", "sampler.steps=5", "seed=[0,1]", "name=whole")
    keep = drawing.keep

    def stop(batch, step, count, *rest):
        if count == 3:
            raise KeyboardInterrupt
        keep(batch, step, count, *rest)

    monkeypatch.setattr(drawing, "keep", stop)
    with pytest.raises(KeyboardInterrupt):
        render("sampler=plms", "sampler.steps=5", "seed=[0,1]")
    monkeypatch.setattr(drawing, "keep", keep)
    made = render("sampler=plms", "sampler.steps=5", "seed=[0,1]")
    assert "resumes after 2 steps" in (made[0].folder / "log.txt").read_text()
    for a, b in zip(whole, made, strict=True):
        assert zlib.crc32(picture(a).tobytes()) == zlib.crc32(picture(b).tobytes())


def test_an_init_image_is_encoded(render, model, tmp_path):
    """With next to no noise the picture is what the autoencoder makes of the init image."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "grain.png")
    pixels = np.asarray(Image.open(tmp_path / "grain.png"))
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = ((model.decode(model.encode(x))[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0)
    late = ["guidance.clip=0", "guidance.cfg_scale=0", "sampler.steps=1000", "skip_steps=999"]
    (run,) = render(f"init_image={tmp_path / 'grain.png'}", *late, "model.predicts=eps")
    assert abs(picture(run) - expected.numpy()).mean() < 8


def test_each_seed_draws_a_style_of_its_own_or_the_one_asked_for(model, render):
    assert model.classes([0, 1, 2, 7], None) == [0, 1, 0, 1]
    (drawn,), (asked,) = render("seed=1"), render("seed=1", "+model.style=round")
    assert (picture(drawn) == picture(asked)).all()
    (other,) = render("seed=1", "+model.style=flat")
    assert abs(picture(other) - picture(asked)).max() > 1
    assert json.loads((other.folder / "metrics.json").read_text())["seed"] == 1


def test_an_unknown_style_names_the_known_ones(render):
    with pytest.raises(UserError, match=r"model\.style=crayon: choose from flat, round, any"):
        render("+model.style=crayon")


@pytest.mark.parametrize("clean", ["[flat,square]", "[]"])
def test_clean_styles_are_some_of_the_styles(render, clean):
    with pytest.raises(UserError, match=r"model\.clean_styles=.*: some of flat, round, any"):
        render(f"++model.clean_styles={clean}")


def test_latents_are_of_unit_variance_whatever_the_scale(files):
    path = str(files / "autoencoder.safetensors")
    scaled = PictureModel(str(files / "unet.safetensors"), autoencoder=path, scale=0.5, shift=0.1)
    x = normal(2, 3, 64, 64).clamp(-1, 1)
    torch.testing.assert_close(
        scaled.decode(scaled.encode(x)), scaled.autoencoder.decode(scaled.autoencoder.encode(x))
    )


def test_a_decoder_that_ends_elsewhere_is_refused():
    with pytest.raises(ValueError, match="does not end at 128"):
        Autoencoder(**AUTOENCODER | {"image_size": 128})
