"""No mirror: the runs' folders are all there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class NoLogger:
    def begin(self) -> None:
        """Nothing to get ready."""

    def tell(self, folders: Sequence[Path]) -> None:
        """Nobody to be told."""

    def mirror(self, folders: Sequence[Path]) -> None:
        """Nobody to be waited for."""
