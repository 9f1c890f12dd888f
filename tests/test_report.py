"""The page: what it holds for finished, failed and broken-off runs, and that it finds its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, command
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from acgd import report
from acgd.commands import report as report_command
from acgd.errors import UserError
from acgd.report import (
    assets,
    command_lines,
    contact_sheet,
    layout,
    page_data,
    thumbnails,
    waveforms,
)
from acgd.runs import records as run_records

NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'


def written(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def made_run(home: Path, label: str, seed: int, clip: int, text: str = "", path: str = "") -> str:
    """A finished run's folder as the runner leaves it; its name."""
    name = f"{label}-seed{seed}-{abs(hash((label, seed, clip))) % 16**12:012x}"
    folder = home / name
    prompt = f"path: {path}" if path else f"text: {json.dumps(text)}"
    written(
        folder / "config.yaml", f"guidance:\n  clip: {clip}\nprompt:\n  {prompt}\nseed: {seed}\n"
    )
    written(folder / "status.json", {"status": "ok", "seconds": 1.5})
    score = {"similarity": clip / 5000 + seed / 100, "rank": 1 + seed, "of": 80}
    said = {"label": text or label, "seed": seed, "caption": f"a {label}", "words": ["a word"]}
    written(folder / "metrics.json", said | {"picture": {"judge": score}})
    written(folder / "losses.csv", "step,t,clip\n1,9,\n2,4,0.5\n3,0,0.25\n")
    written(folder / "captions.csv", "picture,step,caption\npreviews/step_0002.png,2,a hat\n")
    for i, file in enumerate(("previews/step_0002.png", "previews/step_0003.png")):
        picture(folder / file, 80 * i + seed)
    picture(folder / "images" / f"seed{seed}.png", 200)
    return name


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), (level, 90, 255 - level)).save(path)


def made_sweep(home: Path, jobs: list[dict]) -> Path:
    sweep = home / "sweeps" / "2026-03-14_10-00-00-000000"
    for i, job in enumerate(jobs):
        written(sweep / str(i) / "status.json", job)
    told = {"hydra": {"overrides": {"task": ["guidance.clip=500,1000", "seed=[0,1]"]}}}
    written(sweep / "multirun.yaml", json.dumps(told))
    return sweep


def shown(page: Path) -> dict:
    """The data of a sweep's page."""
    text = (page.parent / "report" / "data.js").read_text()
    return json.loads(text.removeprefix("window.ACGD = ").rstrip(";\n"))


def details(page: Path, number: int = 0) -> list[dict]:
    text = (page.parent / "report" / f"details-{number}.js").read_text()
    return json.loads(text.removeprefix(f"ACGD.arrived({number}, ").rstrip(");\n"))


def files_in(data: dict) -> list[str]:
    """What a page's data says of files."""
    keys = ("thumb", "full", "twin", "strip")
    found = [sample[key] for sample in data["samples"] for key in keys if key in sample]
    found += [file for row in data["rows"] for file in row.get("sound", {}).values()]
    return [*found, data["sheet"]]


