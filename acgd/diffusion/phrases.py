"""What a network that is told in words is told of a sample's targets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from acgd.errors import UserError
from acgd.types import Target

TEMPLATE = "{words}"


def phrase(row: Sequence[Target], template: str) -> str:
    """A sample's targets in the words of a template.

    {text}: the prompt's own words, {heard}: what a sound is taken for, {described}: a describer's
    words for it, {words}: all of these. What is not there leaves no comma behind;
    where there is none of them, only a template that asks for none is told.
    """
    told = {
        "text": [t.label for t in row if t.kind == "text" and t.weight > 0 and not t.described],
        "heard": likeliest(row),
        "described": [t.label for t in row if t.kind == "text" and t.weight > 0 and t.described],
    }
    told["words"] = [label for labels in told.values() for label in labels]
    try:
        filled = template.format(**{name: ", ".join(labels) for name, labels in told.items()})
    except (LookupError, ValueError, AttributeError):
        raise UserError(
            f"prompt.template={template!r}: knows {{text}}, {{heard}}, {{described}} and {{words}}"
        ) from None
    if "{" in template and not told["words"]:
        return ""
    return re.sub(r"(,\s*)+", ", ", filled).strip(" ,")


def likeliest(row: Sequence[Target]) -> list[str]:
    """What a sound is taken for: the likeliest label, and others half as likely."""
    heard = sorted((t for t in row if t.kind == "heard"), key=lambda t: -t.weight)
    return [t.label for t in heard if t.weight >= heard[0].weight / 2]
