"""Which of a tab's jobs wait for their turn, and which of those were called off meanwhile."""

from __future__ import annotations

from collections import Counter


class Turns:
    """Counts for each tab; the queue itself is the page's."""

    def __init__(self) -> None:
        self.waiting = Counter[str]()
        self.off = Counter[str]()

    def wait(self, tab: str) -> None:
        """A job of the tab's joins the queue."""
        self.waiting[tab] += 1

    def call_off(self, tab: str) -> bool:
        """None of the tab's jobs that wait is to be drawn; whether there was one."""
        self.off[tab] = self.waiting[tab]
        return self.off[tab] > 0

    def is_off(self, tab: str) -> bool:
        """The tab's next job has its turn; whether it was called off."""
        self.waiting[tab] = max(0, self.waiting[tab] - 1)
        if off := self.off[tab] > 0:
            self.off[tab] -= 1
        return off
