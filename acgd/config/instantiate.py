"""From a config node to the object that it describes.

Not by Hydra's instantiate: that interpolates texts once more, and by now "${...}" in them is part
of a file's name or of what somebody wrote.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from acgd.errors import UserError, one_line


def build(node: Any, **provided: Any) -> Any:
    """The object that a node's `_target_` names, given the node's other keys and `provided`.

    `provided` (encoders, tensors, targets) goes to the constructor as it is; what its signature
    does not name is left out, so that a captioner need not know of every device. Nodes within the
    node that have a `_target_` of their own are built before it.
    Raises UserError for an unknown argument or target, and whatever the constructor raises.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    make = located(node["_target_"])
    arguments = {key: built(value) for key, value in node.items() if key != "_target_"}
    try:
        return make(**arguments | named(make, provided))
    except TypeError as error:
        if "argument" not in str(error):
            raise
        if strange := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            line = f"{node['_target_']}: has no {strange[1]}; see its yaml for what it has"
            raise UserError(line) from error
        raise UserError(f"{node['_target_']}: {one_line(error)}; see its yaml") from error


def built(value: Any) -> Any:
    """A node's value: itself, but for nodes in it that have a `_target_`."""
    if isinstance(value, list):
        return [built(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "_target_" in value:
        return build(value)
    return {key: built(one) for key, one in value.items()}


def located(target: str) -> Callable:
    """What a dotted name stands for; UserError where there is nothing that can be called."""
    from hydra.utils import get_object

    try:
        part = get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        causes = (error.__cause__ or error, error)
        why = next((one for one in causes if isinstance(one, UserError)), None) or one_line(error)
        raise UserError(f"_target_={target}: {why}") from error
    if not callable(part):
        raise UserError(f"_target_={target}: is no class")
    return part


def named(make: Callable, provided: dict[str, Any]) -> dict[str, Any]:
    """Those of `provided` that a constructor's signature names, all where it takes any keyword."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # some of Python's own have none
        return provided
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return provided
    return {key: value for key, value in provided.items() if key in parameters}
