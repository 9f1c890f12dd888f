"""Training MusCaps on a small folder laid out as Clotho is."""

import csv
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from acgd.describers.muscaps import MusCapsDescriber
from acgd.errors import UserError
from acgd.media import audio
from acgd.models.harmonic_cnn import HarmonicCNN
from acgd.training import muscaps as training

SAID = {
    "dog": "A dog barks, loudly!",
    "pig": "A heavy pig is grunting in a barn.",
    "guitar": "Someone strums a guitar.",
}
SMALL = ["--word-dim", 16, "--hidden", 128, "--attention", 16, "--lr", 4e-3, "--batch", 8]


@pytest.fixture(scope="module")
def clotho(tmp_path_factory):
    """A folder with captions and real recordings of two splits, and a tagger's weights."""
    folder = tmp_path_factory.mktemp("clotho")
    for split in ("development", "validation"):
        place = folder / f"clotho_audio_{split}" / split
        place.mkdir(parents=True)
        with open(folder / f"clotho_captions_{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(training.COLUMNS)
            for name, caption in list(SAID.items())[: 3 if split == "development" else 1]:
                wave, rate = soundfile.read(ROOT / f"acgd/demo/{name}.ogg")
                soundfile.write(place / f"{name}.wav", wave[: 2 * rate], rate)
                writer.writerow([f"{name}.wav", *[caption] * 5])
    torch.manual_seed(0)
    tagger = HarmonicCNN()
    for module in tagger.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # features of about 1
        for norm in (tagger.layer5.bn, tagger.layer6.bn_2, tagger.layer7.bn_2):
            norm.weight.fill_(0.5)
    waves = [audio.load(item.path, 16000) for item in items(folder)]
    with torch.no_grad():  # norms that know sounds, as in trained taggers
        tagger.train().features(torch.from_numpy(np.stack([np.resize(w, 80000) for w in waves])))
    torch.save(tagger.state_dict(), folder / "tagger.pth")
    return folder


def run(clotho, out, *more: str) -> dict:
    """Train; the state that is left."""
    given = [
        "--data",
        clotho,
        "--out",
        out,
        "--weights",
        clotho / "tagger.pth",
        *SMALL,
        "--device",
        "cpu",
        *more,
    ]
    training.main([str(word) for word in given])
    return torch.load(out / "state.pt", weights_only=True)


@pytest.mark.slow
def test_an_overfitted_captioner_says_what_it_was_told(clotho, tmp_path):
    first = run(clotho, tmp_path, "--epochs", "1", "--patience", "80")["progress"]["val"]
    shutil.rmtree(tmp_path)
    run(clotho, tmp_path, "--epochs", "80", "--patience", "80")
    describer = MusCapsDescriber(
        str(tmp_path / "best_model.pth.tar"),
        vocabulary=str(tmp_path / "muscaps_vocab.json"),
        word_embed_dim=16,
        hidden_dim_encoder=128,
        hidden_dim_decoder=128,
        attention_dim=16,
    )
    waves = [soundfile.read(item.path, dtype="float32") for item in items(clotho)]
    for (wave, rate), caption in zip(waves, SAID.values(), strict=True):
        assert describer(wave, rate) == [" ".join(training.split_words(caption))]
    with open(tmp_path / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[-1]["val"]) < 0.6 < 1.5 < first


def items(clotho):
    return training.read_split(clotho, "development")


def test_a_stopped_training_goes_on_to_the_bit(clotho, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    expected = run(clotho, whole, "--epochs", "3")
    for split in ("development", "validation"):
        shutil.copy(whole / f"features_{split}.pt", parts)  # heard once
    step = training.Training.advance

    def stumble(self):
        if self.step == self.steps + 1:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(training.Training, "advance", stumble)
    with pytest.raises(KeyboardInterrupt):
        run(clotho, parts, "--epochs", "3", "--every", "0")
    monkeypatch.setattr(training.Training, "advance", step)
    found = run(clotho, parts, "--epochs", "3")
    assert found["progress"] == expected["progress"] and found["progress"]["epoch"] == 3
    assert found["step"] == expected["step"]
    for name, module in expected["modules"].items():
        for key, value in module.items():
            assert torch.equal(found["modules"][name][key], value), (name, key)


def test_patience_ends_a_training(clotho, tmp_path):
    found = run(clotho, tmp_path, "--epochs", "9", "--patience", "1", "--lr", "9")
    assert found["progress"]["stale"] == 1 and found["progress"]["epoch"] < 9


def test_another_configuration_does_not_go_on(clotho, tmp_path):
    run(clotho, tmp_path, "--epochs", "1")
    with pytest.raises(SystemExit, match=r"state\.pt is of another configuration"):
        run(clotho, tmp_path, "--epochs", "2", "--attention", "24")


def test_a_wrong_folder_is_told_in_a_line(clotho, tmp_path):
    with pytest.raises(UserError, match=r"clotho_captions_development\.csv is not there"):
        training.read_split(tmp_path, "development")
    table = tmp_path / "clotho_captions_development.csv"
    shutil.copy(clotho / table.name, table)
    with pytest.raises(UserError, match=r"unpack clotho_audio_development\.7z"):
        training.read_split(tmp_path, "development")
    place = tmp_path / "development"
    place.mkdir()
    shutil.copy(items(clotho)[0].path, place)
    with pytest.raises(UserError, match=r"2 of 3 files are missing, such as pig\.wav"):
        training.read_split(tmp_path, "development")
    table.write_text("file_name,caption\nx.wav,y\n")
    with pytest.raises(UserError, match="no column caption_1"):
        training.read_split(tmp_path, "development")
    with pytest.raises(SystemExit, match="error: "):
        training.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


def test_glove_vectors_are_taken_for_the_words_that_it_knows(tmp_path):
    (tmp_path / "glove.txt").write_text("dog 1 2\nunheard 5 6\n")
    rows = torch.zeros(3, 2)
    assert training.load_glove(tmp_path / "glove.txt", ["a", "dog", "c"], rows) == 1
    assert rows.tolist() == [[0, 0], [1, 2], [0, 0]]
    with pytest.raises(UserError, match="vectors of 2, not 3"):
        training.load_glove(tmp_path / "glove.txt", ["dog"], torch.zeros(1, 3))


def test_captions_are_scored_beside_the_notebooks_figures(tmp_path, capsys):
    pytest.importorskip("pycocoevalcap")
    import evaluate_captions

    known = {"a.wav": ["a dog barks twice", "the dog barks"], "b.wav": ["rain falls on a roof"]}
    exact = evaluate_captions.score({k: v[0] for k, v in known.items()}, known, spice=False)
    assert exact["BLEU-4"] == pytest.approx(1, abs=1e-3) and exact["ROUGE-L"] == pytest.approx(1)
    worse = evaluate_captions.score({"a.wav": "a cat", "b.wav": "rain"}, known, spice=False)
    assert all(worse[name] < exact[name] for name in exact)


def test_captions_that_are_missing_are_told(clotho, tmp_path):
    import evaluate_captions

    table = clotho / "clotho_captions_development.csv"
    assert evaluate_captions.references(table)["dog.wav"] == ["a dog barks loudly"] * 5
    (tmp_path / "said.csv").write_text("file_name,text\ndog.wav,hm\n")
    with pytest.raises(UserError, match="file_name and caption"):
        evaluate_captions.candidates(tmp_path / "said.csv")
    with pytest.raises(UserError, match="no such file"):
        evaluate_captions.references(tmp_path / "none.csv")
