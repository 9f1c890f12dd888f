"""A small pipeline that the project trains is drawn by acgd and by diffusers, to one picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image, ImageDraw

from acgd.diffusion.noise import Noise
from acgd.errors import UserError
from acgd.pipeline import runner
from acgd.runs.run import expand

diffusers = pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
SHAPES = {
    "dog": lambda draw: draw.ellipse((12, 12, 52, 52), fill="red"),
    "rain": lambda draw: draw.rectangle((0, 32, 64, 64), fill="blue"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of pictures, and the pipeline that learned them."""
    from acgd.training import small_pipeline

    folder = tmp_path_factory.mktemp("small")
    (folder / "pictures").mkdir()
    for words, shape in SHAPES.items():
        image = Image.new("RGB", (64, 64), "white")
        shape(ImageDraw.Draw(image))
        image.save(folder / "pictures" / f"{words}.png")
    given = ["--pictures", folder / "pictures", "--out", folder / "out", "--size", "16"]
    given += ["--steps", "100", "--cooldown", "90", "--batch", "6", "--lr", "4e-3"]
    threads = torch.get_num_threads()
    small_pipeline.main([*map(str, given)])
    torch.set_num_threads(threads)
    return folder / "pictures", folder / "out" / "pipeline"


def nearest(picture: np.ndarray, folder) -> str:
    """Which of the pictures (16, 16, 3) is most like one in [0, 1]."""
    known = {p.stem: np.asarray(Image.open(p).resize((16, 16))) / 255 for p in folder.iterdir()}
    return min(known, key=lambda words: np.abs(known[words] - picture).mean())


@pytest.mark.slow
def test_both_draw_what_was_learned_and_the_same(trained, tiny, tmp_path):
    pictures, folder = trained
    own = [word for word in tiny if not word.startswith(("model.", "sampler."))]
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for words in SHAPES:
        given = [*own, "model=diffusers", f"model.checkpoint={folder}", "sampler=ddim", "seed=1",
                 "sampler.steps=20", "guidance.clip=0", "guidance.range=0", "prompt=text",
                 f"prompt.text={words}", f"outputs={tmp_path}", "logger=none"]  # fmt: skip
        (run,) = expand(compose(*given))
        runner.render([run])
        mine = np.asarray(Image.open(run.folder / "images" / "seed1-native.png")) / 255
        noise = Noise([1]).like(torch.empty(1, 4, 8, 8))
        theirs = pipe(words, num_inference_steps=20, guidance_scale=2.0, latents=noise,
                      output_type="np").images[0]  # fmt: skip
        assert nearest(mine, pictures) == nearest(theirs, pictures) == words
        assert np.abs(mine - theirs).max() < 0.02


def test_a_folder_without_pictures_is_one_line(tmp_path):
    from acgd.training import small_pipeline

    with pytest.raises(UserError, match="holds no png and no jpg"):
        small_pipeline.main(["--pictures", str(tmp_path), "--out", str(tmp_path / "out")])
