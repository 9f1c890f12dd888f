"""Sounds as picture embeddings, for unCLIP and IP-Adapters: held to diffusers' own pipelines."""

from __future__ import annotations

import json

import fit_bridge
import numpy as np
import pytest
import tiny_pipelines
import torch
from conftest import compose
from PIL import Image
from safetensors.torch import save_file

from acgd.diffusion.diffusers_model import DiffusersModel
from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.ddim import DDIM
from acgd.errors import UserError
from acgd.pipeline import runner
from acgd.pipeline.models import ModelCache, Models
from acgd.runs.folder import status
from acgd.runs.run import expand, resolve
from acgd.types import Target

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
WORDS = ["a dog", "rain in the snow"]


def vector(seed: int, size: int = 16) -> torch.Tensor:
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=0)


ROWS = [[Target(vector(i), 1.0, "text", words)] for i, words in enumerate(WORDS)]


@pytest.fixture(scope="module")
def unclip(tmp_path_factory):
    return tiny_pipelines.unclip(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return tiny_pipelines.sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    """From 16 numbers, the small encoder's, to the 12 of both models here."""
    generator = torch.Generator().manual_seed(3)
    state = {"weight": torch.randn(12, 16, generator=generator), "bias": torch.ones(12) * 0.1}
    path = tmp_path_factory.mktemp("bridge") / "bridge.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def adapter(sd, tmp_path_factory):
    """A plain adapter for `sd`, in one file as it is published."""
    network = diffusers.UNet2DConditionModel.from_pretrained(sd / "unet")
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    save_file(flat(tiny_pipelines.ip_adapter(network)), path)
    return path


def flat(parts: dict) -> dict:
    return {f"{part}.{k}": value for part, state in parts.items() for k, value in state.items()}


def drawn(model: DiffusersModel, x: torch.Tensor, scale: float = 4.0) -> torch.Tensor:
    sampler, cond = DDIM("6"), model.condition(ROWS, [None] * len(ROWS), "cpu")
    for step in sampler(model.denoiser(model.diffusion("6"), cond, scale), x, noise=Noise([0, 1])):
        x = step.x
    return x


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-4 * other.abs().max())


def embeds(model: DiffusersModel) -> torch.Tensor:
    return model.bridge(torch.stack([row[0].embed for row in ROWS]))


def test_unclip_is_told_of_a_picture_as_its_pipeline_tells_it(unclip, bridge):
    model = DiffusersModel(str(unclip), bridge=str(bridge))
    given, without = model.condition(ROWS, [None, None], "cpu")
    pipe = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(unclip)
    zeros = torch.zeros(2, 12)
    expected = pipe.noise_image_embeddings(embeds(model), 0, noise=zeros)
    assert given["classes"].shape == (2, 24) and torch.equal(given["classes"], expected)
    assert not without["classes"].any()
    noisy, _ = DiffusersModel(str(unclip), bridge=str(bridge), noise_level=400).condition(
        ROWS, [None, None], "cpu"
    )
    assert torch.equal(
        noisy["classes"], pipe.noise_image_embeddings(embeds(model), 400, noise=zeros)
    )


def test_unclip_draws_what_its_pipeline_draws(unclip, bridge, monkeypatch):
    model, x = DiffusersModel(str(unclip), bridge=str(bridge)), torch.randn(2, 4, 8, 8)
    pipe = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(unclip)
    pipe.set_progress_bar_config(disable=True)
    own = pipe.noise_image_embeddings
    quiet = lambda image_embeds, noise_level, generator=None: own(  # noqa: E731
        image_embeds, noise_level, noise=torch.zeros_like(image_embeds)
    )
    monkeypatch.setattr(pipe, "noise_image_embeddings", quiet)
    found = drawn(model, x)
    for rows, same in ((embeds(model), True), (embeds(model).flip(0), False)):
        expected = pipe(
            prompt=WORDS, image_embeds=rows, latents=x, num_inference_steps=6, guidance_scale=4.0,
            output_type="latent",
        ).images  # fmt: skip
        assert near(found, expected) == same


