"""compile=: the same pictures through torch.compile, and without it where it cannot."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from conftest import compose
from PIL import Image, ImageChops
from torch import nn

from acgd.models.frozen import Conv2d, norm_silu
from acgd.models.unet import GroupNorm32, UNet
from acgd.pipeline import compiled, memory, models, runner
from acgd.runs.folder import status
from acgd.runs.run import expand, resolve

# torch cannot trace what slipcover has put its counters into
pytestmark = pytest.mark.skipif("slipcover" in sys.modules, reason="slipcover counts lines here")

SIZES = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1",
    "attention_resolutions": "", "class_cond": True, "num_classes": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_new(monkeypatch, tmp_path):
    """Nothing compiled by another test, and no files outside of this one's folder."""
    torch._dynamo.reset()
    monkeypatch.setattr(models.CACHE, "kept", {})
    monkeypatch.setenv(compiled.CACHE, str(tmp_path / "compiled"))


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    made = UNet(**SIZES)
    for value in made.parameters():
        nn.init.normal_(value, std=0.1)
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def both(unet: UNet) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network says, and a gradient of it."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = unet(x, torch.tensor([10.0, 500.0]), y=torch.tensor([0, 2]))
    return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]


def test_a_compiled_network_says_the_same_and_has_the_same_gradient(unet, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    keys, plain = list(unet.state_dict()), both(unet)
    compiled.set_compiled(unet, True)
    fast = unet.forward
    compiled.set_compiled(unet, True)  # as the next job of a sweep does
    assert unet.forward is fast and isinstance(unet, UNet) and list(unet.state_dict()) == keys
    for ours, theirs in zip(both(unet), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    compiled.set_compiled(unet, False)
    assert unet.forward.__func__ is UNet.forward


def test_a_compiler_that_fails_is_told_in_a_line(unet, monkeypatch, capsys):
    def broken(graph, inputs):
        raise OSError("no g++ here\nand more of that")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    plain = both(unet)
    compiled.set_compiled(unet, True)
    for _ in range(2):
        for ours, theirs in zip(both(unet), plain, strict=True):
            assert torch.equal(ours, theirs)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("acgd: compile: torch.compile failed, so it is done without: ")
    assert "no g++ here" in line


def test_a_mistake_of_ones_own_is_no_failure_of_the_compiler(unet, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    compiled.set_compiled(unet, True)
    with pytest.raises(ValueError, match="needs y, the class ids"):
        unet(torch.zeros(1, 3, 16, 16), torch.tensor([1.0]))


class Part(nn.Module):
    """A norm and a convolution as the networks have them."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = GroupNorm32(4, 8), Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(norm_silu(self.norm, x))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch's compiler needs g++")
def test_torch_s_own_compiler_and_its_absence(monkeypatch, capsys):
    """Values and gradients, by the real one; without a C++ compiler there is a line."""
    x = torch.randn(2, 8, 8, 8)

    def both(part):
        given = x.clone().requires_grad_()
        out = part(given)
        return out.detach(), torch.autograd.grad(out.square().sum(), given)[0]

    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    part = Part().eval().requires_grad_(False)
    plain = both(part)
    compiled.set_compiled(part, True, graphs=True)  # which a CPU has none of
    torch.testing.assert_close(both(part), plain)
    assert not capsys.readouterr().err
    compiled.set_compiled(part, False)
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    compiled.set_compiled(part, True)
    assert torch.equal(part(x + 1), Part.forward(part, x + 1))
    (line,) = capsys.readouterr().err.splitlines()
    assert "No working C++ compiler" in line


def test_a_torch_that_compiles_nothing_is_told_in_a_line(monkeypatch, capsys):
    def refuse(*given, **named):
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(torch, "compile", refuse)
    part = Part()
    plain = part(x := torch.randn(1, 8, 8, 8))
    compiled.set_compiled(part, True)
    assert torch.equal(part(x), plain)
    assert "not supported on Python 3.99" in capsys.readouterr().err


def test_small_models_are_cuda_graphs_on_a_gpu(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(compiled, "set_compiled", lambda module, *how: seen.append(how))
    cfg = resolve(compose(*tiny, "compile=true"))
    made = models.Models(cfg)
    made.device = "cuda"
    made._compile(cfg)
    monkeypatch.setattr(memory, "LARGE", 0)
    made._compile(cfg)
    assert [how for how in seen[::2]] == [(True, False), (True, True), (True, False)]


def test_a_job_draws_the_same_compiled(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")  # traced, and no more
    words = [*tiny, "logger=none", "prompt=text", "prompt.text=a dog", "preview_every=0"]
    words += ["guidance.through_unet=true"]
    pictures, folders = [], set()
    for how in ("false", "true"):
        cfg = compose(*words, f"compile={how}", f"outputs={tmp_path / how}")
        (sample,) = runner.make(expand(cfg))
        assert status(sample.run.folder) == "ok"
        pictures.append(Image.open(sample.run.folder / sample.picture).convert("RGB"))
        folders.add(sample.run.folder.name)
    assert len(folders) == 1  # how it is computed does not name a run
    assert max(high for _, high in ImageChops.difference(*pictures).getextrema()) <= 1


@pytest.mark.parametrize(
    ("how", "device", "steps", "wanted"),
    [(True, "cpu", 1, True), (False, "cuda", 1000, False), ("auto", "cpu", 1000, False),
     ("auto", "cuda:1", 999, False), ("auto", "cuda:1", 1000, True)],
)  # fmt: skip
def test_what_is_compiled(how, device, steps, wanted):
    assert compiled.wanted(how, device, steps) == wanted