class Page(HTMLParser):
    """The elements of a page that matter here."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.links, self.title, self.inside = [], [], "", ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href") and value]
        self.inside = tag

    def handle_data(self, data):
        if self.inside == "title":
            self.title += data

    def handle_endtag(self, tag):
        self.inside = ""


@pytest.fixture(scope="module")
def real(weights, tiny, tmp_path_factory) -> Path:
    """A sweep's folder by the command line: two sounds, two values, two seeds, a job that fails."""
    folder = tmp_path_factory.mktemp("real")
    time_ = np.arange(16000) / 16000
    for name, hertz in (("low", 220), ("high", 1760)):
        soundfile.write(folder / f"{name}.wav", 0.5 * np.sin(2 * np.pi * hertz * time_), 16000)
    files = ",".join(str(folder / f"{name}.wav") for name in ("low", "high", "none"))
    words = [f"prompt.path={files}", "guidance.clip=100,500", "seed=[0,1]", "logger=none", "-m"]
    models = [word for word in tiny if not word.startswith("report=")]
    run = [*command(*models, *words), f"outputs={folder}", "name=real"]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr  # one of the sounds is not there
    return next((folder / "real" / "sweeps").iterdir())


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two prompts, one of them nasty, two values, two seeds; one job failed, one was killed."""
    home = tmp_path / "main"
    jobs = []
    for clip in (500, 1000):
        for label, text in (("owl", "an owl"), ("nasty", NASTY)):
            names = [made_run(home, label, seed, clip, text=text) for seed in (0, 1)]
            overrides = [f"prompt.text={json.dumps(text)}", f"guidance.clip={clip}", "seed=[0,1]"]
            jobs.append({"status": "ok", "overrides": overrides, "runs": names})
    bad = {"error": f"no such thing {NASTY}", "traceback": "Traceback: here", "runs": []}
    lost = {"status": "running", "overrides": ["prompt.text=lost", "guidance.clip=500"]}
    jobs.append({"status": "failed", "overrides": ["prompt.text=gone", "guidance.clip=500"]} | bad)
    return made_sweep(home, [*jobs, lost])


@pytest.mark.process
@pytest.mark.slow
def test_a_sweeps_page_holds_its_pictures_sounds_and_failures(real):
    data = shown(real / "report.html")
    assert [row["label"] for row in data["rows"]] == ["low", "high", "none"]
    assert data["keys"] == ["guidance.clip"]
    good = [sample for sample in data["samples"] if sample["status"] == "ok"]
    assert sorted((s["row"], s["settings"][0], s["seed"]) for s in good) == [
        (row, clip, seed) for row in (0, 1) for clip in ("100", "500") for seed in (0, 1)
    ]
    bad = [sample for sample in data["samples"] if sample["status"] == "failed"]
    assert [(s["row"], s["settings"]) for s in bad] == [(2, ["100"]), (2, ["500"])]
    assert all("no such sound file" in sample["error"] for sample in bad)
    for file in files_in(data):
        assert (real / file).stat().st_size > 0, file
    assert len(details(real / "report.html")[0]["losses"]["clip"]) == 4
    low, rate = soundfile.read(real / data["rows"][0]["sound"]["mp3"])
    assert rate == waveforms.RATE and 0.9 < len(low) / rate < 1.2
    assert np.abs(np.fft.rfft(low[:rate])).argmax() == pytest.approx(220, abs=3)
    assert data["command"].startswith("acgd ") and data["command"].endswith(" -m")
    assert {card["metric"] for card in data["tables"][0]["cards"]} >= {"image_audio", "diversity"}


@pytest.mark.process
@pytest.mark.slow
def test_a_runs_page_uses_what_lies_beside_it(real):
    folder = next((real.parent.parent).glob("low-seed1-*"))
    assert not (folder / "report.html").exists()  # in a sweep only when it is asked for
    assert report_command.main([str(folder)]) == 0
    page = Page(folder / "report.html")
    assert page.title == "low, seed 1"
    text = (folder / "report.html").read_text()
    data = json.loads(re.search(r"window\.ACGD = (.*);</script>", text)[1])
    sample, more = data["samples"][0], data["details"][0]
    assert sample["full"] == "images/seed1.png"
    named = [sample["full"], sample["movie"], *data["rows"][0]["sound"].values()]
    named += [frame["src"] for frame in more["frames"]]
    assert len(more["frames"]) == 2 and all((folder / file).is_file() for file in named)
    with Image.open(folder / "animation.webp") as movie:
        assert movie.n_frames in (2, 3)  # equal ones are one: the last preview may be the picture
        movie.seek(movie.n_frames - 1)
        movie.load()
        assert movie.info["duration"] in (thumbnails.LAST, thumbnails.LAST + thumbnails.PACE)


def test_nothing_comes_from_a_network_and_strings_stay_strings(sweep):
    path = report.build(sweep)
    page = Page(path)
    assert page.tags.count("script") == 2 and "img" in page.tags  # data, code; without scripts
    assert page.links == ["data:,", "report/contact_sheet.png", "report/data.js"]
    texts = [file.read_text() for file in sorted((sweep / "report").glob("*.js"))]
    assert len(texts) == 2 and not any("<" in text for text in texts)
    whole = [path.read_text().replace("http://www.w3.org/2000/svg", ""), *texts]
    assert not any(re.search(r"https?:|//\w", text) for text in whole)
    labels = {row["label"] for row in shown(path)["rows"]}
    assert labels == {"an owl", NASTY, "gone", "lost"}


def test_failed_and_unfinished_jobs_are_told_apart(sweep):
    data = shown(report.build(sweep))
    by_row = {data["rows"][s["row"]]["label"]: s for s in data["samples"]}
    assert by_row["gone"]["status"] == "failed" and by_row["gone"]["error"].startswith("no such")
    assert by_row["lost"]["status"] == "unfinished" and "thumb" not in by_row["lost"]
    at = data["samples"].index(by_row["gone"])
    assert details(sweep / "report.html")[at]["traceback"] == "Traceback: here"


def test_torn_and_missing_files_never_stop_the_page(sweep):
    home = sweep.parent.parent
    runs = sorted(home.glob("owl-*"))
    image = next(runs[0].glob("images/*.png"))
    image.write_bytes(image.read_bytes()[:60])
    for name in ("config.yaml", "losses.csv", "captions.csv", "metrics.json", "status.json"):
        (runs[1] / name).write_bytes(b"\xff\xfe{")
    next(runs[2].glob("previews/*.png")).write_bytes(b"")
    for folder in (sweep, home, *runs):
        assert report.build(folder).is_file()
    data = shown(report.build(sweep))
    looks = {sample["folder"]: sample for sample in data["samples"]}
    assert "thumb" not in looks[runs[0].name] and "strip" not in looks[runs[2].name]
    torn = looks[runs[1].name]
    assert torn["status"] == "unfinished" and torn["seed"] in (0, 1)


def test_a_page_is_made_again_from_what_is_there(sweep):
    report.build(sweep)
    thumbs = {path: path.stat().st_mtime_ns for path in (sweep / "report/thumbs").iterdir()}
    assert len(thumbs) == 8
    job = json.loads((sweep / "0" / "status.json").read_text())
    gone = sweep.parent.parent / job["runs"].pop()
    written(sweep / "0" / "status.json", job)
    name = assets.key({"folder": gone})
    others = [sweep / "report/pictures/mine.png", sweep / "report/details-notes.js"]
    for path in others:
        path.write_text("somebody else's")
    report.build(sweep)
    assert all(path.is_file() for path in others)
    left = {path: path.stat().st_mtime_ns for path in (sweep / "report/thumbs").iterdir()}
    assert left == {path: at for path, at in thumbs.items() if path.stem != name}
    assert len(left) == 7  # what is not shown any more is not sent along


def test_the_whole_of_outputs_is_a_page_too(sweep):
    home = sweep.parent.parent
    data = shown(report.build(home))
    assert data["kind"] == "folder" and len(data["samples"]) == 8
    assert data["keys"] == ["guidance.clip"] and not data["command"]


@pytest.mark.process
@pytest.mark.parametrize("name", ["", "empty", "nowhere"])
def test_a_folder_without_runs_is_told_in_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    script = [sys.executable, str(ROOT / "run.py"), "report", str(tmp_path / name)]
    done = subprocess.run(script, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "give the folder of a run" in done.stderr


@pytest.mark.process
def test_a_runs_page_is_quick_and_needs_no_torch(sweep):
    folder = next(sweep.parent.parent.glob("owl-*"))
    lines = "import sys, time; from pathlib import Path; from acgd import report; "
    lines += f"began = time.process_time(); report.build(Path({str(folder)!r})); "
    lines += "print('torch' in sys.modules, time.process_time() - began)"
    run = [sys.executable, "-c", lines]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True)
    torch, seconds = done.stdout.split()
    assert torch == "False" and float(seconds) < 0.3


@pytest.mark.parametrize(
    "value",
    ["a dog", 'l\'été, "quoted" {x} [y] (z) $HOME', "100", "🦉:2", ["an owl:2", "a, b"], "a\\b"],
)
def test_a_command_asks_for_the_prompt_that_was_made(value):
    import shlex

    config = {"prompt.text": value, "guidance.clip": 500}
    given = ["prompt=text", "prompt.text=something,else", "guidance.clip=500", "seed=[0,1]"]
    record = run_records.empty(None) | {"config": config, "overrides": given}
    words = shlex.split(command_lines.command(record))
    assert words[:2] == ["python", "run.py"]
    found = OverridesParser.create().parse_overrides(words[2:])
    assert [one.key_or_group for one in found] == ["prompt", "prompt.text", "guidance.clip"]
    asked = found[1].value()
    plain = [str(one) for one in asked] if isinstance(asked, list) else str(asked)
    assert plain == value


def test_one_sound_of_a_glob_is_pinned():
    given = ["prompt.path='sounds/*.wav'", "seed=3", "sampler=ddim"]
    record = run_records.empty(None) | {
        "config": {"prompt.path": "sounds/a b.wav"},
        "overrides": given,
    }
    assert (
        command_lines.command(record)
        == "python run.py 'prompt.path=\"sounds/a b.wav\"' sampler=ddim"
    )


def test_a_sounds_picture_shows_what_is_heard(tmp_path):
    at = np.arange(3 * waveforms.RATE) / waveforms.RATE
    wave = np.sin(2 * np.pi * 1000 * at).astype(np.float32) * (at > 1.5)
    spectrum = waveforms.spectrogram(wave).astype(int).sum(-1)  # (SPECTRUM, WIDTH)
    assert spectrum.shape == (waveforms.SPECTRUM, waveforms.WIDTH)
    octaves = np.log2(waveforms.RATE / 2 / waveforms.LOWEST)
    row = waveforms.SPECTRUM * np.log2(waveforms.RATE / 2 / 1000) / octaves  # from the top
    assert spectrum[:, 240].argmax() == pytest.approx(row, abs=1)
    assert spectrum[:, 40].max() == spectrum.min()  # silence
    line = (
        (waveforms.waveform(wave) == waveforms.LINE).all(-1).sum(0)
    )  # pixels drawn in each column
    assert line[240] == waveforms.WAVE and line[40] <= 2
    soundfile.write(tmp_path / "long.wav", np.tile(wave, 8), waveforms.RATE)
    assert waveforms.sound(str(tmp_path / "long.wav"), 1.5, 30.0, tmp_path / "copy", [])
    copy, rate = soundfile.read(tmp_path / "copy.mp3")
    assert len(copy) / rate == pytest.approx(10, abs=0.2) and np.abs(copy[:rate]).max() > 0.9
    (tmp_path / "long.wav").unlink()  # the copy outlives its source
    assert waveforms.sound(str(tmp_path / "long.wav"), 1.5, 30.0, tmp_path / "copy", [])
    assert not waveforms.sound(str(tmp_path / "never.wav"), 0.0, 10.0, tmp_path / "none", [])


def test_the_contact_sheet_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "LARGEST", 1200)
    row = [{"label": f"a rather long label of row {i}"} for i in range(300)]
    for settings, seeds, rows in ((5, 2, 60), (100, 1, 2), (1, 300, 1)):
        samples = [
            {"row": r, "settings": [str(k)], "status": "failed", "seed": s}
            for r in range(rows)
            for k in range(settings)
            for s in range(seeds)
        ]
        contact_sheet.write(
            tmp_path / "sheet.png", tmp_path, row[:rows], ["guidance.clip"], samples
        )
        with Image.open(tmp_path / "sheet.png") as image:
            assert (
                500 < image.width <= contact_sheet.LARGEST
                and 100 < image.height <= contact_sheet.LARGEST
            )


def test_curves_keep_their_ends_and_numbers_stay_json(tmp_path):
    lines = [f"{i},{i},{1 / (i + 1)},nan" for i in range(1000)]
    written(tmp_path / "losses.csv", "\n".join(["step,t,clip,range", *lines]))
    curves = page_data.losses(tmp_path)
    assert len(curves["step"]) == page_data.POINTS and set(curves) == {"step", "clip", "range"}
    assert (curves["step"][0], curves["step"][-1]) == (0, 999)
    assert curves["range"] == [None] * page_data.POINTS


def test_rows_are_what_was_asked_for():
    def record(**config):
        known = {f"prompt.{key}": value for key, value in config.items()}
        return run_records.empty(None) | {"config": known, "label": "x"}

    records = [
        record(path="a/dog.wav"),
        record(path="b/dog.wav"),
        record(path="a/dog.wav", text=["rain", "snow:0.5"], text_share=0.3),
        record(path="a/dog.wav", text=["rain", "snow:0.5"], text_share=0.6),
        record(text="an owl"),
        record(image="photo.jpg:2"),
    ]
    rows, where = layout.rows(records)
    assert where == [0, 1, 2, 2, 3, 4]
    kinds = [(row["kind"], row["label"]) for row in rows]
    assert kinds == [
        ("audio", "dog"),
        ("audio", "dog"),
        ("mixed", "dog + rain, snow:0.5"),
        ("text", "an owl"),
        ("image", "photo.jpg:2"),
    ]


def test_build_says_what_it_wants(tmp_path):
    with pytest.raises(UserError, match="no runs in it"):
        report.build(tmp_path)


def test_what_nobody_named_is_not_coloured_by_its_likeness_to_what_was_heard():
    def first(source):
        scores = {"judge.similarity": 0.6, "judge.image_audio": 0.1, "concept_from": source}
        return page_data.scores([{"status": "ok", "scores": scores}])[0]["key"]

    assert first("named") == first("prompt") == "judge.similarity"
    assert first("heard") == "judge.image_audio"


@pytest.fixture
def look(chromium):
    """look(path) -> the page in the browser; errors and requests to a network fail the test."""
    wrong, open_ = [], []

    def go(path: Path, width: int = 1280, scheme: str = "light"):
        size = {"width": width, "height": 800}
        context = chromium.new_context(viewport=size, color_scheme=scheme)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto(path.as_uri())
        open_.append(context)
        return page

    yield go
    for context in open_:
        context.close()
    assert not wrong


def wait(page, expression: str) -> None:
    """Until it is true; the page's own policy forbids what playwright does for that."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


