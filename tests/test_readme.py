"""What the README says is so: its commands compose, its keys exist, its examples work."""

from __future__ import annotations

import re
import shlex
import sys
import types

import pytest
import torch
import yaml
from conftest import ROOT, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from small import SmallEncoder, denoiser, targets

from acgd.config.instantiate import build
from acgd.diffusion.noise import Noise

README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAGS = ("-m", "--help", "--cfg", "job")
# what is composed with a plugin that an extra brings
PLUGINS = {
    "hydra/launcher=joblib": "hydra_joblib_launcher",
    "hydra/launcher=submitit_local": "hydra_submitit_launcher",
    "hydra/launcher=cluster_slurm": "hydra_submitit_launcher",
    "hydra/launcher=cluster_ray": "hydra_ray_launcher",
    "experiment=search": "hydra_optuna_sweeper",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[str]:
    """Lines of the sh blocks that begin with these words, without their comments."""
    lines = "".join(blocks("sh")).splitlines()
    return [line for line in lines if line.startswith(start)]


def example(path: str) -> str:
    """The example block whose first line is the comment that names this file."""
    found = [block for block in blocks("(?:python|yaml)") if block.startswith(f"# {path}\n")]
    assert len(found) == 1, path
    return found[0]


def test_the_set_up_is_two_commands_that_ci_runs():
    first, second = blocks("sh")[0].splitlines()
    assert "pip install -e ." in first and first.endswith("python run.py")
    assert 'pip install -e ".[test]"' in second and second.endswith("python -m pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", commands("python run.py"))
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
    keys = known_keys()
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`([a-z_/]+(?:\.[a-z_]+)*)=[^`]*`", prose)
    named += re.findall(r"`((?:guidance|prompt|describer|sampler|encoder)\.[a-z_.]+)`", prose)
    assert len(named) > 30
    ours = [key for key in named if not key.startswith("hydra")]  # the rest is Hydra's own
    strange = [key for key in ours if key.replace("/", ".") not in keys]
    assert not strange


def test_every_choice_that_is_named_exists():
    for group, choice in re.findall(r"`([a-z_/]+)=([a-z_0-9]+)`", README):
        folder = ROOT / "conf" / group
        if folder.is_dir():
            own = f"# conf/{group}/{choice}.yaml\n" in README  # an example that the reader adds
            assert own or (folder / f"{choice}.yaml").is_file(), f"{group}={choice}"


def test_every_path_that_is_named_exists():
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:acgd|conf|scripts|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists() or f"# {path}\n" in README, path


@pytest.fixture
def made(request, monkeypatch):
    """The README's example of a group (its code and its yaml), built as the runner builds it."""

    def make(group: str, name: str, module: str, **known):
        code = types.ModuleType(module)
        exec(compile(example(f"{module.replace('.', '/')}.py"), module, "exec"), code.__dict__)
        monkeypatch.setitem(sys.modules, module, code)
        node = yaml.safe_load(example(f"conf/{group}/{name}.yaml"))
        return build(node, **known)

    return make


def test_the_sampler_of_the_readme_samples(made):
    sampler = made("sampler", "renoise", "acgd.diffusion.samplers.renoise")
    denoise, noise = denoiser("8"), Noise([0, 1])
    steps = list(sampler(denoise, noise.like(torch.empty(2, 3, 32, 32)), noise=noise))
    assert len(steps) == 8 and steps[-1].x.isfinite().all()
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)
    assert not torch.equal(steps[0].x, steps[1].x)


def test_the_prompt_of_the_readme_lies_between(made):
    words = {"an owl": torch.eye(16)[0], "a rocket": torch.eye(16)[1]}
    encoder = SmallEncoder()
    encoder.text = lambda texts: torch.stack([words[text] for text in texts])
    (target,) = made("prompt", "between", "acgd.prompts.between")(encoder)
    assert target.embed.norm().item() == pytest.approx(1)
    torch.testing.assert_close(target.embed @ words["an owl"], target.embed @ words["a rocket"])
    assert type(target) is type(targets(0)[0])


def test_the_encoder_of_the_readme_sees_no_colour(made, weights):
    checkpoint = f"{weights / 'encoder.safetensors'}"
    module = "acgd.encoders.grey"
    node_checkpoint = yaml.safe_load(example("conf/encoder/grey.yaml"))["checkpoint"]
    assert node_checkpoint == "embedded:tiny_encoder"
    encoder = made("encoder", "grey", module, checkpoint=checkpoint)
    x = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    torch.testing.assert_close(encoder.image(x), encoder.image(x.flip(1)))
    assert not torch.allclose(encoder.image(x)[0], encoder.image(x)[1])


def test_the_model_card_has_the_sizes_that_are_trained():
    from acgd.models.audioclip import AudioCLIP
    from acgd.models.unet import UNet
    from acgd.training.diffusion import ARCHITECTURE
    from acgd.training.encoder import ARCHITECTURES

    card = (ROOT / "acgd/weights/MODEL_CARD.md").read_text(encoding="utf-8")
    models = [(UNet, ARCHITECTURE), *((AudioCLIP, config) for config in ARCHITECTURES.values())]
    for make, config in models:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in make(**config).parameters())
        assert f"| {count:,} |" in card, (make.__name__, count)
