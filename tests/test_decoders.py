"""From latents to pixels: the decoders that guidance may take, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_pipelines
import torch
from conftest import compose
from PIL import Image

from acgd.diffusion.decoders import Linear, colours
from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.diffusion.guidance.guidance import Guidance
from acgd.diffusion.guidance.loss import Loss
from acgd.errors import UserError
from acgd.pipeline import runner, snapshot
from acgd.runs.folder import status
from acgd.runs.run import expand

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tiny_pipelines.sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def model(home):
    return DiffusersModel(str(home))


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """The folder of a random AutoencoderTiny that doubles the side, as the small pipelines do."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("taesd")
    sizes = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    sizes |= {f"num_{side}_blocks": (1, 1) for side in ("encoder", "decoder")}
    diffusers.AutoencoderTiny(**sizes).save_pretrained(folder)
    return folder


class Averages:
    """An autoencoder without a secret: latents are colours of small pictures, mixed."""

    device = torch.device("cpu")
    image_size = 64
    mix = torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5]])

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        return torch.einsum("bchw,cd->bdhw", small, self.mix) * 3 + 0.25


def test_what_is_linear_is_found_exactly():
    model = Averages()
    pictures = colours(3, 64).roll(1, 0).flip(-1)
    small = torch.nn.functional.avg_pool2d(pictures, 8)
    linear = Linear(model)
    found = torch.nn.functional.interpolate(linear(model.encode(pictures)), size=8, mode="area")
    enlarged = torch.nn.functional.interpolate(small, size=64, mode="bilinear")
    expected = torch.nn.functional.interpolate(enlarged, size=8, mode="area")
    assert (found - expected).abs().max() < 1e-4


def test_the_linear_decoder_is_the_same_each_time_and_bounded(model):
    one, other = Linear(model), Linear(model)
    assert one.weight.equal(other.weight) and one.bias.equal(other.bias)
    assert one.weight.shape == (3, 4) and one.weight.isfinite().all()
    pictures = colours(4, model.image_size)
    shown = one(model.encode(pictures))
    assert shown.shape == (4, 3, model.image_size, model.image_size)
    assert (shown - pictures).square().mean() <= pictures.square().mean()  # better than grey
    x = torch.randn(2, *model.shape, requires_grad=True)
    weights = torch.randn(2, 3, model.image_size, model.image_size)
    (gradient,) = torch.autograd.grad((one(x) * weights).sum(), x)
    (again,) = torch.autograd.grad((one(x * 5 + 1) * weights).sum(), x)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(again, 5 * gradient)  # the same everywhere


@pytest.mark.parametrize("tiling", [False, True])
def test_the_gradient_through_the_autoencoder_is_that_of_small_steps(home, tiling):
    class Bright(Loss):
        def __call__(self, x):
            return (x - 0.3).square().mean(dim=(1, 2, 3)) + x.sin().mean(dim=(1, 2, 3))

    model = DiffusersModel(str(home), precision="float64", tiling=tiling, use_checkpoint=tiling)
    decode = lambda z: model.vae.decode(z / model.vae.config.scaling_factor).sample  # noqa: E731
    process = model.diffusion("10")
    guide = Guidance(process, {"b": Bright()}, {"b": 2.0}, blend=False, decode=decode)
    generator = torch.Generator().manual_seed(0)
    x0, way = (torch.randn(2, *model.shape, generator=generator, dtype=torch.float64) for _ in "ab")
    _, gradient, _ = guide(x0, x0, torch.tensor([3, 3]))
    ends = [2 * Bright()(decode(x0 + step * way)) for step in (1e-5, -1e-5)]
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), (ends[0] - ends[1]) / 2e-5)


def test_tiles_are_half_a_picture_wide(home, model):
    tiled, seen = DiffusersModel(str(home), tiling=True), []
    tiled.vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    x = torch.randn(2, *model.shape)
    pixels, corner = tiled.decode(x), model.decode(x[:, :, :4, :4])
    assert pixels.shape == (2, 3, 16, 16)
    assert len(seen) > 2 and {shape[0] for shape in seen} == {1}
    assert max(shape[-1] for shape in seen) == 4  # of 8
    assert pixels[:, :, :6, :6].equal(corner[:, :, :6, :6])  # its last quarter is blended


def test_a_picture_is_decoded_the_same_alone_and_in_a_batch(model):
    x = torch.randn(3, *model.shape)
    assert model.decode(x)[1:2].equal(model.decode(x[1:2]))


@pytest.fixture
def runs(tiny, home, tmp_path):
    own = [word for word in tiny if not word.startswith(("model.", "judge.", "sampler."))]

    def go(*more: str):
        given = [*own, "model=diffusers", f"model.checkpoint={home}", "prompt=text",
                 "prompt.text=snow", "judge=none", "logger=none", "sampler=ddim", "sampler.steps=5",
                 "enlarge_to=0", "guidance.cfg_scale=3", f"outputs={tmp_path}", *more]  # fmt: skip
        return expand(compose(*given))

    return go


@pytest.mark.parametrize("decoder", ["linear", "tiny", "full"])
def test_a_run_is_guided_through_each(runs, taesd, decoder):
    chosen = [f"guidance.decoder={decoder}", f"model.tiny_decoder={taesd}"]
    made = [*runs(*chosen, "guidance.clip=0", "guidance.range=0"), *runs(*chosen)]
    runner.render(made)
    assert [status(run.folder) for run in made] == ["ok", "ok"]
    unguided, guided = (picture(run) for run in made)
    assert guided.shape == (16, 16, 3) and (guided != unguided).any()


def picture(run) -> np.ndarray:
    (path,) = (run.folder / "images").glob("*.png")
    return np.asarray(Image.open(path))


def test_the_tiny_decoder_must_be_named_and_whole(model, home, tmp_path):
    with pytest.raises(UserError, match=r"model\.tiny_decoder="):
        model.decoder("tiny")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no AutoencoderTiny") as caught:
        DiffusersModel(str(home), tiny_decoder=str(tmp_path)).decoder("tiny")
    assert "\n" not in str(caught.value)


class Killed(BaseException):
    """Ends the process where it stands."""


@pytest.mark.parametrize("more", [["guidance.decoder=linear", "sampler=dpmpp"], ["sampler=ddpm"]])
def test_an_interrupted_run_ends_in_the_same_bytes(runs, monkeypatch, tmp_path, more):
    chosen = ["seed=[0,1]", "snapshot_every=2", "guidance.through_unet=true", *more]
    whole = runs(*chosen, f"outputs={tmp_path / 'whole'}")
    runner.render(whole)
    made, after, taken = runs(*chosen), snapshot.Watch.after, []

    def stop(*arguments):
        after(*arguments)
        taken.append(1)
        if len(taken) == 3:
            raise Killed

    monkeypatch.setattr(snapshot.Watch, "after", stop)
    with pytest.raises(Killed):
        runner.render(made)
    monkeypatch.undo()
    runner.render(made)
    assert "resumes after 2 steps" in (made[0].folder / "log.txt").read_text()
    assert contents(made) == contents(whole)


def contents(runs) -> list[bytes]:
    """Pictures, previews and losses."""
    paths = [path for run in runs for path in (*sorted(run.folder.rglob("*.png")),
                                               run.folder / "losses.csv")]  # fmt: skip
    assert len(paths) > 2 * len(runs)
    return [path.read_bytes() for path in paths]
