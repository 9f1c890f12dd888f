"""Where a job computes and in which numbers, on machines with other GPUs than this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, compose

from acgd.errors import UserError
from acgd.pipeline import device, runner
from acgd.runs.run import expand


@pytest.fixture
def gpus(monkeypatch):
    """Let torch find so many CUDA GPUs, of such a compute capability."""

    def found(count, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return found


@pytest.mark.parametrize(
    "count, wanted, said",
    [
        (0, "cuda", "device=cuda: there is none here"),
        (0, "cuda:9", "device=cuda:9: there is none here"),
        (0, "mps", "device=mps: there is none here"),
        (2, "mps", "device=mps: there is none here"),
        (1, "cuda:9", "device=cuda:9: there is only cuda:0 here"),
        (2, "cuda:2", "device=cuda:2: there is only cuda:0 to cuda:1 here"),
    ],
)
def test_a_device_that_is_not_here_is_one_line(gpus, tiny, tmp_path, count, wanted, said):
    gpus(count)
    runs = expand(compose(*tiny, f"outputs={tmp_path}", f"device={wanted}", "logger=none"))
    with pytest.raises(UserError) as caught:
        runner.render(runs)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_devices_that_are_here(gpus):
    gpus(2)
    assert [device.pick_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    gpus(0)
    assert [device.pick_device(d) for d in ("auto", "cpu")] == ["cpu", "cpu"]


@pytest.mark.parametrize(
    "capability, large, expected",
    [
        ((8, 0), False, "bfloat16"),
        ((9, 0), True, "bfloat16"),
        ((7, 5), True, "float16"),  # Turing: half precision, but no bf16
        ((7, 0), False, "float32"),  # small models are bound by calls
    ],
)
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_auto_takes_what_the_gpu_computes_in(gpus, name, capability, large, expected):
    gpus(2, capability)
    assert device.pick_precision("auto", name, large) == expected
    assert device.pick_precision("bf16", name, large) == "bfloat16"  # as told
    assert device.pick_precision("fp32", name, large) == "float32"


@pytest.mark.process
def test_the_gpu_check_says_that_there_is_no_gpu(tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}:{os.defpath}"}
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh")]
    done = subprocess.run(command, env=os.environ | hidden, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "gpu_check: there is no GPU here that torch can use\n"


@pytest.mark.process
@pytest.mark.parametrize("own", [None, ":16:8"])
def test_cublas_is_told_before_torch_is_loaded(own):
    code = "import os, sys, acgd.pipeline; print('torch' in sys.modules, os.environ[%r])"
    name = "CUBLAS_WORKSPACE_CONFIG"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {name: own} if own else {}
    told = subprocess.check_output([sys.executable, "-c", code % name], env=environment, text=True)
    assert told.split() == ["False", own or ":4096:8"]
