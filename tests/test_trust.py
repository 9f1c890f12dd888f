"""Whom a run trusts: not file names, not configs that were sent, not words from a page."""

from __future__ import annotations

import json
import random
import shlex
import shutil

import pytest
import yaml
from conftest import ROOT, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_cli import run

import acgd
from acgd.config import trust
from acgd.config.compose import own_parts
from acgd.config.instantiate import build
from acgd.config.words import quoted
from acgd.errors import UserError
from acgd.paths import home
from acgd.pipeline import runner
from acgd.pipeline.face import value_of
from acgd.report import command_lines
from acgd.runs import records
from acgd.runs.folder import as_yaml
from acgd.runs.run import expand

NAME = "x-${oc.env:SECRET_KEY}.wav"
SECRET = "hidden-in-the-environment"


@pytest.fixture
def named(sounds, monkeypatch):
    """A sound with an interpolation for a name, in the folder one stands in."""
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.chdir(sounds)
    shutil.move("tone.wav", NAME)
    return sounds / NAME


def tells(folder) -> list[str]:
    """The files below a folder that hold the secret, by content or by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(p) for p in files if SECRET in str(p) or SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    "words",
    [
        [NAME],
        [f"prompt.path={NAME}"],
        ["prompt.path=."],
        [NAME, "hiss.wav"],
        [NAME, "seed=0,1", "-m"],
    ],
    ids=["bare", "prompt.path", "folder", "two", "sweep"],
)
def test_a_file_name_is_not_interpolated(named, tiny, tmp_path, words):
    done = run(*words, *tiny, "logger=none", cwd=named.parent, SECRET_KEY=SECRET)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr and not tells(tmp_path)
    assert list((named.parent / "outputs/main").glob("x-oc-env-secret_key-seed0-*/images/*.png"))


def test_nor_is_what_python_is_given(named, tiny, tmp_path):
    options = ["logger=none", "report=false"]
    (picture,) = acgd.draw(NAME, *tiny, *options, outputs=tmp_path / "outputs")
    assert picture.label == NAME.removesuffix(".wav") and not tells(tmp_path)
    words = OverridesParser.create().parse_overrides(shlex.split(picture.command)[1:])
    (path,) = [one.value() for one in words if one.key_or_group == "prompt.path"]
    assert OmegaConf.to_container(OmegaConf.create({"a": path}), resolve=True) == {"a": NAME}
    node = {"_target_": "acgd.prompts.text.TextPrompt", "text": ["${oc.env:SECRET_KEY}"]}
    assert SECRET not in str(vars(build(node)))


def test_a_page_asks_no_resolver(named):
    config = {"prompt.text": "${oc.env:SECRET_KEY}", "name": "a"}
    given = ["prompt=text", "prompt.text=x", "concept=${oc.env:SECRET_KEY}", "name=${concept}"]
    record = records.empty(None) | {"config": config, "overrides": given}
    words = shlex.split(command_lines.command(record))
    words = words[1 + words.index("run.py") if "run.py" in words else 1 :]
    cfg = OmegaConf.to_container(compose(*words), resolve=True)
    assert cfg["prompt"]["text"] == cfg["concept"] == cfg["name"] == "${oc.env:SECRET_KEY}"


@pytest.mark.parametrize("mark", ["'", '"'])
def test_any_text_is_a_word_of_the_command_line(mark):
    draw, parser = random.Random(0), OverridesParser.create()
    pieces = ["\\", "'", '"', *"${}a ,=é\n", "${oc.env:HOME}", "\\${x}"]
    for _ in range(300):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(9)))
        for word, meant in ((quoted(text, mark), text), (value_of([text]), [text])):
            value = parser.parse_override(f"k={word}").value()
            found = OmegaConf.to_container(OmegaConf.create({"k": value}), resolve=True)["k"]
            assert found == meant


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "os.system",
        "builtins.eval",
        "acgd.loggers.worker.subprocess.Popen",  # which that file imports
        "acgd.media.find.os.system",
        "acgd.commands.run.Sweep",
        "acgd.encoders.nothing.There",
        "acgd.prompts.text.join",  # no class
        "acgd",
        "",
        7,
        ["torch.load"],
    ],
    ids=str,
)
def test_a_foreign_target_is_refused_before_it_is_imported(target):
    with pytest.raises(UserError, match=r"sampler\.(deep\.0\.)?_target_="):
        trust.check({"sampler": {"_target_": target}})
    with pytest.raises(UserError):
        trust.check({"prompt": {"text": "a", "deep": [{"_target_": target}]}})


def test_every_part_of_acgd_is_one():
    files = [*(ROOT / "conf").rglob("*.yaml")]
    found = [one for p in files for one in trust.targets(yaml.safe_load(p.read_text()))]
    names = {name for _, name in found} - {"acgd.commands.run.Sweep"}  # Hydra's own callback
    assert len(names) > 30 and all(map(trust.is_part, names))


def test_what_one_trusts_is_used():
    cfg = {"a": {"_target_": "mine.sub.Part"}}
    for package in ("mine", "mine.sub", "mine.sub.Part"):
        trust.check(cfg, [package])
    for package in ("min", "mine.su", "mine.sub.Part.x"):
        with pytest.raises(UserError, match=r"a\._target_=mine\.sub\.Part.*'trust=\[mine\]'"):
            trust.check(cfg, [package])
    expand(compose("+sampler.x._target_=mine.Part", "trust=[mine]", "prompt.path=demo:dog"))


def test_the_command_line_refuses_in_one_line(tmp_path):
    done = run("sampler._target_=torch.load", cwd=tmp_path)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    (line,) = done.stderr.splitlines()
    assert line.startswith("acgd: sampler._target_=torch.load: is no part of acgd")


@pytest.fixture
def sent(tiny, tmp_path, sounds):
    """A finished run's folder, and how to change its config as somebody else might."""
    words = [f"prompt.path={sounds / 'tone.wav'}", "logger=none", f"outputs={tmp_path / 'made'}"]
    (one,) = expand(compose(*tiny, *words))
    runner.render([one])

    def change(edit) -> None:
        path = one.folder / "config.yaml"
        path.write_text(edit(path.read_text()))

    return one.folder, change


