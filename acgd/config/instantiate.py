"""From a config node to the object that it describes.

`build` is the only caller of Hydra's instantiate; what it makes never sees a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from acgd.errors import UserError, one_line


def build(node: Any, **known: Any) -> Any:
    """The object that a node's `_target_` names, given the node's other keys and `known`.

    `known` (encoders, tensors, targets) goes to the constructor as it is, past OmegaConf; what
    its signature does not name is left out, so that a captioner need not know of every device.
    Raises UserError for an unknown argument or target, and whatever the constructor raises.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        make = instantiate(OmegaConf.create(node), _convert_="all", _partial_=True)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(one_line(error)) from error
    try:
        return make(**named(make.func, known))
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UserError(f"{node['_target_']}: {one_line(error)}; see its yaml") from error


def named(make: Callable, known: dict[str, Any]) -> dict[str, Any]:
    """Those of `known` that a constructor's signature names, all where it takes any keyword."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # some of Python's own have none
        return known
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return known
    return {key: value for key, value in known.items() if key in parameters}
