"""Fetching against a real server on loopback that does what servers do on bad days."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from acgd.checkpoints import download, registry
from acgd.checkpoints.download import Patience
from acgd.checkpoints.registry import Published
from acgd.commands import fetch
from acgd.errors import UserError

CONTENT = bytes(range(256)) * 1200 + b"the end"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, wait=0.01, timeout=(2.0, 0.4))
ROW = Published("a.pt", "a test", "MIT", len(CONTENT), len(CONTENT), SHA256, (), None)


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /KIND/..., where the kind of day is the path's first part."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None, int]] = []  # path, Range, the answer's code

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/a.pt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.split("/")[1]
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, before = int(span[1]) if span else 0, len(self.server.asked)
        code = {"404": 404, "500": 500, "page": 200, "forgets": 200}.get(kind, 206 if span else 200)
        if kind == "recovers":
            code = 500 if before == 0 else 200
        tag = '"two"' if kind == "changes" and before else '"one"'
        if span and self.headers.get("If-Range", tag) != tag:
            code = 200
        if (span and start >= len(CONTENT) and code == 206) or kind == "416":
            code = 416
        self.server.asked.append((self.path, self.headers.get("Range"), code))
        self.send_response(code)
        if code == 416:
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
        if code >= 400:
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = self.content(kind)[start if code == 206 else 0 :]
        length = len(content) + {"long": 9000, "short": -9000}.get(kind, 0)
        if kind == "huge":
            length = 10**13
        if kind != "endless":
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "text/html" if kind == "page" else "application/data")
        self.send_header("ETag", tag)
        if code == 206:
            last = len(CONTENT) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(CONTENT)}")
        self.end_headers()
        self.send(kind, content, before)

    def content(self, kind: str) -> bytes:
        if kind == "other":
            return CONTENT[::-1]
        if kind in ("page", "hidden_page"):
            return b"<html>sign in</html>"
        return b"version https://git-lfs.github.com/spec/v1\n" if kind == "lfs" else CONTENT

    def send(self, kind: str, content: bytes, before: int):
        first = before == 0 or kind == "always_cuts"
        if first and kind in ("cuts", "forgets", "changes", "stalls", "always_cuts"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if kind == "stalls":
                time.sleep(1.5)
            self.close_connection = True
            return
        if kind == "endless":
            with suppress(OSError):
                while True:
                    self.wfile.write(content)
        if kind == "slow":
            for i in range(0, len(content), 8192):
                self.wfile.write(content[i : i + 8192])
                time.sleep(0.04)
            return
        self.wfile.write(content[: int(len(content) - 9000)] if kind == "short" else content)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.shutdown()
    server.server_close()


def get(place, *mirrors: str, row: Published = ROW) -> str:
    return download.download(row, place, list(mirrors), QUICK)


def ends_well(place) -> bool:
    """The file is there and nothing else but its lock."""
    beside = {p.name for p in place.parent.iterdir() if not p.name.startswith(".")}
    return place.read_bytes() == CONTENT and beside <= {place.name, "recorded.json"}


@pytest.mark.parametrize("kind", ["plain", "cuts", "stalls", "forgets", "recovers"])
def test_a_bad_day_is_got_over(server, tmp_path, kind):
    place = tmp_path / "a.pt"
    assert get(place, server.url(kind)) == "fetched from 127.0.0.1"
    assert ends_well(place)
    ranges = [asked for _, asked, _ in server.asked]
    resumed = kind in ("cuts", "stalls", "forgets")
    assert len(ranges) == (1 if kind == "plain" else 2)
    assert bool(ranges[-1]) == resumed


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("404", "answers 404 Not Found"),
        ("500", "answers 500 Internal Server Error, 3 times"),
        ("page", "a web page"),
        ("long", f"a file of {len(CONTENT) + 9000} bytes, where {len(CONTENT)} are right"),
        ("short", f"a file of {len(CONTENT) - 9000} bytes, where {len(CONTENT)} are right"),
        ("other", "sends another file"),
    ],
)
def test_the_next_mirror_is_asked(server, tmp_path, capsys, kind, why):
    place = tmp_path / "a.pt"
    assert get(place, server.url(kind), server.url("plain")) == "fetched from 127.0.0.1"
    assert ends_well(place) and why in capsys.readouterr().err
    assert sum(path.startswith("/404") for path, _, _ in server.asked) <= 1  # no use in asking on


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("416", "answers 416"),
        ("endless", r"sends more than the \d+ bytes that are right"),
        ("huge", "has a file of 10000000000000 bytes, where 9000000 are too many"),
        ("hidden_page", "has not the file: it is a web page"),
        ("lfs", "has not the file: it is Git LFS's pointer"),
        ("a pipe", "no regular file"),
        ("a device", "no regular file"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_no_file_is_left_and_the_next_mirror_asked(
    server, tmp_path, monkeypatch, capsys, kind, why, known
):
    monkeypatch.setattr(download, "LARGEST", 9_000_000)
    row, place = (ROW if known else replace(ROW, size=None, sha256=None)), tmp_path / "a.pt"
    other = {"a pipe": tmp_path.parent / f"{tmp_path.name}.pipe", "a device": "/dev/zero"}
    if kind == "a pipe":
        os.mkfifo(other[kind])
    get(place, str(other.get(kind, server.url(kind))), server.url("plain"), row=row)
    assert ends_well(place)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("acgd: ")]
    assert len(said) == 1 and re.search(f"{why}|where 307207 are right" if known else why, said[0])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a.pt": 3}', b"null"])
def test_damaged_notes_are_made_anew(server, tmp_path, content):
    row, place = replace(ROW, sha256=None, size=None), tmp_path / "a.pt"
    (tmp_path / "recorded.json").write_bytes(content)
    download.part_of(place).write_bytes(CONTENT[:5000])
    download.memo_of(download.part_of(place)).write_bytes(content)
    get(place, server.url("plain"), row=row)
    assert ends_well(place)
    assert json.loads((tmp_path / "recorded.json").read_text())["a.pt"]["sha256"] == SHA256


def test_lies_about_the_length_are_found_out_without_knowing_the_size(server, tmp_path):
    row = replace(ROW, size=None)
    with pytest.raises(UserError, match="broken off, 3 times"):
        get(tmp_path / "a.pt", server.url("long"), row=row)
    with pytest.raises(UserError, match="sends another file"):
        get(tmp_path / "b.pt", server.url("short"), row=row)
    assert not (tmp_path / "a.pt").exists() and not (tmp_path / "b.pt").exists()


def test_all_mirrors_dead_says_why_and_what_a_person_can_do(server, tmp_path):
    place = tmp_path / "a.pt"
    row = replace(ROW, by_hand="open https://drive.example in a browser and save it as")
    with pytest.raises(UserError) as caught:
        get(place, server.url("404"), "http://127.0.0.1:9/a.pt", "/nowhere/a.pt", row=row)
    message = str(caught.value)
    assert "answers 404" in message and "no connection, 3 times" in message
    assert "No such file" in message and message.endswith(f"in a browser and save it as {place}")
    assert "\n" not in message


def test_what_came_from_one_mirror_is_gone_on_with_at_another(server, tmp_path):
    place = tmp_path / "a.pt"
    get(place, server.url("always_cuts"), server.url("plain"))
    assert ends_well(place)
    assert [code for *_, code in server.asked] == [200, 206, 206, 206]
    assert server.asked[-1][0] == "/plain/a.pt"


def test_a_wrong_beginning_is_thrown_away_once(server, tmp_path):
    place = tmp_path / "a.pt"
    download.part_of(place).write_bytes(b"x" * 5000)
    get(place, server.url("plain"))
    assert ends_well(place) and [code for *_, code in server.asked] == [206, 200]


def test_without_a_hash_a_file_that_changed_on_the_way_begins_anew(server, tmp_path):
    row = replace(ROW, sha256=None)
    get(tmp_path / "a.pt", server.url("changes"), row=row)
    assert ends_well(tmp_path / "a.pt") and [code for *_, code in server.asked] == [200, 200]


def test_without_a_hash_only_the_same_mirror_goes_on_and_the_file_is_recorded(server, tmp_path):
    row, place = replace(ROW, sha256=None, size=None), tmp_path / "a.pt"
    download.part_of(place).write_bytes(CONTENT[:5000])  # from who knows where
    get(place, server.url("cuts"), row=row)
    assert ends_well(place)
    assert server.asked[0][1] is None and server.asked[1][1] is not None
    known = json.loads((tmp_path / "recorded.json").read_text())["a.pt"]
    assert known == {"sha256": SHA256, "size": len(CONTENT), "from": server.url("cuts")}
    place.unlink()
    with pytest.raises(UserError, match="sends another file"):
        get(place, server.url("other"), row=row)
    place.write_bytes(b"another")
    assert "not the file that recorded.json knows" in get(place, row=row)
    assert place.read_bytes() == b"another"


def test_a_whole_partial_file_of_unknown_size_is_seen_to_be_whole(server, tmp_path):
    row, place = replace(ROW, size=None), tmp_path / "a.pt"
    download.part_of(place).write_bytes(CONTENT)
    get(place, server.url("plain"), row=row)
    assert ends_well(place) and server.asked[-1][2] == 416


def test_what_is_here_is_checked_and_not_fetched(server, tmp_path):
    place = tmp_path / "a.pt"
    place.write_bytes(CONTENT)
    assert get(place, server.url("plain")) == "here and right" and not server.asked
    place.write_bytes(CONTENT[::-1])
    get(place, server.url("plain"))
    assert place.read_bytes() == CONTENT
    assert (tmp_path / "a.pt.wrong").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_path_is_a_mirror(tmp_path, form):
    source, place = tmp_path / "with space" / "b.pt", tmp_path / "cache" / "a.pt"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    place.parent.mkdir()
    download.part_of(place).write_bytes(CONTENT[:5000])
    get(place, form.format(source).replace(" ", "%20" if "file" in form else " "))
    assert ends_well(place)


def test_a_disk_too_small_is_said_before_anything_is_asked(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match=r"307 kB are wanted and .* has 1.0 kB free: make room"):
        fetch.fetch([replace(ROW, mirrors=(server.url("plain"),))], tmp_path, [])
    assert not server.asked
    with pytest.raises(UserError, match="make room"):  # also where only the server knows the size
        get(tmp_path / "a.pt", server.url("plain"), row=replace(ROW, size=None, about=0))


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from acgd.checkpoints import download
from acgd.checkpoints.registry import Published
row = Published("a.pt", "", "", {size}, {size}, {sha!r}, (), None)
try:
    print(download.download(row, Path(sys.argv[1]), sys.argv[2:], download.Patience()))
except KeyboardInterrupt:
    sys.exit(130)
"""


