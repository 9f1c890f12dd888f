"""Weights as today's trainers leave them: wrapped, prefixed, averaged, with other things beside."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import types

import numpy as np
import pytest
import torch
from conftest import UNET, compose
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError
from acgd.pipeline import runner
from acgd.runs import folder as folders
from acgd.runs.run import expand

LAYER = nn.Linear(3, 2)
STATE = LAYER.state_dict()
EMA = {key: value + 1 for key, value in STATE.items()}


def prefixed(prefix: str, state: dict = STATE) -> dict:
    return {prefix + key: value for key, value in state.items()}


def same(found: dict, state: dict = STATE) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


FILES = {
    "compiled": prefixed("_orig_mod."),
    "compiled within": {"state_dict": prefixed("module._orig_mod.")},
    "lightning": {"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "lightning, compiled": {"state_dict": prefixed("model._orig_mod.")},
    "averaged alone": {"ema": STATE, "step": 1},
    "basicsr": {"params_ema": STATE},
    "timm": {"state_dict_ema": STATE, "arch": "unet", "version": 2},
    "averaged, wrapped": {"ema": {"module": prefixed("module."), "decay": 0.999}},
    "a wrapper that averages": {
        "ema": {
            **prefixed("ema_model."),
            **prefixed("online_model.", EMA),
            "initted": torch.tensor(True),
            "step": torch.tensor(3),
        }
    },
    "numpy": {
        "state_dict": STATE,
        "best": np.float64(1.0),
        "loss": np.arange(3.0),
        "n": np.int64(2),
    },
    "namespace": {"state_dict": STATE, "args": argparse.Namespace(lr=1, out=pathlib.Path("a/b"))},
    "simple namespace": {"model": STATE, "args": types.SimpleNamespace(lr=1)},
    "dates and counts": {
        "model": STATE,
        "when": datetime.datetime(2024, 1, 2, 3, 4),
        "took": datetime.timedelta(seconds=3),
        "seen": collections.Counter("ab"),
        "log": collections.defaultdict(list, {"loss": [1.0]}),
        "queue": collections.deque([1], maxlen=3),
    },
    "hydra": {
        "state_dict": STATE,
        "cfg": OmegaConf.create({"lr": 0.1, "sizes": [1, 2], "n": None}),
    },
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_trainers_save_is_read(tmp_path, name, zipped):
    torch.save(FILES[name], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert same(checkpoints.load_state(tmp_path / "a.pt"))


def test_which_weights_can_be_chosen(tmp_path, capsys):
    path = tmp_path / "a.pt"
    state = {"state_dict": prefixed("net_g.") | prefixed("net_d.", EMA)}
    torch.save({"model": STATE, "ema": {"module": EMA}, "optimizer": {"state": {}}}, path)
    assert same(checkpoints.load_state(path))
    checkpoints.load_state(path)
    told = f"acgd: {path}: takes model; checkpoint_key=ema takes the averaged weights in it\n"
    assert capsys.readouterr().err == told
    assert same(checkpoints.load_state(path, "ema"), EMA)
    with pytest.raises(UserError, match=r"checkpoint_key=params is not in it; .*: model, ema"):
        checkpoints.load_state(path, "params")
    torch.save(state, tmp_path / "b.pt")
    assert same(checkpoints.load_state(tmp_path / "b.pt", "net_d"), EMA)
    torch.save({"mine": STATE, "yours": EMA}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"choose with checkpoint_key=mine\|yours"):
        checkpoints.load_state(tmp_path / "c.pt")
    assert same(checkpoints.load_state(tmp_path / "c.pt", "yours"), EMA)
    save_file(prefixed("net_g.") | prefixed("net_d.", EMA), tmp_path / "d.safetensors")
    assert same(checkpoints.load_state(tmp_path / "d.safetensors", "net_d"), EMA)


def test_a_run_takes_the_weights_that_were_asked_for(tiny, weights, tmp_path):
    """One picture by the file's trained weights, one by its averaged ones: not the same."""
    state = load_file(weights / "unet.safetensors")
    averaged = {key: value * 1.1 for key, value in state.items()}
    torch.save({"state_dict": state, "ema": averaged}, tmp_path / "both.pt")
    torch.save(averaged, tmp_path / "averaged.pt")
    sizes = [f"+model.{key}={value!r}" for key, value in UNET.items()]
    words = ["prompt=text", "prompt.text=snow", "judge=none", "logger=none", "sampler.steps=2"]
    base = [*(one for one in tiny if "judge." not in one), *sizes, *words]
    pictures = []
    for file, key in (("both", None), ("both", "ema"), ("averaged", None)):
        own = [f"model.checkpoint={tmp_path / file}.pt", f"outputs={tmp_path / 'outputs'}"]
        own += [f"+model.checkpoint_key={key}"] if key else []
        (run,) = expand(compose(*base, *own))
        runner.render([run])
        assert folders.finished(run.folder)
        pictures.append(np.asarray(Image.open(run.folder / "images/seed0.png")))
    plain, ema, same_as_ema = pictures
    assert (ema == same_as_ema).all() and (plain != ema).any()


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class Other:
    pass


@pytest.mark.parametrize("zipped", [True, False])
def test_what_could_run_code_is_named_and_not_run(tmp_path, zipped):
    path, ran = tmp_path / "a.pt", tmp_path / "ran"
    options = {"_use_new_zipfile_serialization": zipped}
    torch.save({"state_dict": STATE, "callback": Harm(ran)}, path, **options)
    with pytest.raises(UserError) as error:
        checkpoints.load_state(path)
    line = str(error.value)
    assert "beside weights it holds posix.mkdir, which is not read because it could run" in line
    assert not ran.exists() and "\x1b" not in line and "\n" not in line
    torch.save({"state_dict": STATE, "args": argparse.Namespace(a=Other())}, path, **options)
    with pytest.raises(UserError, match=r"it holds \w*test_trainers_files\.Other, which is not"):
        checkpoints.load_state(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n<!DOCTYPE html><html>sign in</html>", "it is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS's pointer"),
        (b"", "it is empty"),
        (bytes(4096), "nothing but zeros"),
        (b"PK\x03\x04 and no more", "truncated"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_weights_file_is_called_what_it_is(tmp_path, content, says, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for read in (checkpoints.load_state, checkpoints.read_config)[: 1 + (suffix != "pt")]:
        with pytest.raises(UserError) as error:
            read(path)
        assert says in str(error.value) and "fetch it again" in str(error.value)
        assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
