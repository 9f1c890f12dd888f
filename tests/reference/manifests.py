"""Configs that a golden file leaves to a manifest: "as manifests/clip_rn50.json"."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

OURS = Path(__file__).parent.parent / "golden"


def config(meta: dict) -> dict:
    """The file's config, its own or that of the manifest it names.

    Manifests, as .json or .json.gz, are looked for in manifests/ beside the golden file
    (`meta["folder"]`), then one level up, then in tests/golden. What a manifest says of a model
    beside its config (CLIP's vision_heads) comes along. Raises ValueError where there is none.
    """
    said = meta["config"]
    if isinstance(said, dict):
        return said
    named = re.search(r"manifests/([\w.-]+?)\.json", said)
    if not named:
        raise ValueError(f"config is neither options nor the name of a manifest: {said!r}")
    manifest = read(named[1], meta.get("folder"))
    beside = {key: manifest[key] for key in ("vision_heads",) if key in manifest}
    return beside | manifest["config"]


def read(name: str, folder: Path | None = None) -> dict:
    places = [folder, folder.parent] if folder else []
    for place in (*places, OURS):
        path = place / "manifests" / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_bytes())
        if (packed := path.with_suffix(".json.gz")).is_file():
            return json.loads(gzip.decompress(packed.read_bytes()))
    raise ValueError(f"there is no manifests/{name}.json")