@pytest.mark.browser
def test_a_page_runs_no_script_but_its_own_and_asks_no_network(sweep, chromium):
    page = chromium.new_page()
    page.goto(report.build(sweep).as_uri())
    page.evaluate(
        """() => {
            window.broken = [];
            document.addEventListener("securitypolicyviolation",
                (event) => window.broken.push(event.effectiveDirective));
            const place = document.body.appendChild(document.createElement("div"));
            place.innerHTML = "<img src='data:,' onerror='window.hacked = 1'>"
                + "<img src='http://127.0.0.1:9/told'>";
            const script = document.createElement("script");
            script.textContent = "window.hacked = 2";
            document.body.append(script);
        }"""
    )
    wait(page, "window.broken.length >= 3")
    assert page.evaluate("window.hacked") is None
    kinds = set(page.evaluate("window.broken"))
    assert kinds == {"script-src-attr", "script-src-elem", "img-src"}
    page.close()


@pytest.mark.browser
def test_the_grid_in_a_browser(sweep, look):
    page = look(report.build(sweep))
    assert page.locator(".tile").count() == 10 and page.locator(".row").count() == 4
    assert page.locator(".titles .title").all_inner_texts() == [
        "guidance.clip 500",
        "guidance.clip 1000",
    ]
    assert NASTY in page.locator(".row h3").all_inner_texts()
    assert page.evaluate("window.hacked") is None
    loaded = "[...document.querySelectorAll('.tile img')].every(i => i.complete && i.naturalWidth)"
    wait(page, loaded)
    tile = page.locator(".tile").first
    assert tile.locator("img").get_attribute("alt") == "an owl: a owl"
    colours = {t.evaluate("e => getComputedStyle(e).backgroundColor") for t in feet(page)}
    assert len(colours) == 4  # four scores
    assert page.locator(".tile.bad").inner_text().startswith("failed")
    assert page.locator(".tile", has_text="unfinished").count() == 1


