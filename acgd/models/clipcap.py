"""ClipCap: a picture's CLIP embedding as a prefix that GPT-2 goes on from, with published keys.

Mokady et al., "ClipCap: CLIP Prefix for Image Captioning", arXiv:2111.09734. The mapper turns an
embedding into `prefix_length` embeddings of GPT-2's words: an MLP (a single linear layer for more
than ten, as in the notebook) or a transformer over learned constants. GPT-2 is transformers', whose
classes take five seconds to import (that happens when one is made), or for a small model our own.

N is the number of pictures, L of words, P the prefix's length, E GPT-2's width, V its vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acgd.errors import torchvision_apart
from acgd.models.gpt2 import GPT2

# Not weights: the causal mask and its fill value, which transformers stored before 4.31, and the
# output layer, which is the word embedding itself.
LEGACY = ("gpt.transformer.h.*.attn.bias", "gpt.transformer.h.*.attn.masked_bias")
TIED = "gpt.lm_head.weight"


class MLP(nn.Module):
    """(N, D) -> (N, P * E), with tanh between two layers."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(size, out // 2), nn.Tanh(), nn.Linear(out // 2, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MapperAttention(nn.Module):
    """Full self-attention; keys and values share a layer, laid out as [2, heads, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.to_keys_values(x).unflatten(-1, (2, self.heads, -1))  # (N, L, 2, heads, w)
        k, v = kv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # (N, heads, L, w)
        return self.project(x.transpose(1, 2).flatten(2))


class MapperMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class MapperLayer(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = MapperAttention(width, heads)
        self.mlp = MapperMLP(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MapperLayers(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MapperLayer(width, heads, mlp_ratio) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TransformerMapper(nn.Module):
    """(N, D) -> (N, P, E): clip_length tokens of the embedding, then constants, whose places count.

    With `per_token` the input is (N, clip_length, D) and each token is projected by itself.
    """

    def __init__(
        self,
        size: int,
        width: int,
        prefix_length: int,
        clip_length: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        per_token: bool = False,
    ) -> None:
        super().__init__()
        self.clip_length = clip_length
        self.transformer = MapperLayers(width, layers, heads, mlp_ratio)
        self.linear = nn.Linear(size, width if per_token else clip_length * width)
        self.prefix_const = nn.Parameter(torch.randn(prefix_length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x).reshape(len(x), self.clip_length, -1)
        x = torch.cat([x, self.prefix_const.expand(len(x), -1, -1)], 1)
        return self.transformer(x)[:, self.clip_length :]


class ClipCap(nn.Module):
    """A mapper and GPT-2 (12 layers of 768 unless told otherwise).

    light: True for acgd.models.gpt2 in place of transformers' GPT-2, which it equals.
    mapper: "mlp", "transformer", or "tokens", a transformer over the image tower's own tokens,
    clip_length of them. prefix_size is the size of the embedding, or of a token. The arguments
    from num_layers on to mlp_ratio are the transformer mappers'.
    """

    def __init__(
        self,
        prefix_size: int = 512,
        prefix_length: int = 10,
        mapper: str = "mlp",
        clip_length: int = 40,
        num_layers: int = 8,
        num_heads: int = 8,
        mlp_ratio: float = 2.0,
        n_layer: int = 12,
        n_head: int = 12,
        n_embd: int = 768,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        dropout: float = 0.1,
        light: bool = False,
    ) -> None:
        super().__init__()
        self.prefix_length = prefix_length
        self.room = n_positions - prefix_length  # for tokens behind the prefix
        make = GPT2 if light else gpt2
        self.gpt: GPT2 = make(n_layer, n_head, n_embd, vocab_size, n_positions, dropout)
        if mapper in ("transformer", "tokens"):
            self.clip_project: nn.Module = TransformerMapper(
                prefix_size, n_embd, prefix_length, clip_length, num_layers, num_heads, mlp_ratio,
                per_token=mapper == "tokens",
            )  # fmt: skip
        elif mapper != "mlp":
            raise ValueError(f"mapper {mapper!r}: must be mlp, transformer or tokens")
        elif prefix_length > 10:
            self.clip_project = nn.Linear(prefix_size, n_embd * prefix_length)
        else:
            self.clip_project = MLP(prefix_size, n_embd * prefix_length)

    def prefix(self, embeds: Tensor) -> Tensor:
        """Pictures' embeddings (N, D), or tokens (N, clip_length, D) -> (N, P, E)."""
        return self.clip_project(embeds).reshape(len(embeds), self.prefix_length, -1)

    def words(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) -> GPT-2's embeddings of them, (N, L, E)."""
        return self.gpt.transformer.wte(tokens)

    def forward(self, tokens: Tensor, embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits over prefix and tokens, (N, P + L, V); mask (N, P + L), 0 for padding.

        A light model takes no mask: padding behind a text does not change what stands before it.
        """
        x = torch.cat([self.prefix(embeds), self.words(tokens)], 1)
        masked: Any = {} if mask is None else {"attention_mask": mask}
        return self.gpt(inputs_embeds=x, use_cache=False, **masked).logits

    def tie(self) -> ClipCap:
        """Make the output layer the word embedding again, after weights were assigned."""
        self.gpt.lm_head.weight = self.gpt.transformer.wte.weight
        return self


def gpt2(
    n_layer: int, n_head: int, n_embd: int, vocab_size: int, n_positions: int, dropout: float
) -> Any:
    """transformers' GPT-2 with its output layer."""
    try:
        from transformers.models.gpt2.configuration_gpt2 import GPT2Config
        from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
    except (ImportError, RuntimeError) as error:
        if apart := torchvision_apart(error):
            raise apart from None
        raise
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=n_positions,
        bos_token_id=None,
        eos_token_id=None,
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return GPT2LMHeadModel(config)
