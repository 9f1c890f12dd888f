"""The keyword describer: label lists, probabilities, draws, and the notebook's spelled labels."""

import csv
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import compose

from acgd.describers.keywords import LISTS, Keywords, read_list
from acgd.describers.none import NoWords
from acgd.describers.several import Several, told
from acgd.errors import UserError
from acgd.paths import CONCEPTS
from acgd.pipeline.runner import render
from acgd.prompts.text import join
from acgd.runs.run import expand
from acgd.types import Target

RATE = 16000
NOISE = np.random.default_rng(0).standard_normal(RATE).astype("f4") / 10


class Ears:
    """An encoder whose answers are known: each text its own direction, sounds near one of them."""

    image_size, sample_rate, dim, scale_at = 8, RATE, 64, 4.0

    def __init__(self, hears="dog"):
        self.hears, self.asked = hears, []

    def text(self, texts):
        self.asked.append(list(texts))
        rows = [
            torch.randn(self.dim, generator=torch.Generator().manual_seed(sum(t.encode())))
            for t in texts
        ]
        return F.normalize(torch.stack(rows), dim=-1)

    def audio(self, waves):
        assert waves.shape == (1, RATE) and waves.dtype == torch.float32
        return self.text([self.hears])


@pytest.fixture
def animals(tmp_path):
    path = tmp_path / "animals.txt"
    path.write_text("# three\ncat\ndog\n\n  owl \ncat\n")
    return str(path)


def test_the_likeliest_label_and_its_probability(animals):
    ears = Ears()
    ranked = Keywords(ears, [animals], top_k=3).rank(NOISE, RATE)
    labels = ["cat", "dog", "owl"]
    logits = [4 * float(x @ ears.text(["dog"])[0]) for x in ears.text(labels)]
    total = sum(map(math.exp, logits))
    expected = {label: math.exp(x) / total for label, x in zip(labels, logits, strict=True)}
    assert ranked["animals"][0][0] == "dog"
    assert dict(ranked["animals"]) == pytest.approx(expected, abs=1e-5)
    assert sum(p for _, p in ranked["animals"]) == pytest.approx(1, abs=1e-5)


def test_words_of_every_list_each_once(animals, tmp_path):
    (tmp_path / "other.txt").write_text("dog\nrain\n")
    words = Keywords(Ears(), [animals, str(tmp_path / "other.txt")], top_k=2)(NOISE, RATE)
    assert words[0] == "dog" and len(words) == len(set(words)) == 3 and "rain" in words


def test_labels_are_encoded_once_for_all_sounds(animals):
    ears = Ears()
    describer = Keywords(ears, [animals])
    describer(NOISE, RATE)
    describer(NOISE, RATE)
    assert ears.asked.count(["cat", "dog", "owl"]) == 1


def test_a_sound_at_another_rate_is_resampled(animals):
    twice = np.repeat(NOISE, 2)
    assert Keywords(Ears(), [animals])(twice, 2 * RATE) == ["dog"]


def test_template_and_the_notebooks_spelling(animals):
    ears = Ears()
    Keywords(ears, [animals], template="the sound of a {}")(NOISE, RATE)
    assert ["the sound of a cat", "the sound of a dog", "the sound of a owl"] in ears.asked
    ears = Ears()
    assert Keywords(ears, [animals], spelled=True).rank(NOISE, RATE)["animals"]
    assert ["c, a, t", "d, o, g", "o, w, l"] in ears.asked


def test_draws_follow_the_seed():
    drawn = [Keywords(Ears(), sample=50, seed=seed).labels for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(labels) == 50 for labels in drawn[0].values())
    assert len(Keywords(Ears()).labels["sounds"]) > 100


def test_packaged_lists():
    for name in ("colours", "genres", "sounds"):
        labels = read_list(name)
        lines = [x for x in (LISTS / f"{name}.txt").read_text().splitlines() if x[:1] != "#"]
        assert labels == lines and 60 <= len(labels) <= 170


def test_the_embedded_models_concepts_are_among_the_sounds():
    table = CONCEPTS
    with open(table, newline="") as file:
        concepts = {row["concept"] for row in csv.DictReader(file)}
    assert len(concepts) >= 60 and concepts <= set(read_list("sounds"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lists": ["no/such.txt"]},
        {"lists": []},
        {"top_k": 0},
        {"share": 1.5},
        {"template": "the sound"},
    ],
)
def test_mistakes(wrong):
    with pytest.raises(UserError, match="describer"):
        Keywords(Ears(), **wrong)


