"""What acgd answers to the golden files about ClipCap: mappers, GPT-2 over a prefix, decoding."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from acgd.captioners import decoding
from acgd.models.clipcap import TIED, ClipCap
from reference import fill, inputs
from reference.parts import part, whole

KINDS = ("clipcap",)
CASE_DEPTH = 2


@torch.no_grad()
def compute(meta: dict, arrays: dict) -> Iterator[tuple[str, object]]:
    """(name, value) for each array of the file."""
    for tag, case in meta["cases"].items():
        model = build(case, meta["weights"])
        names = [name for name in arrays if name.startswith(f"{tag}.")]
        for entry in sorted({name.split(".")[1] for name in names} - {"forward"}):
            of = [name for name in names if name.startswith(f"{tag}.{entry}.")]
            yield from entry_of(model, case, entry, of, arrays)
        if f"{tag}.forward.tokens" in names:
            yield from forward(model, case, tag, arrays)


def build(case: dict, weights: dict) -> ClipCap:
    size = dict(case["gpt2"])
    if (size.pop("activation"), size.pop("layer_norm_epsilon")) != ("gelu_new", 1e-5):
        raise ValueError("this GPT-2 is not as published")
    keys = ("mapper", "prefix_size", "prefix_length")
    keys += ("clip_length", "num_layers", "num_heads", "mlp_ratio")
    model = ClipCap(**{key: case[key] for key in keys if key in case}, **size).eval()
    state = model.state_dict()
    fill.fill_(state, inputs.prefix(weights), tied=(TIED,))
    changed = next((v for k, v in weights.items() if k.startswith("after the fill")), {})
    for ending, factor in changed.items():
        for key, value in state.items():
            if key.endswith(ending):
                value.mul_(factor)
    return model


def entry_of(
    model: ClipCap, case: dict, entry: str, names: list[str], arrays: dict
) -> Iterator[tuple[str, object]]:
    """The arrays TAG.eJ.*: the prefix of one embedding and what is said of it."""
    text = case["clip embedding"]
    call = inputs.find_calls(text)[0]
    embed = inputs.evaluate(re.sub(r"J(?=')", entry[1:], call))
    if "L2 norm" in text:
        embed = F.normalize(embed, dim=-1)
    prefix = model.prefix(embed)
    beams: dict[tuple[int, int], list[Tensor]] = {}
    for name in names:
        parts = name.split(".")[2:]
        if parts[0] == "prefix":
            yield name, part(prefix, whole(name)[1], arrays[name])
        elif parts[1] == "generate2":
            stop = int(parts[0].removeprefix("stop"))
            yield name, decoding.greedy(model, prefix, stop, case["entry_length"])[0]
        else:
            key = int(parts[0].removeprefix("stop")), int(parts[1].removeprefix("beam"))
            if key not in beams:
                stop, width = key
                found = decoding.beams(model, prefix, stop, case["entry_length"], width)
                beams[key] = found[0]
            yield name, beams[key][int(parts[2])]


def forward(model: ClipCap, case: dict, tag: str, arrays: dict) -> Iterator[tuple[str, object]]:
    """Logits over prefix and stored tokens, without a mask and with the second row's end masked."""
    stored = arrays[f"{tag}.forward.tokens"]
    tokens = torch.from_numpy(stored)
    embeds = inputs.evaluate(inputs.find_calls(case["forward"])[0])
    yield f"{tag}.forward.tokens", stored
    for name in arrays:
        if name.startswith(f"{tag}.forward.logits"):
            yield name, part(model(tokens, embeds), whole(name)[1], arrays[name])
    name = f"{tag}.forward.masked_logits_kept"
    if name in arrays:
        kept = len(arrays[name])
        mask = torch.ones(len(tokens), model.prefix_length + tokens.shape[1])
        mask[1, kept:] = 0
        yield name, model(tokens, embeds, mask)[1, :kept]