def feet(page) -> list:
    return page.locator(".foot.scored").all()


@pytest.mark.browser
def test_the_keyboard_goes_through_the_pictures(sweep, look):
    page = look(report.build(sweep))
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    title = page.locator("#enlarged h2")
    title.wait_for()
    assert title.inner_text() == "an owl, guidance.clip 500, seed 1"
    assert page.locator("#enlarged .frames button").count() == 3
    assert page.locator("#enlarged svg .curve").count() == 1
    page.locator("#enlarged .frames button").first.click()
    assert page.locator("#enlarged .says").inner_text() == "step 2: a hat"
    page.keyboard.press("ArrowRight")
    wait(page, "document.querySelector('#enlarged h2').innerText.includes('1000')")
    assert title.inner_text() == "an owl, guidance.clip 1000, seed 0"
    page.keyboard.press("Escape")
    assert not page.locator("#enlarged").is_visible()
    wait(page, "samples[document.activeElement.dataset.i]?.seed === 0")  # `close` comes later
    focused = page.evaluate("samples[document.activeElement.dataset.i].seed")
    assert focused == 0  # on the tile of the picture that was last enlarged
    page.keyboard.press("ArrowDown")
    row = "data.rows[samples[document.activeElement.dataset.i].row].label"
    assert page.evaluate(row) == NASTY


