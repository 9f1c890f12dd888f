"""What every key of conf/ may be: the table, its README, and what is said of everything else."""

from __future__ import annotations

import copy
import re
from functools import cache

import pytest
from conftest import ROOT, compose
from test_cli import run

from acgd.config import keys, trust, validate
from acgd.config.explain import explain
from acgd.config.instantiate import build
from acgd.errors import UserError
from acgd.pipeline.sample import Sample
from acgd.pipeline.targets import look
from acgd.runs.run import expand, resolve

RAW = re.compile(r"Traceback|\b[A-Z]\w*(Error|Exception)\b")
VALUES = [-1, 0, float("nan"), float("inf"), 1e308, "abc", "", [], None, True]
PARTS = sorted(
    path.relative_to(ROOT / "conf").with_suffix("").as_posix()
    for path in (ROOT / "conf").glob("*/**/*.yaml")
    if path.parts[len(ROOT.parts) + 1] not in ("experiment", "bug", "hydra")
)


@cache
def config(part: str) -> dict:
    group, _, name = part.rpartition("/")
    image = [f"prompt.image={ROOT / 'docs/none.png'}"] if part == "prompt/image" else []
    return resolve(compose(f"{group}={name}", *image))


def dotted(node: dict, prefix: str = "") -> list[str]:
    found = []
    for name, value in node.items():
        found.append(f"{prefix}{name}")
        found += dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else []
    return found


def places() -> dict[str, str]:
    """Every dotted key of conf/ with a part of which it is."""
    found = {}
    for part in PARTS:
        group = part.split("/")[0]
        for key in dotted(config(part)):
            if key not in found or key.startswith(f"{group}."):
                found.setdefault(f"{key}", part)
    return found


def put(part: str, key: str, value: object) -> dict:
    cfg = copy.deepcopy(config(part))
    *path, last = key.split(".")
    node = cfg
    for name in path:
        node = node[name]
    node[last] = value
    return cfg


def outcome(cfg: dict, deeper: bool) -> str:
    """What a run with this config comes to without a model: "" or the line that is said."""
    try:
        (first, *_) = expand(cfg)
        if deeper:
            sampler, schedule = build(cfg["sampler"]), build(cfg["guidance"]["schedule"])
            assert sampler and 0 <= abs(schedule(0.5)) <= 1e6
            look(Sample(first), {})
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", places())
def test_any_value_is_taken_or_refused_in_one_line(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deeper = key.startswith(("sampler.", "guidance.schedule.", "prompt."))
    for value in VALUES:
        said = outcome(put(places_known()[key], key, value), deeper)
        assert "\n" not in said and not RAW.search(said), (value, said)
        kind = keys.kind_of(key)
        if kind is not None and not kind.fits(value):
            assert said.startswith(f"{key}="), (value, said)


@cache
def places_known() -> dict[str, str]:
    return places()


def test_the_table_has_every_key_of_the_configs():
    known = [*map(keys.plain_key, places_known())]
    leaves = {key for key in known if not key.endswith("_target_")} - keys.NODES
    unknown = {key for key in leaves if keys.kind_of(key) is None}
    free = ("guidance.losses", "model.styles.")  # named by who wrote them
    assert not {key for key in unknown if not key.startswith(free)}
    assert len(leaves) > 100


@pytest.mark.parametrize("part", PARTS)
def test_what_the_configs_say_is_allowed(part):
    trust.check(config(part))
    for key, value in validate.leaves(config(part)):
        validate.check_value(key, value)


def test_the_papers_have_the_table():
    papers = (ROOT / "conf/README.md").read_text(encoding="utf-8")
    assert keys.as_markdown() in papers, "python -m acgd.config.keys prints what belongs there"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["twin=no"], "twin=no: must be true or false"),
        (["twin='true'"], "twin='true': must be true or false"),
        (["text=dog"], "did you mean prompt=text prompt.text=dog?"),
        (["eta=1"], "did you mean sampler=ddim sampler.eta=1?"),
        (["twin=1"], "twin=1: must be true or false"),
        (["class_id=abc"], "class_id=abc: must be a whole number from 0 to 999, or null"),
        (["prompt.weight=1e308"], "prompt.weight=1e+308: must be a number from"),
        (["schedule=cosine"], "did you mean guidance/schedule=cosine?"),
        (["guidance.schedule=cosine"], "choose one with guidance/schedule=cosine"),
        (["prompt.text=a dog"], "did you mean prompt=text prompt.text=a dog? (or mixed)"),
        (["sampler.eta=1"], "did you mean sampler=ddim sampler.eta=1?"),
        (["steps=20"], "did you mean sampler.steps?"),
        (["init_image=a.png"], "add skip_steps=20 to start from it"),
        (["sampler.steps=3.5"], "sampler.steps=3.5: must be a number of steps"),
        (["sampler.steps=null"], "sampler.steps=null: must be a number of steps"),
        (["sampler.steps=0"], "sampler.steps=0: must be a number of steps"),
        (["model=null"], "model=null: is no part; choose model=diffusers"),
        (["judge=null"], "judge=none does without"),
        (["sampler=3"], "sampler=3: is no part; choose sampler=ddim, ddpm, dpmpp, lcm, plms"),
        (["~model"], "model=null: choose one with model="),
        (["~batch_size"], "this config has no batch_size"),
        (["prompt=text", "prompt.text=[a:1e300,b:1e300]"], "weighs 1e+300: must be 1e+06 at most"),
        (["prompt=text", "prompt.text=true"], "prompt.text=true: must be a text"),
        (["seed=${oc.env:NO_SUCH_NAME}"], "Environment variable 'NO_SUCH_NAME' not found"),
        (["encoder.speeds=[1,9]"], "encoder.speeds=[1, 9]: must be a list, each number from 0.25"),
        (["+x=3"], "x=3: there is no such key"),
        (["++seeds=3"], "seeds=3: there is no such key; did you mean seed?"),
        (["+x.y=3"], "x={'y': 3}: there is no such key"),
        (["+guidance.losses.x=3"], "guidance.losses.x=3: must be {_target_: its class}"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_was_meant_is_said(words, says):
    try:
        for one in expand(compose(*words)):
            look(Sample(one), {})
    except Exception as error:
        line = explain(error)
        assert says in line and "\n" not in line and not RAW.search(line)
    else:
        pytest.fail("this was taken")


@pytest.mark.parametrize("steps", ["40", 40, "ddim25", "10,10,5", [10, 10, 5], "", "007"])
def test_steps_may_be_written_in_these_ways(steps):
    assert expand(put("sampler/ddim", "sampler.steps", steps))


def test_an_argument_that_a_part_lacks_is_named():
    with pytest.raises(UserError, match=r"ddim\.DDIM: has no etaa; see its yaml"):
        build(config("sampler/ddim")["sampler"] | {"etaa": 1})


def test_parts_of_ones_own_have_their_own_keys():
    node = {"_target_": "mine.Sampler", "steps": {"first": "many"}, "eta": "high"}
    cfg = config("sampler/ddim") | {"sampler": node, "trust": ["mine"]}
    assert expand(cfg)
    guidance = config("guidance/default")["guidance"]
    assert expand(config("guidance/default") | {"guidance": guidance | {"mine": "new"}})


def test_a_class_for_a_model_without_classes_is_refused(tmp_path, tiny, sounds):
    words = ["class_id=3", f"prompt.path={sounds / 'tone.wav'}", "logger=none", *tiny]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "class_id=3: this model has no classes" in done.stderr
