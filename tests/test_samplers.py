"""Samplers on processes whose answer is known, and on small models."""

import numpy as np
import pytest
import torch
from reference.sampler import invert
from small import SmallEncoder, denoiser, guidance, normal, targets

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.noise import Noise
from acgd.diffusion.process import Diffusion
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.ddpm import DDPM
from acgd.diffusion.samplers.dpmpp import DPMSolverPP
from acgd.diffusion.samplers.guided import VARIANCE, guided
from acgd.diffusion.samplers.plms import PLMS
from acgd.errors import UserError

EVERY = [DDPM(), DDIM(), DDIM(eta=1.0), PLMS(), PLMS(order=4), DPMSolverPP()]
SPREAD = 0.5  # of the data in the closed-form tests


class NormalData:
    """The ideal denoiser of independent normal data with standard deviation `spread`."""

    def __init__(self, diffusion, spread=SPREAD):
        self.diffusion, self.spread = diffusion, spread

    def __call__(self, x, ts):
        t = torch.from_numpy(np.searchsorted(self.diffusion.timestep_map, ts.long().numpy()))
        abar = self.diffusion.pick("alphas_cumprod", t)
        return x * abar.sqrt() * self.spread**2 / (abar * self.spread**2 + 1 - abar)


def ideal(steps, spread=SPREAD, schedule="linear"):
    d = Diffusion(schedule, 1000, steps, learn_sigma=False)
    return Denoiser(NormalData(d, spread), d, "x0")


def last(steps):
    *_, step = steps
    return step


def flow(sampler, steps):
    """Relative error of the end of the probability flow from x_T for normal data."""
    model, x = ideal(steps), normal(1, 3, 8, 8)
    abar = model.diffusion.alphas_cumprod[-1]
    exact = x * SPREAD / np.sqrt(abar * SPREAD**2 + 1 - abar)
    found = last(sampler(model, x, noise=Noise([0]))).x
    return float((found - exact).norm() / exact.norm())


def test_higher_orders_follow_the_flow_more_closely():
    euler = flow(DDIM(), "25")
    assert flow(DPMSolverPP(), "25") < 0.1 * euler
    assert flow(PLMS(), "25") < 0.3 * euler


@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
def test_a_cosine_schedule_starts_without_harm(sampler):
    """Its first step has abar = 2e-9, where eps can't be turned into x0."""
    off = lambda x, ts: model(x, ts) + 0.05 * torch.sin(20 * x)  # noqa: E731 (an imperfect network)
    d = ideal("25", schedule="cosine").diffusion
    model = NormalData(d)
    found = last(sampler(Denoiser(off, d, "x0"), normal(1, 3, 16, 16), noise=Noise([0]))).x
    assert 0.35 < float(found.std()) < 0.65 and found.abs().max() < 2.5


def test_the_published_dpm_solver_is_of_second_order():
    published = DPMSolverPP(ahead=None)
    assert flow(published, "200") < 0.3 * flow(published, "100") < 0.09 * flow(published, "50")


def test_first_order_of_each_is_ddim():
    x, model = normal(2, 3, 8, 8), ideal("20")
    expected = last(DDIM()(model, x, noise=Noise([0, 1]))).x
    for sampler in (DPMSolverPP(order=1), PLMS(order=1)):
        found = last(sampler(model, x, noise=Noise([0, 1]))).x
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=1.0)], ids=["ddpm", "ddim"])
def test_random_samplers_reach_the_data_s_spread(sampler):
    found = last(sampler(ideal("100"), normal(4, 3, 32, 32), noise=Noise(range(4)))).x
    assert float(found.std()) == pytest.approx(SPREAD, rel=0.08)


@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
def test_steps_are_counted_and_end_at_the_sample(sampler):
    model, x = ideal("10"), normal(2, 3, 8, 8)
    steps = list(sampler(model, x, noise=Noise([0, 1]), start=4))
    assert [(s.index, s.total, int(s.t[0])) for s in steps] == [(i, 6, 5 - i) for i in range(6)]
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)
    with pytest.raises(UserError):
        next(iter(sampler(model, x, noise=Noise([0, 1]), start=10)))


