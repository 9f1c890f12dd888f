"""What pipelines of diffusers will need: counted on their configs, before any weight is read."""

from __future__ import annotations

import json
import re

import pytest
import sd15
import tiny_pipelines
import torch
from conftest import ROOT, compose
from safetensors.torch import save_file
from small import kept_bytes

from acgd.diffusion import pipeline_files
from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.errors import UserError
from acgd.pipeline import counting, memory, models, pipelines
from acgd.runs.run import resolve, signature

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
KINDS = ("sd", "sdxl", "sd3", "pixart", "unclip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    diffusers.utils.logging.set_verbosity_error()
    make = {name: getattr(tiny_pipelines, name) for name in KINDS}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in make.items()}


@pytest.fixture
def cfg(tiny, folders, monkeypatch):
    """cfg(*overrides): a run of a small pipeline, taken for a large one."""
    monkeypatch.setattr(memory, "LARGE", 0)
    own = [word for word in tiny if not word.startswith("model.")]
    pipeline = ["model=diffusers", f"model.checkpoint={folders['sd']}"]
    return lambda *more: resolve(compose(*own, *pipeline, *more))


def need(cfg: dict, device: str = "cpu") -> float:
    return memory.memory(cfg, device, "float32")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_the_model_holds(folders, kind, tmp_path):
    save_file(
        {"weight": torch.ones(12, 16), "bias": torch.ones(12)}, tmp_path / "bridge.safetensors"
    )
    bridge = str(tmp_path / "bridge.safetensors") if kind == "unclip" else None
    model = DiffusersModel(str(folders[kind]), bridge=bridge)
    node = memory.frozen({"checkpoint": str(folders[kind])})
    counted = pipelines.needs(node, "float32", "full", True)
    assert counted.network == counting.stored(model.unet) > 0
    assert counted.vae == counting.stored(model.vae) > 0
    texts = [part for name, part in model.pipe.components.items() if name.startswith("text_enc")]
    assert counted.texts == sum(counting.stored(part) for part in texts if part is not None)
    assert counted.told.peak > counted.told.kept > 0
    assert counted.seen.peak > counted.seen.kept > counted.shown > 0


def test_the_meta_device_counts_what_numbers_take():
    vae = tiny_pipelines.vae().requires_grad_(False)
    run = lambda z: vae.decode(z).sample  # noqa: E731
    real = counting.back_bytes(run, torch.randn(1, 4, 8, 8))
    vae.to("meta")
    with counting.fused_attention():
        assert counting.back_bytes(run, torch.empty(1, 4, 8, 8, device="meta")) == real
    layer = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU()).to("meta")
    x = torch.empty(250, device="meta")
    assert counting.passing_bytes(layer, x) == 2 * 1000  # one comes, one goes
    assert counting.back_bytes(layer, x) == (2 * 1000, 5 * 1000)  # and three gradients


def test_options_that_save_memory_need_less(cfg):
    plain = cfg("guidance.through_unet=true", "batch_size=8")

    def changed(*, model=None, guidance=None, **own):
        nodes = {"model": plain["model"] | (model or {}), "guidance": plain["guidance"] | guidance}
        return plain | nodes | own

    less = lambda model=None, device="cpu", **guidance: need(  # noqa: E731
        changed(model=model, guidance=guidance), device
    )
    linear = {"decoder": "linear"}
    assert need(plain) > less({"use_checkpoint": True}) > 0
    assert need(plain) > less(**linear) > less(**linear, through_unet=False)
    assert less(**linear) == less(**linear, cfg_scale=3) > less(**linear, cfg_scale=1)
    assert less(**linear, cfg_scale=1) == less(**linear, cfg_scale=0)
    assert less(device="cuda") < need(plain)  # the text encoders wait
    assert need(changed(guidance={}, batch_size=1)) < need(plain)


def test_a_run_that_cannot_fit_names_what_would(cfg, monkeypatch):
    run = cfg("batch_size=2", "guidance.through_unet=true")
    offered = [said for said, _, _ in memory.alternatives(run, "cpu", "float32")][-1]
    assert offered == ["batch_size=1", "guidance.cutout_chunk=1", "precision=bf16",
                       "model.use_checkpoint=true", "model.tiling=true", "guidance.decoder=linear",
                       "guidance.through_unet=false"]  # fmt: skip
    monkeypatch.setattr(memory, "free_memory", lambda device: need(run) - 1)
    with pytest.raises(UserError, match=r"memory on cpu.*: batch_size=1 needs"):
        memory.check(run, "cpu", "float32")


def test_only_files_that_are_read_make_a_pipeline_large(folders, tmp_path, monkeypatch):
    home = sd15.write(tmp_path / "whole")
    node = {"_target_": "acgd.diffusion.diffusers_model.DiffusersModel", "checkpoint": str(home)}
    for name, size in {
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors": 100,
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors": 50,
        "unet/diffusion_pytorch_model.fp16.safetensors": 10_000,
        "unet/diffusion_pytorch_model.non_ema.safetensors": 10_000,
        "vae/diffusion_pytorch_model.bin": 7,
        "text_encoder/model.safetensors": 3,
        "text_encoder/pytorch_model.bin": 10_000,
        "safety_checker/model.safetensors": 10_000,
        "v1-5-pruned.safetensors": 10_000,
    }.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(bytes(size))
    assert memory.size_on_disk({"model": node}) == 160
    monkeypatch.setattr(memory, "LARGE", 161)
    assert not memory.is_large({"model": node})
    assert memory.is_large({"model": node | {"checkpoint": "nobody/has-this"}})  # yet to be fetched
    snapshot = tmp_path / "hub" / "models--some--one" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    home.rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert memory.size_on_disk({"model": node | {"checkpoint": "some/one"}}) == 160


