"""What is measured of a picture: whole runs on small models, references, what a batch cost."""

import json

import numpy as np
import pytest
from conftest import compose
from PIL import Image

from acgd.errors import UserError
from acgd.evaluation import references
from acgd.pipeline import runner, scoring
from acgd.runs import records as run_records
from acgd.runs.run import expand


@pytest.fixture
def render(tiny, sounds, tmp_path):
    def go(*overrides):
        base = [*tiny, "logger=none", "report=false", f"outputs={tmp_path / 'outputs'}"]
        runs = expand(compose(*base, f"prompt.path={sounds}", *overrides))
        runner.render(runs)
        return runs

    return go


def read(run, name="metrics.json"):
    return json.loads((run.folder / name).read_text())


def test_a_picture_is_its_own_best_reference(render, tmp_path):
    hiss, tone = render("twin=true", "concept={hiss: rain, tone: bell}")
    scores = read(tone)
    assert scores["concept"] == "bell" and read(hiss)["concept"] == "rain"
    judged, twin = scores["picture"]["judge"], scores["twin"]["judge"]
    assert scores["gain"] == pytest.approx(judged["image_audio"] - twin["image_audio"], abs=1e-5)
    assert "image_reference" not in judged

    (tmp_path / "refs.csv").write_text(
        f"label,picture\ntone,{tone.folder / 'images/seed0-native.png'}\n"
    )
    hiss, tone = render(f"references={tmp_path / 'refs.csv'}")
    assert read(tone)["picture"]["judge"]["image_reference"] == pytest.approx(1, abs=1e-3)
    assert "image_reference" not in read(hiss)["picture"]["judge"]
    assert "no reference pictures for hiss" in (hiss.folder / "log.txt").read_text()


def test_the_sound_is_measured_where_only_words_steer(render, weights):
    hiss, _ = render("prompt=mixed", "prompt.text=snow", "prompt.text_share=1")
    kinds = [target["kind"] for target in read(hiss, "targets.json")["targets"]]
    judged, embeds = read(hiss)["picture"]["judge"], read(hiss, "embeddings.json")["judge"]
    assert kinds == ["text"]
    picture, sound = np.array(embeds["image"]), np.array(embeds["audio"])
    assert np.linalg.norm(sound) == pytest.approx(1, abs=1e-3)
    assert judged["image_audio"] == pytest.approx(picture @ sound, abs=1e-3)
    assert judged["image_audio"] != pytest.approx(judged["similarity"], abs=1e-3)


def test_what_a_batch_took_is_told_of_the_batch(render):
    hiss, tone = render("batch_size=2")
    cost = read(hiss, "status.json")["batch"]
    assert cost == read(tone, "status.json")["batch"]
    assert cost["pictures"] == 2 and cost["seconds"] > 0 and cost["peak_mb"] > 50
    scores = run_records.read(hiss.folder)[0]["scores"]
    assert scores["seconds"] == pytest.approx(cost["seconds"] / 2, abs=1e-3)
    assert scores["peak_mb"] == cost["peak_mb"]


def test_a_gain_needs_a_twin_and_a_judge():
    picture, twin = {"image_audio": 0.3, "similarity": 0.5}, {"image_audio": 0.1, "similarity": 0.2}
    both = {"picture": {"judge": picture}, "twin": {"judge": twin}}
    assert scoring.gain(both) == {"gain": 0.2}
    words = {of: {"judge": {"similarity": both[of]["judge"]["similarity"]}} for of in both}
    assert scoring.gain(words) == {"gain": 0.3}
    assert scoring.gain({"picture": {"judge": picture}}) == {}
    assert scoring.gain({"picture": {"encoder": picture}, "twin": {"encoder": twin}}) == {}


@pytest.fixture
def drawings(tmp_path):
    """dogs/a.png, dogs/b.png, cat.png and a file that is none."""
    (tmp_path / "dogs").mkdir()
    for name in ("dogs/b.png", "dogs/a.png", "cat.png"):
        Image.new("RGB", (8, 6), "red").save(tmp_path / name)
    (tmp_path / "dogs" / "notes.txt").write_text("none")
    return tmp_path


def test_references_by_name_and_for_everybody(drawings):
    dogs = [drawings / "dogs" / name for name in ("a.png", "b.png")]
    cat = drawings / "cat.png"
    assert references.find(None, "dog") == [] == references.find({}, "dog")
    assert references.find(str(cat), "dog") == [cat]
    assert references.find(str(drawings / "dogs"), "anything") == dogs
    assert references.find([str(drawings / "*.png"), str(dogs[0])], "x") == [cat, dogs[0]]
    known = {"dog": str(drawings / "dogs"), "Tom cat": [str(cat)]}
    assert references.find(known, "DOG") == dogs
    assert references.find(known, "purr", "tom cat") == [cat]  # a label, else its concept
    assert references.find(known, "owl", None) == []
    (drawings / "r.yaml").write_text("dog: dogs\ncat: [cat.png, dogs/a.png]\n")
    assert references.find(str(drawings / "r.yaml"), "dog") == dogs
    assert references.find(str(drawings / "r.yaml"), "cat") == [cat, dogs[0]]
    (drawings / "r.csv").write_text("label,picture\ndog,dogs/b.png\ndog,cat.png\n")
    assert references.find(str(drawings / "r.csv"), "dog") == [dogs[1], cat]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("nowhere.png", "nowhere.png is no picture"),
        ({"dog": "empty"}, "empty is no picture"),
        ("dogs/notes.txt", "cannot be read as a picture"),
        ("broken.csv", "columns label and picture"),
        ("absent.yaml", "cannot be read as a table"),
    ],
)
def test_wrong_references_are_told_of_before_anything_is_made(drawings, monkeypatch, wrong, says):
    monkeypatch.chdir(drawings)
    (drawings / "empty").mkdir()
    (drawings / "broken.csv").write_text("sound,image\ndog,cat.png\n")
    with pytest.raises(UserError, match=says):
        references.check(wrong)
