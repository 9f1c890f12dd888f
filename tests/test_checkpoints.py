"""Weights out of files: without running them, without a second copy, into the right model."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

from acgd.checkpoints import load as checkpoints
from acgd.checkpoints import registry, safetensors_twin, torchscript
from acgd.checkpoints.identify import looks_like
from acgd.errors import UserError

# the archive's own loader, to be compared with, is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MANIFESTS = Path(os.environ.get("ACGD_MANIFESTS", ROOT.parent / "shared/reference/manifests"))


class Block(nn.Module):
    """Halves, a transposed buffer, an integer one, and a tensor that is no part of the state."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).half()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("turned", torch.randn(4, 3).t())
        self.register_buffer("steps", torch.arange(5))
        self.plain, self.sizes, self.name = torch.ones(4), [1, 2], "block"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.plain.sum() + self.turned.sum() + self.steps.sum()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(()))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.scale * 1
        for block in self.blocks:
            total = total + block(x).sum()
        return total


@pytest.mark.parametrize("how", ["script", "trace"])
def test_an_archive_s_tensors_are_those_that_its_own_loader_gives(tmp_path, how):
    model, path = Model(), tmp_path / "model.pt"
    script = torch.jit.script(model) if how == "script" else None
    torch.jit.save(script or torch.jit.trace(model, torch.ones(1, 3).half()), path)
    known, found = torch.jit.load(path).state_dict(), torchscript.state_dict(path)
    assert found.keys() == known.keys() == model.state_dict().keys()
    assert all(torch.equal(found[k], known[k]) for k in known)
    assert all(found[k].dtype == known[k].dtype for k in known)
    assert found["blocks.1.linear.weight"].dtype == torch.float16
    assert "input_resolution" not in checkpoints.load_state(path)


def rewritten(path: Path, change) -> Path:
    """A copy of an archive with each member's bytes changed by `change(name, data)`."""
    copy = path.with_name("copy.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return copy


def test_an_archive_s_program_is_not_even_compiled(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Model()), path)

    def spoil(name: str, data: bytes) -> bytes:
        return data.replace(b"return", b"explode(") if name.endswith(".py") else data

    copy = rewritten(path, spoil)
    with pytest.raises(RuntimeError):
        torch.jit.load(copy)
    found = checkpoints.load_state(copy)
    assert torch.equal(
        found["blocks.0.turned"], torch.jit.load(path).state_dict()["blocks.0.turned"]
    )


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("call", ["posix.mkdir", "builtins.eval", "torch._utils.import_module"])
def test_an_archive_s_pickle_calls_nothing(tmp_path, call):
    path, ran = tmp_path / "model.pt", tmp_path / "ran"
    torch.jit.save(torch.jit.script(Model()), path)
    evil = pickle.dumps(Harm(ran), protocol=2)
    module, _, name = call.rpartition(".")
    evil = evil.replace(b"cposix\nmkdir\n", f"c{module}\n{name}\n".encode())
    copy = rewritten(path, lambda name, data: evil if name.endswith("/data.pkl") else data)
    with pytest.raises(UserError, match=f"it asks for {call}, which holds no weights"):
        checkpoints.load_state(copy)
    assert not ran.exists()


def test_an_archive_cut_or_with_missing_bytes_ends_in_one_line(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Model()), path)
    copy = rewritten(path, lambda name, data: b"" if name.endswith("/data/1") else data)
    with pytest.raises(UserError, match=r"truncated, or .* plain bytes"):
        checkpoints.load_state(copy)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        checkpoints.load_state(path)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper):
    layer = nn.Linear(3, 2)
    state = {f"module.{key}": value for key, value in layer.state_dict().items()}
    optimiser = torch.optim.Adam(layer.parameters()).state_dict()
    torch.save({"epoch": 3, wrapper: state, "optimizer": optimiser}, tmp_path / "best.pth.tar")
    found = checkpoints.load_state(tmp_path / "best.pth.tar")
    assert found.keys() == {"weight", "bias"} and torch.equal(found["weight"], layer.weight)


def test_tensors_arrive_in_the_module_s_dtypes_and_leave_the_file_s(tmp_path):
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    state = checkpoints.load_state(tmp_path / "a.pt")
    with checkpoints.Unfilled():
        empty = nn.Sequential(nn.Linear(3, 2).half(), nn.BatchNorm1d(2))
    checkpoints.load_into(empty, state, "a.pt", device="cpu", release=True)
    assert state == {}
    assert empty[0].weight.dtype == torch.float16 and empty[1].running_mean.dtype == torch.float32
    assert torch.equal(empty[0].weight, layer[0].weight.half())
    assert empty[1].num_batches_tracked.dtype == torch.int64


