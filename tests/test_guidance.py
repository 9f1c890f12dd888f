"""Losses, cutouts, schedules, and the gradient that Guidance puts together from them."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from small import SmallEncoder, normal, targets
from small import guidance as small_guidance

from acgd.config.instantiate import build
from acgd.diffusion.guidance.cutouts import cut, draw_boxes
from acgd.diffusion.guidance.loss import value_and_grad
from acgd.diffusion.guidance.losses.clip import pack_targets, spherical_distance
from acgd.diffusion.guidance.losses.init import InitDistance
from acgd.diffusion.guidance.losses.range import OutOfRange
from acgd.diffusion.guidance.losses.sat import Saturation
from acgd.diffusion.guidance.losses.tv import TotalVariation
from acgd.diffusion.guidance.schedules import Constant, Cosine, Linear, Window
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.errors import UserError
from acgd.pipeline import settings

CONF = Path(__file__).parent.parent / "conf"
DIFFUSION = Diffusion(respacing="10")
ENCODER = SmallEncoder()


def guidance(rows, seeds=None, **options):
    seeds = seeds or list(range(len(rows)))
    options = {"num_cutouts": 5, "clip": 100.0} | options
    return small_guidance(ENCODER, rows, DIFFUSION, Noise(seeds), **options)


@pytest.mark.parametrize("height, width", [(40, 56), (20, 13)])
def test_cut_is_crop_and_adaptive_pooling(height, width):
    x = normal(2, 3, height, width).requires_grad_()
    boxes = draw_boxes(Noise([1, 2]), 6, height, width, 16)
    out = cut(x, boxes, 16)
    crops = [
        F.adaptive_avg_pool2d(x[b, :, top : top + side, left : left + side], 16)
        for n in range(6)
        for b, (side, left, top) in enumerate(boxes[:, n].tolist())
    ]
    expected, weight = torch.stack(crops), normal(12, 3, 16, 16)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad((o * weight).sum(), x)[0] for o in (out, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_boxes_stay_inside_and_reach_the_sizes_asked_for():
    side, left, top = draw_boxes(Noise([1, 2]), 500, 64, 80, 32).unbind(-1)
    assert side.min() >= 32 and side.max() <= 64 and side.float().std() > 5
    assert (left + side).max() <= 80 and (top + side).max() <= 64 and left.min() == 0
    low = draw_boxes(Noise([1]), 500, 32, 32, 64, smallest=0.5)[..., 0]
    assert low.min() == 16 and (draw_boxes(Noise([1]), 5, 32, 32, 64)[..., 0] == 32).all()
    small = draw_boxes(Noise([1]), 500, 64, 80, 32, power=4.0)[..., 0]
    assert small.float().mean() < side.float().mean()


def test_spherical_distance_and_its_gradient_at_the_ends():
    a = F.normalize(normal(4, 8), dim=-1)
    for b, value in ((a, 0.0), (-a, math.pi**2 / 2), (a * 3, 0.0)):
        x = a.clone().requires_grad_()
        found = spherical_distance(x, b)
        torch.testing.assert_close(found, torch.full((4,), value), atol=1e-5, rtol=1e-5)
        assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()
    x, y = normal(5, 8).double(), normal(5, 8, seed=1).double()
    chord = (F.normalize(x, dim=-1) - F.normalize(y, dim=-1)).norm(dim=-1)
    torch.testing.assert_close(spherical_distance(x, y), 2 * (chord / 2).arcsin() ** 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_range_s_gradient_is_autograd_s_to_the_bit(layout):
    x = (1.2 * torch.randn(2, 3, 64, 64)).contiguous(memory_format=layout)
    x[0, 0, 0, :2] = torch.tensor([1.0, -1.0])
    loss = OutOfRange()
    for ours, theirs in zip(loss.with_grad(x), value_and_grad(loss, x), strict=True):
        assert torch.equal(ours, theirs) and theirs.any()


def test_range_and_saturation_see_only_the_excess():
    x = torch.zeros(2, 3, 4, 4)
    x[1, 0, 0, 0] = 3.0
    assert OutOfRange()(x).tolist() == [0.0, pytest.approx(4 / 48)]
    assert Saturation()(x).tolist() == [0.0, pytest.approx(2 / 48)]


@pytest.mark.parametrize("blend", [True, False])
def test_gradients_are_those_of_the_whole_loss(blend):
    x, x0, t = normal(2, 3, 48, 48), normal(2, 3, 48, 48, seed=1), torch.tensor([4, 4])
    init = normal(1, 3, 48, 48, seed=2)
    scales = {"clip": 30.0, "tv": 2.0, "range": 3.0, "sat": 4.0, "init": 5.0}
    rows = [targets(0, 1), targets(2, kind="text", weight=-2.0)]
    guide = guidance(rows, init_image=init, blend=blend, **scales)
    grads = guide(x, x0, t)[:2]
    x, x0 = x.requires_grad_(), x0.requires_grad_()
    f = math.sqrt(1 - DIFFUSION.alphas_cumprod[4]) if blend else 1.0
    x_in = x0 * f + x * (1 - f)
    boxes = draw_boxes(Noise([0, 1]), 5, 48, 48, 32)
    seen = ENCODER.image((cut(x_in, boxes, 32) + 1) / 2).unflatten(0, (5, 2))
    total = 5 * InitDistance(init)(x_in).sum() + 2 * TotalVariation()(x_in).sum()
    total = total + 4 * Saturation()(x_in).sum() + 3 * OutOfRange()(x0).sum()
    for b, row in enumerate(rows):
        for target in row:
            apart = spherical_distance(seen[:, b], target.embed).mean()
            total = total + 30 * target.weight * apart
    expected = torch.autograd.grad(total, [x, x0], materialize_grads=True)
    for found, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chunk", [2, 50])
def test_chunks_change_nothing(chunk):
    x, x0, t = normal(2, 3, 48, 48), normal(2, 3, 48, 48, seed=1), torch.tensor([4, 4])
    whole = guidance([targets(0), targets(1)])(x, x0, t)
    parts = guidance([targets(0), targets(1)], cutout_chunk=chunk)(x, x0, t)
    for a, b in zip(whole[:2], parts[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(whole[2]["clip"], parts[2]["clip"])


def test_equal_cuts_are_encoded_once():
    seen = []

    class Counting(SmallEncoder):
        def image(self, pixels):
            seen.append(len(pixels))
            return super().image(pixels)

    rows = [targets(0)] * 2
    guide = small_guidance(Counting(), rows, DIFFUSION, Noise([0, 1]), num_cutouts=9)
    guide(normal(2, 3, 24, 24), normal(2, 3, 24, 24), torch.tensor([4, 4]))
    assert seen == [2]


def test_gradient_alone_equals_that_in_a_batch():
    """To 1e-4 of its size: matrix products of other batch sizes round differently."""
    rows = [targets(0), targets(1, 2, 3), [], targets(4, weight=-1.0, kind="text")]
    x, x0 = normal(4, 3, 48, 48), normal(4, 3, 48, 48, seed=1)
    together = guidance(rows, tv=5.0)(x, x0, torch.full((4,), 6))
    for b in range(4):
        alone = guidance([rows[b]], [b], tv=5.0)(x[b : b + 1], x0[b : b + 1], torch.tensor([6]))
        for a, c in zip(alone[:2], together[:2], strict=True):
            assert (a[0] - c[b]).norm() <= 1e-4 * c[b].norm()
        if rows[b]:
            torch.testing.assert_close(alone[2]["clip"][0], together[2]["clip"][b])


def test_audio_weights_as_in_the_notebook_take_the_sign_of_the_text():
    row = targets(0) + targets(1, weight=0.5, kind="text") + targets(2, weight=-1.5, kind="text")
    assert pack_targets([row])[1].tolist() == [[1.0, 0.5, -1.5]]
    assert pack_targets([row], "text")[1].tolist() == [[-1.0, 0.5, -1.5]]
    assert pack_targets([targets(0)], "text")[1].tolist() == [[1.0]]


def test_clamp_is_per_sample():
    guide = guidance([targets(0), targets(1)], clamp=0.05)
    grad = torch.stack([torch.full((3, 4, 4), 2.0), torch.full((3, 4, 4), 0.01)])
    limited = guide.limit(grad)
    torch.testing.assert_close(limited[0], torch.full((3, 4, 4), 0.05))
    assert torch.equal(limited[1], grad[1])
    assert torch.equal(guide.limit(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_when_guidance_is_active():
    active = lambda guide: [guide.active(torch.tensor([t])) for t in range(9, -1, -1)]  # noqa: E731
    assert active(guidance([targets(0)])) == [True] * 10
    assert active(guidance([targets(0)], every=4)) == [i % 4 == 0 for i in range(10)]
    late = guidance([targets(0)], schedule=Constant(start=0.5))
    assert active(late) == [False] * 5 + [True] * 5
    assert not any(active(guidance([[]])))
    assert not any(active(guidance([targets(0)], clip=0.0)))
    assert all(active(guidance([[]], tv=1.0)))


def test_steps_of_pure_noise_are_not_guided():
    cosine = Diffusion("cosine", respacing="20")
    guide = small_guidance(ENCODER, [targets(0)], cosine, Noise([0]))
    assert [guide.active(torch.tensor([t])) for t in (19, 18)] == [False, True]


def test_the_schedule_multiplies_the_gradient():
    x, x0, t = normal(1, 3, 48, 48), normal(1, 3, 48, 48, seed=1), torch.tensor([3])
    plain, faded = guidance([targets(0)]), guidance([targets(0)], schedule=Linear())
    a, b = plain(x, x0, t), faded(x, x0, t)
    torch.testing.assert_close(a[1] * (1 - 6 / 9), b[1], rtol=1e-4, atol=1e-7)
    assert torch.equal(a[2]["clip"], b[2]["clip"])


def test_schedules():
    for shape in (Linear(0.2, 0.6), Cosine(0.2, 0.6)):
        assert shape(0) == shape(0.2) == 1 and shape(0.4) == pytest.approx(0.5)
        assert shape(0.6) == pytest.approx(0) and shape(1) == pytest.approx(0)
    assert Cosine()(0.25) > Linear()(0.25)
    assert Linear(first=0.0, last=1.0)(0.25) == 0.25
    assert [Constant(0.2, 0.6)(u) for u in (0.1, 0.2, 0.6, 0.7)] == [0, 1, 1, 0]
    window = Window(0.2, 0.6, ramp=0.25)
    assert [window(u) for u in (0.1, 0.2, 0.4, 0.7)] == [0, 0, 1, 0]
    assert window(0.25) == pytest.approx(0.5) and window(0.55) == pytest.approx(0.5)
    with pytest.raises(UserError):
        Linear(0.7, 0.2)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"num_cutouts": 0}, {"audio_weights": "mine"}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(UserError):
        guidance([targets(0)], **wrong)


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("guidance/schedule/*.yaml")), ids=lambda p: p.stem
)
def test_guidance_is_built_from_its_yaml(path):
    node = yaml.safe_load((CONF / "guidance" / "default.yaml").read_text())
    del node["defaults"]
    node["schedule"] = yaml.safe_load(path.read_text())
    known = {"targets": [targets(0)], "diffusion": DIFFUSION, "noise": Noise([0])}
    guide = settings.guide(node, encoder=ENCODER, **known)
    assert guide.schedule.start == 0.0 and guide.weights["clip"] == node["clip"]
    assert guide.acting == ["clip", "range"]


def test_an_option_that_nothing_takes_is_refused():
    with pytest.raises(UserError, match=r"guidance\.num_cutout: neither"):
        guidance([targets(0)], num_cutout=3)


def test_targets_and_pictures_must_be_as_many():
    x = normal(2, 3, 48, 48)
    with pytest.raises(ValueError, match="targets for 1 samples, pictures of 2"):
        guidance([targets(0)])(x, x, torch.tensor([4, 4]))
    one = normal(1, 3, 48, 48)
    with pytest.raises(ValueError, match="targets for 2 samples, pictures of 1"):
        guidance([targets(0), targets(1)])(one, one, torch.tensor([4]))


def test_weights_init_images_and_values_must_be_as_many_as_pictures():
    one, t = normal(1, 3, 48, 48), torch.tensor([4])
    with pytest.raises(ValueError, match=r"loss tv: .*'weights': 2.* for 1 pictures"):
        guidance([targets(0)], clip=0.0, tv=[1.0, 2.0])(one, one, t)
    with pytest.raises(ValueError, match=r"loss init: .*'values': 2.* for 1 pictures"):
        init = normal(2, 3, 48, 48)
        guidance([targets(0)], clip=0.0, init=1.0, init_image=init)(one, one, t)


@pytest.mark.parametrize("path", sorted(CONF.glob("sampler/*.yaml")), ids=lambda p: p.stem)
def test_samplers_are_built_from_their_yaml(path):
    sampler = build(yaml.safe_load(path.read_text()))
    assert Diffusion(respacing=sampler.steps).num_timesteps == int(sampler.steps)