@pytest.fixture
def words(tiny, unclip, bridge, tmp_path):
    own = [word for word in tiny if not word.startswith(("model.", "sampler."))]
    return [*own, "model=diffusers", f"model.checkpoint={unclip}", f"model.bridge={bridge}",
            "sampler=ddim", "sampler.steps=3", "preview_every=0", f"outputs={tmp_path}/outputs",
            "logger=none", "guidance.cfg_scale=3", "guidance.clip=0"]  # fmt: skip


def test_two_sounds_are_two_pictures_from_wav_to_png(words, unclip, sounds, tmp_path, monkeypatch):
    """By a bridge that is fitted for it; the words are the same, so only the embeddings differ."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, colours in enumerate(np.random.default_rng(0).integers(0, 255, (20, 4, 4, 3), "uint8")):
        Image.fromarray(colours).resize((40, 40)).save(pictures / f"{i}.png")
    start = next(word for word in words if word.startswith("encoder."))
    path = tmp_path / "fitted.safetensors"
    fit_bridge.main(["--from", "tiny", start, "--to", str(unclip), "--pictures", str(pictures),
                     "--out", str(path), "--device", "cpu"])  # fmt: skip
    given = [*words, f"model.bridge={path}", f"prompt.path={sounds}", "heard=0"]
    given.append("prompt.template=a photo")
    runs = expand(compose(*given))
    runner.render(runs)
    assert [status(run.folder) for run in runs] == ["ok", "ok"]
    native = [np.asarray(Image.open(run.folder / "images/seed0-native.png"), int) for run in runs]
    assert np.abs(native[0] - native[1]).max() > 0
    kinds = [json.loads((run.folder / "targets.json").read_text()) for run in runs]
    assert kinds[0] != kinds[1]


def test_two_directions_are_two_conditions(unclip, bridge):
    model = DiffusersModel(str(unclip), bridge=str(bridge))
    same = [[Target(vector(seed), 1.0, "audio", "a.wav")] for seed in (4, 5, 4)]
    given, _ = model.condition(same, [None] * 3, "cpu")
    one, other, again = given["classes"]
    assert torch.equal(one, again) and (one - other).abs().max() > 0.1
    assert torch.equal(given["words"][0], given["words"][1])
    (alone,) = model.condition(same[1:2], [None], "cpu")[0]["classes"]
    assert torch.allclose(alone, other, atol=1e-6)  # in any batch


def refused(*words: str) -> str:
    """What building the models says, before anything is heard or drawn."""
    with pytest.raises(UserError) as error:
        Models(resolve(compose(*words)), ModelCache())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_bridge_that_is_missing_or_wrong_is_one_line(words, sd, bridge, tmp_path):
    assert "takes picture embeddings: model.bridge= leads there" in refused(
        *words, "model.bridge=null"
    )
    assert "takes no picture embeddings" in refused(*words, f"model.checkpoint={sd}")
    assert "are not here" in refused(*words, "model.bridge=elsewhere.safetensors")
    wrong = {
        "is no bridge": {"weight": torch.zeros(12, 16), "bias": torch.zeros(11)},
        "ends at 11 numbers": {"weight": torch.zeros(11, 16), "bias": torch.zeros(11)},
        "(NaN)": {"weight": torch.full((12, 16), torch.nan), "bias": torch.zeros(12)},
    }
    for line, state in wrong.items():
        save_file(state, tmp_path / "wrong.safetensors")
        assert line in refused(*words, f"model.bridge={tmp_path}/wrong.safetensors")


def test_a_bridge_of_another_encoder_is_one_line(unclip, tmp_path):
    state = {"weight": torch.zeros(12, 7), "bias": torch.zeros(12)}
    save_file(state, tmp_path / "wrong.safetensors")
    model = DiffusersModel(str(unclip), bridge=str(tmp_path / "wrong.safetensors"))
    with pytest.raises(UserError, match="begins at 7 numbers, the encoder's embeddings have 16"):
        model.condition(ROWS, [None, None], "cpu")


def test_an_adapter_draws_what_diffusers_draws_with_it(sd, adapter, bridge):
    x = torch.randn(2, 4, 8, 8)
    model = DiffusersModel(str(sd), bridge=str(bridge), ip_adapter=str(adapter), ip_scale=0.7)
    none = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd, **none)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(
        str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None
    )
    pipe.set_ip_adapter_scale(0.7)
    found = drawn(model, x)
    for i, row in enumerate(
        embeds(model)[:, None, None]
    ):  # one by one: a pipeline repeats pictures
        expected = pipe(
            WORDS[i], latents=x[i : i + 1], num_inference_steps=6, guidance_scale=4.0,
            output_type="latent", ip_adapter_image_embeds=[torch.cat([torch.zeros_like(row), row])],
        ).images  # fmt: skip
        assert near(found[i : i + 1], expected)


def test_an_adapter_s_scale_is_how_much_it_counts(sd, adapter, bridge):
    x, given = torch.randn(2, 4, 8, 8), {"bridge": str(bridge), "ip_adapter": str(adapter)}
    without = drawn(DiffusersModel(str(sd)), x)
    off, half, full = (
        drawn(DiffusersModel(str(sd), ip_scale=scale, **given), x) for scale in (0.0, 0.5, 1.0)
    )
    assert near(off, without)
    assert not near(half, without) and not near(full, half)


def test_an_adapter_as_it_is_published_in_a_bin(sd, adapter, bridge, tmp_path):
    network = diffusers.UNet2DConditionModel.from_pretrained(sd / "unet")
    torch.save(tiny_pipelines.ip_adapter(network), tmp_path / "adapter.bin")
    x = torch.randn(2, 4, 8, 8)
    one, other = (
        drawn(DiffusersModel(str(sd), bridge=str(bridge), ip_adapter=str(path)), x)
        for path in (adapter, tmp_path / "adapter.bin")
    )
    assert torch.equal(one, other)


def test_a_wrong_adapter_is_one_line(words, sd, unclip, adapter, bridge, tmp_path):
    network = diffusers.UNet2DConditionModel.from_pretrained(sd / "unet")
    good, path = tiny_pipelines.ip_adapter(network), tmp_path / "wrong.safetensors"
    ours = [*words, f"model.checkpoint={sd}", f"model.ip_adapter={path}"]
    assert "are not here" in refused(*ours)
    assert "takes picture embeddings" in refused(
        *ours, f"model.ip_adapter={adapter}", "model.bridge=null"
    )

    def said(image_proj: dict, ip_adapter: dict) -> str:
        save_file(flat({"image_proj": image_proj, "ip_adapter": ip_adapter}), path)
        return refused(*ours)

    projection, attends = good["image_proj"], good["ip_adapter"]
    plus = {"latents": torch.zeros(1, 16, 8), "proj_in.weight": torch.zeros(8, 12)}
    assert "(Plus, Full, Face)" in said(plus, attends)
    fewer = {name: value for name, value in attends.items() if not name.startswith("1.")}
    assert "it is for 3 layers that attend to 16 numbers, and here are 4 of 16" in said(
        projection, fewer
    )
    wide = projection | {"proj.weight": torch.zeros(4 * 32, 12)}
    assert "attend to 32 numbers" in said(wide, attends)
    narrow = attends | {name: value[:-1] for name, value in attends.items()}
    assert "does not fit this network" in said(projection, narrow)
    broken = attends | {"1.to_k_ip.weight": torch.full_like(attends["1.to_k_ip.weight"], torch.inf)}
    assert "(NaN)" in said(projection, broken)
    save_file({"weight": torch.zeros(2, 2)}, path)
    assert "is no IP-Adapter" in refused(*ours)
    path.write_bytes(b"nothing")
    assert "is no IP-Adapter" in refused(*ours)


def test_an_adapter_for_a_transformer_is_one_line(adapter, bridge, tmp_path):
    folder = tiny_pipelines.sd3(tmp_path / "sd3")
    with pytest.raises(UserError, match="is for Stable Diffusion's UNets, and this model is a SD3"):
        DiffusersModel(str(folder), bridge=str(bridge), ip_adapter=str(adapter))