def test_a_converted_file_is_read_in_place_of_its_original(tmp_path):
    path = tmp_path / "a.pt"
    shared = torch.randn(4, 3)
    state = {
        "head": shared,
        "embed": shared,
        "turned": torch.randn(2, 5).t(),
        "none": torch.zeros(0),
    }
    torch.save(state, path)
    twin = checkpoints.convert(path)
    assert twin.name == "a.pt.safetensors" and sorted(os.listdir(tmp_path)) == ["a.pt", twin.name]
    assert twin.stat().st_size < 2 * shared.nbytes + 800  # what is shared is in it once
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    path_bytes, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"x" * len(path_bytes))  # same size, same time: only the twin can be read
    os.utime(path, ns=times)
    found = checkpoints.load_state(path)
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    assert found["head"].data_ptr() == found["embed"].data_ptr()
    os.replace(tmp_path / "other.pt", path)  # another file: the twin no longer counts
    assert safetensors_twin.find(path) is None and checkpoints.load_state(path).keys() == {"other"}


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    torch.save({"weight": torch.ones(3)}, tmp_path / "a.pt")

    def full(state, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_twin, "save_file", full)
    with pytest.raises(OSError):
        checkpoints.convert(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    ("name", "guess"),
    {
        "audioclip_partial": "AudioCLIP",
        "clip_rn50": "CLIP RN50",
        "clip_vit_b32": "CLIP ViT-B/32",
        "clipcap_coco_transformer": "ClipCap with the transformer mapper",
        "clipcap_conceptual_mlp": "ClipCap with the MLP mapper",
        "guided_diffusion_256_uncond": "the 256 x 256 guided-diffusion UNet",
        "guided_diffusion_512_finetune": "the 512 x 512 guided-diffusion UNet",
        "mtt_hcnn": "MusCaps' HarmonicCNN",
        "mtt_musicnn": "MusCaps' MusiCNN",
        "muscaps_hcnn_clotho": "MusCaps",
    }.items(),
)
def test_every_published_model_is_recognised(name, guess):
    if not MANIFESTS.is_dir():
        pytest.skip("the manifests are not here: set ACGD_MANIFESTS to their folder")
    keys = json.loads((MANIFESTS / f"{name}.json").read_text())["keys"]
    state = {key: torch.empty(value["shape"], device="meta") for key, value in keys.items()}
    assert looks_like(state) == guess


def test_missing_weights_name_the_command_or_what_a_person_does(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(python run.py|acgd) fetch RN50.pt \(256 MB\)"):
        checkpoints.locate("RN50.pt")
    with pytest.raises(UserError, match=r"train it with scripts/train_muscaps\.py"):
        checkpoints.locate("muscaps_hcnn_clotho.pt")
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "vocab.json").write_text("{}")
    monkeypatch.chdir("/")
    assert checkpoints.locate("gpt2/vocab.json") == tmp_path / "gpt2" / "vocab.json"
    assert registry.gigabytes(999) == "999 bytes" and registry.gigabytes(2211383297) == "2.2 GB"


MEASURE = """
import sys, threading, time, torch
from torch import nn
from acgd.checkpoints import load as checkpoints

def anonymous():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024

def watch():
    while True:
        seen.append(anonymous())
        time.sleep(0.002)

def make(dtype=None):
    return nn.Sequential(*[nn.Linear(1024, 1024, bias=False, dtype=dtype) for _ in range(20)])

way, path = sys.argv[1:]
begun, seen = anonymous(), []
threading.Thread(target=watch, daemon=True).start()
if way == "naive":
    model = make()
    model.load_state_dict(torch.load(path, weights_only=True))
    model = model.half()
else:
    with checkpoints.Unfilled():
        model = make(torch.float16)
    checkpoints.load_into(model, checkpoints.load_state(path), path, device="cpu", release=True)
print(max(seen) - begun)
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells its memory there")
def test_loading_in_half_precision_holds_no_second_copy(tmp_path):
    """Memory of the process's own, in MiB at its peak: the halves alone are 40."""
    path = tmp_path / "a.pt"
    torch.save({f"{i}.weight": torch.rand(1024, 1024) for i in range(20)}, path)  # 80 MiB

    def measured(way: str) -> float:
        command = [sys.executable, "-c", MEASURE, way, str(path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert measured("ours") < 60
    assert measured("naive") > 140
