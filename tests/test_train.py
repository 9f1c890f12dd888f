"""The trainings: what they draw, and that an interrupted one goes on exactly."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from acgd.diffusion.model import PictureModel
from acgd.errors import UserError
from acgd.models.autoencoder import Autoencoder
from acgd.training import (
    autoencoder,
    clipcap_tiny,
    encoder,
    export,
    latent_diffusion,
    loop,
    muscaps_tiny,
)
from acgd.training.data.pairs import Pairs, concept_prompts, views
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds, disturb, resampled, window
from acgd.training.encoder import contrast

SMALL = {  # of the network that draws
    **latent_diffusion.ARCHITECTURE,
    "image_size": 4,
    "num_channels": 32,
    "channel_mult": "1,1",
    "attention_resolutions": "2",
    "cond_dim": 16,
}
EYES = {
    **encoder.ARCHITECTURES["encoder"],
    "embed_dim": 16,
    "vision_width": 8,
    "transformer_width": 16,
    "transformer_layers": 1,
    "audio_width": 16,
}
AUTOENCODER = {
    "image_size": 32,
    "latent_size": 4,
    "encoder_widths": [16, 16],
    "encoder_depths": [1, 1],
    "decoder_widths": [16, 16, 16],
    "decoder_depths": [1, 1, 1],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of twelve pictures and four sounds."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    concept = np.array(["dog"] * 4 + ["rain"] * 4 + [""] * 4)
    np.savez(
        folder / "pictures.npz",
        pixels=rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8),
        concept=concept,
        emoji=np.array([c or f"e{i}" for i, c in enumerate(concept)]),
        name=np.array([c or "thing" for c in concept]),
        keywords=np.array(["wet,grey"] * 12),
        group=np.array(["Objects"] * 12),
        holdout=np.array([i in (0, 4) for i in range(12)]),
    )
    lengths = [SAMPLE_RATE, SAMPLE_RATE // 4, 3 * SAMPLE_RATE, SAMPLE_RATE]
    np.save(folder / "sounds.npy", rng.integers(-9000, 9000, sum(lengths), dtype=np.int16))
    with open(folder / "sounds.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["start", "length", "concept", "source", "group", "split", "kind"])
        for i, length in enumerate(lengths):
            split, kind = ("heldout", "real") if i == 3 else ("train", ["real", "recipe"][i % 2])
            rows.writerow([sum(lengths[:i]), length, "dog", "x", f"g{i}", split, kind])
    return folder


@pytest.fixture(scope="module")
def latents(data, tmp_path_factory):
    """The folder of training.latents for the twelve pictures."""
    folder, rng = tmp_path_factory.mktemp("latents"), np.random.default_rng(1)
    embed = rng.normal(size=(14, 16))
    embed /= np.linalg.norm(embed, axis=1, keepdims=True)
    emoji = ["🐕"] * 4 + ["🌧️"] * 4 + [f"e{i}" for i in range(4)]
    np.savez(
        folder / "latents.npz",
        latents=rng.normal(size=(12, 2, 8, 4, 4)).astype(np.float16),
        embed=embed,
        text=np.array([[12, -1]] * 4 + [[13, 12]] * 8),
        labels=embed[12:],
        style=np.array(["noto", "twemoji"] * 6),
        concept=np.array(["dog"] * 4 + ["rain"] * 4 + [""] * 4),
        emoji=np.array([latent_diffusion.code(e) for e in emoji]),
        name=np.array(["dog"] * 4 + ["rain"] * 4 + ["rabbit", "tiger", "x", "y"]),
        group=np.array(["Objects"] * 12),
    )
    torch.manual_seed(0)
    model = {"model": Autoencoder(**AUTOENCODER).state_dict()}
    torch.save({"modules": model, "size": 128}, folder / "autoencoder.pt")
    return folder


@pytest.fixture
def small(monkeypatch):
    """All networks at a size that learns in seconds."""
    monkeypatch.setattr(latent_diffusion, "ARCHITECTURE", SMALL)
    monkeypatch.setattr(encoder, "UNET", SMALL)
    monkeypatch.setitem(encoder.ARCHITECTURES, "encoder", EYES)
    monkeypatch.setitem(autoencoder.ARCHITECTURES, 128, AUTOENCODER)


@pytest.fixture
def diffusion(small, latents):
    def train(out, steps, *more):
        given = [f"--latents={latents}", f"--out={out}", f"--steps={steps}", "--batch=4"]
        latent_diffusion.main([*given, *more])
        return torch.load(out / "state.pt", weights_only=True)

    return train


@pytest.fixture
def eyes(small, data):
    def train(out, steps, *more):
        given = ["encoder", f"--data={data}", f"--out={out}", f"--steps={steps}", "--batch=4"]
        encoder.main([*given, *more])
        return torch.load(out / "state.pt", weights_only=True)

    return train


def assert_same(a: dict, b: dict) -> None:
    assert a["step"] == b["step"] and torch.equal(a["rng"], b["rng"])
    for name, module in a["modules"].items():
        for key, value in module.items():
            assert torch.equal(value, b["modules"][name][key]), (name, key)


def test_an_interrupted_diffusion_model_learns_on_exactly(diffusion, tmp_path):
    whole = diffusion(tmp_path / "a", 6)
    diffusion(tmp_path / "b", 3)
    with open(tmp_path / "b" / "log.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]
    assert_same(whole, diffusion(tmp_path / "b", 6))
    assert (tmp_path / "a" / "preview_000006.png").is_file()


def test_concepts_and_names_have_their_shares(diffusion, latents):
    drawn = latent_diffusion.Latents(latents, ["noto", "twemoji"], 0.5, 0.4)
    assert drawn.weight[:8].sum() == pytest.approx(0.5)
    assert drawn.weight[8:10].sum() == pytest.approx(0.4)  # rabbit and tiger are in names.txt
    z, cond, style = drawn.draw(64, torch.Generator().manual_seed(0))
    assert z.shape == (64, 8, 4, 4) and set(style.tolist()) <= {0, 1}
    assert torch.allclose(cond.norm(dim=1), torch.ones(64), atol=1e-5)


def test_an_encoder_learns_words_and_then_what_the_diffusion_model_predicts(
    eyes, diffusion, latents, tmp_path
):
    first = eyes(tmp_path / "first", 4)
    assert {"clean@1", "clean@5"} == set(first["progress"])
    diffusion(tmp_path / "unet", 2)
    state, init = tmp_path / "unet" / "state.pt", tmp_path / "first" / "state.pt"
    more = [f"--diffusion={state}", f"--latents={latents}", f"--init={init}", "--lock-text"]
    whole = eyes(tmp_path / "a", 4, *more, "--adversarial")
    assert {"denoised@1", "denoised@5"} < set(whole["progress"])
    before, after = first["modules"]["model"], whole["modules"]["model"]
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved and all(key.startswith("visual") for key in moved)
    eyes(tmp_path / "b", 2, *more, "--adversarial")
    assert_same(whole, eyes(tmp_path / "b", 4, *more, "--adversarial"))


def test_a_diffusion_model_needs_its_latents(eyes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        eyes(tmp_path, 1, "--diffusion=state.pt")
    assert "--diffusion needs --latents" in capsys.readouterr().err


def test_what_was_trained_is_exported_with_its_sizes(diffusion, tmp_path, monkeypatch):
    diffusion(tmp_path / "unet", 2)
    monkeypatch.setattr(export, "UNET_ARCHITECTURE", SMALL)
    state = tmp_path / "unet" / "state.pt"
    monkeypatch.setattr("sys.argv", ["export", "unet", f"--state={state}", f"--out={tmp_path}"])
    export.main()
    ema = torch.load(state, weights_only=True)["modules"]["ema"]
    found = load_file(tmp_path / "tiny_unet.safetensors")
    assert found.keys() == ema.keys()
    assert all(torch.equal(found[key], value.half()) for key, value in ema.items())
    assert export.read_config(tmp_path / "tiny_unet.safetensors") == SMALL
    monkeypatch.setattr("sys.argv", ["export", "autoencoder", f"--out={tmp_path}"])
    with pytest.raises(SystemExit):
        export.main()


def test_an_adapter_is_trained_for_the_weights_beside_it(diffusion, tmp_path, monkeypatch):
    diffusion(tmp_path / "unet", 2)
    monkeypatch.setattr(export, "UNET_ARCHITECTURE", SMALL)
    state = f"--state={tmp_path / 'unet' / 'state.pt'}"
    monkeypatch.setattr("sys.argv", ["export", "unet", state, f"--out={tmp_path}"])
    export.main()
    base = tmp_path / "tiny_unet.safetensors"
    told = [f"--init={base}", "--rank=2", "--lr=0.1", "--warmup=0"]
    whole = diffusion(tmp_path / "a", 4, *told)
    diffusion(tmp_path / "b", 2, *told)
    assert_same(whole, diffusion(tmp_path / "b", 4, *told))
    state = f"--state={tmp_path / 'a' / 'state.pt'}"
    monkeypatch.setattr("sys.argv", ["export", "adapter", state, f"--out={tmp_path}"])
    export.main()
    adapter = tmp_path / "tiny_adapter.safetensors"
    found = PictureModel(str(base), adapter=str(adapter)).unet.state_dict()
    before = PictureModel(str(base)).unet.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(found[key], value)}
    assert changed == {f"{key.removesuffix('.scale')}.weight"
                       for key in load_file(adapter) if key.endswith(".scale")}  # fmt: skip


def test_rates_rise_stay_and_fall():
    import argparse

    parser = loop.options(argparse.ArgumentParser(), lr=1.0, batch=1)
    args = parser.parse_args(["--out=x", "--steps=100", "--cooldown=40", "--warmup=10"])
    rates = [loop.rate(args, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:60] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5) and rates[99] < 0.01
    args.decay = "linear"
    assert loop.rate(args, 90) == pytest.approx(0.25)


def test_a_training_of_another_configuration_does_not_go_on(diffusion, tmp_path, monkeypatch):
    diffusion(tmp_path / "a", 1)
    monkeypatch.setitem(SMALL, "cond_dim", 8)
    with pytest.raises(UserError, match="another configuration: choose another --out"):
        diffusion(tmp_path / "a", 2)


def test_a_training_is_watched_offline_in_wandb(diffusion, latents, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "a"
    given = [f"--latents={latents}", f"--out={out}", "--steps=2", "--batch=4", "--wandb=acgd"]
    latent_diffusion.main(given)
    assert list(out.glob("wandb/offline-run-*/*.wandb"))


@pytest.fixture
def describer(tmp_path, monkeypatch):
    """Trains a small MusCaps on six windows of the ears' features."""
    small = {**muscaps_tiny.ARCHITECTURE, "attention_dim": 16}
    monkeypatch.setattr(muscaps_tiny, "ARCHITECTURE", small)
    rng, features = np.random.default_rng(0), tmp_path / "features.npz"
    heard = rng.normal(size=(6, 5, 256)).astype(np.float16)
    np.savez(features, features=heard, label=np.arange(6), bursts=np.arange(6) % 4)

    def train(out):
        given = [f"--features={features}", f"--out={out}", f"--weights={out}.safetensors"]
        muscaps_tiny.main(["train", *given, "--steps=5", "--batch=4", "--every=0"])

    return muscaps_tiny.Training, train


