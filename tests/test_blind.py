"""Grids for eyes that know nothing: numbered, shuffled, scored leniently."""

import json

import blind
import pytest
from PIL import Image

from acgd.errors import UserError

CONCEPTS = ["dog", "fire crackling", "sea waves", "church bell"]
SYNONYMS = {"dog": ["puppy"], "fire crackling": ["campfire", "flames"], "sea waves": ["the sea"]}


@pytest.fixture
def out(tmp_path):
    pictures = [Image.new("RGB", (64, 64), (60 * i, 0, 0)) for i in range(len(CONCEPTS))]
    blind.write(tmp_path / "out", pictures, CONCEPTS)
    return tmp_path / "out"


def test_every_picture_is_in_the_grid_under_its_number(out):
    key = json.loads((out / "key.json").read_text())
    assert sorted(key.values()) == sorted(CONCEPTS) and list(key.values()) != CONCEPTS
    grid = Image.open(out / "grid_1.png")
    for number, concept in key.items():
        x = (int(number) - 1) * blind.SHOWN + blind.SHOWN // 2
        assert grid.getpixel((x, blind.LABEL + 90)) == (60 * CONCEPTS.index(concept), 0, 0)


def test_names_and_synonyms_count_whatever_stands_around_them(out):
    key = json.loads((out / "key.json").read_text())
    said = {
        "dog": "Two puppies? a puppy",
        "fire crackling": "flame",
        "sea waves": "a wave on the sea",
    }
    lines = [f"{n}: {said.get(concept, 'a bell')}" for n, concept in key.items()]
    (out / "answers.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    found = blind.score(out, out / "answers.txt", SYNONYMS)
    assert (found["right"], found["of"]) == (3, 4)
    assert [one["shows"] for one in found["wrong"]] == ["church bell"]


def test_a_line_without_a_number_is_named(out):
    (out / "answers.txt").write_text("a dog")
    with pytest.raises(UserError, match="'a dog' is no answer"):
        blind.score(out, out / "answers.txt", SYNONYMS)
