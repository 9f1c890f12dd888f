"""Bad inputs and settings for scripts/fuzz.py: each a folder's files and the words of a command.

A case is made from its number alone, so that it can be made again. `expect` is what must come of
it: "ok", "line" (refused in one), or "either" where both can be right.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from acgd.config import keys
from acgd.config.words import quoted
from acgd.paths import CONF

RATE = 16000
QUICK = ["experiment=smoke", "judge=none", "report=false", "device=cpu", "sampler.steps=2"]
SEEN = ["experiment=smoke", "report=false", "device=cpu", "sampler.steps=2"]  # with a judge
NASTY = [-1, 0, 1, 2, 3.5, -0.0, 1e-320, 1e20, 1e308, 10**20, float("nan"), float("inf")]
NASTY += [True, False, None, "", " ", "abc", "no", "null", "0", "1e999", "nan", "\0", "é🐶", "-"]
NASTY += ["../..", "/dev/zero", "/dev/full", "/etc/passwd", "~", "demo:none", "embedded:none"]
NASTY += [
    [],
    [1, "a", None],
    [[]],
    {},
    {"a": 1},
    {"_target_": "os.system"},
    "x" * 5000,
    ["a"] * 300,
]
WORDS = ["=", "==", "a=", "~", "~~a", "++seed=1", "+seed=1", "--", "-m -m", "seed=1,2", "seed=[1,2"]
WORDS += ["'", '"', "seed='1", "a.b.c=1", ".=1", "a..b=1", "seed=${seed}", "seed=${oc.env:X}", "{}"]
WORDS += ["seed=range(3)", "seed=choice(1,2)", "sampler@x=ddim", "sampler/x=1", "hydra=none", "@=1"]
WORDS += ["hydra/launcher=none", "hydra.job.chdir=maybe", "--cfg", "--cfg nope", "--info x", "-x"]
WORDS += ["--config-dir", "--config-dir nowhere", "--config-name x", "--config-path x", "-cd=."]
WORDS += ["experiment=[smoke,nope]", "~guidance.losses", "~prompt.path", "~hydra", "defaults=[]"]
WORDS += ["sampler=[ddim,plms]", "+sampler.x=1", "+guidance.x=1", "+losses=1", "guidance.losses={}"]
WORDS += ["guidance.losses.tv=null", "sampler={steps:3}", "prompt={path:x}", "seed.x=1", "twin.x=1"]
LETTERS = string.ascii_letters + "0123456789.=,:'\"[]{}()$~+-@/\\ éß🐶"
ODD = [
    "a b",
    "a\nb",
    "\x1b[31mred",
    "é",
    "🐶",
    "x" * 240,
    "'",
    '"',
    "`id`",
    "$(id)",
    "${seed}",
    "a,b",
]
ODD += ["${oc.env:HOME}", "a;b", "[x]", "{a}", "*", "?", "#a", "%s", "~", "\\", "a:1", "-x", "a=b"]
ODD += ["con", "..", ".hidden", "\u202eabc", "a\tb", "\udcff\udcfe", "null", "1e5", "demo:dog", "ⅷ"]


@dataclass
class Case:
    kind: str
    number: int
    words: list[str]
    expect: str = "either"
    about: str = ""


def tone(seconds: float = 0.6) -> np.ndarray:
    at = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (300 + 300 * at) * at)).astype(np.float32)


def hurt(draw: random.Random, data: bytes) -> tuple[bytes, str]:
    """The bytes as a bad disk, a bad line or a bad tool leaves them, and what was done."""
    way = draw.choice(["cut", "flip", "head", "zeros", "twice", "insert", "drop", "swap", "tail"])
    if not data:
        return b"", "empty"
    hurt, size = bytearray(data), len(data)
    at = draw.randrange(size)
    if way == "cut":
        return bytes(hurt[:at]), f"cut to {at} of {size} bytes"
    if way in ("flip", "head"):
        for _ in range(draw.randint(1, 40)):
            where = draw.randrange(size if way == "flip" else min(size, 64))
            hurt[where] = draw.randrange(256)
    elif way == "zeros":
        hurt[at : at + 4096] = bytes(len(hurt[at : at + 4096]))
    elif way == "twice":
        hurt *= 2
    elif way == "insert":
        hurt[at:at] = draw.randbytes(draw.randint(1, 999))
    elif way == "drop":
        del hurt[at : at + draw.randint(1, 999)]
    elif way == "swap":
        half = size // 2
        hurt = hurt[half:] + hurt[:half]
    else:
        hurt += draw.randbytes(5000)
    return bytes(hurt), way


def sounds(draw: random.Random, folder: Path) -> Case:
    kinds = [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAV", "PCM_U8"),
        ("WAV", "GSM610"),
        ("AU", None),
    ]
    kinds += [("WAV", "IMA_ADPCM"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
    kinds += [("MP3", None), ("AIFF", None), ("CAF", None), ("W64", None), ("VOC", None)]
    form, subtype = draw.choice(kinds)
    file, expect = io.BytesIO(), "either"
    wave = tone()
    if draw.random() < 0.3 and (form, subtype) in kinds[:2]:
        about, wave = draw.choice(
            [
                ("silence", wave * 0),
                ("one sample", wave[:1]),
                ("constant", wave * 0 + 0.5),
                ("loud", wave * 1e6),
                ("tiny", wave * 1e-7),
                ("opposite channels", np.stack([wave, -wave], 1)),
                ("many channels", np.stack([wave] * 40, 1)),
                ("a not-a-number", np.where(np.arange(len(wave)) == 99, np.nan, wave)),
                ("an infinity", np.where(np.arange(len(wave)) == 99, np.inf, wave)),
            ]
        )
        rate = draw.choice([1, 50, 8000, 44100, 192000, 1_000_000])
        soundfile.write(file, wave, rate, format=form, subtype=subtype)
        data = file.getvalue()
        if about in ("silence", "one sample"):
            expect = "line"
    elif draw.random() < 0.1:
        texts = [b"", b"no sound at all", b"<!doctype html><p>404", b"\0" * 9999, b"PK\x03\x04"]
        data, about, expect = draw.choice([*texts, b"\xff\xfb" * 999]), "no sound", "either"
        expect = "line" if data in texts else expect
    else:
        soundfile.write(file, wave, 16000, format=form, subtype=subtype)
        data, about = hurt(draw, file.getvalue())
    name = f"sound.{draw.choice([form.lower(), form.lower(), 'wav', 'mp3', 'ogg', 'txt', ''])}"
    (folder / name).write_bytes(data)
    more = draw.choice([[], [], ["prompt.offset=0.3"], ["prompt.duration=0.1"], ["prompt=mixed"]])
    return Case("sounds", 0, [f"prompt.path={name}", *more, *QUICK], expect, f"{form} {about}")


def pictures(draw: random.Random, folder: Path) -> Case:
    form = draw.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
    mode = draw.choice(["RGB", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F", "1"])
    size = draw.choice([(1, 1), (7, 300), (64, 64), (200, 3), (100, 80)])
    image = Image.fromarray(
        np.random.default_rng(draw.randrange(999)).integers(
            0, 256, (size[1], size[0], 3), dtype=np.uint8
        )
    )
    file = io.BytesIO()
    try:
        image.convert("L" if mode in ("I;16", "F") else mode).convert(mode).save(file, form)
    except (OSError, ValueError, KeyError):
        file = io.BytesIO()
        image.save(file, form)
    data, about = file.getvalue(), "whole"
    if draw.random() < 0.8:
        data, about = hurt(draw, data)
    if draw.random() < 0.05:
        data, about = b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"
    name = f"picture.{draw.choice([form.lower(), 'png', 'jpg', 'txt'])}"
    (folder / name).write_bytes(data)
    words = draw.choice(
        [
            ["prompt=image", f"prompt.image={name}"],
            ["prompt=text", f"init_image={name}", "skip_steps=1"],
            ["prompt=text", f"references={name}"],
        ]
    )
    return Case("pictures", 0, [*words, *QUICK], "ok" if about == "whole" else "either", about)


def texts(draw: random.Random, folder: Path) -> Case:
    lines = [
        draw.choice(["dog", "cat", "Rain", "ship_horn", "", "# note", "é", "dog"]) for _ in range(9)
    ]
    content = (
        draw.choice(["\n", "\r\n", "\r"])
        .join(lines)
        .encode(draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    )
    about = "text"
    if draw.random() < 0.6:
        odd = [
            b"",
            b"\0" * 99,
            b"\n" * 99,
            b"x" * 200_000,
            b"#a\n#b",
            b"a\0b",
            b"\xff\xfe",
            b"a\n" * 3000,
        ]
        content, about = draw.choice([hurt(draw, content), (draw.choice(odd), "odd")])
    name = draw.choice(["list.txt", "list.csv", "list"])
    (folder / name).write_bytes(content)
    words = draw.choice(
        [
            [f"labels={name}"],
            ["describer=keywords", f"describer.lists=[{name}]"],
            [f"references={name}"],
        ]
    )
    return Case("texts", 0, [*QUICK, "prompt.path=demo:dog", *words], "either", about)


def tables(draw: random.Random, folder: Path) -> Case:
    Image.new("RGB", (9, 9), "red").save(folder / "red.png")
    bomb = "a: &a [x,x]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    good = [
        b"label,picture\ndog,red.png\n",
        b"dog: red.png\ncat: [red.png]\n",
        b"picture,label\nred.png,a\n",
    ]
    bad = [
        b"label\ndog\n",
        b"label,picture\ndog\n",
        b'label,picture\n"dog,red.png\n',
        b"a,b\n1,2\n",
    ]
    bad += [
        b"- red.png\n",
        b"[" * 3000,
        bomb.encode(),
        b"dog: {a: {b: c}}\n",
        b"\0",
        b"dog: !!python/name:os.system",
    ]
    bad += [b"1: 2\n", b"dog: nowhere.png\n", b"label,picture\n" + b"dog," + b"x" * 140_000 + b"\n"]
    content = draw.choice([*good, *bad])
    if draw.random() < 0.4:
        content, _ = hurt(draw, content)
    name = draw.choice(["table.csv", "table.yaml"])
    (folder / name).write_bytes(content)
    words = [f"references={name}", "prompt.path=demo:dog", "concept=dog"]
    return Case("tables", 0, [*SEEN, *words], "either", content[:40].decode(errors="replace"))


def typed(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(typed, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return (
        {None: "null", True: "true", False: "false"}[value]
        if (value in (None, True, False) and not isinstance(value, int | float))
        or isinstance(value, bool)
        else str(value)
    )


def values(draw: random.Random, folder: Path) -> Case:
    key = draw.choice(sorted(keys.TABLE))
    value = draw.choice(NASTY)
    if (key, value) == ("sampler.steps", ""):
        value = "0"  # nothing means all thousand steps: minutes of work, and no fault
    group, _, own = key.partition(".")
    chosen = []
    if own:
        first = own.split(".")[0]
        parts = [p for p in sorted((CONF / group).glob("*.yaml")) if f"\n{first}:" in p.read_text()]
        small = [p for p in parts if p.stem in ("tiny", "clipcap_tiny", "muscaps_tiny", "keywords")]
        chosen = [f"{group}={(small or parts)[0].stem}"] if parts else []
    plus = "++" if own else ""
    base = [word for word in SEEN if not word.startswith(f"{key}=")]
    words = [*base, "prompt.path=demo:dog", *chosen, f"{plus}{key}={typed(value)}"]
    if group == "prompt" and chosen != ["prompt=audio"]:
        words = [word for word in words if not word.startswith("prompt.path=demo")]
    fits = keys.TABLE[key].fits(value) or key in ("name", "outputs")
    return Case("values", 0, words, "either" if fits else "line", f"{key}={str(value)[:40]}")


def overrides(draw: random.Random, folder: Path) -> Case:
    way = draw.random()
    if way < 0.5:
        words = draw.choice(WORDS).split(" ")
    elif way < 0.8:
        words = ["".join(draw.choice(LETTERS) for _ in range(draw.randint(1, 25)))]
    else:
        key = draw.choice(sorted(keys.TABLE))
        letters = list(key)
        letters[draw.randrange(len(letters))] = draw.choice(string.ascii_lowercase)
        words = [f"{''.join(letters)}={draw.choice(['1', 'x', 'true', '[1]'])}"]
    more = draw.choice([[], [], ["-m"]])
    return Case(
        "overrides", 0, [*QUICK, "prompt.path=demo:dog", *words, *more], "either", str(words)
    )


def names(draw: random.Random, folder: Path) -> Case:
    odd = draw.choice(ODD)
    name = odd + draw.choice([".wav", "", ".wav"]) if odd not in ("..", "~") else odd + ".wav"
    try:
        soundfile.write(folder / "good.wav", tone(), RATE)
        os.rename(folder / "good.wav", folder / name)
    except OSError:
        name = "good.wav"
    way = draw.choice(["bare", "path", "folder", "text", "name"])
    expect = "line" if "\udcff" in name else "ok"
    words = {
        "bare": [f"./{name}"],
        "path": [f"prompt.path={quoted(name)}"],
        "folder": ["prompt.path=."],
        "text": ["prompt=text", f"prompt.text={quoted(odd)}"],
        "name": ["prompt=text", f"name={quoted(odd)}"],
    }[way]
    if (
        way in ("text", "name")
        or "=" in name
        or (way == "folder" and name[0] == ".")
        or name == "demo:dog"
    ):
        expect = "either"
    if way == "path" and (set("*?[~") & set(name)):
        expect = "either"
    return Case("names", 0, [*words, *QUICK], expect, f"{way} {name[:40]!a}")


def finished(folder: Path, made: Path) -> Path:
    """A copy of finished runs in the case's folder; the first of them."""
    shutil.copytree(made, folder / "outputs", symlinks=True)
    return sorted((folder / "outputs/main").glob("*-seed0-*"))[0]


