"""golden/guidance: losses, cutouts, the gradient of a small CLIP's guidance through a small UNet,
and whole guided runs. The notebook's ways, so Noise.shared and audio_weights="text"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.diffusion.denoiser import Denoiser
from acgd.diffusion.guidance.cutouts import cut, draw_boxes
from acgd.diffusion.guidance.guidance import Guidance
from acgd.diffusion.guidance.losses.clip import ClipDistance, spherical_distance
from acgd.diffusion.guidance.losses.range import OutOfRange
from acgd.diffusion.guidance.losses.tv import TotalVariation
from acgd.diffusion.noise import Noise
from acgd.diffusion.samplers.ddim import DDIM
from acgd.diffusion.samplers.ddpm import DDPM
from acgd.diffusion.samplers.guided import guided
from acgd.diffusion.samplers.plms import PLMS
from acgd.errors import UserError
from acgd.media.preprocess import normalise
from acgd.models.clip import CLIP
from acgd.models.tokenizer import tokenizer
from acgd.models.unet import UNet
from acgd.prompts.text import normalised, parse_as_notebook
from acgd.types import Target
from reference.diffusion import process
from reference.fill import fill_
from reference.inputs import cotangent, evaluate, find_calls, prefix

KINDS = ("guidance",)
CASE_DEPTH = 2


def compute(meta: dict, arrays) -> Iterator[tuple[str, np.ndarray | Tensor]]:
    for name, case in meta.get("cutouts", {}).get("cases", {}).items():
        yield from _cutouts(name, case, meta["cutouts"]["arrays"])
    if "losses" in meta:
        yield from _losses(meta["losses"])
    if "cond" in meta:
        notebook = Notebook(meta["cond"], prefix(meta["weights"]))
        yield from _gradients(meta, notebook, arrays.files)
        for name, run in meta.get("run", {}).items():
            yield from _run(name, run, meta["run_settings"], notebook)


def checks(meta: dict) -> Iterator[tuple[str, bool]]:
    for prompt, expected in meta.get("parse_prompt", []):
        try:
            parsed = list(parse_as_notebook(prompt))
        except UserError:
            parsed = "ValueError"
        yield f"parse_prompt.{prompt}", parsed == expected


def _cutouts(name: str, case: dict, said: str) -> Iterator[tuple[str, np.ndarray | Tensor]]:
    x = evaluate(case["input"]).requires_grad_()
    seed, count, size = case["torch.manual_seed"], case["cutn"], case["cut_size"]
    boxes = draw_boxes(Noise.shared(seed), count, *x.shape[2:], size, case["cut_pow"])
    out = cut(x, boxes, size)
    yield f"cutouts.{name}.draws", boxes[0]
    yield f"cutouts.{name}.u", _uniform_draws(seed, boxes[0], *x.shape[2:])
    yield f"cutouts.{name}.out", out
    (out * cotangent(said, out, CASE=name)).sum().backward()
    yield f"cutouts.{name}.grad", x.grad


def _uniform_draws(seed: int, boxes: Tensor, height: int, width: int) -> np.ndarray:
    """The u behind each box: what the generator gives between the boxes' offsets."""
    generator, found = torch.Generator().manual_seed(seed), []
    for side, _, _ in boxes.tolist():
        found.append(float(torch.rand([], generator=generator)))
        torch.randint(0, width - side + 1, (), generator=generator)
        torch.randint(0, height - side + 1, (), generator=generator)
    return np.array(found)


