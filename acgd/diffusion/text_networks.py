"""diffusers' networks as one function of x_t, and what their own text encoders make of words.

A condition is a dict of tensors, a row for each sample: `words` (B, L, D), and what some networks
take beside it: `mask`, `pooled`, `times`, `classes`, `picture`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Condition = dict[str, Tensor]


class Network(nn.Module):
    """network(x, t, condition) -> (B, C, H, W): the prediction for C latent channels.

    network: a UNet2DConditionModel (Stable Diffusion 1, 2, XL, unCLIP), a PixArtTransformer2DModel
    or an SD3Transformer2DModel.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network
        self.kind = type(network).__name__
        self.call = {
            "UNet2DConditionModel": self.unet,
            "PixArtTransformer2DModel": self.pixart,
            "SD3Transformer2DModel": self.sd3,
        }.get(self.kind)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        assert self.call is not None  # the model has asked
        given = {
            name: value.to(dtype) if value.is_floating_point() and name != "mask" else value
            for name, value in condition.items()
        }
        return self.call(x.to(dtype), t, given)[:, : x.shape[1]]

    def unet(self, x: Tensor, t: Tensor, given: Condition) -> Tensor:
        added: dict[str, Any] = {"text_embeds": given.get("pooled"), "time_ids": given.get("times")}
        added |= {"image_embeds": [given["picture"]]} if "picture" in given else {}
        return self.network(
            x,
            t,
            given["words"],
            class_labels=given.get("classes"),
            timestep_cond=given.get("strength"),
            added_cond_kwargs={k: v for k, v in added.items() if v is not None} or None,
        ).sample

    def pixart(self, x: Tensor, t: Tensor, given: Condition) -> Tensor:
        none = {"resolution": given.get("resolution"), "aspect_ratio": given.get("aspect")}
        return self.network(
            x,
            encoder_hidden_states=given["words"],
            encoder_attention_mask=given["mask"],
            timestep=t,
            added_cond_kwargs=none,
        ).sample

    def sd3(self, x: Tensor, t: Tensor, given: Condition) -> Tensor:
        return self.network(
            x, encoder_hidden_states=given["words"], pooled_projections=given["pooled"], timestep=t
        ).sample


def encode(
    pipe: Any, words: Sequence[str], avoided: Sequence[str], device: Any
) -> tuple[Condition, Condition]:
    """What the pipeline's text encoders make of each sample's words, and of what it avoids.

    One by one, so that a sample's condition is the same alone and in any batch.
    """
    known = {pair: encode_one(pipe, *pair, device) for pair in {*zip(words, avoided, strict=True)}}
    rows = [known[pair] for pair in zip(words, avoided, strict=True)]
    given, without = (
        {name: torch.cat([row[side][name] for row in rows]) for name in rows[0][side]}
        for side in (0, 1)
    )
    return given, without


def encode_one(pipe: Any, words: str, avoided: str, device: Any) -> tuple[Condition, Condition]:
    accepted = inspect.signature(pipe.encode_prompt).parameters
    options = {"prompt_2": None, "prompt_3": None, "clean_caption": False}
    zeros = pipe.config.get("force_zeros_for_empty_prompt") and not avoided
    found = pipe.encode_prompt(
        prompt=words,
        negative_prompt=None if zeros else avoided,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        **{name: value for name, value in options.items() if name in accepted},
    )
    if len(found) == 2:  # words, and what is avoided
        return {"words": found[0]}, {"words": found[1]}
    if "prompt_attention_mask" in accepted:
        given, mask, without, other = found
        return {"words": given, "mask": mask}, {"words": without, "mask": other}
    given, without, pooled, other = found
    return {"words": given, "pooled": pooled}, {"words": without, "pooled": other}


def joined(one: Condition, other: Condition) -> Condition:
    """Both conditions' rows, one behind the other."""
    return {name: torch.cat([one[name], other[name]]) for name in one}