@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
def test_a_single_step_goes_to_x0(sampler):
    for model, start in ((ideal("1"), 0), (ideal("10"), 9)):
        step = last(sampler(model, normal(1, 3, 8, 8), noise=Noise([0]), start=start))
        assert torch.isfinite(step.x).all()
        torch.testing.assert_close(step.x, step.x0)


def test_inversion_leads_back():
    model, x = ideal("200"), normal(1, 3, 8, 8) * SPREAD
    up = x
    for t in range(150):
        up = invert(model, up, torch.tensor([t]))
    down = last(DDIM()(model, up, noise=Noise([0]), start=49)).x
    assert float((down - x).norm() / x.norm()) < 0.03


class Pull:
    """A guide towards grey `level`, L = strength / 2 |x0 - level|^2."""

    def __init__(self, through_unet, strength=10.0, level=0.7):
        self.through_unet, self.strength, self.level = through_unet, strength, level

    def active(self, t):
        return True

    def limit(self, grad):
        return grad

    def __call__(self, x, x0, t):
        away = x0 - self.level
        return None, self.strength * away, {"pull": away.square().mean(dim=(1, 2, 3))}


def test_guidance_without_the_unet_is_exact_for_normal_data():
    model, x, t = ideal("20", spread=VARIANCE**0.5), normal(1, 3, 8, 8), torch.tensor([12])
    through, beside = (guided(model, x, t, Pull(mode)).grad for mode in (True, False))
    torch.testing.assert_close(through, beside)


@pytest.mark.parametrize("through_unet", [True, False])
@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
def test_guidance_pulls_and_x0_is_reported_before_it(sampler, through_unet):
    model, x = ideal("20"), normal(2, 3, 8, 8)
    free = last(sampler(model, x, noise=Noise([0, 1]))).x
    steps = list(sampler(model, x, noise=Noise([0, 1]), guide=Pull(through_unet)))
    assert steps[-1].x.mean() > free.mean() + 0.2
    assert torch.isfinite(steps[-1].x).all() and not steps[-1].x.requires_grad
    torch.testing.assert_close(steps[0].x0, model(x, steps[0].t).x0)
    assert steps[0].losses["pull"].shape == (2,)


@pytest.mark.parametrize("sampler, through_unet", [(s, True) for s in EVERY] + [(DDIM(), False)])
def test_a_sample_alone_equals_itself_in_a_batch(sampler, through_unet):
    """To 1e-4 of a pixel's range: convolutions of other batch sizes round differently."""
    encoder, model = SmallEncoder(), denoiser("4")
    wanted = [targets(0), targets(1, 2), targets(3, kind="text", weight=-0.5), targets(4)]

    def run(rows):
        noise = Noise([100 + row for row in rows])
        x = noise.like(torch.empty(len(rows), 3, 32, 32))
        guide = guidance(
            encoder,
            [wanted[row] for row in rows],
            model.diffusion,
            noise,
            clip=50.0,
            tv=10.0,
            num_cutouts=3,
            cut_min=0.5,
            through_unet=through_unet,
        )
        return last(sampler(model, x, noise=noise, guide=guide)).x

    together = run([0, 1, 2, 3])
    for row in (1, 2):
        torch.testing.assert_close(run([row])[0], together[row], rtol=0, atol=2e-4)


def test_noise_goes_on_from_its_state():
    noise = Noise([5, 6])
    noise.like(torch.empty(2, 3, 4, 4)), noise.uniform(3)
    state = noise.state()
    expected = noise.like(torch.empty(2, 7)), noise.uniform(5)
    other = Noise([0, 0])
    other.load_state(state)
    assert torch.equal(other.like(torch.empty(2, 7)), expected[0])
    assert torch.equal(other.uniform(5), expected[1])


def test_noise_and_cutouts_have_generators_of_their_own():
    one, two = Noise([3]), Noise([3])
    one.uniform(100)
    assert torch.equal(one.like(torch.empty(1, 9)), two.like(torch.empty(1, 9)))
    rows = [Noise([seed]).uniform(2)[0] for seed in (0, 1, 2**32, 2**40 + 1)]
    assert len({tuple(row.tolist()) for row in rows}) == 4