@pytest.fixture
def captioner(data, monkeypatch):
    """Trains a small ClipCap on what the embedded judge sees in twelve pictures."""
    monkeypatch.setitem(clipcap_tiny.ARCHITECTURE, "n_layer", 1)
    judge = export.WEIGHTS / "tiny_judge.safetensors"

    def train(out):
        given = [f"--data={data}", f"--judge={judge}", f"--out={out}", "--views=2"]
        given += ["--steps=5", "--batch=4", "--every=0"]
        clipcap_tiny.main(["train", *given])

    return clipcap_tiny.Training, train


@pytest.mark.parametrize("which", ["describer", "captioner"])
def test_an_interrupted_training_learns_on_exactly(which, request, tmp_path, monkeypatch):
    kind, train = request.getfixturevalue(which)
    train(tmp_path / "whole")
    step = kind.advance

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "advance", interrupted)
        train(tmp_path / "parts")
    read = lambda name: torch.load(tmp_path / name / "state.pt", weights_only=True)  # noqa: E731
    assert read("parts")["step"] == 3
    train(tmp_path / "parts")
    assert_same(read("whole"), read("parts"))


def test_pairs_never_draw_what_is_held_out(data):
    pairs, rng = Pairs(data, 77), torch.Generator().manual_seed(0)
    index = pairs.draw(300, rng)
    assert not pairs.holdout[index].any() and len(index.unique()) == 10
    names = concept_prompts()["dog"]
    texts = {pairs.text_of(1, rng) for _ in range(60)}
    assert any(name in text for text in texts for name in names)