@pytest.mark.browser
def test_what_failed_says_why(sweep, look):
    page = look(report.build(sweep))
    assert "no such thing" in page.locator("#failed").inner_text()
    page.locator(".tile.bad").click()
    page.locator("#enlarged pre", has_text="Traceback: here").wait_for()
    assert "python run.py prompt.text=gone" in page.locator("#enlarged").inner_text()
    assert page.evaluate("window.hacked") is None


@pytest.mark.browser
def test_filters_and_orders(sweep, look):
    page = look(report.build(sweep))
    page.locator("input[type=search]").fill("owl 1000 word")
    wait(page, "document.querySelectorAll('.tile').length === 2")
    page.locator("input[type=search]").fill("")
    page.get_by_label("Status", exact=True).select_option("failed")
    wait(page, "document.querySelectorAll('.tile').length === 1")
    page.get_by_label("Status", exact=True).select_option("")
    page.get_by_label("View", exact=True).select_option("gallery")
    page.get_by_label("Sort", exact=True).select_option("best")
    scores = page.locator(".foot.scored span:last-child").all_inner_texts()
    assert len(scores) == 8 and scores == sorted(scores, reverse=True)
    page.get_by_label("Colour", exact=True).select_option(label="judge: rank")  # less is better
    feet = "[...document.querySelectorAll('.foot span:last-child')].slice(0, 8)"
    wait(page, f"{feet}.every(e => e.innerText)")  # when they are painted
    assert page.locator(".foot span:last-child").all_inner_texts()[:8] == ["1"] * 4 + ["2"] * 4
    page.get_by_label("View", exact=True).select_option("grid")
    page.get_by_label("Columns", exact=True).select_option(label="seed")
    assert page.locator(".titles .title").all_inner_texts() == ["seed 0", "seed 1", "no seed"]


