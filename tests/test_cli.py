"""The command line in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command

import acgd
from acgd.checkpoints import registry
from acgd.commands.main import COMMANDS
from acgd.config.compose import config_dir_of

TORCHLESS = (
    "import sys, acgd.commands.run as c\ntry: c.main()\nfinally: print('torch' in sys.modules)"
)


def run(*arguments: str, cwd: Path, call: list[str] | None = None, **env: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [*(call or command()), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.process
def test_help_lists_the_groups_without_torch(tmp_path):
    done = run("--help", cwd=tmp_path, call=[sys.executable, "-c", TORCHLESS])
    assert done.returncode == 0, done.stderr
    assert "sampler: ddim, ddpm, dpmpp, lcm, plms" in done.stdout
    assert "acgd prompt=audio prompt.path=bark.wav" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("sampler=nope", "Available options in 'sampler': ddim ddpm dpmpp lcm plms"),
        ("guidance.clipp=3", "did you mean guidance.clip"),
        ("seed=-1", "seed=-1: must be a whole number"),
        ("prompt.path=nowhere.wav", "nowhere.wav: no such sound file"),
    ],
)
def test_a_mistake_is_one_line_before_torch(tmp_path, mistake, says):
    done = run(mistake, cwd=tmp_path, call=[sys.executable, "-c", TORCHLESS])
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("acgd: ")
    assert says in done.stderr
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.process
def test_debug_shows_the_traceback(tmp_path):
    done = run("sampler=nope", "debug=true", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.process
def test_all_three_commands_are_one(tmp_path):
    calls = [
        [sys.executable, str(ROOT / "run.py")],
        [sys.executable, "-m", "acgd"],
        [sys.executable, "-c", "from acgd.commands.main import main; main()"],  # what `acgd` holds
    ]
    said = {run("--cfg", "job", "seed=3", cwd=tmp_path, call=call).stdout for call in calls}
    assert len(said) == 1 and "seed: 3" in said.pop()


@pytest.mark.process
def test_a_sweep_goes_on_after_a_failure_and_says_so(tmp_path, tiny, sounds):
    (sounds / "broken.wav").write_bytes(b"RIFF")
    paths = ",".join(str(sounds / name) for name in ("hiss.wav", "broken.wav", "tone.wav"))
    # -m in the middle: argparse alone would refuse what comes behind it
    done = run(*tiny, "-m", "logger=none", f"prompt.path={paths}", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("acgd: ")]
    assert "2 of 3 jobs ok" in lines[-1]
    assert "failed: prompt.path=" in lines[-2] and "broken.wav" in lines[-2]
    (sweep,) = (tmp_path / "outputs/main/sweeps").iterdir()
    jobs = [json.loads((sweep / n / "status.json").read_text()) for n in "012"]
    assert [job["status"] for job in jobs] == ["ok", "failed", "ok"]
    assert "Traceback" in jobs[1]["traceback"]
    pictures = list((tmp_path / "outputs/main").glob("*/images/seed0.png"))
    assert len(pictures) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "sounds"}


@pytest.mark.process
def test_a_picture_is_told_in_a_few_lines_and_a_folder(tmp_path, tiny, sounds):
    words = ["logger=none", "report=true", f"prompt.path={sounds / 'tone.wav'}"]
    lines = "import sys; from acgd.commands.main import main\n"
    lines += "try: main()\nfinally: print(*{'sympy', 'ftfy', 'regex', 'wandb'} & {*sys.modules})"
    done = run(*tiny, *words, cwd=tmp_path, call=[sys.executable, "-c", lines])
    assert done.returncode == 0, done.stderr
    heard, picture, judge, page, folder, slow_to_import = done.stdout.splitlines()
    assert slow_to_import == ""
    assert heard.startswith("heard ") and judge.startswith("judge ")
    assert (tmp_path / page.split()[1]).name == "report.html"
    assert (tmp_path / picture.split()[1]).is_file()
    assert (tmp_path / folder.split()[1]).is_dir()
    assert "clip=" in done.stderr  # the progress bar, with the losses


@pytest.mark.process
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_loads_no_torch(name, tmp_path):
    lines = "import sys; from acgd.commands.main import main\n"
    lines += "try: main()\nfinally: print('torch' in sys.modules)"
    done = run(name, "--help", cwd=tmp_path, call=[sys.executable, "-c", lines])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: acgd {name}") and "False" in done.stdout.splitlines()[-1]


def test_hydra_is_asked_for_its_mode_where_something_may_set_it(tmp_path):
    from acgd.commands.run import may_say_mode

    plain = ["seed=3", "guidance.clip=1,2", "+guidance.edges=3", "encoder@encoder.members.a=clip"]
    assert not may_say_mode([]) and not may_say_mode(plain)
    for word in ("hydra.mode=MULTIRUN", "+hydra.mode=MULTIRUN", "hydra/launcher=joblib", "-m",
                 "--config-dir", "-cd"):  # fmt: skip
        assert may_say_mode([*plain, word])
    done = run("hydra.mode=MULTIRUN", "prompt.path=nowhere.wav,no.wav", cwd=tmp_path)
    assert done.returncode == 1 and "0 of 2 jobs" in done.stderr


@pytest.mark.process
def test_version_is_answered_at_once(tmp_path):
    lines = "import sys; from acgd.commands.main import main; main(); print(len(sys.modules))"
    done = run("--version", cwd=tmp_path, call=[sys.executable, "-c", lines])
    version, modules = done.stdout.split("\n")[:2]
    assert version == f"acgd {acgd.__version__}" and int(modules) < 200


@pytest.mark.process
@pytest.mark.slow
def test_a_sound_alone_is_what_is_drawn(tmp_path, tiny, sounds):
    spaced = tmp_path / "it's a tone, really.wav"
    spaced.write_bytes((sounds / "tone.wav").read_bytes())
    done = run(str(spaced), *tiny, "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/main").exists() and "it-s-a-tone-really-seed0" in done.stdout
    both = run(str(spaced), "sounds/hiss.wav", *tiny, "logger=none", cwd=tmp_path)
    assert both.returncode == 0 and len(list((tmp_path / "outputs/main").iterdir())) == 2


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photo.png"], "photo.png is a picture: acgd prompt=image prompt.image=photo.png"),
        (
            ["compar"],
            "compar: neither a file nor a command (app, compare, report, repeat,"
            " fetch, sync, verify)",
        ),
        (["compare", "nowhere"], "nowhere: no runs in here"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_bare_word_that_is_nothing_is_one_line(tmp_path, words, says):
    done = run(*words, cwd=tmp_path, call=[sys.executable, "-m", "acgd"])
    assert done.returncode == 1 and says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("acgd: ")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], None),
        (["seed=1"], None),
        (["--config-dir", "mine", "seed=1"], "mine"),
        (["seed=1", "-cd", "mine"], "mine"),
        (["--config-dir=mine"], "mine"),
        (["--config-dir"], None),
    ],
)
def test_a_folder_of_ones_own_is_found_among_the_words(words, folder):
    assert config_dir_of(words) == folder


@pytest.mark.process
@pytest.mark.slow
def test_no_words_at_all_draw_the_demo_sound(tmp_path):
    done = run(cwd=tmp_path, call=[sys.executable, "-m", "acgd"])
    assert done.returncode == 0, done.stderr
    assert "horse-seed0" in done.stdout and list((tmp_path / "outputs/main").iterdir())


@pytest.mark.process
def test_all_weights_that_are_missing_are_listed_before_torch(tmp_path):
    words = ["model=openai_256", "encoder=audioclip", "captioner=clipcap", "describer=none"]
    done = run(*words, cwd=tmp_path, call=[sys.executable, "-c", TORCHLESS],
               ACGD_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == "False"
    (line,) = done.stderr.strip().splitlines()
    for name in ("256x256_diffusion_uncond.pt", "AudioCLIP-Partial-Training.pt", "ViT-B-32.pt"):
        assert line.count(name) == 2  # named, and in the command that fetches
    assert not (tmp_path / "outputs").exists()


def test_a_tokenizer_is_whole_with_either_of_its_forms(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wants = {"captioner": {"tokenizer": "gpt2"}}
    assert "3 weights files" in str(registry.absent(wants))
    (tmp_path / "gpt2").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "gpt2" / name).touch()
    assert registry.absent(wants) is None
    (tmp_path / "gpt2" / "merges.txt").unlink()
    (tmp_path / "gpt2" / "tokenizer.json").touch()
    assert registry.absent(wants) is None


@pytest.mark.process
def test_words_without_a_picture_are_told_with_the_nearest_names(tmp_path):
    words = ["prompt=text", "prompt.text=a submarine made of glass", "experiment=smoke"]
    done = run(*words, "name=a", "report=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is not among what the embedded models draw; nearest: ship horn, " in done.stderr
    done = run("prompt=text", "prompt.text=my kitty", "experiment=smoke", "name=b", cwd=tmp_path)
    assert done.returncode == 0 and '"my kitty" is taken for: cat' in done.stderr
    (scores,) = (tmp_path / "outputs/b").glob("*/metrics.json")
    scores = json.loads(scores.read_text())
    judged = scores["picture"]["judge"]
    assert scores["concept"] == "cat" and judged["of"] == 82  # a label, and not one more
    assert judged["image_text"] == judged["similarity"]
    done = run(
        "prompt=text", "prompt.text=Two Dogs", "experiment=smoke", "seed=[0,1]", cwd=tmp_path
    )
    assert done.returncode == 0 and "nearest" not in done.stderr
    assert f"page       {Path('outputs/main/report.html')}" in done.stdout


def test_what_the_judge_may_say():
    from types import SimpleNamespace as Some

    from acgd.pipeline.outputs import verdict_in_words

    def said(concept, rank, seen, source="named"):
        score = {"names": [(seen, 0.934)], "concept": concept, "rank": rank, "of": 82,
                 "similarity": 0.5}  # fmt: skip
        scores = {"concept_from": source, "picture": {"judge": score}}
        return verdict_in_words(Some(scores=scores))[1]

    assert said("dog", 1, "dog") == "recognises it: dog 93 %, similarity 0.50"
    assert said("dog", 1, "dog", "heard") == "agrees: dog 93 %, similarity 0.50"
    assert said("dog", 7, "cat") == "sees cat 93 %, dog is number 7 of 82, similarity 0.50"
