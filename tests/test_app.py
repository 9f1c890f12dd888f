"""The page to play with, as somebody uses it in a browser, and what strangers may not do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from conftest import ROOT

from acgd.errors import UserError

gradio = pytest.importorskip("gradio", reason="pip install 'acgd[app]'")
LONG = "sampler.steps=80 captioner=none"  # takes longer than a click
FEW = "sampler.steps=5 captioner=none report=false"
CHOSEN = {"model": "tiny", "encoder": "tiny", "text_share": 0.5, "style": "noto", "seed": 3,
          "seeds": 2, "film": False, "steps": 20, "clip": 500, "cfg_scale": 2}  # fmt: skip


def test_a_card_leads_to_the_runs_page_or_to_its_picture(tmp_path):
    from acgd.app import views
    from acgd.pipeline.shown import Picture

    folder = tmp_path / "app" / "dog-seed3"
    folder.mkdir(parents=True)
    leads = lambda: re.findall(r'href="(\S+)" target', views.card(one, tmp_path))  # noqa: E731
    one = views.Drawn(Picture(folder, 3, "dog", "acgd demo:dog"))
    assert leads() == ["/runs/app/dog-seed3/images/seed3.png"] * 2
    (folder / "report.html").touch()
    assert leads() == ["/runs/app/dog-seed3/report.html"] * 2


class App:
    """A running `acgd app` and its folder of runs."""

    def __init__(self, folder: Path, *arguments: str):
        self.outputs = folder / "outputs"
        command = [sys.executable, "-m", "acgd", "app", "--port", "0", "--outputs", self.outputs]
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # tests that run in the background inherit deaf ears for Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        port = re.search(r":(\d+)", self.process.stdout.readline())[1]
        self.url = f"http://127.0.0.1:{port}"

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def states(self) -> list[str]:
        found = sorted(self.outputs.glob("app/*/status.json"))
        return [json.loads(path.read_text())["status"] for path in found]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    running = App(tmp_path_factory.mktemp("app"))
    yield running
    running.close()


@pytest.fixture
def tab(app, chromium):
    """Opens tabs; nothing in them may come from elsewhere."""
    opened, outside = [], []

    def here(url: str) -> bool:
        return url.startswith((app.url, "data:", "blob:", app.url.replace("http", "ws")))

    def open_tab(**more):
        page = chromium.new_page(**more)
        page.on("request", lambda r: None if here(r.url) else outside.append(r.url))
        page.goto(app.url)
        page.wait_for_selector("#draw")
        opened.append(page)
        return page

    yield open_tab
    for page in opened:
        page.close()
    assert not outside


def says(page, text: str, seconds: float = 60, where: str = "#status") -> str:
    page.wait_for_selector(f'{where}:has-text("{text}")', timeout=1000 * seconds)
    return page.inner_text(where)


def set_more(page, text: str) -> None:
    if not page.locator("#more textarea").is_visible():
        page.click("text=More settings")
    page.fill("#more textarea", text)


@pytest.mark.browser
@pytest.mark.slow
def test_a_sound_is_heard_and_drawn_and_its_command_is_the_same(app, tab):
    page = tab()
    page.set_input_files("input[type=file]", ROOT / "acgd" / "demo" / "dog.ogg")
    says(page, "dog", where="#odds")
    set_more(page, FEW)
    page.click("#draw")
    says(page, "Done.")
    images = page.locator("#pictures img")
    assert images.count() == 2 and "seed 0" in page.inner_text("#pictures")
    page.wait_for_function("[...document.querySelectorAll('#pictures img')]"
                           ".every(one => one.naturalWidth === 256)")  # fmt: skip
    given = page.input_value("#command textarea").split()
    assert given[0] == "acgd" and "seed=[0,1]" in page.input_value("#command textarea")
    (sound,) = app.outputs.glob("app/sounds/*/dog.ogg")
    assert any(word.endswith(f"{sound}") for word in given)
    assert app.states() == ["ok", "ok"]
    page.locator("#demo input").focus()
    page.keyboard.press("Tab")  # past the list, without a choice
    page.click("#draw")  # of the same sound, with the same settings
    says(page, "made before")
    page.click("#stronger")
    says(page, "Done.")
    assert "guidance 500, condition 2.75" in page.inner_text("#pictures")
    assert "guidance 250, condition 2" in page.inner_text("#pictures .small")  # the old beside
    page.click("text=Made before")
    page.wait_for_selector(".pictures.small img")
    page.click("text=use its settings >> nth=0")
    says(page, "dog", where="#odds")  # it is heard again
    page.click("#draw")
    says(page, "Done.")
    assert "guidance 500, condition 2.75" in page.inner_text("#pictures")


@pytest.mark.browser
@pytest.mark.slow
def test_stop_ends_a_job_within_a_second_and_a_reload_ends_one_too(app, tab):
    page, before = tab(), len(app.states())
    page.fill("#words textarea, #words input", "a horse")
    set_more(page, "sampler.steps=250 captioner=none seed=7")
    page.click("#draw")
    page.wait_for_selector("#pictures figure")
    began = time.monotonic()
    page.click("#stop")
    says(page, "Stop", 5)
    assert time.monotonic() - began < 1.0
    says(page, "Stopped")
    page.click("#draw")  # it resumes, and is left in mid-job
    says(page, "Step")
    page.reload()
    page.wait_for_selector("#draw")
    deadline = time.monotonic() + 20
    while app.states().count("interrupted") < 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(app.states()) == before + 1 and app.states().count("interrupted") == 1
    page.fill("#words textarea, #words input", "a horse")
    set_more(page, FEW)
    page.click("#draw")
    says(page, "Done.")


@pytest.mark.browser
@pytest.mark.slow
def test_what_is_wrong_is_one_line(app, tab, tmp_path):
    page, wrong = tab(), tmp_path / "wrong.wav"
    page.click("#draw")
    says(page, "give it a sound, or words, or both")
    wrong.write_text("no sound at all")
    page.set_input_files("input[type=file]", wrong)
    assert "wrong.wav" in says(page, "wrong.wav")
    assert len(page.locator("#status p").all()) == 1
    page.click("#draw")
    page.wait_for_function("document.querySelector('#status').innerText.includes('wrong.wav')")
    time.sleep(0.5)
    assert not list(app.outputs.glob("app/sounds/*/wrong.wav"))  # nothing was made of it
    page.reload()
    page.wait_for_selector("#draw")
    page.fill("#words textarea, #words input", "a dog")
    set_more(page, "guidance.clip=much")
    page.click("#draw")
    assert "guidance.clip" in says(page, "guidance.clip")


@pytest.mark.browser
@pytest.mark.slow
def test_two_tabs_wait_for_one_another_and_do_not_mix(app, tab):
    first, second = tab(), tab(viewport={"width": 390, "height": 800}, color_scheme="dark")
    for page, text, more in ((first, "a cat", LONG), (second, "a train", FEW)):
        page.fill("#words textarea, #words input", text)
        set_more(page, f"{more} seed=5")
    first.click("#draw")
    second.click("#draw")
    says(second, "queue")  # its place
    for page in (first, second):
        says(page, "Done.")
        assert page.locator("#pictures img").count() == 1
    sources = {page.get_attribute("#pictures img", "src") for page in (first, second)}
    assert len(sources) == 2
    set_more(first, "sampler.steps=250 captioner=none")
    first.click("#draw")
    says(first, "Step")
    set_more(second, f"{FEW} seed=6")
    second.click("#draw")
    says(second, "queue")
    second.click("#stop")  # before its turn
    says(second, "it will not be drawn", 5)
    first.click("#stop")
    says(first, "Stopped; drawing")
    says(second, "Stopped before its turn came.")
    assert not list(app.outputs.glob("app/a-train-seed6-*"))
    width, room = second.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room == 390


@pytest.mark.process
@pytest.mark.slow
def test_strangers_can_neither_name_nor_read_files(tmp_path):
    secret = tmp_path / "outputs" / "main" / "run" / "report.html"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    running = App(tmp_path, "--host", "0.0.0.0")
    try:
        get = lambda path: requests.get(running.url + path, timeout=20)  # noqa: E731
        assert get("/").status_code == 200
        assert "default-src 'self'" in get("/").headers["content-security-policy"]
        for path in ("/runs/main/run/report.html", "/runs/../pyproject.toml", "/runs/app/../main",
                     "/gradio_api/file=/etc/passwd", f"/gradio_api/file={secret}"):  # fmt: skip
            answer = get(path)
            assert answer.status_code >= 400 and "secret" not in answer.text, path
        config = get("/config").json()
        named = {part["id"]: part.get("props", {}).get("elem_id") for part in config["components"]}
        (job,) = [d for d in config["dependencies"] if ["draw", "click"] in [
            [named.get(t[0]), t[1]] for t in d["targets"]] and d["inputs"]]  # fmt: skip
        for more, path in (("labels=/etc/passwd", None), ("", "/etc/passwd")):
            sound = path and {"path": path, "meta": {"_type": "gradio.FileData"}}
            data = [sound, "", "a dog", more, "tiny", "tiny", False, 0.5, "noto", 0, 1, 5, 0, 2]
            body = {"data": data, "fn_index": job["id"], "session_hash": "s"}
            requests.post(f"{running.url}/gradio_api/queue/join", json=body, timeout=20)
            answer = get("/gradio_api/queue/data?session_hash=s").text
            assert "root:" not in answer
            assert "from another machine" in answer if more else "rror" in answer
        assert running.states() == []
    finally:
        assert running.close() == 0


def test_only_a_run_of_the_page_s_own_is_taken_up(tmp_path):
    from acgd.app.page import TAKEN, Page

    page = Page(None, tmp_path, remote=True)
    for folder in ("app/dog-seed3", "main/dog-seed3"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text(
            "seed: 3\nprompt:\n  path: demo:dog\nguidance:\n  clip: 750\n"
        )
    asked = lambda run: page.take_up(SimpleNamespace(query_params={"run": run}))  # noqa: E731
    values = dict(zip(("sound", "demo", "text", *TAKEN), asked("dog-seed3"), strict=True))
    assert (values["demo"], values["seed"], values["seeds"], values["clip"]) == ("dog", 3, 1, 750)
    for elsewhere in ("../main/dog-seed3", "main/dog-seed3", "", ".", "..", "dog-seed4"):
        assert all(isinstance(value, dict) for value in asked(elsewhere)), elsewhere  # skipped


@pytest.mark.parametrize(
    "word",
    ["labels=/etc/passwd", "prompt.path=x.wav", "references=a", "model.checkpoint=a.pt",
     "encoder.image_from=rn50", "init_image=a.png", "outputs=a", "name=a", "+x=1", "~seed=1",
     "guidance.losses.x._target_=os.system", "guidance.clip=${oc.env:HOME}", "concept=../x",
     "concept='a'", "sampler=../../x", "describer.vocabulary=x", "trust=[os]", "concept=.."],
)  # fmt: skip
def test_no_override_of_a_stranger_s_leads_to_a_file(word):
    from acgd.app import words

    with pytest.raises(UserError, match="from another machine"):
        words.refuse_paths(["guidance.tv=100", word])


def test_a_stranger_may_set_numbers_and_choose_parts():
    from acgd.app import words

    words.refuse_paths(["guidance.tv=100", "sampler=ddim", "sampler.eta=0.5", "concept=dog",
                        "guidance/schedule=cosine", "model.style=noto"])  # fmt: skip


def test_the_page_s_fields_are_a_command_line(tmp_path):
    from acgd.app import words
    from acgd.pipeline.face import runs_of

    sound = tmp_path / "it's a dog.wav"
    given = words.to_draw(str(sound), "${oc.env:HOME}", CHOSEN, "guidance.tv=10", tmp_path)
    cfg = runs_of([*given, f"prompt.path={words.value(str(ROOT / 'acgd/demo/dog.ogg'))}"], None)
    assert [run.seed for run in cfg] == [3, 4] and cfg[0].cfg["guidance"]["tv"] == 10
    assert cfg[0].cfg["prompt"]["text"] == "${oc.env:HOME}"
    assert cfg[0].cfg["model"]["style"] == "noto" and cfg[0].cfg["sampler"]["steps"] == 20
    with pytest.raises(UserError, match="KEY=VALUE"):
        words.typed("dog")
    with pytest.raises(UserError, match="a sound, or words"):
        words.to_draw(None, " ", CHOSEN, "", tmp_path)
    (film,) = runs_of(words.to_draw("demo:dog", "", CHOSEN | {"film": True, "seeds": 1}, "",
                                    tmp_path), None)  # fmt: skip
    assert film.cfg["film"]["fps"] == 12 and film.folder.parent == tmp_path / "app"
    with pytest.raises(UserError, match="a film is of a sound"):
        words.to_draw(None, "a dog", CHOSEN | {"film": True}, "", tmp_path)


def test_a_taken_port_is_one_line(tmp_path, capsys):
    import socket

    from acgd.commands import app as command

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        assert command.main(["--port", port, "--outputs", str(tmp_path)]) == 1
    assert re.fullmatch(rf"acgd: .*--port {port}: .*free\n", capsys.readouterr().err)
