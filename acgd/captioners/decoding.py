"""From a prefix to words: greedy, beam and top-p decoding with GPT-2's cache, batched.

What one picture gets does not depend on the others in the batch. A caption ends with the stop
token, which it includes, or after `length` tokens. N is the number of pictures, P the prefix's
length, E the width, V the vocabulary, B the beams of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from acgd.errors import UserError
from acgd.models.clipcap import ClipCap

HOW = ("greedy", "beam", "top_p")
Choose = Callable[[Tensor, Tensor], Tensor]  # logits (n, V), pictures (n,) -> tokens (n,)


@dataclass(frozen=True)
class Decoding:
    """How captions are written, as a captioner's yaml says it: one for each of (N, P, E).

    how: "greedy", "beam" (of `beams`) or "top_p", drawn with `temperature` and `seed`.
    likeliest: top_p as the notebook's generate2 has it, which takes the likeliest token whatever
    top_p and temperature say.
    """

    how: str = "beam"
    beams: int = 5
    top_p: float = 0.8
    temperature: float = 1.0
    likeliest: bool = False
    seed: int = 0
    length: int = 67  # tokens at most

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise UserError(f"captioner.decoding.how={self.how}: choose from {', '.join(HOW)}")
        if min(self.beams, self.length) < 1:
            raise UserError("captioner.decoding: beams and length must be 1 or more")
        if not (0 < self.top_p <= 1 and self.temperature > 0):
            raise UserError("captioner.decoding: top_p must be in (0, 1], temperature above 0")

    def __call__(self, model: ClipCap, prefix: Tensor, stop: int) -> list[Tensor]:
        length = min(self.length, model.room)
        if self.how == "beam":
            return [ranked[0] for ranked in beams(model, prefix, stop, length, self.beams)]
        if self.how == "greedy" or self.likeliest:
            return greedy(model, prefix, stop, length)
        drawn = (self.top_p, self.temperature, self.seed)
        return top_p(model, prefix, stop, length, *drawn)


@torch.no_grad()
def follow(model: ClipCap, prefix: Tensor, stop: int, length: int, choose: Choose) -> list[Tensor]:
    """One token after the other as `choose` has it; pictures that are finished leave the batch."""
    left = torch.arange(len(prefix), device=prefix.device)  # those still being written
    said: list[list[int]] = [[] for _ in range(len(prefix))]
    x, past = prefix, None
    for _ in range(length):
        out = model.gpt(inputs_embeds=x, past_key_values=past, use_cache=True)
        past, tokens = out.past_key_values, choose(out.logits[:, -1].float(), left)
        for picture, token in zip(left.tolist(), tokens.tolist(), strict=True):
            said[picture].append(token)
        on = (tokens != stop).nonzero()[:, 0]
        if not len(on):
            break
        if len(on) < len(left):
            past.batch_select_indices(on)
        left, x = left[on], model.words(tokens[on, None])
    return [torch.tensor(tokens) for tokens in said]


def greedy(model: ClipCap, prefix: Tensor, stop: int, length: int = 67) -> list[Tensor]:
    """The likeliest token at each step, for (N, P, E); the notebook's generate2 in effect."""
    return follow(model, prefix, stop, length, lambda logits, _: logits.argmax(-1))


def top_p(
    model: ClipCap,
    prefix: Tensor,
    stop: int,
    length: int = 67,
    p: float = 0.8,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Tensor]:
    """Draw from the likeliest tokens that hold the share p together (Holtzman et al. 2020).

    Each picture has a generator of its own with the same seed, so that it is told the same way
    alone and among others.
    """
    if not (0 < p <= 1 and temperature > 0):
        raise UserError(
            f"captioner: top_p={p} must be in (0, 1], temperature={temperature} above 0"
        )
    generators = [torch.Generator().manual_seed(seed) for _ in range(len(prefix))]

    def choose(logits: Tensor, pictures: Tensor) -> Tensor:
        chances = (logits.double() / temperature).softmax(-1)
        chances, order = chances.sort(dim=-1, descending=True, stable=True)
        before = chances.cumsum(-1) - chances
        chances = chances.masked_fill(before >= p, 0.0)  # the first always stays
        numbers = [torch.rand((), generator=generators[i]) for i in pictures.tolist()]
        draws = torch.stack(numbers).to(chances)[:, None] * chances.sum(-1, keepdim=True)
        place = torch.searchsorted(chances.cumsum(-1), draws, right=True)
        kept = (chances > 0).sum(-1, keepdim=True)
        return order.gather(-1, torch.minimum(place, kept - 1))[:, 0]

    return follow(model, prefix, stop, length, choose)


@torch.no_grad()
def beams(
    model: ClipCap, prefix: Tensor, stop: int, length: int = 67, width: int = 5
) -> list[list[Tensor]]:
    """`width` captions for each of (N, P, E), the best first, by mean log probability a token.

    A beam that stopped stays as it is: it goes on with token 0 at no cost, which is cut off again.
    """
    n, device = len(prefix), prefix.device
    out = model.gpt(inputs_embeds=prefix, use_cache=True)
    past = out.past_key_values
    past.batch_select_indices(torch.arange(n, device=device).repeat_interleave(width))
    scores, tokens = out.logits[:, -1].float().log_softmax(-1).topk(width)  # (N, B) sums
    said, lengths = tokens[:, :, None], torch.ones(n, width, device=device)
    stopped = tokens == stop
    for _ in range(length - 1):
        if stopped.all():
            break
        x = model.words(said[:, :, -1].reshape(n * width, 1))
        out = model.gpt(inputs_embeds=x, past_key_values=past, use_cache=True)
        past = out.past_key_values
        chances = out.logits[:, -1].float().log_softmax(-1).unflatten(0, (n, width))  # (N, B, V)
        chances[stopped] = -torch.inf
        chances[..., 0].masked_fill_(stopped, 0.0)
        lengths = lengths + (~stopped).float()
        means = (scores[..., None] + chances) / lengths[..., None]
        means, place = means.flatten(1).topk(width)  # (N, B)
        source, tokens = place // chances.shape[-1], place % chances.shape[-1]
        lengths, stopped = lengths.gather(1, source), stopped.gather(1, source)
        scores, stopped = means * lengths, stopped | (tokens == stop)
        kept = said.gather(1, source[:, :, None].expand_as(said))
        said = torch.cat([kept, tokens[:, :, None]], 2)
        first = width * torch.arange(n, device=device)[:, None]  # of each picture's beams
        past.batch_select_indices((source + first).flatten())
    best = (scores / lengths).argsort(dim=1, descending=True, stable=True).tolist()
    sizes = lengths.long().tolist()
    return [[said[i, b, : sizes[i][b]].cpu() for b in best[i]] for i in range(n)]
