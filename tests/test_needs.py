"""What a run will need: counted on models without numbers, and refused where it is not there."""

from __future__ import annotations

import pytest
import torch
from conftest import compose

from acgd.errors import UserError
from acgd.pipeline import device, memory, models
from acgd.runs.run import resolve


@pytest.fixture
def cfg(tiny, monkeypatch):
    """A guided run of the small models, taken for large ones."""
    monkeypatch.setattr(memory, "LARGE", 0)
    settings = ["guidance.through_unet=true", "guidance.num_cutouts=8", "batch_size=4"]
    return resolve(compose(*tiny, *settings))


def test_options_that_save_memory_need_less(cfg):
    need = lambda **own: memory.memory(  # noqa: E731
        {**cfg, "guidance": cfg["guidance"] | own}, "cpu", "float32"
    )
    assert need() > need(cutout_chunk=1) > need(cutout_chunk=1, through_unet=False) > 0
    assert need() > memory.memory({**cfg, "batch_size": 1}, "cpu", "float32")
    assert need() > memory.memory(cfg, "cuda", "float32")


def test_a_run_that_fits_is_told_in_one_line(cfg, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e12)
    memory.check(cfg, "cpu", "float32")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "1000 GB are free" in said


def test_a_run_that_cannot_fit_names_what_would(cfg, monkeypatch):
    smaller = memory.memory({**cfg, "batch_size": 1}, "cpu", "float32")
    monkeypatch.setattr(memory, "free_memory", lambda device: smaller)
    with pytest.raises(UserError, match=r"batch_size=1 needs") as caught:
        memory.check(cfg, "cpu", "float32")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e6)
    with pytest.raises(UserError, match="take a smaller model"):
        memory.check(cfg, "cpu", "float32")


def test_small_models_are_not_looked_into(cfg, capsys, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 300_000_000)
    monkeypatch.setattr(memory, "memory", lambda *_: pytest.fail("counted"))
    memory.check(cfg, "cpu", "float32")
    assert capsys.readouterr().err == ""


def test_memory_is_counted_before_models_load_and_only_once(cfg, monkeypatch):
    order = []
    monkeypatch.setattr(models.CACHE, "kept", {})
    monkeypatch.setattr(memory, "check", lambda *_: order.append("check"))
    monkeypatch.setattr(
        models, "make", lambda *a, make=models.make, **k: (order.append("make"), make(*a, **k))[1]
    )
    models.Models(cfg)
    models.Models(cfg)
    assert order == ["check", *["make"] * 5]  # model, encoder, judge, describer, captioner


@pytest.mark.parametrize("large, crowded", [(True, True), (True, False), (False, False)])
def test_towers_leave_the_device_only_where_a_step_needs_their_room(
    cfg, large, crowded, monkeypatch
):
    made, parked = models.Models(cfg), []
    needed = memory.MARGIN * memory.activations(cfg, made.precision)
    assert needed < memory.memory(cfg, "cuda", made.precision)  # that has the weights, too
    monkeypatch.setattr(memory, "LARGE", 0 if large else 300_000_000)
    monkeypatch.setattr(memory, "free_memory", lambda device: needed - 1 if crowded else needed)
    monkeypatch.setattr(type(made.encoder), "park", lambda *_: parked.append(True))
    made.make_room()
    assert not parked  # a CPU has nowhere to put them
    made.device = "cuda"
    made.make_room()
    assert len(parked) == 2 * crowded  # of encoder and judge


def test_free_memory_is_told_here():
    free = memory.free_memory("cpu")
    assert free is None or 1e6 < free < 1e15


@pytest.mark.parametrize(
    "instructions, bf16, pays, large, expected",
    [
        ("AVX512", True, True, True, "bfloat16"),
        ("AVX512", True, True, False, "float32"),  # small models are bound by calls
        ("AVX512", True, False, True, "float32"),  # it is there, at half the speed
        ("AVX512", False, True, True, "float32"),  # AVX512 alone computes it a number at a time
        ("AVX2", True, True, True, "float32"),  # PyTorch was told not to use what is there
    ],
)
def test_auto_is_bf16_for_large_models_where_the_processor_computes_in_it(
    cfg, monkeypatch, instructions, bf16, pays, large, expected
):
    monkeypatch.setattr(device, "bf16_pays", lambda: pays)
    monkeypatch.setattr(device, "capability", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert device.pick_precision("auto", "cpu", large) == expected
    assert device.pick_precision("fp32", "cpu", large) == "float32"


def test_whether_bf16_pays_is_what_the_processor_says_of_itself(monkeypatch):
    began = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for slow, pays in ((torch.bfloat16, False), (torch.float32, True)):
        clock = [0.0]

        def convolve(x, weight, padding, clock=clock, slow=slow):
            clock[0] += 2.0 if x.dtype == slow else 1.0
            began[x.dtype] += 1

        monkeypatch.setattr(torch.nn.functional, "conv2d", convolve)
        monkeypatch.setattr(device.time, "perf_counter", lambda clock=clock: clock[0])
        assert device.bf16_pays.__wrapped__() == pays
    assert began[torch.float32] == began[torch.bfloat16] == 2 * device.TRIES


def test_models_are_large_or_not_by_their_file(cfg, monkeypatch):
    assert memory.is_large(cfg)
    monkeypatch.setattr(memory, "LARGE", 300_000_000)
    assert not memory.is_large(cfg)