def folders(draw: random.Random, folder: Path, made: Path) -> Case:
    run = finished(folder, made)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    told = []
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(files)
        way = draw.choice(
            ["hurt", "hurt", "hurt", "gone", "folder", "link", "empty", "json", "list"]
        )
        told.append(f"{path.name} {way}")
        data = path.read_bytes() if path.is_file() else b""
        if path.is_dir():
            continue
        path.unlink(missing_ok=True)
        if way == "hurt":
            path.write_bytes(hurt(draw, data)[0])
        elif way == "folder":
            path.mkdir()
        elif way == "link":
            path.symlink_to(draw.choice(["nowhere", path.name, "/dev/zero", "/etc"]))
        elif way in ("json", "list", "empty"):
            odd = [
                b'{"status": 3}',
                b'{"status": "ok", "files": {"../../x": 1}}',
                b"null",
                b'{"a": [[[]]]}',
            ]
            path.write_bytes({"json": draw.choice(odd), "list": b"[1, 2]", "empty": b""}[way])
    words = draw.choice(
        [
            ["again"],
            ["verify", "outputs"],
            ["report", "outputs/main"],
            ["report", str(run.relative_to(folder))],
            ["compare", "outputs/main"],
            ["repeat", "--make", ".", "--out", "outputs", str(run.relative_to(folder))],
        ]
    )
    again = [*SEEN, "prompt.path=demo:dog", "seed=[0,1]", "report=true"]
    return Case(
        "folders", 0, again if words == ["again"] else words, "either", f"{words[0]}: {told}"
    )


