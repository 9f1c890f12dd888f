"""acgd: sound-guided image generation as a config-driven experiment framework.

    import acgd

    pictures = acgd.draw("bark.wav", seed=[0, 1])
    pictures[0].image.show()

`draw` makes pictures as the command line does, `hear` says what a sound is taken for, `steps` hands
out every step on the way, and what goes wrong is a UserError whose message says what to do. Nothing
heavy is imported until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acgd.errors import UserError

if TYPE_CHECKING:
    from acgd.pipeline.face import draw, hear, steps
    from acgd.pipeline.shown import Frame, Picture, Pictures, Sound, Sounds

__version__ = "0.4.0"
__all__ = ["Frame", "Picture", "Pictures", "Sound", "Sounds", "UserError", "draw", "hear", "steps"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from acgd.pipeline import face

        return getattr(face, name)
    raise AttributeError(f"module 'acgd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
