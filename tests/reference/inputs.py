"""Inputs of the golden files: their JSONs write them as calls of fill.py.

"make_input('unet.uncond.x', [3, 3, 64, 64])" or "tanh(make_input('guidance.init', [1, 3, 72, 72]))"
is parsed, never evaluated as Python: only the names below, with literal arguments, are understood.
"""

import ast
import re

import numpy as np
import torch

from reference import fill

CALLS = {
    "make_input": fill.make_input,
    "make_image": fill.make_image,
    "probe": fill.probe,
    "waveform": fill.waveform,
    "standard_normal": fill.standard_normal,
    "tanh": torch.tanh,
}


def evaluate(text: str, **names):
    """The tensor (or array) that a call written as text stands for, on torch's default device.

    `names` gives values to bare names among the arguments and in arithmetic, e.g.
    evaluate("waveform(6000, 16000, 0.8, 220 * (1 + b))", b=1) or
    evaluate("probe('unet.uncond', out.shape)", out=y).
    Raises ValueError where the text is more than such a call.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"not a call of fill.py: {text!r}") from error
    value = _value(tree, names)
    return value.to(torch.get_default_device()) if isinstance(value, torch.Tensor) else value


def find_calls(text: str) -> list[str]:
    """The calls of fill.py that a sentence contains, as text, outermost ones only, in order."""
    found, end = [], 0
    for match in re.finditer(rf"\b({'|'.join(CALLS)})\(", text):
        if match.start() < end:
            continue
        end = _closing(text, match.end() - 1) + 1
        found.append(text[match.start() : end])
    return found


def prefix(weights: dict | str) -> str:
    """What the fill puts before each key: {"prefix": "b."}, or "fill rule, prefix 'b.'; ..."."""
    if isinstance(weights, dict):
        return weights["prefix"]
    named = set(re.findall(r"prefix '([^']*)'", weights))
    if len(named) != 1:
        raise ValueError(f"weights: one prefix expected, not {sorted(named)}: {weights!r}")
    return named.pop()


def cotangent(text: str, out: torch.Tensor, **placeholders: str) -> torch.Tensor:
    """The probe that a sentence about a gradient names, of out's shape.

    "d sum(out * probe('cuts.CASE')) / d input" with CASE="wide" is probe('cuts.wide', out.shape).
    """
    named = re.search(r"\bprobe\('([^']+)'", text)
    if not named:
        raise ValueError(f"no probe is named: {text!r}")
    name = named[1]
    for word, value in placeholders.items():
        name = name.replace(word, value)
    return fill.probe(name, tuple(out.shape)).to(out.device)


def _closing(text: str, opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"parenthesis not closed: {text[opening:]!r}")


OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _value(node: ast.expr, names: dict):
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in CALLS:
            values = [_value(a, names) for a in args]
            return CALLS[name](*values, **{k.arg: _value(k.value, names) for k in keywords})
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            left, right = (_as_tensor(_value(side, names)) for side in (left, right))
            return OPERATORS[type(op)](left, right)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, names) for item in items)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute(value=ast.Name(id=name), attr="shape") if name in names:
            return tuple(names[name].shape)
        case _:
            return ast.literal_eval(node)


def _as_tensor(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