@pytest.mark.browser
def test_the_commands_are_those_of_a_cell(sweep, look):
    page = look(report.build(sweep))
    lines = page.evaluate("commands(samples.filter(s => s.row === 0 && s.settings[0] === '500'))")
    assert lines == "python run.py 'prompt.text=\"an owl\"' guidance.clip=500 'seed=[0,1]'"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_is_readable_on_a_phone_and_in_the_dark(sweep, look, width, scheme):
    page = look(report.build(sweep), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{of}"))))
        for of in ("color", "backgroundColor")
    )
    assert (ink > paper + 300) if scheme == "dark" else (paper > ink + 300)


WIDER = """width => document.documentElement.scrollWidth <= width
    && [...document.querySelectorAll("dialog")].every(e => e.scrollWidth <= e.clientWidth) ? []
    : [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .map(e => `${e.tagName}.${e.className} ${e.getBoundingClientRect().right}`)"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(sweep, look, width):
    """Whatever is opened: the grid by anything, the gallery, failures, a picture, a run's page."""
    page = look(report.build(sweep), width)
    page.locator("summary", has_text="View and filter").click()
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true; }")
    assert page.evaluate(WIDER, width) == []
    for columns in ("seed", "none", "guidance.clip"):
        page.get_by_label("Columns", exact=True).select_option(label=columns)
        assert page.evaluate(WIDER, width) == []
    page.get_by_label("View", exact=True).select_option("gallery")
    assert page.evaluate(WIDER, width) == []
    for name in (".tile.bad", ".tile:has(img)"):
        page.locator(name).first.click()
        page.locator("#enlarged h2").wait_for()
        for details in page.locator("#enlarged details").all():
            details.evaluate("e => { e.open = true; }")
        assert page.evaluate(WIDER, width) == []
        page.keyboard.press("Escape")
    page = look(report.build(next(sweep.parent.parent.glob("nasty-*"))), width)
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true; }")
    assert page.evaluate(WIDER, width) == []


@pytest.mark.browser
def test_a_runs_page_in_a_browser(sweep, look):
    folder = next(sweep.parent.parent.glob("nasty-*"))
    page = look(report.build(folder))
    assert page.locator("h1").inner_text().startswith(NASTY)
    assert page.locator(".frames button").count() == 3
    assert page.evaluate("document.querySelector('.stage img').naturalWidth") == 64


@pytest.mark.browser
@pytest.mark.process
@pytest.mark.slow
def test_a_real_sweep_plays_and_compares(real, look):
    page = look(real / "report.html")
    page.get_by_label("Play low").click()
    wait(page, "!speaker.paused && speaker.currentTime > 0")
    assert page.locator("#comparison .card").count() >= 4
    assert page.locator("#comparison circle").count() >= 12
