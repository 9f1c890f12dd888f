"""What of the runs' folders a browser may have: pictures, pages, sounds, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

SHOWN = {".png", ".webp", ".gif", ".mp4", ".mp3", ".html", ".csv"}


class RunFiles(StaticFiles):
    """Files below `outputs`, of these kinds and within `folder` alone."""

    def __init__(self, outputs: Path, folder: Path):
        super().__init__(directory=outputs, check_dir=False)
        self.folder = folder.resolve()

    async def get_response(self, path: str, scope: Any) -> Any:
        place = (Path(str(self.directory)) / path).resolve()
        if place.suffix.lower() not in SHOWN or not place.is_relative_to(self.folder):
            raise HTTPException(404)
        return await super().get_response(path, scope)
