"""Numbers that are none end one sample with a line, never a picture, and never its batch."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import compose
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError
from acgd.pipeline import finite, runner
from acgd.runs import folder as folders
from acgd.runs.run import expand
from acgd.types import Target


@pytest.fixture
def runs(tiny, tmp_path):
    words = ["prompt=text", "prompt.text=snow", "judge=none", "enlarge_to=0", "logger=none"]
    models = [one for one in tiny if "judge." not in one]
    chosen = [*models, *words, "sampler.steps=4", f"outputs={tmp_path / 'outputs'}"]
    return lambda *overrides: expand(compose(*chosen, *overrides))


def test_one_of_a_batch_fails_and_the_others_are_as_if_it_were_not_there(runs, tmp_path, capsys):
    good = runs("seed=[0,2]", "guidance.clip=300", "twin=true")
    bad = runs("seed=1", "guidance.clip=1e38", "twin=true")
    elsewhere = f"outputs={tmp_path / 'whole'}"
    whole = runs("seed=[0,2,3]", "guidance.clip=300", "twin=true", elsewhere)
    runner.render(whole)
    capsys.readouterr()
    with pytest.raises(UserError, match="1 of 3 pictures failed"):
        runner.render([good[0], *bad, good[1]])
    said = capsys.readouterr().err
    assert said.count("batch") == 0 and "seed 1: step 3 of 4, seed 1: the " in said
    assert "is not a finite number: lower guidance.clip (it is 1e+38)" in said
    assert [folders.status(run.folder) for run in good] == ["ok", "ok"]
    assert folders.status(bad[0].folder) == "failed"
    assert not (bad[0].folder / "images").exists()
    assert not (bad[0].folder / "snapshot.pt").exists()
    for made, same in zip(good, whole, strict=False):  # in one batch of three: the same bytes
        assert folders.finished(made.folder)
        log = (made.folder / "log.txt").read_text()
        assert log.count("batch of 3") == 1 and "batch of 1" not in log  # nothing was made twice
        for name in ("images", "previews"):
            files = {p.name: p.read_bytes() for p in (made.folder / name).iterdir()}
            assert files == {p.name: p.read_bytes() for p in (same.folder / name).iterdir()}


def test_the_loss_that_did_it_is_named_not_the_one_that_shows_it(tmp_path):
    """With the embedded model, whose range loss is not zero."""
    words = ["experiment=smoke", "prompt=text", "prompt.text=dog", f"outputs={tmp_path}"]
    with pytest.raises(UserError, match=r"lower guidance\.range \(it is 1e\+38\)"):
        runner.render(expand(compose(*words, "guidance.range=1e38", "device=cpu")))


def test_a_batch_that_is_lost_as_a_whole_ends_early(runs, capsys):
    made = runs("seed=[0,1]", "guidance.clip=1e38", "sampler.steps=20")
    with pytest.raises(UserError, match="2 of 2 pictures failed"):
        runner.render(made)
    for run in made:
        rows = list(csv.DictReader((run.folder / "losses.csv").open()))
        assert len(rows) < 5
        assert f"seed {run.seed}: the " in folders.state(run.folder)["error"]


def test_a_sampler_without_guidance_that_goes_wrong_is_named(runs):
    (made,) = runs("guidance.clip=0", "guidance.range=0", "sampler=ddim")
    made.cfg["sampler"]["eta"] = 1e30  # which the command line refuses
    with pytest.raises(UserError, match=r"no loss steers it: look at sampler\.eta, precision"):
        runner.render([made])


def damaged(source, path, change):
    state = load_file(source)
    with safe_open(source, "pt") as file:
        about = file.metadata()
    change(state)
    save_file(state, path, about)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["unet", "encoder"])
def test_weights_that_are_no_numbers_are_found_when_they_are_loaded(
    runs, weights, tmp_path, name, value
):
    def spoil(state):
        key = next(key for key, tensor in state.items() if tensor.dim() == 4)
        state[key].view(-1)[3] = value

    path = damaged(weights / f"{name}.safetensors", tmp_path / f"{name}.safetensors", spoil)
    (made,) = runs(f"{'model' if name == 'unet' else name}.checkpoint={path}")
    with pytest.raises(UserError, match=r"damaged weights: 1 of \d+ tensors hold NaN or infinity"):
        runner.render([made])
    assert folders.status(made.folder) == "failed"


def test_large_weights_and_masks_are_no_damage():
    layer = nn.Linear(2, 2)
    layer.register_buffer("mask", torch.zeros(2, 2))
    state = {"weight": torch.full((2, 2), 3e38), "bias": torch.zeros(2)}
    state["mask"] = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    checkpoints.load_into(layer, dict(state), "a.pt")
    assert layer.weight[0, 0] == 3e38
    with pytest.raises(UserError, match=r"a\.pt: damaged weights: 1 of 3 tensors .*\(mask\)"):
        checkpoints.load_into(layer, state | {"mask": torch.full((2, 2), torch.nan)}, "a.pt")


def test_an_embedding_that_is_none_is_named():
    good, bad = torch.ones(4), torch.tensor([1.0, torch.nan, 0, 0])
    finite.check_targets([Target(good, 1.0, "text", "snow")], "encoder")
    finite.check_targets([], "judge")
    with pytest.raises(UserError, match="the judge's embedding of 'rain' is not made of finite"):
        finite.check_targets(
            [Target(good, 1.0, "text", "snow"), Target(bad, 1.0, "text", "rain")], "judge"
        )


def test_the_device_is_asked_once_a_step(monkeypatch):
    """Losses and whether all is finite come in one tensor."""
    from acgd.diffusion.interfaces import Step

    calls, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: calls.append(1) or cpu(self))
    x0 = torch.zeros(2, 3, 4, 4)
    x0[1, 0, 0, 0] = torch.inf
    losses = {"clip": torch.tensor([1.5, torch.nan]), "range": torch.tensor([0.0, 2.0])}
    found = finite.numbers(Step(3, 8, torch.tensor([700, 700]), torch.zeros_like(x0), x0, losses))
    assert len(calls) == 1
    assert found.step.losses["clip"][0] == 1.5 and found.step.losses["range"].tolist() == [0, 2]
    assert found.step.t.tolist() == [700, 700]
    assert (found.x0.tolist(), found.x.tolist()) == ([True, False], [True, True])
