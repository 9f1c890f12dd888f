"""Values as words of the command line, in the grammar of Hydra's overrides."""

from __future__ import annotations

import re


def quoted(text: str, mark: str = "'") -> str:
    """A text that Hydra and OmegaConf read as it stands: within `mark`s, nothing interpolated."""
    # a backslash counts only before a mark, the closing one included
    pattern = rf"(\\*)({mark}|\Z)"
    text = re.sub(pattern, lambda at: at[1] * 2 + f"\\{mark}" * bool(at[2]), literal(text))
    return mark + text + mark


def literal(text: str) -> str:
    r"""A text in which OmegaConf finds no interpolation: "${x}" becomes "\${x}"."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
