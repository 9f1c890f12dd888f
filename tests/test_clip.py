"""CLIP: published keys and numbers, the tokenizer, half precision."""

import gzip
import json
import random
import re
import string
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import clip as reference
from torch import nn

from acgd.errors import UserError
from acgd.models.clip import CLIP, halve_
from acgd.models.tokenizer import END, START, Tokenizer, tokenizer

GOLDEN = Path(__file__).parent / "golden"
TINY = {
    "embed_dim": 16,
    "image_resolution": 32,
    "transformer_width": 64,
    "transformer_heads": 4,
    "transformer_layers": 2,
}
RESNET = {**TINY, "vision_layers": [1, 1, 1, 1], "vision_width": 8}
VIT = {**TINY, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 8, "vision_heads": 4}


def manifest(name: str) -> dict:
    return json.loads(gzip.decompress((GOLDEN / f"manifests/{name}.json.gz").read_bytes()))


def described(model: nn.Module) -> dict:
    """Shape and dtype of each key, as manifests write them."""
    return {
        key: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for key, t in model.state_dict().items()
    }


def golden_errors(stem: str, module) -> dict[str, float]:
    """Each array's error over its bound (integers: 0 or inf); arrays that need a file left out."""
    meta = json.loads((GOLDEN / f"{stem}.json").read_text(encoding="utf-8"))
    arrays, shares = dict(np.load(GOLDEN / f"{stem}.npz")), {}
    left = set(arrays)
    for name, value in module.compute(meta, arrays):
        ref = arrays[name]
        left.remove(name)
        if isinstance(value, str):
            assert value.startswith("needs ")
            continue
        got = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
        assert got.shape == ref.shape, name
        if ref.dtype.kind != "f":
            shares[name] = 0.0 if (got == ref).all() else np.inf
            continue
        bounds = meta["tolerances"]["bounds"]
        bound = next(b for pattern, b in bounds.items() if fnmatchcase(name, pattern))
        off = np.linalg.norm(got.astype(float) - ref) / np.linalg.norm(ref.astype(float))
        shares[name] = off / bound if bound else (0.0 if off == 0 else np.inf)
    assert not left, f"not computed: {left}"
    return shares


@pytest.mark.parametrize("name", ["clip_rn50", "clip_vit_b32"])
def test_keys_shapes_and_dtypes_are_the_published_ones(name):
    published = manifest(name)
    with torch.device("meta"):
        model = halve_(CLIP(**published["config"]))
    assert described(model) == published["keys"]


@pytest.mark.parametrize(
    "stem", ["clip_rn50_small", "clip_vit_small", "clip_bpe", "clip_preprocess"]
)
def test_golden(stem):
    shares = golden_errors(stem, reference)
    assert shares and max(shares.values()) <= 1, shares


def test_golden_checks():
    meta = json.loads((GOLDEN / "clip_bpe.json").read_text(encoding="utf-8"))
    assert dict(reference.checks(meta)) == {"too_long": True, "decoded": True, "vocabulary": True}


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_every_parameter_learns(config):
    torch.manual_seed(0)
    model = CLIP(**config).train()
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # starts at zero, which hides the branch before it
            nn.init.ones_(parameter)
    logits, _ = model(torch.randn(4, 3, 32, 32), tokenizer()(["a", "b c", "d e f", "g"]))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # attention is blind to what keys have in common
    assert [n for n in still if not n.endswith("k_proj.bias")] == []


def test_text_behind_the_end_token_does_not_matter():
    torch.manual_seed(0)
    model = CLIP(**VIT).eval()
    short, both = tokenizer()(["a cat"]), tokenizer()(["a cat", "one two three four five six"])
    spoiled = short.clone()
    spoiled[0, 10:] = 7
    one, many = model.encode_text(short), model.encode_text(both)[:1]
    assert torch.allclose(one, many, atol=1e-6)
    assert torch.allclose(one, model.encode_text(spoiled), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_half_precision_stays_near_and_passes_a_gradient(config, dtype):
    torch.manual_seed(0)
    model = CLIP(**config).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens = tokenizer()(["a cat", "rain"])
    whole = model.encode_image(x), model.encode_text(tokens)
    x.requires_grad_()
    half = halve_(model, dtype).encode_image(x), model.encode_text(tokens)
    for a, b in zip(whole, half, strict=True):
        assert b.dtype == dtype
        assert torch.cosine_similarity(a, b.float()).min() > 0.999
    half[0].float().sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_tokens_are_framed_and_padded():
    tokens = tokenizer()(["", "a cat"])
    assert tokens.shape == (2, 77) and tokens.dtype == torch.int64
    start, end = tokenizer().start, tokenizer().end
    assert tokens[0, :2].tolist() == [start, end] and not tokens[0, 2:].any()
    assert (start, end) == (49406, 49407)
    assert tokenizer()("a cat").tolist() == tokens[1:].tolist()


def test_long_text_is_cut_with_its_end_token_or_refused():
    long = "word " * 500
    tokens = tokenizer()([long])[0]
    assert tokens[-1] == tokenizer().end and (tokens != 0).all()
    with pytest.raises(UserError, match="502 tokens"):
        tokenizer()([long], truncate=False)
    assert Tokenizer(context_length=8)([long])[0, -1] == tokenizer().end


def test_exactly_full_text_is_not_cut():
    tokens = tokenizer()(["word " * 75], truncate=False)[0]
    assert tokens[-1] == tokenizer().end


@pytest.mark.parametrize("text", ["😀🚀", "日本語", "\x00\ufffd", "İ", "a\u200bb", "&amp;lt;"])
def test_any_text_has_tokens(text):
    ids = tokenizer().encode(text)
    assert ids and all(0 <= i < 49406 for i in ids)


def test_plain_words_are_cut_as_all_of_unicode_is(monkeypatch):
    draw = random.Random(0)
    words = [START, "It's", "don't", "A_B", "WE'LL", "12:30", "...!?", "a\tb", "&lt;", "é", "x"]
    texts = [" ".join(draw.choices(words, k=6)) for _ in range(200)]
    texts += ["".join(draw.choices(string.printable, k=20)) for _ in range(500)]
    tokens = Tokenizer()
    quick = [tokens.encode(text) for text in texts]
    monkeypatch.setattr("acgd.models.tokenizer.PLAIN", re.compile("(?!)"))  # none is
    slow = Tokenizer()
    assert quick == [slow.encode(text) for text in texts]


def test_control_words_become_control_tokens():
    assert tokenizer().encode(f"{START} hi {END}") == [49406, *tokenizer().encode("hi"), 49407]
