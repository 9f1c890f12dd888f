"""The trainings: what they draw, and that an interrupted one goes on exactly."""

import csv

import numpy as np
import pytest
import torch

from acgd.training import diffusion
from acgd.training.data.pairs import Pairs, concept_prompts, views
from acgd.training.data.sound_views import SAMPLE_RATE, Sounds, disturb, resampled, window
from acgd.training.encoder import contrast

SMALL = {
    **diffusion.ARCHITECTURE,
    "num_channels": 32,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "cond_dim": 8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of twelve pictures, conditions for them and four sounds."""
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
    embed = rng.normal(size=(14, 8))
    np.savez(
        folder / "cond.npz",
        embed=embed / np.linalg.norm(embed, axis=1, keepdims=True),
        image=np.arange(12)[:, None],
        text=np.array([[12, -1] if c == "dog" else [13, 12] for c in concept]),
        audio=np.full((12, 1), -1),
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


def train(data, out, steps, monkeypatch):
    monkeypatch.setattr(diffusion, "ARCHITECTURE", SMALL)
    monkeypatch.setattr(diffusion, "preview", lambda *args: None)
    argv = [f"--data={data}", f"--out={out}", f"--cond={data / 'cond.npz'}", "--batch=4"]
    diffusion.main([*argv, f"--steps={steps}"])
    return torch.load(out / "state.pt", weights_only=True)


def test_interrupted_training_goes_on_exactly(data, tmp_path, monkeypatch):
    whole = train(data, tmp_path / "a", 6, monkeypatch)
    train(data, tmp_path / "b", 3, monkeypatch)
    parts = train(data, tmp_path / "b", 6, monkeypatch)
    assert whole["step"] == parts["step"] == 6
    for key, value in whole["unet"].items():
        assert torch.equal(value, parts["unet"][key]), key
    assert torch.equal(whole["rng"], parts["rng"])


def test_pictures_of_concepts_weigh_most(data):
    pictures = diffusion.Pictures(data, share=0.7)
    assert pictures.weight[:8].sum() == pytest.approx(0.7)
    _, x = pictures.draw(5, torch.Generator().manual_seed(0))
    assert x.shape == (5, 3, 64, 64) and x.min() >= -1 and x.max() <= 1


def test_conditions_are_a_pictures_own(data):
    conditions = diffusion.Conditions(data / "cond.npz")
    dog = torch.zeros(500, dtype=torch.long)
    drawn = conditions.draw(dog, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.norm(dim=1), torch.ones(500), atol=1e-5)
    nearest = (drawn @ conditions.embed.T).argmax(1)
    assert set(nearest.tolist()) == {0, 12}  # its own embedding and its text, no other picture's


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
