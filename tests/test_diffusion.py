"""The process, the conversions between predictions, and what Denoiser makes of a network."""

import numpy as np
import pytest
import torch

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.process import Diffusion, space_timesteps
from acgd.errors import UserError
from acgd.models.unet import UNet


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", ["ddim1", "ddim999", "2000", "600,600", "ten", "-3", "0", "ddim"])
def test_respacing_that_cannot_be_is_a_user_error(spec):
    with pytest.raises(UserError):
        space_timesteps(1000, spec)


def test_respacing_keeps_what_it_says():
    assert space_timesteps(1000, "250")[0] == 0 and space_timesteps(1000, 250)[-1] == 999
    assert space_timesteps(1000, "ddim50") == list(range(0, 1000, 20))
    assert len(space_timesteps(1000, [10, 10, 5])) == 25


def test_respaced_process_has_the_base_process_s_noise_levels():
    base, short = Diffusion("cosine", 1000), Diffusion("cosine", 1000, "ddim50")
    np.testing.assert_allclose(short.alphas_cumprod, base.alphas_cumprod[::20], rtol=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_eps_x0_and_v_say_the_same(schedule):
    d = Diffusion(schedule, 1000, "50", learn_sigma=False)
    x0, eps, t = normal(3, 3, 4, 4), normal(3, 3, 4, 4, seed=1), torch.tensor([1, 20, 40])
    x = d.q_sample(x0, t, eps)
    a, s = d.pick("sqrt_alphas_cumprod", t), d.pick("sqrt_one_minus_alphas_cumprod", t)
    for predicts, out in {"eps": eps, "x0": x0, "v": a * eps - s * x0}.items():
        found = Denoiser(lambda x, t, out=out: out, d, predicts)(x, t)
        torch.testing.assert_close(found.x0, x0, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.eps, eps, rtol=1e-4, atol=1e-4)


def test_learned_variance_runs_between_posterior_and_beta():
    d, t = Diffusion("linear", 1000, "50"), torch.tensor([5, 30])
    low = d.log_variance(t, torch.full((2, 3, 2, 2), -1.0))
    high = d.log_variance(t, torch.full((2, 3, 2, 2), 1.0))
    betas = torch.from_numpy(d.betas[[5, 30]]).float()
    torch.testing.assert_close(high[:, 0, 0, 0].exp(), betas)
    posterior = torch.from_numpy(d.posterior_variance[[5, 30]]).float()
    torch.testing.assert_close(low[:, 0, 0, 0].exp(), posterior)


def test_start_without_an_init_image_is_diffused_grey():
    d, noise = Diffusion(respacing="10"), normal(2, 3, 4, 4)
    assert d.start(noise) is noise
    scale = float(np.sqrt(1 - d.alphas_cumprod[6]))
    torch.testing.assert_close(d.start(noise, skip=3), noise * scale)
    init = torch.ones(1, 3, 4, 4)
    expected = noise * scale + float(np.sqrt(d.alphas_cumprod[6]))
    torch.testing.assert_close(d.start(noise, init, skip=3), expected)
    with pytest.raises(UserError):
        d.start(noise, skip=10)


@pytest.fixture(scope="module")
def conditional():
    torch.manual_seed(0)
    unet = UNet(16, 32, 1, channel_mult="1,2", learn_sigma=True, cond_dim=6).eval()
    for p in unet.parameters():  # the zero-initialised layers would hide the condition
        torch.nn.init.normal_(p, std=0.05)
    return unet.requires_grad_(False)


def test_cfg_mixes_conditional_and_unconditional(conditional):
    d = Diffusion(respacing="10")
    x, cond, t = normal(2, 3, 16, 16), normal(2, 6, seed=1), torch.tensor([3, 8])
    without, only, strong = (Denoiser(conditional, d, "eps", cond, cfg)(x, t) for cfg in (0, 1, 3))
    assert (only.eps - without.eps).abs().max() > 1e-3
    mixed = without.eps + 3 * (only.eps - without.eps)
    torch.testing.assert_close(strong.eps, mixed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(strong.log_var, only.log_var, rtol=1e-4, atol=1e-5)


def test_cfg_takes_one_call(conditional):
    calls = []
    counting = lambda *a, **k: calls.append(len(a[0])) or conditional(*a, **k)  # noqa: E731
    for cfg in (0, 1, 3):
        d = Denoiser(counting, Diffusion(respacing="10"), "eps", normal(2, 6), cfg)
        d(normal(2, 3, 16, 16), torch.tensor([1, 1]))
    assert calls == [2, 2, 4]


def test_denoiser_refuses_what_does_not_fit(conditional):
    d = Diffusion(respacing="10", learn_sigma=False)
    with pytest.raises(UserError, match="learn_sigma"):
        Denoiser(conditional, d)(normal(1, 3, 16, 16), torch.tensor([1]))
    with pytest.raises(UserError, match="cfg"):
        Denoiser(conditional, d, cfg_scale=2.0)
