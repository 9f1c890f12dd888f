"""One run on its way through the runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from acgd.runs.folder import Record
from acgd.runs.run import Run
from acgd.types import PromptSource, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Sample:
    """A run, its record on disk, and what each stage adds for the next."""

    run: Run
    record: Record = field(init=False)
    error: Exception | None = None
    made_before: bool = False  # finished when it was looked at
    source: PromptSource | None = None
    init_image: Image.Image | None = None
    targets: list[Target] = field(default_factory=list)  # by the encoder
    judged: list[Target] = field(default_factory=list)  # the same prompts by the judge
    taken: dict[str, str] = field(default_factory=dict)  # texts: the things they are taken for
    sound: Tensor | None = None  # (D,) as the judge hears it
    heard: list[tuple[str, float]] = field(default_factory=list)  # labels of the sound
    words: list[str] = field(default_factory=list)  # the describer's, about the sound
    described: dict[str, list] = field(default_factory=dict)  # list -> (label, probability)
    picture: str = ""  # its path
    caption: str = ""
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.record = Record(self.run)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to be done about it."""
        return self.error is not None or self.made_before or bool(self.picture)

    def fail(self, error: Exception) -> None:
        """It ends with this error, on disk too; its batch goes on."""
        self.error = error
        self.record.fail(error)

    def release(self) -> None:
        """Of what only its making needed: a sweep has thousands of finished samples."""
        self.record.losses, self.targets, self.judged, self.sound = [], [], [], None