def test_a_list_of_nothing(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(UserError, match="no labels"):
        Keywords(Ears(), str(tmp_path / "empty.txt"))


def test_none_says_nothing():
    assert NoWords(encoder=Ears())(NOISE, RATE) == [] and NoWords().rank(NOISE, RATE) == {}


def test_a_run_says_which_words_and_how_likely(tiny, sounds, tmp_path):
    args = ["judge=none", "describer=keywords", "describer.top_k=2", "describer.share=0.4"]
    kept = [one for one in tiny if not one.startswith("judge")]
    path = f"prompt.path={sounds / 'tone.wav'}"
    render(expand(compose(*kept, *args, path, f"outputs={tmp_path}/outputs")))
    (told,) = tmp_path.glob("outputs/main/*/targets.json")
    told = json.loads(told.read_text())
    words = [target for target in told["targets"] if target["kind"] == "text"]
    assert sum(target["weight"] for target in words) == pytest.approx(0.4, abs=1e-5)
    ranked = [label for pairs in told["described"].values() for label, _ in pairs]
    assert [target["label"] for target in words] == list(dict.fromkeys(ranked))
    assert set(told["described"]) == {"colours", "genres", "sounds"}


class Says:
    """A describer that does not choose among labels."""

    def __init__(self, *words, share=0.5):
        self.words, self.share = list(words), share

    def rank(self, wave, sample_rate):
        return {}

    def __call__(self, wave, sample_rate):
        return self.words


def test_shares_are_added_where_two_say_the_same():
    both = Several({"a": Says("dog", "red", share=0.4), "b": Says("a dog barks", "dog", share=0.2)})
    words, weights = told(both, NOISE, RATE)
    assert words == ["dog", "red", "a dog barks"] == both(NOISE, RATE)
    assert weights == pytest.approx([0.3, 0.2, 0.1]) and both.share == pytest.approx(0.6)
    sound = Target(F.normalize(torch.ones(64), dim=0), 1.0, "audio", "bark")
    found = join([sound], words, Ears(), weights)
    assert [target.weight for target in found] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert told(Says("dog", share=0.3), NOISE, RATE) == (["dog"], 0.3)


def test_one_share_is_divided_among_the_describers(animals):
    keywords = Keywords(Ears(), [animals], top_k=2, share=0.9)
    both = Several({"keywords": keywords, "sentence": Says("a dog barks", share=0.9)}, share=0.5)
    words, weights = both.told(NOISE, RATE)
    assert weights == pytest.approx([0.125, 0.125, 0.25]) and words[2] == "a dog barks"
    assert list(both.rank(NOISE, RATE)) == ["animals"]  # the other one has none
    silent = Several({"a": Says("red", share=0.4), "b": Says(share=0.4)})
    assert silent.told(NOISE, RATE) == (["red"], [0.4])


def test_shares_of_more_than_all():
    with pytest.raises(UserError, match=r"more than 1 together: a 0.6 \+ b 0.5"):
        Several({"a": Says(share=0.6), "b": Says(share=0.5)})
    with pytest.raises(UserError, match=r"describer\.share"):
        Several({"a": Says()}, share=2)
    with pytest.raises(UserError, match="at least one"):
        Several({})


def test_a_run_with_both(tiny, sounds, tmp_path):
    kept = [one for one in tiny if not one.startswith(("judge", "describer"))]
    args = ["judge=none", "describer=both", "describer.share=0.6", "logger=none", "report=false"]
    path = f"prompt.path={sounds / 'tone.wav'}"
    render(expand(compose(*kept, *args, path, f"outputs={tmp_path}/outputs")))
    (folder,) = tmp_path.glob("outputs/main/tone*")
    told = json.loads((folder / "targets.json").read_text())
    words = json.loads((folder / "metrics.json").read_text())["words"]
    weights = [target["weight"] for target in told["targets"] if target["kind"] == "text"]
    assert set(told["described"]) == {"colours", "genres", "sounds"}
    assert len(words) == len(weights) == 4 and " " in words[-1]
    assert weights == pytest.approx([0.1, 0.1, 0.1, 0.3], abs=1e-5)
