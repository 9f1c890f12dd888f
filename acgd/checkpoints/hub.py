"""Models as transformers saves them: from a folder, or by name from its cache or its hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from acgd.errors import UserError, first_words, torchvision_apart


@contextmanager
def told(checkpoint: str, what: str, fetch: str) -> Iterator[None]:
    """What fails inside, imports of transformers too, as a UserError of one line.

    what: the kind of model that is wanted, "BLIP"; fetch: the override that lets it be fetched.
    """
    with torch.device("cpu"):  # torch notes its constructors when a device is first chosen like
        torch.empty(0)  # this, once; transformers has another linspace in place while it loads
    try:
        with warnings.catch_warnings():  # what these libraries say to those who build on them
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        why = first_words(error, 300).partition(". ")[0]  # what follows guesses at reasons
        raise torchvision_apart(error) or UserError(
            f"checkpoint={checkpoint}: no {what} that is here whole ({why}); name a folder, or let"
            f" it be fetched with {fetch}"
        ) from None


def whole(make: Any, checkpoint: str, **options: Any) -> Any:
    """make.from_pretrained, which fills what a file lacks with random numbers; here ValueError."""
    model, report = make.from_pretrained(checkpoint, output_loading_info=True, **options)
    wanted = {name for name, _ in model.named_parameters()}
    if lacking := sorted(wanted & set(report["missing_keys"])):
        raise ValueError(f"{len(lacking)} of {len(wanted)} tensors missing, {lacking[0]} is one")
    return model.eval().requires_grad_(False)