BOMB = "a: &a [x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            lambda text: text.replace("acgd.diffusion.samplers.dpmpp.DPMSolverPP", "torch.load"),
            "sampler._target_=torch.load: is no part of acgd and is not run; if you know and trust "
            "it, add --trust torch",
        ),
        (
            lambda text: text + "trust: [evil]\nextra: {_target_: evil.Code}\n",
            "extra._target_=evil.Code: is no part of acgd",
        ),
        (lambda text: BOMB + text, "alias"),
        (lambda text: "[" * 5000, "cannot be read"),
        (lambda text: "- a list", "there is no config in it"),
    ],
    ids=["target", "trusts-itself", "aliases", "deep", "list"],
)
def test_repeat_refuses_what_was_sent(sent, tmp_path, edit, says):
    folder, change = sent
    change(edit)
    done = run("repeat", str(folder), cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("acgd: ") and says in line


def test_repeat_interpolates_nothing_and_imports_nothing_from_there(sent, tmp_path):
    folder, change = sent
    prompt = {"_target_": "acgd.prompts.text.TextPrompt", "text": "${oc.env:SECRET_KEY}"}
    change(lambda text: as_yaml(yaml.safe_load(text) | {"prompt": prompt}))
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("torch", "acgd", "numpy"):
        (trap / f"{name}.py").write_text("open('sprung', 'w')\nraise SystemExit(7)\n")
    about = json.loads((folder / "environment.json").read_text()) | {"folder": str(trap)}
    (folder / "environment.json").write_text(json.dumps(about))
    done = run("repeat", str(folder), "--out", "again", cwd=tmp_path, SECRET_KEY=SECRET)
    assert "Traceback" not in done.stderr and not list(tmp_path.rglob("sprung"))
    assert not tells(tmp_path) and SECRET not in done.stdout + done.stderr
    assert list(tmp_path.glob("again/again/*/images/*.png"))


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/../../x", "~/x", "..", "", None, True, "a\nb"]
)
def test_a_name_stays_in_outputs(name):
    with pytest.raises(UserError, match=r"^name="):
        home("outputs", name)


def test_outputs_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        home("~/o", "a/b") == tmp_path / "o/a/b"
        and str(home("~nobody-is/o", 3)) == "~nobody-is/o/3"
    )
    (one,) = expand(compose("outputs='~/o'", "prompt.path=demo:dog"))
    assert one.folder.parent == tmp_path / "o/main"


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_name_elsewhere_makes_no_folder(tmp_path, sweep):
    (tmp_path / "here").mkdir()
    done = run("name=../../x", *sweep, cwd=tmp_path / "here")
    assert done.returncode == 1 and [p.name for p in tmp_path.rglob("*")] == ["here"]
    assert done.stderr.splitlines() == [
        "acgd: name=../../x: must lie in the folder of outputs=outputs, not elsewhere"
    ]


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(30))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n", BOMB])
def test_a_config_of_ones_own_that_unfolds_without_end_is_one_line(tmp_path, text):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler/mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml: its aliases \(\*\) unfold without end"):
        own_parts(tmp_path)


def test_aliases_that_end_and_files_that_do_not(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\nc: *a\n")
    assert own_parts(tmp_path) == tmp_path
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"zero\.yaml: is no yaml file"):
        own_parts(tmp_path)