def test_views_are_pictures():
    x = torch.rand(6, 3, 64, 64)
    y = views(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert (x - y).abs().mean() > 0.05


def test_contrast_is_least_for_the_right_answers():
    a = torch.eye(4)
    same = torch.eye(4, dtype=torch.bool)
    right = contrast(a, a, same, torch.tensor(20.0))
    wrong = contrast(a, a.flip(0), same, torch.tensor(20.0))
    assert right < 1e-3 < wrong


def test_sounds_are_drawn_from_the_training_side_and_stay_in_range(data):
    sounds, rng = Sounds(data, ["dog"]), torch.Generator().manual_seed(0)
    assert sounds.weight[3] == 0 and sounds.weight.sum() == pytest.approx(1.0)
    drawn = torch.multinomial(sounds.weight, 8, replacement=True, generator=rng).tolist()
    wave = torch.stack([window(sounds.clip(i), int(1.5 * SAMPLE_RATE), rng) for i in drawn])
    assert wave.shape == (8, int(1.5 * SAMPLE_RATE)) and 3 not in drawn
    loud = disturb(wave, rng)
    assert loud.isfinite().all() and loud.abs().max() <= 1


def test_a_short_clip_fills_its_window():
    clip = torch.ones(1000)
    for seed in range(6):
        out = window(clip, 2 * SAMPLE_RATE, torch.Generator().manual_seed(seed))
        assert out.shape == (2 * SAMPLE_RATE,) and out.abs().max() > 0.5


def test_sounds_come_at_the_rate_that_is_asked_for():
    wave = torch.sin(torch.arange(SAMPLE_RATE) * 2 * torch.pi * 440 / SAMPLE_RATE)[None]
    assert resampled(wave, SAMPLE_RATE) is wave
    slow = resampled(wave.repeat(2, 1), 16000)
    assert slow.shape == (2, 16000) and slow[0].equal(slow[1])
    assert torch.fft.rfft(slow[0]).abs().argmax() == 440