def test_a_damaged_pipeline_counts_nothing_and_does_not_break(tmp_path):
    home = sd15.write(tmp_path)
    (home / "unet" / "config.json").write_text("{")
    node = memory.frozen({"checkpoint": str(home)})
    assert pipelines.needs(node, "float32", "full", True) == pipelines.Needs()
    other = sd15.write(tmp_path / "other")
    index = (other / "model_index.json").read_text()
    (other / "model_index.json").write_text(index.replace('"diffusers"', '"os"'))
    node = memory.frozen({"checkpoint": str(other)})  # nothing else is imported
    assert pipelines.needs(node, "float32", "full", True) == pipelines.Needs()


def test_a_kind_that_is_refused_counts_nothing(tmp_path):
    parts = {"transformer": diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4)), "vae": tiny_pipelines.vae()}  # fmt: skip
    index = {"_class_name": "FluxPipeline"}
    for name, part in parts.items():
        part.save_config(tmp_path / name)
        index[name] = ["diffusers", type(part).__name__]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    node = memory.frozen({"checkpoint": str(tmp_path)})
    assert pipelines.needs(node, "float32", "full", True) == pipelines.Needs()


def test_how_it_is_computed_is_beside_the_point(cfg):
    plain = cfg()
    ways = ({"batch_size": "auto"}, {"model": plain["model"] | {"use_checkpoint": True}})
    assert {signature(plain | way) for way in ways} == {signature(plain)}
    assert signature(plain | {"model": plain["model"] | {"tiling": True}}) != signature(plain)


def test_attention_is_fused(folders):
    model = DiffusersModel(str(folders["sd"]))
    kinds = {type(one).__name__ for one in model.unet.network.attn_processors.values()}
    kinds |= {type(one).__name__ for one in model.vae.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}


@pytest.mark.parametrize("kind", ["sd", "sd3", "pixart"])
def test_checkpoints_keep_less_and_change_no_gradient(folders, kind):
    found = []
    for more in ({}, {"use_checkpoint": True}):
        model = DiffusersModel(str(folders[kind]), **more)
        told = pipelines.condition(model.unet.network.config)
        torch.manual_seed(0)
        told = {name: torch.randn(v.shape) if v.dim() > 2 else torch.ones(v.shape)
                for name, v in told.items()}  # fmt: skip
        run = lambda x, m=model, c=told: m.decode(m.unet(x, torch.tensor([5]), c))  # noqa: E731
        whole = torch.nn.ModuleList([model.unet, model.vae])
        x = torch.randn(1, 4, 8, 8)
        (gradient,) = torch.autograd.grad(run(x.requires_grad_()).square().sum(), x)
        found.append((kept_bytes(whole, run, x.detach()), gradient))
    assert found[1][0] < found[0][0] / 2
    assert found[1][1].equal(found[0][1]) and found[0][1].abs().sum() > 0


def test_only_an_xl_in_fp16_decodes_in_float32():
    config = {"force_upcast": True}
    dtype = pipeline_files.pixels_dtype
    assert dtype("StableDiffusionXLPipeline", config, torch.float16) == torch.float32
    assert dtype("StableDiffusionXLPipeline", config, torch.bfloat16) == torch.bfloat16
    assert dtype("StableDiffusionPipeline", config, torch.float16) == torch.float16


def test_the_batch_is_the_largest_that_fits(cfg, monkeypatch):
    run = cfg("batch_size=auto", "guidance.decoder=linear", "precision=fp32")
    limit = need(run | {"batch_size": 4})
    monkeypatch.setattr(memory, "free_memory", lambda device: limit)
    assert memory.batch_size(run, "cpu", "float32") == 4
    monkeypatch.setattr(models.CACHE, "kept", {})
    assert models.Models(run).batch_size == 4
    assert models.Models(run | {"batch_size": 3}).batch_size == 3
    monkeypatch.setattr(memory, "free_memory", lambda device: 1.0)
    assert memory.batch_size(run, "cpu", "float32") == 1
    monkeypatch.setattr(memory, "LARGE", 1e12)
    assert memory.batch_size(run, "cpu", "float32") == 8


def test_the_readme_s_table_is_what_is_counted(tmp_path):
    """Stable Diffusion 1.5 at its own 512 pixels, in fp16 on a GPU; tiles take long to count."""
    cfg = resolve(compose("model=diffusers", f"model.checkpoint={sd15.write(tmp_path)}",
                          "guidance.cfg_scale=7.5", "batch_size=1"))  # fmt: skip
    page = (ROOT / "acgd" / "diffusion" / "README.md").read_text(encoding="utf-8")
    for row, decoder, more, ways in (
        ("`guidance.decoder=linear`", "linear", {}, (False, True)),
        (
            "`guidance.decoder=full model.use_checkpoint=true`",
            "full",
            {"use_checkpoint": True},
            (False,),
        ),
    ):
        run = cfg | {"model": cfg["model"] | more}
        told = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) \| ([\d.]+) \|", page, re.M)
        for through, size in zip(ways, told.groups(), strict=False):
            run["guidance"] |= {"decoder": decoder, "through_unet": through}
            counted = memory.memory(run, "cuda", "float16") / 1e9
            assert counted == pytest.approx(float(size), abs=0.06) and counted < 8
