"""What a real GPU draws, beside the CPU; scripts/gpu_check.sh runs these and shows what they find.

ACGD_CUDA_TESTS_ON=cpu runs them without a GPU, to try the tests themselves.
"""

import csv
import math
import os

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image

from acgd.errors import UserError
from acgd.pipeline import models, runner
from acgd.runs.run import expand

GPU = os.environ.get("ACGD_CUDA_TESTS_ON", "cuda")
MOST = 2  # mean difference of two pictures that count as the same, of 255

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        GPU.startswith("cuda") and not torch.cuda.is_available(), reason="there is no GPU here"
    ),
]


@pytest.fixture(autouse=True)
def no_models_of_another_device():
    models.CACHE.kept.clear()
    yield
    models.CACHE.kept.clear()
    torch.use_deterministic_algorithms(False)


def draw(folder, *overrides):
    """The pictures of the default job, made short, by seed: each (256, 256, 3)."""
    quick = ["sampler.steps=10", "preview_every=0", "captioner=none", "describer=none"]
    quick += ["enlarge_to=0"]
    given = [*quick, f"outputs={folder}", "logger=none", "report=false", *overrides]
    runner.render(expand(compose(*given)))
    paths = sorted((folder / "main").glob("*/images/seed?.png"))
    return [np.asarray(Image.open(path)).astype(int) for path in paths]


def apart(ours, theirs) -> float:
    """The largest mean difference of two pictures; also printed, for the table."""
    pairs = zip(ours, theirs, strict=True)
    most = max(float(abs(a - b).mean()) for a, b in pairs)
    print(f"\nmeasured: mean difference {most:.3f} of 255")
    return most


def test_the_same_seed_on_cpu_and_gpu(tmp_path):
    told = ["precision=fp32", "seed=[0,1]"]
    here = draw(tmp_path / "cpu", "device=cpu", *told)
    there = draw(tmp_path / "gpu", f"device={GPU}", *told)
    assert len(here) == 2 and apart(here, there) <= MOST


def test_alone_is_as_in_a_batch(tmp_path):
    told = [f"device={GPU}", "precision=fp32"]
    together = draw(tmp_path / "batch", *told, "seed=[0,1,2]")
    alone = draw(tmp_path / "alone", *told, "seed=[0,1,2]", "batch_size=1")
    assert len(together) == 3 and apart(together, alone) <= MOST


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twice_is_the_same_to_the_bit(precision, tmp_path):
    told = [f"device={GPU}", f"precision={precision}", "seed=[0,1]"]
    first = draw(tmp_path / "first", *told)
    models.CACHE.kept.clear()
    assert apart(first, draw(tmp_path / "second", *told)) == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_finite(precision, tmp_path):
    (picture,) = draw(tmp_path, f"device={GPU}", f"precision={precision}")
    assert picture.std() > 5  # a picture, not a plain
    (path,) = tmp_path.rglob("losses.csv")
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    values = [float(row["clip"]) for row in rows if row["clip"]]
    assert len(rows) == 10 and len(values) > 5 and all(map(math.isfinite, values))


def test_a_gpu_too_many_is_refused(tmp_path):
    wanted = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UserError, match=rf"device={wanted}: there is (only|none)"):
        draw(tmp_path, f"device={wanted}")