def _losses(described: dict) -> Iterator[tuple[str, Tensor]]:
    text = described["spherical"]
    a, b = (evaluate(call) for call in find_calls(text)[:2])
    out = spherical_distance(a.requires_grad_(), b)
    yield "spherical.out", out
    (out * cotangent(text, out)).sum().backward()
    yield "spherical.grad", a.grad
    rows = [
        [float(v) for v in row.split(",")] for row in re.findall(r"\(([-\d,. ]+)\)(?=/| |$)", text)
    ]
    rows = torch.tensor([row for row in rows if len(row) == 3][-2 * (len(rows) // 2) :])
    yield "spherical.special", spherical_distance(*rows.chunk(2))
    for call in find_calls(described["tv, range, normalize"]):
        name = re.search(r"\.(\w+)'", call)[1]
        for loss, function in (("tv", TotalVariation()), ("range", OutOfRange())):
            x = evaluate(call).requires_grad_()
            yield f"{loss}.{name}", function(x)
            yield f"{loss}.{name}.grad", torch.autograd.grad(function(x).sum(), x)[0]
        yield f"normalize.{name}", normalise(evaluate(call))[..., :4, :4]


class SmallEncoder:
    """The file's CLIP as guidance wants an encoder."""

    def __init__(self, model: CLIP, image_size: int):
        self.model, self.image_size = model, image_size

    def image(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(normalise(pixels)), dim=-1)


class Notebook:
    """The models, prompts and settings of the file, put together as the notebook does."""

    def __init__(self, cond: dict, prefix: str):
        self.cond, self.settings = cond, cond["settings"]
        self.diffusion = process(cond["diffusion"])
        self.unet = _filled(UNet(**cond["unet"]["create_model"]), prefix)
        self.clip = _filled(CLIP(**cond["clip"]), prefix)
        self.encoder = SmallEncoder(self.clip, cond["cut_size"])
        texts, weights = zip(*map(parse_as_notebook, cond["prompts"]), strict=True)
        self.weights = normalised(weights, texts)
        with torch.no_grad():
            tokens = tokenizer(self.clip.context_length)(list(texts))
            self.text_embeds = self.clip.encode_text(tokens)
        self.audio = F.normalize(evaluate(cond["audio_embedding"]), dim=-1)
        self.batch = len(evaluate(cond["x"]))

    def network(self, x: Tensor, ts: Tensor) -> Tensor:
        """A closed-form denoiser with the UNet's output as a disturbance."""
        u = (ts / 1000)[:, None, None, None]
        scale = 1e-4 + 0.1 * u + 9.95 * u**2
        e = (x - torch.exp(-scale / 2) * 0.8 * torch.sin(x + u)) / torch.sqrt(-torch.expm1(-scale))
        o = self.unet(x, ts)
        return torch.cat([e + 0.5 * torch.exp(-scale / 2) * o[:, :3], torch.tanh(o[:, 3:])], 1)

    def denoiser(self, diffusion) -> Denoiser:
        return Denoiser(self.network, diffusion)

    def guidance(self, diffusion, noise: Noise, weights: list[float], **changed) -> Guidance:
        """`changed` are settings under the notebook's names."""
        s = self.settings | changed
        share = s["LOSS_PROP_TEXT"]
        embeds = F.normalize(self.text_embeds, dim=-1)
        targets = [Target(e, share * w, "text", "") for e, w in zip(embeds, weights, strict=True)]
        targets += [Target(e, 1 - share, "audio", "") for e in self.audio]
        cuts = {"num_cutouts": s["cutn"], "cut_pow": s.get("cut_pow", 1.0)}
        rows = [targets] * self.batch
        clip = ClipDistance(self.encoder, rows, noise, **cuts, audio_weights="text")
        losses = {"tv": TotalVariation(), "clip": clip, "range": OutOfRange()}
        scales = {"tv": "tv_scale", "clip": "clip_guidance_scale", "range": "range_scale"}
        return Guidance(diffusion, losses, {name: s[scale] for name, scale in scales.items()})


def _filled(model: torch.nn.Module, prefix: str) -> torch.nn.Module:
    fill_(model.state_dict(), prefix)
    return model.eval().requires_grad_(False)


def _gradients(meta: dict, notebook: Notebook, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    yield "cond.text_embeds", notebook.text_embeds
    yield "cond.weights", torch.tensor(notebook.weights)
    cond, x = notebook.cond, evaluate(notebook.cond["x"])
    base = int(re.search(r"manual_seed\((\d+)", cond["seed"])[1])
    negative = json.loads(re.search(r"\[.*?\]", cond.get("negative_sum weights", "[]"))[0])
    for name in names:
        if match := re.fullmatch(r"cond\.t(\d+)\.pred_xstart", name):
            t = torch.full((len(x),), int(match[1]))
            yield name, guided(notebook.denoiser(notebook.diffusion), x, t).pred.x0
        elif match := re.fullmatch(r"cond\.(\w+)\.t(\d+)\.grad", name):
            variant, t = meta["cond_variants"][match[1]], torch.full((len(x),), int(match[2]))
            own = variant["weights"].startswith("the prompts")
            weights = notebook.weights if own else normalised(negative, cond["prompts"])
            noise, changed = Noise.shared(base + int(match[2])), variant["settings changed"]
            guide = notebook.guidance(notebook.diffusion, noise, weights, **changed)
            yield name, -guided(notebook.denoiser(notebook.diffusion), x, t, guide).grad


def _run(name: str, run: dict, settings: dict, notebook: Notebook) -> Iterator[tuple[str, Tensor]]:
    create = notebook.cond["diffusion"] | {"timestep_respacing": run["timestep_respacing"]}
    diffusion, skip = process(create), run["skip_timesteps"]
    noise = Noise.shared(settings["torch.manual_seed"])
    init = evaluate(run["init_image"]) if run["init_image"] else None
    like = evaluate(notebook.cond["x"])
    x = diffusion.start(noise.like(like), init, skip)
    changed = {k: v for k, v in run.items() if k in notebook.settings}
    guide = notebook.guidance(diffusion, noise, notebook.weights, **changed)
    method = run["loop"].split("_sample_loop")[0]
    sampler = {"p": DDPM, "ddim": DDIM, "plms": PLMS}[method]()
    denoiser = notebook.denoiser(diffusion)
    steps = list(sampler(denoiser, x, noise=noise, guide=guide, start=skip))
    yield f"run.{name}.first_sample", steps[0].x
    yield f"run.{name}.final_sample", steps[-1].x
    yield f"run.{name}.final_pred_xstart", steps[-1].x0
    norms = [[float(v.double().norm()) for v in (step.x, step.x0)] for step in steps]
    yield f"run.{name}.norms", np.array(norms)