def configs(draw: random.Random, folder: Path, made: Path) -> Case:
    run = finished(folder, made)
    path = run / "config.yaml"
    cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
    about = []
    for _ in range(draw.randint(1, 3)):
        node, where = cfg, ""
        while isinstance(node, dict) and node:
            key = draw.choice(sorted(node, key=str))
            where = f"{where}.{key}"
            if not isinstance(node[key], dict) or draw.random() < 0.3:
                way = draw.choice(["value", "value", "gone", "key", "target"])
                about.append(f"{where[1:]} {way}")
                if way == "gone":
                    del node[key]
                elif way == "key":
                    node["odd"] = draw.choice(NASTY)
                elif way == "target":
                    node[key] = {
                        "_target_": draw.choice(["torch.load", "os.system", "acgd.x.Y", 3])
                    }
                else:
                    node[key] = draw.choice(NASTY)
                break
            node = node[key]
    text = yaml.safe_dump(cfg, allow_unicode=True)
    if draw.random() < 0.15:
        text = hurt(draw, text.encode())[0].decode(errors="replace")
        about.append("hurt")
    path.write_text(text, encoding="utf-8")
    words = ["repeat", "--make", ".", "--out", "outputs", str(run.relative_to(folder))]
    words = draw.choice(
        [words, words, words, ["report", "outputs/main"], ["compare", "outputs/main"]]
    )
    return Case("configs", 0, words, "either", f"{words[0]}: {about}")


KINDS: dict[str, tuple[float, Callable]] = {  # how often, and how
    "sounds": (0.25, sounds),
    "pictures": (0.13, pictures),
    "texts": (0.08, texts),
    "tables": (0.06, tables),
    "values": (0.18, values),
    "overrides": (0.1, overrides),
    "names": (0.08, names),
    "folders": (0.07, folders),
    "configs": (0.05, configs),
}


def case(seed: int, number: int, folder: Path, made: Path, kind: str | None = None) -> Case:
    """Case `number`: its files in `folder`, its words. The same for the same seed and number."""
    draw = random.Random(f"{seed} {number}")
    weights = [often for often, _ in KINDS.values()]
    kind = kind or draw.choices(list(KINDS), weights)[0]
    more = {"made": made} if kind in ("folders", "configs") else {}
    found = KINDS[kind][1](draw, folder, **more)
    found.number = number
    return found