def process(place, url: str) -> subprocess.Popen:
    program = PROGRAM.format(tests=str(ROOT / "tests"), size=len(CONTENT), sha=SHA256)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(place), url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.process
def test_two_processes_fetch_a_file_once(server, tmp_path):
    both = [process(tmp_path / "a.pt", server.url("slow")) for _ in range(2)]
    told = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert sorted(out.strip() for out, _ in told) == ["fetched from 127.0.0.1", "here and right"]
    assert ends_well(tmp_path / "a.pt") and len(server.asked) == 1
    assert "another process is fetching a.pt" in "".join(errors for _, errors in told)


@pytest.mark.process
def test_ctrl_c_keeps_what_has_come(server, tmp_path):
    place = tmp_path / "a.pt"
    child = process(place, server.url("slow"))
    patience = time.monotonic() + 60
    while download.size_of(download.part_of(place)) == 0 and time.monotonic() < patience:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    came = download.size_of(download.part_of(place))
    assert child.returncode == 130 and 0 < came < len(CONTENT) and not place.exists()
    get(place, server.url("plain"))
    assert ends_well(place) and server.asked[-1] == ("/plain/a.pt", f"bytes={came}-", 206)


# The table and the command


def test_every_row_says_what_a_person_needs():
    for name, row in registry.table().items():
        assert row.purpose and row.licence and (row.mirrors or row.by_hand), name
        assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256), name
        assert all(one.startswith("https://") and "{" not in one for one in row.mirrors), name
        assert row.about or not row.mirrors, name
        if "/clip/models/" in row.mirrors[0] if row.mirrors else False:
            assert row.sha256 in row.mirrors[0]


