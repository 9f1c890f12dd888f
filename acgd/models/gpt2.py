"""GPT-2 with the published key names, for a small model that has to start at once.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. It answers as
transformers' GPT2LMHeadModel does (a test holds the two together), whose import takes longer than
the small model's whole work. N is the number of texts, L of new tokens, E the width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    logits: Tensor  # (N, L, V)
    past_key_values: Cache


class Cache:
    """Keys and values of the tokens so far, for each layer (N, heads, tokens, E / heads)."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        """The number of tokens so far."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with the new ones behind them; layers come in their order."""
        if layer == len(self.layers):
            self.layers.append((k, v))
        else:
            old_k, old_v = self.layers[layer]
            self.layers[layer] = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        return self.layers[layer]

    def batch_select_indices(self, index: Tensor) -> None:
        """Keep these texts, in this order; one may come several times."""
        self.layers = [(k[index], v[index]) for k, v in self.layers]


class Conv1D(nn.Module):
    """A linear layer whose weight is stored as (in, out)."""

    def __init__(self, out: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, out))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, layer: int) -> None:
        super().__init__()
        self.heads, self.dropout, self.layer = heads, dropout, layer
        self.c_attn, self.c_proj = Conv1D(3 * width, width), Conv1D(width, width)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        q, k, v = self.c_attn(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k, v = cache.update(self.layer, k, v)
        new, total = q.shape[2], k.shape[2]
        seen = torch.ones(new, total, dtype=torch.bool, device=x.device).tril(total - new)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, seen, dropout)  # (N, heads, L, E / heads)
        return F.dropout(self.c_proj(x.transpose(1, 2).flatten(2)), dropout)


class MLP(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(4 * width, width), Conv1D(width, 4 * width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout, layer)
        self.mlp = MLP(width, dropout)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Body(nn.Module):
    """Embeddings of words and places, blocks, and the last norm."""

    def __init__(self, words: int, places: int, width: int, blocks: list[Block]) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(places, width)
        self.h, self.ln_f = nn.ModuleList(blocks), nn.LayerNorm(width)


class GPT2(nn.Module):
    """Embeddings of words to logits; the output layer is the word embedding itself."""

    def __init__(
        self,
        n_layer: int,
        n_head: int,
        n_embd: int,
        vocab_size: int,
        n_positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        blocks = [Block(n_embd, n_head, dropout, layer) for layer in range(n_layer)]
        self.transformer = Body(vocab_size, n_positions, n_embd, blocks)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        for table in (self.transformer.wte, self.transformer.wpe):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self,
        inputs_embeds: Tensor,
        past_key_values: Cache | None = None,
        use_cache: bool = True,  # always kept, it is small
    ) -> Output:
        """(N, L, E) behind what the cache holds -> logits (N, L, V) and the longer cache."""
        body = self.transformer
        cache = past_key_values or Cache()
        start, length = len(cache), inputs_embeds.shape[1]
        places = torch.arange(start, start + length, device=inputs_embeds.device)
        x = F.dropout(inputs_embeds + body.wpe(places), self.dropout, self.training)
        for block in body.h:
            x = block(x, cache)
        return Output(self.lm_head(body.ln_f(x)), cache)
