"""What the papers say is so: their commands compose, keys exist, and examples work as pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from small import SmallEncoder, denoiser, targets

from acgd.commands.main import COMMANDS
from acgd.config import keys as keys_table
from acgd.config.instantiate import build
from acgd.diffusion.noise import Noise

PAPERS = [
    ROOT / name
    for name in (
        "README.md",
        "conf/README.md",
        "acgd/README.md",
        "acgd/models/README.md",
        "acgd/diffusion/README.md",
        "acgd/training/README.md",
        "scripts/README.md",
        "tests/README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    )
]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAPERS)
README = PAPERS[0].read_text(encoding="utf-8")
FLAGS = ("-m", "--help", "--cfg", "job")
# what is composed with a plugin that an extra brings
PLUGINS = {
    "hydra/launcher=joblib": "hydra_joblib_launcher",
    "hydra/launcher=submitit_local": "hydra_submitit_launcher",
    "hydra/launcher=cluster_slurm": "hydra_submitit_launcher",
    "hydra/launcher=cluster_ray": "hydra_ray_launcher",
    "experiment=search": "hydra_optuna_sweeper",
}


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[str]:
    """Lines of the sh blocks that begin with these words, without their comments."""
    lines = "".join(blocks("sh")).splitlines()
    return [line for line in lines if line.startswith(start)]


def test_the_set_up_is_two_commands_that_ci_runs():
    first, second = blocks("sh", README)[0].splitlines()
    assert "pip install -e ." in first and first.endswith("python run.py")
    assert 'pip install -e ".[test]"' in second and second.endswith("python -m pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def runs() -> list[str]:
    """Lines that begin a run: not those of another command or of a sound named alone."""
    lines = commands("python run.py")
    return [line for line in lines if not {*shlex.split(line)[2:3]} & {*COMMANDS, "bark.wav"}]


@pytest.mark.parametrize("command", runs())
def test_a_command_composes(command):
    overrides = [word for word in shlex.split(command, comments=True)[2:] if word not in FLAGS]
    for plugin in {PLUGINS[word] for word in overrides if word in PLUGINS}:
        pytest.importorskip(f"hydra_plugins.{plugin}")
    first, last = [], []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
            first.append(f"{override.key_or_group}={values[0]}")
            last.append(f"{override.key_or_group}={values[-1]}")
        else:
            first.append(override.input_line)
    compose(*first)
    if last:
        assert " -m" in command, "a sweep needs -m"
        compose(*first, *last)


def known_keys() -> set[str]:
    """Every key that some choice of the groups has, "guidance.clip" for nested ones."""
    keys = set(yaml.safe_load((ROOT / "conf/config.yaml").read_text(encoding="utf-8")))
    for path in (ROOT / "conf").glob("*/**/*.yaml"):
        group = ".".join(path.relative_to(ROOT / "conf").parts[:-1])
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys |= {group, *(f"{group}.{key}" for key in content)}
    return keys


def test_every_key_that_is_named_exists():
    keys = known_keys() | set(
        keys_table.TABLE
    )  # a part's own keys, which only some of its files have
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`([a-z_/]+(?:\.[a-z_]+)*)=[^`]*`", prose)
    named += re.findall(r"`((?:guidance|prompt|describer|sampler|encoder)\.[a-z_.]+)`", prose)
    assert len(named) > 30
    ours = [key for key in named if not key.startswith("hydra")]  # the rest is Hydra's own
    strange = [key for key in ours if key.replace("/", ".") not in keys]
    assert not strange


def test_every_choice_that_is_named_exists():
    for group, choice in re.findall(r"`([a-z_/]+)=([a-z_0-9]+)`", TEXT):
        folder = ROOT / "conf" / group
        if folder.is_dir():
            own = f"# my_parts/conf/{group}/{choice}.yaml\n" in TEXT  # the reader's own
            assert own or (folder / f"{choice}.yaml").is_file(), f"{group}={choice}"


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(paper):
    text = paper.read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (paper.parent / path).exists(), path
    for path in re.findall(r"`((?:acgd|conf|scripts|tests)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_heading_that_is_linked_exists():
    for paper in PAPERS:
        for path, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", paper.read_text("utf-8")):
            text = (paper.parent / path if path else paper).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}
            assert anchor in slugs, (paper, anchor)


def test_the_first_paper_is_short():
    assert len(README.splitlines()) <= 200


@pytest.fixture(scope="module")
def my_parts(tmp_path_factory) -> Path:
    """A folder outside the package with all the examples pasted."""
    folder = tmp_path_factory.mktemp("reader")
    examples = blocks("(?:python|yaml)")
    pasted = [text for text in examples if text.startswith("# my_parts/")]
    for text in pasted:
        path = folder / text.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert len(pasted) == 8
    return folder


OWN = {
    "sampler": ["sampler=renoise"],
    "loss": ["guidance=edges", "guidance.edges=100,4000", "-m"],
    "prompt": ["prompt=between", "prompt.at=0.25"],
    "encoder": ["encoder=grey"],
}


@pytest.mark.process
@pytest.mark.parametrize("part", OWN)
def test_an_example_works_as_pasted_from_the_command_line(part, my_parts, tiny, sounds, tmp_path):
    words = ["--config-dir", "my_parts/conf", f"outputs={tmp_path}", "logger=none", *OWN[part]]
    drawn = [] if part == "prompt" else [f"prompt.path={sounds / 'tone.wav'}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    call = [sys.executable, str(ROOT / "run.py"), *words, *drawn, *tiny]
    done = subprocess.run(call, cwd=my_parts, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "main").glob("*-seed0-*"))
    pictures = [(folder / "images" / "seed0.png").read_bytes() for folder in folders]
    assert len(pictures) == (2 if part == "loss" else 1)
    if part == "loss":
        losses = (folders[0] / "losses.csv").read_text()
        assert "edges" in losses.splitlines()[0] and pictures[0] != pictures[1]


def test_the_prompt_of_the_papers_lies_between(my_parts, monkeypatch):
    monkeypatch.syspath_prepend(str(my_parts / "my_parts"))
    words = {"an owl": torch.eye(16)[0], "a rocket": torch.eye(16)[1]}
    encoder = SmallEncoder()
    encoder.text = lambda texts: torch.stack([words[text] for text in texts])
    node = yaml.safe_load((my_parts / "my_parts/conf/prompt/between.yaml").read_text())
    (target,) = build(node)(encoder)
    assert target.embed.norm().item() == pytest.approx(1)
    torch.testing.assert_close(target.embed @ words["an owl"], target.embed @ words["a rocket"])
    assert type(target) is type(targets(0)[0])


def test_the_sampler_of_the_papers_samples(my_parts, monkeypatch):
    monkeypatch.syspath_prepend(str(my_parts / "my_parts"))
    sampler = build(yaml.safe_load((my_parts / "my_parts/conf/sampler/renoise.yaml").read_text()))
    denoise, noise = denoiser("8"), Noise([0, 1])
    steps = list(sampler(denoise, noise.like(torch.empty(2, 3, 32, 32)), noise=noise, history=()))
    assert len(steps) == 8
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)
    assert steps[-1].x.isfinite().all() and not torch.equal(steps[0].x, steps[1].x)


def test_the_encoder_of_the_papers_sees_no_colour(my_parts, monkeypatch, weights):
    monkeypatch.syspath_prepend(str(my_parts / "my_parts"))
    node = yaml.safe_load((my_parts / "my_parts/conf/encoder/grey.yaml").read_text())
    assert node["checkpoint"] == "embedded:tiny_encoder"
    encoder = build({"_target_": node["_target_"]}, checkpoint=f"{weights / 'encoder.safetensors'}")
    x = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    torch.testing.assert_close(encoder.image(x), encoder.image(x.flip(1)))
    assert not torch.allclose(encoder.image(x)[0], encoder.image(x)[1])


@pytest.mark.process
@pytest.mark.slow
def test_the_lines_of_python_run_as_pasted(tmp_path):
    lines = "".join(text for text in blocks("python") if text.startswith("import acgd"))
    assert lines.count("acgd.draw") == 2 and lines.count("acgd.steps") == 1
    lines = lines.replace("pictures[0].image.show()\n", "print(pictures[0].image.size)\n")
    lines = lines.replace("seed=[0, 1]", "seed=[0]")  # half the time
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", lines]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dog.png").is_file() and (tmp_path / "dog_010.png").is_file()


def test_the_model_card_has_the_sizes_that_ship():
    from acgd.checkpoints.load import read_config
    from acgd.models.audioclip import AudioCLIP
    from acgd.models.unet import UNet

    card = (ROOT / "acgd/weights/MODEL_CARD.md").read_text(encoding="utf-8")
    models = {"tiny_unet": UNet, "tiny_encoder": AudioCLIP, "tiny_judge": AudioCLIP}
    for name, make in models.items():
        with torch.device("meta"):
            model = make(**read_config(ROOT / f"acgd/weights/{name}.safetensors"))
        count = sum(parameter.numel() for parameter in model.parameters())
        line = next(line for line in card.splitlines() if line.startswith(f"| {name}."))
        assert line.endswith(f"| {count:,} |"), (name, count)
