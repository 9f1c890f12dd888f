"""The weights within what a trainer saved: below which key, and without which prefixes.

{"state_dict": ...}, {"model": ...}, {"params": ...}     a training's file
{"ema": ...}, {"params_ema": ...}, {"model_ema": ...}    averaged weights
module.*, _orig_mod.*, model.*, ema_model.*              DataParallel, torch.compile, Lightning,
                                                         a wrapper that keeps an average
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from acgd.errors import UserError, say

PLAIN = ("state_dict", "model_state_dict", "model", "params", "net", "network", "weights")
AVERAGED = ("ema", "params_ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema")
WITHIN = ("state_dict", "module", "model", "params", "shadow")  # one level further down
PREFIXES = ("module.", "model.", "ema_model.", "net.")
COMPILED = "_orig_mod."


def unwrap(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Tensors by name. `key`: which of several, or a prefix of their names ("ema", "net_g").

    Without it the trained weights go before averaged ones, and a line says that there are such.
    UserError where there are none.
    """
    state = chosen(content, path, key) if key else by_custom(content, path)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        message = (
            f"; choose with checkpoint_key={'|'.join(groups(content))}" if groups(content) else ""
        )
        raise UserError(f"{path}: holds no plain state dict (tensors by name){message}")
    return without_prefixes(state)


def by_custom(content: Any, path: Path) -> Any:
    by_name = groups(content)
    plain = [name for name in PLAIN if name in by_name]
    averaged = [name for name in AVERAGED if name in by_name]
    if plain and averaged:
        mention(path, plain[0], averaged[0])
    return next((by_name[name] for name in (*plain, *averaged)), content)


def groups(content: Any) -> dict[str, dict]:
    """The state dicts in a trainer's file by their keys, whatever these are called."""
    if not isinstance(content, dict):
        return {}
    by_name = {str(name): within(value) for name, value in content.items()}
    return {name: state for name, state in by_name.items() if state}


def within(value: Any) -> dict[str, Tensor] | None:
    """A state dict, or the one a level further down; numbers beside its tensors are left out."""
    if not isinstance(value, dict):
        return None
    for name in WITHIN:
        if isinstance(value.get(name), dict):
            value = value[name]
            break
    state = {k: v for k, v in value.items() if isinstance(v, Tensor) and isinstance(k, str)}
    others = [v for k, v in value.items() if k not in state]
    return state if not any(isinstance(v, dict | list) for v in others) else None


def chosen(content: Any, path: Path, key: str) -> dict[str, Tensor]:
    by_name = groups(content)
    if key in by_name:
        return by_name[key]
    state = by_custom(content, path)
    prefix = key.rstrip(".") + "."
    prefixed = {k: v for k, v in state.items() if str(k).startswith(prefix)} if state else {}
    if not prefixed:
        choices = ", ".join(by_name) or "none, it is a plain state dict"
        raise UserError(
            f"{path}: checkpoint_key={key} is not in it; keys that hold weights: {choices}"
        )
    return {name.removeprefix(prefix): value for name, value in prefixed.items()}


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the module has them."""
    state = {name.replace(COMPILED, ""): value for name, value in state.items()}
    averaged = {name: value for name, value in state.items() if name.startswith("ema_model.")}
    if averaged and all(name.partition(".")[0] in ("ema_model", "online_model", "initted", "step")
                        for name in state):  # fmt: skip
        state = averaged
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


@cache
def mention(path: Path, taken: str, averaged: str) -> None:
    say(f"{path}: takes {taken}; checkpoint_key={averaged} takes the averaged weights in it")
