"""Pictures and text lists as they come: turned, in 16 bits, cut, with marks and other line ends."""

import os
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from acgd import errors
from acgd.describers.keywords import read_list
from acgd.encoders.zero_shot import read_labels
from acgd.errors import UserError
from acgd.evaluation import references
from acgd.media import images
from acgd.pipeline.scoring import known_as


@pytest.fixture(autouse=True)
def everything_is_said():
    errors.say_once.cache_clear()


def message(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def corners(picture):
    names = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue", (255, 255, 0): "yellow"}
    a = np.asarray(picture).astype(int)
    colours = [a[4, 4], a[4, -5], a[-5, 4], a[-5, -5]]
    nearest = lambda c: min(names, key=lambda n: abs(np.array(n) - c).sum())  # noqa: E731
    return [names[nearest(c)] for c in colours]


UPRIGHT = np.zeros((64, 96, 3), "u1")
UPRIGHT[:32, :48], UPRIGHT[:32, 48:] = (255, 0, 0), (0, 255, 0)
UPRIGHT[32:, :48], UPRIGHT[32:, 48:] = (0, 0, 255), (255, 255, 0)
TURNED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation to what undoes it


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, *TURNED])
def test_exif_orientation_is_followed(tmp_path, suffix, orientation):
    picture = Image.fromarray(UPRIGHT)
    if orientation > 1:
        picture = picture.transpose(Image.Transpose(TURNED[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    found = images.load(tmp_path / f"a.{suffix}")
    assert found.mode == "RGB" and found.size == (96, 64)
    assert corners(found) == ["red", "green", "blue", "yellow"]


RAMP = np.tile(np.linspace(0, 1, 256), (4, 1))


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        ((RAMP * 65535).round().astype("u2"), "png"),
        ((RAMP * 65535).round().astype("u2"), "tif"),
        ((RAMP * 65535).round().astype("i4"), "tif"),
        ((RAMP * 255).round().astype("i4"), "tif"),
        ((RAMP * 255).round().astype("u1"), "png"),
        (RAMP.astype("f4"), "tif"),
        ((RAMP * 7 - 3).astype("f4"), "tif"),
        ((RAMP * 1e6).astype("i4"), "tif"),
    ],
)
def test_grey_of_any_depth_is_a_ramp(tmp_path, values, suffix):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = np.asarray(images.load(tmp_path / f"a.{suffix}"))[0, :, 0].astype(int)
    assert np.abs(found - np.arange(256)).max() <= 1


def test_a_picture_of_no_numbers(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, "f4")).save(tmp_path / "a.tif")
    assert "not numbers" in message(images.load, tmp_path / "a.tif")


def with_text(size):
    """A PNG with a compressed text of `size` bytes."""
    import io
    import struct

    file = io.BytesIO()
    Image.fromarray(UPRIGHT).save(file, "PNG")
    body = b"zTXtnote\0\0" + zlib.compress(b"a" * size)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


def test_a_png_with_a_huge_text(tmp_path):
    (tmp_path / "a.png").write_bytes(with_text(20 * 2**20))
    assert corners(images.load(tmp_path / "a.png"))[0] == "red"
    (tmp_path / "a.png").write_bytes(with_text(images.TEXTS + 1))
    assert "cannot be read as a picture" in message(images.load, tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "jpg", "tif", "bmp"])
def test_cut_pictures_are_right_or_told(tmp_path, suffix):
    rng = np.random.default_rng(0)
    first, *rest = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype="u1")) for _ in "abcd"]
    more = {"save_all": True, "append_images": rest} if suffix in ("gif", "webp", "png") else {}
    first.save(tmp_path / f"a.{suffix}", **more)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    whole = np.asarray(images.load(tmp_path / f"a.{suffix}"))
    for share in (0.01, 0.2, 0.5, 0.9):
        (tmp_path / f"b.{suffix}").write_bytes(content[: round(share * len(content))])
        try:
            found = images.load(tmp_path / f"b.{suffix}")
        except UserError as error:
            assert "cannot be read as a picture" in str(error)
        else:
            np.testing.assert_array_equal(found, whole)


def test_of_several_images_the_first_is_taken(tmp_path, capsys):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert images.load(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)
    assert "holds 2 images, the first is taken" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0)).convert(mode)
    more = {"transparency": picture.getpixel((0, 0))} if mode == "P" else {}
    picture.save(tmp_path / "a.png", **more)
    assert images.load(tmp_path / "a.png").getpixel((4, 4)) == (255, 255, 255)


def test_what_is_no_picture_is_called_what_it_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    assert "a web page" in message(images.load, tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert "a pipe or a device" in message(images.load, tmp_path / "b.jpg")
    assert "a pipe or a device" in message(images.load, "/dev/zero")
    assert "a pipe or a device" in message(read_labels, "/dev/zero")
    assert "a pipe or a device" in message(references.check, {"dog": str(tmp_path / "b.jpg")})


@pytest.mark.parametrize("read", [read_labels, read_list])
def test_labels_as_editors_write_them(tmp_path, capsys, read):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf# animals\r\nDog\r\n\r\nCAT \r\ntrain_horn\r\ncat\r\n \r\nrain")
    found = read(str(path))
    assert [label.lower() for label in found] == ["dog", "cat", "train horn", "rain"]
    assert read is not read_labels or found[:2] == ["dog", "cat"]
    assert "more than once: cat" in capsys.readouterr().err
    path.write_bytes(b"\xff\xfed\0o\0g\0")
    assert "not a text in UTF-8" in message(read, str(path))
    path.write_bytes(b"\r\n# nothing\r\n")
    assert "holds no labels" in message(read, str(path))
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfid, concept\r\n1, Dog\r\n2,cat\r\n")
    assert [label.lower() for label in read(str(path))] == ["dog", "cat"]
    path.write_bytes(b"dog\ncat\n")
    assert "no column concept" in message(read, str(path))


def test_references_as_spreadsheets_write_them(tmp_path):
    for name in ("a.png", "._a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xef\xbb\xbflabel,picture\r\nDog_Bark,a.png\r\n")
    assert references.find(str(path), "dog bark") == [tmp_path / "a.png"]
    assert references.find(str(tmp_path), "x") == [tmp_path / "a.png"]
    other = tmp_path / "s.csv"
    other.write_bytes(b"Dog_Bark,a.png\n")
    assert "no column label or picture" in message(references.check, str(other))
    other = tmp_path / "t.csv"
    other.write_bytes(b"label,picture\nDog\n")
    assert "row 2" in message(references.check, str(other))


def test_yaml_that_names_itself_again_and_again(tmp_path):
    lines = ["a: &a [x, x]"] + [
        f"{b}: &{b} [*{a}, *{a}]" for a, b in pairwise("abcdefghijklmnopqrstuvw")
    ]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    assert "holds an alias (*)" in message(references.check, str(tmp_path / "r.yaml"))


def test_a_concept_is_the_label_that_says_the_same():
    class Knows:
        labels = ("dog bark", "cat")

    assert known_as("Dog_Bark", Knows()) == "dog bark"
    assert known_as("A cat", Knows()) == "cat"
    assert known_as("Owl_X", Knows()) == "Owl_X"