def test_overrides_name_their_files(capsys):
    rows, own = fetch.chosen(["experiment=published", "encoder=audioclip"])
    assert {row.name for row in rows} == {
        "256x256_diffusion_uncond.pt",
        "AudioCLIP-Partial-Training.pt",
        "ViT-B-32.pt",
    }
    assert own == []
    rows, own = fetch.chosen(["model.checkpoint=my/unet.pt", "RN50.pt", "gpt2"])
    assert own == ["my/unet.pt"] and rows[0].name == "RN50.pt"
    assert {row.name for row in rows[1:]} == {
        "gpt2/tokenizer.json",
        "gpt2/vocab.json",
        "gpt2/merges.txt",
    }
    rows, _ = fetch.chosen(["encoder=audioclip", "encoder.image_from=rn50", "judge=none"])
    assert [row.name for row in rows] == ["AudioCLIP-Partial-Training.pt", "RN50.pt"]
    rows, _ = fetch.chosen(["captioner=clipcap"])
    names = ("clipcap_conceptual_weights.pt", "ViT-B-32.pt", "gpt2/tokenizer.json")
    assert {row.name for row in rows} >= set(names)
    with pytest.raises(UserError, match=r"RN5.pt: no published file"):
        fetch.chosen(["RN5.pt"])


def test_the_command_fetches_checks_and_says_so(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "table", lambda: {"a.pt": ROW})
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path / "cache"))
    folder = server.url("plain").removesuffix("a.pt")
    assert fetch.main(["a.pt", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "a.pt" in told and "307 kB" in told and "to fetch" in told and "free" in told
    assert not server.asked
    assert fetch.main(["a.pt", "--mirror", folder]) == 0
    assert "a.pt: fetched from 127.0.0.1" in capsys.readouterr().out
    assert ends_well(tmp_path / "cache" / "a.pt")
    assert fetch.main(["a.pt", "--mirror", f"a.pt={server.url('404')}"]) == 0
    assert "a.pt: here and right" in capsys.readouterr().out
    (tmp_path / "cache" / "a.pt").unlink()
    assert fetch.main(["a.pt", "--mirror", f"a.pt={tmp_path / 'none'}"]) == 1
    assert "could not be fetched" in capsys.readouterr().err
    assert fetch.main(["model=tiny"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
