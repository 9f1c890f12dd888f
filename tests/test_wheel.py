"""What is installed: a wheel in an empty folder, without the repository."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling builds the wheel")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's files, as pip would lay them."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def acgd(installed: Path, cwd: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "acgd", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
@pytest.mark.slow
def test_all_commands_work_in_an_empty_folder(installed, tmp_path, tiny, sounds):
    own = [*tiny, "logger=none", "report=true"]
    assert acgd(installed, tmp_path, "--version").startswith("acgd ")
    drawn = acgd(installed, tmp_path, str(sounds / "tone.wav"), *own, "seed=[0,1]")
    assert drawn.count("seed") >= 2 and (tmp_path / "outputs/main").is_dir()
    (run,) = (tmp_path / "outputs/main").glob("tone-seed0-*")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "acgd repeat" in page and "run.py" not in page
    assert "the same" in acgd(installed, tmp_path, "repeat", str(run))
    assert "report.html" in acgd(installed, tmp_path, "report", "outputs/main")
    assert "seed" in acgd(installed, tmp_path, "compare", "outputs/main", "--by", "seed")
    assert "RN50.pt" in acgd(installed, tmp_path, "fetch")
    assert acgd(installed, tmp_path, "sync", "--help").startswith("usage: acgd sync")
