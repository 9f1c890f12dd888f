"""ClipCap: published keys and numbers, decoding, and our small GPT-2 beside transformers'."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from reference import clipcap as reference
from test_clip import described, golden_errors, manifest
from torch import nn

from acgd.captioners import decoding
from acgd.captioners.decoding import Decoding
from acgd.checkpoints import load as checkpoints
from acgd.errors import UserError
from acgd.models.clipcap import LEGACY, TIED, ClipCap

SMALL = {"prefix_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 40}
SMALL |= {"n_positions": 64, "prefix_length": 3}
MAPPERS = {
    "mlp": {},
    "linear": {"prefix_length": 11},
    "transformer": {"mapper": "transformer", "clip_length": 4, "num_layers": 2},
    "tokens": {"mapper": "tokens", "clip_length": 4, "num_layers": 2},
}


def small(**changes) -> ClipCap:
    torch.manual_seed(0)
    model = ClipCap(**{**SMALL, **changes}).eval()
    for name, parameter in model.named_parameters():  # livelier than at the start of a training
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.0 if "clip_project" in name else 0.5)
    nn.init.normal_(model.gpt.transformer.wpe.weight, std=3.0)  # or one word would be said again
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def light() -> ClipCap:
    return small(light=True)


@pytest.fixture(scope="module")
def prefix(light) -> torch.Tensor:
    return light.prefix(torch.randn(6, 12, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["conceptual_mlp", "coco_transformer"])
def test_keys_shapes_and_dtypes_are_the_published_ones(name):
    published = manifest(f"clipcap_{name}")
    config = published["config"]
    names = ("prefix_length", "prefix_size", "clip_length", "num_layers", "num_heads", "mlp_ratio")
    size = {key: config[key] for key in names if key in config}
    with torch.device("meta"):
        model = ClipCap(**size, mapper="transformer" if "coco" in name else "mlp")
    legacy = set(published["legacy_buffers"]["keys"])
    assert described(model) == {k: v for k, v in published["keys"].items() if k not in legacy}


def test_golden():
    shares = golden_errors("clipcap", reference)
    assert len(shares) == 110 and max(shares.values()) <= 1, shares


def test_a_published_file_loads_with_its_old_buffers_and_tied_output():
    model, other = small(), small()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["gpt.transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    state["gpt.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    checkpoints.load_into(other, state, "a file", ignore=(*LEGACY, TIED), assign=True)
    other.tie()
    assert other.gpt.lm_head.weight is other.gpt.transformer.wte.weight
    embeds, tokens = torch.randn(2, 12), torch.randint(40, (2, 5))
    assert torch.equal(model(tokens, embeds), other(tokens, embeds))
    state["gpt.transformer.h.7.attn.c_attn.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match="1 unexpected"):
        checkpoints.load_into(other, state, "a file", ignore=(*LEGACY, TIED), assign=True)


def test_the_light_gpt2_is_transformers():
    theirs, ours = small(), small(light=True)
    ours.load_state_dict(theirs.state_dict())
    embeds, tokens = torch.randn(2, 12), torch.randint(40, (2, 9))
    assert torch.allclose(theirs(tokens, embeds), ours(tokens, embeds), atol=1e-5)
    prefix = theirs.prefix(embeds)
    for how in ("greedy", "beam", "top_p"):
        said = [Decoding(how=how, length=20)(model, prefix, 7) for model in (theirs, ours)]
        assert all(torch.equal(a, b) for a, b in zip(*said, strict=True)), how


@pytest.mark.parametrize("mapper", MAPPERS)
def test_every_parameter_learns(mapper):
    model = small(light=True, **MAPPERS[mapper]).train().requires_grad_()
    embeds = torch.randn(3, 4, 12) if mapper == "tokens" else torch.randn(3, 12)
    model(torch.randint(40, (3, 5)), embeds).square().mean().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize("how", ["greedy", "beam", "top_p"])
def test_a_picture_is_told_the_same_alone_and_among_others(light, prefix, how):
    tell = Decoding(how=how, beams=4, length=20, top_p=0.9, seed=3)
    together = tell(light, prefix, 7)
    alone = [tell(light, prefix[i : i + 1], 7)[0] for i in range(len(prefix))]
    assert [t.tolist() for t in together] == [t.tolist() for t in alone]
    assert len({tuple(t.tolist()) for t in alone}) > 1


@pytest.mark.parametrize("how", ["greedy", "beam", "top_p"])
def test_a_caption_ends_with_the_stop_token_or_at_its_length(light, prefix, how):
    free = Decoding(how=how, length=12)(light, prefix, stop=-1)
    assert {len(ids) for ids in free} == {12}
    stop = int(free[0][4])
    for ids in Decoding(how=how, length=12)(light, prefix, stop):
        said = ids.tolist()
        assert stop not in said[:-1] and (said[-1] == stop or len(said) == 12)


def test_no_more_is_said_than_there_are_positions(light, prefix):
    for how in ("greedy", "beam"):
        assert len(Decoding(how=how, length=500)(light, prefix[:1], -1)[0]) == 64 - 3


def test_the_cache_changes_nothing(light, prefix):
    cached, x = decoding.greedy(light, prefix[:1], -1, 8)[0], prefix[:1]
    for token in cached:
        best = light.gpt(inputs_embeds=x).logits[0, -1].argmax()
        assert best == token
        x = torch.cat([x, light.words(token[None, None])], 1)


def test_the_best_beam_has_the_best_mean_log_probability(light, prefix):
    def mean(ids: torch.Tensor) -> float:
        x = torch.cat([prefix[:1], light.words(ids[None, :-1])], 1)
        chances = light.gpt(inputs_embeds=x).logits[0, prefix.shape[1] - 1 :].log_softmax(-1)
        return float(chances.gather(1, ids[:, None]).mean())

    ranked = decoding.beams(light, prefix[:1], 7, 10, width=5)[0]
    scores = [mean(ids) for ids in ranked]
    assert len(ranked) == 5 and scores == sorted(scores, reverse=True)
    assert scores[0] >= mean(decoding.greedy(light, prefix[:1], 7, 10)[0]) - 1e-6


def test_top_p_samples_within_the_kept_share_and_by_its_seed(light, prefix):
    def tell(**how):
        return [t.tolist() for t in Decoding(how="top_p", length=16, **how)(light, prefix, -1)]

    greedy = [t.tolist() for t in decoding.greedy(light, prefix, -1, 16)]
    assert tell(top_p=0.9) == tell(top_p=0.9) != tell(top_p=0.9, seed=1)
    assert tell(top_p=1e-6) == greedy != tell(top_p=1.0)
    assert tell(temperature=1e-4) == greedy
    assert tell(likeliest=True) == greedy  # the notebook's generate2


def test_top_p_draws_as_often_as_the_chances_say(light, prefix):
    logits = light.gpt(inputs_embeds=prefix[:1]).logits[0, -1] / 0.7
    chances = logits.softmax(-1)
    draws = [
        decoding.top_p(light, prefix[:1], -1, 1, 0.6, 0.7, seed)[0].item() for seed in range(600)
    ]
    seen = torch.bincount(torch.tensor(draws), minlength=40) / 600
    order = chances.argsort(descending=True)
    kept = order[: int((chances[order].cumsum(0) < 0.6).sum()) + 1]
    expected = torch.zeros(40)
    expected[kept] = chances[kept] / chances[kept].sum()
    assert len(kept) > 1 and not seen[expected == 0].any()
    assert (seen - expected).abs().max() < 0.08  # four deviations of a share of 600 draws


@pytest.mark.parametrize(
    "wrong", [{"how": "best"}, {"beams": 0}, {"top_p": 0.0}, {"temperature": 0.0}, {"length": 0}]
)
def test_a_decoding_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=r"captioner\.decoding"):
        Decoding(**wrong)


def test_the_golden_manifests_are_whole():
    folder = Path(__file__).parent / "golden" / "manifests"
    for name, count in (("conceptual_mlp", 177), ("coco_transformer", 272)):
        text = gzip.decompress((folder / f"clipcap_{name}.json.gz").read_bytes())
        assert len(json.loads(text)["keys"]) == count
