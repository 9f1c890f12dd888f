"""Prompt sources: parsing, weights, and targets from a small AudioCLIP."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from acgd.describers.keywords import Keywords
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.errors import UserError
from acgd.prompts.audio import AudioPrompt
from acgd.prompts.image import ImagePrompt
from acgd.prompts.mixed import MixedPrompt
from acgd.prompts.text import TextPrompt, join, normalised, parse_as_notebook, parse_weight

GUIDANCE = Path(__file__).parent / "golden" / "guidance.json"


@pytest.fixture(scope="module")
def encoder(weights):
    return AudioCLIPEncoder(str(weights / "encoder.safetensors"))


@pytest.fixture
def bark(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "bark.wav"
    soundfile.write(path, 0.3 * rng.standard_normal(22050).clip(-3, 3), 22050)
    return str(path)


def test_notebook_parsing_gives_the_notebooks_answers():
    for prompt, expected in json.loads(GUIDANCE.read_text())["parse_prompt"]:
        if expected == "ValueError":
            with pytest.raises(UserError):
                parse_as_notebook(prompt)
        else:
            assert parse_as_notebook(prompt) == tuple(expected), prompt


@pytest.mark.parametrize(
    ("prompt", "words", "weight"),
    [
        ("a car", "a car", 1.0),
        ("a car:2", "a car", 2.0),
        ("a car:-0.5", "a car", -0.5),
        ("a car :2e1", "a car", 20.0),
        ("a car:.5", "a car", 0.5),
        ("a:b:3", "a:b", 3.0),
        ("time 12:30", "time 12:30", 1.0),
        ("time 12:30 :2", "time 12:30", 2.0),
        ("ratio: 3", "ratio: 3", 1.0),
        ("word:word", "word:word", 1.0),
        ("a sign reads:", "a sign reads:", 1.0),
        ("to infinity:inf", "to infinity:inf", 1.0),
        ("too much:1e999", "too much:1e999", 1.0),
        ("http://host/a.png", "http://host/a.png", 1.0),
        ("http://host/a.png:2", "http://host/a.png", 2.0),
        ("https://host:8080/a.png", "https://host:8080/a.png", 1.0),
        ("🐶:2", "🐶", 2.0),
    ],
)
def test_parsing(prompt, words, weight):
    assert parse_weight(prompt) == (words, weight)


def test_weights_are_divided_by_their_sums_size():
    assert normalised([3, 1], "ab") == [0.75, 0.25]
    assert normalised([-3], "a") == [-1]
    assert normalised([1, -3], "ab") == [0.5, -1.5]


@pytest.mark.parametrize("text", [["a:1", "b:-1"], ["a:0"], ["a:0.1", "b:0.2", "c:-0.3"]])
def test_weights_that_sum_to_zero(text):
    with pytest.raises(UserError, match="sum to zero"):
        TextPrompt(text)


@pytest.mark.parametrize("text", ["", "  ", None, [], ["a dog", ""], ":1.5"])
def test_a_prompt_of_nothing(text):
    with pytest.raises(UserError, match=r"prompt\.text"):
        TextPrompt(text)


def test_text_targets(encoder):
    found = TextPrompt(["a dog:3", "rain:-1"])(encoder)
    assert [(t.label, t.weight, t.kind) for t in found] == [
        ("a dog", 1.5, "text"),
        ("rain", -0.5, "text"),
    ]
    for target in found:
        torch.testing.assert_close(target.embed, encoder.text([target.label])[0])


@pytest.mark.parametrize("text", ["dog " * 500, "🐶🌧️", "12", 12])
def test_odd_texts_have_embeddings(encoder, text):
    (target,) = TextPrompt(text)(encoder)
    assert target.embed.isfinite().all() and abs(float(target.embed.norm()) - 1) < 1e-4


def test_a_long_text_is_cut_with_one_line(encoder, caplog):
    TextPrompt("a dog")(encoder)
    assert not caplog.messages
    TextPrompt("cat " * 500)(encoder)
    TextPrompt("cat " * 500)(encoder)
    (line,) = caplog.messages
    assert "77" in line and "\n" not in line


def test_audio_target(encoder, bark):
    (target,) = AudioPrompt(bark, weight=-0.5)(encoder)
    assert (target.kind, target.label, target.weight) == ("audio", "bark", -0.5)
    assert target.embed.shape == (16,) and abs(float(target.embed.norm()) - 1) < 1e-4
    (half,) = AudioPrompt(bark, offset=0.5)(encoder)
    assert not torch.allclose(target.embed, half.embed)
    assert len(AudioPrompt(bark, duration=0.25).wave(16000)) == 4000


@pytest.mark.parametrize("weight", [0, "much", float("nan")])
def test_audio_weight(bark, weight):
    with pytest.raises(UserError, match=r"prompt\.weight"):
        AudioPrompt(bark, weight=weight)


def test_check_finds_a_bad_sound_before_the_encoder(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    source = AudioPrompt(tmp_path / "silent.wav")
    with pytest.raises(UserError, match="silent"):
        source.check()


@pytest.mark.parametrize("share", [0.25, 0.0, 1.0])
def test_mixed_weights_sum_to_the_shares(encoder, bark, share):
    found = MixedPrompt(bark, ["a dog:3", "snow"], text_share=share)(encoder)
    sums = {kind: sum(t.weight for t in found if t.kind == kind) for kind in ("text", "audio")}
    assert sums == {"text": pytest.approx(share), "audio": pytest.approx(1 - share)}
    assert all(target.weight for target in found)


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", None])
def test_text_share_out_of_range(bark, share):
    with pytest.raises(UserError, match="text_share"):
        MixedPrompt(bark, "a dog", text_share=share)


def test_words_join_with_their_share(encoder, bark):
    prompts = AudioPrompt(bark)(encoder)
    found = join(prompts, ["red", "blues"], encoder, 0.4)
    assert [target.label for target in found] == ["bark", "red", "blues"]
    assert [target.weight for target in found] == pytest.approx([0.6, 0.2, 0.2])
    assert join(prompts, [], encoder, 0.4) == prompts
    assert [target.label for target in join(prompts, ["red"], encoder, 1.0)] == ["red"]


def test_image_targets(encoder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # exists as it is written, so no weight is read from its name
    Image.fromarray(pixels).save(tmp_path / "take:2", format="png")
    found = ImagePrompt([f"{tmp_path}/a.png:3", f"{tmp_path}/take:2"])(encoder)
    assert [(t.kind, t.weight) for t in found] == [("image", 0.75), ("image", 0.25)]
    torch.testing.assert_close(found[0].embed, found[1].embed)


@pytest.mark.parametrize("image", ["", None, [], "no/such.png", "no/such.png:2"])
def test_no_picture(image):
    with pytest.raises(UserError):
        ImagePrompt(image)


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(UserError, match="not a picture"):
        ImagePrompt(str(tmp_path / "a.png")).check()


def test_keywords_of_a_real_encoder_join(encoder, bark):
    describer = Keywords(encoder, ["colours"], top_k=2)
    source = AudioPrompt(bark)
    wave = source.wave(encoder.sample_rate)
    ranked = describer.rank(wave, encoder.sample_rate)["colours"]
    assert len(ranked) == 2 and 1 > ranked[0][1] >= ranked[1][1] > 0
    found = join(source(encoder), describer(wave, encoder.sample_rate), encoder, describer.share)
    assert sum(target.weight for target in found) == pytest.approx(1)
    assert [target.label for target in found[1:]] == [label for label, _ in ranked]


def test_a_long_sound_is_heard_where_it_says_most(tmp_path, encoder, capsys):
    import soundfile

    rng, rate = np.random.default_rng(0), 8000
    wave = 0.01 * rng.standard_normal(95 * rate)
    wave[70 * rate : 75 * rate] *= 30
    soundfile.write(tmp_path / "long.wav", wave, rate)
    start = AudioPrompt(tmp_path / "long.wav", duration=5)
    loud = AudioPrompt(tmp_path / "long.wav", duration=5, pick="loudest")
    every = AudioPrompt(tmp_path / "long.wav", duration=5, pick="all")
    for source in (start, loud, every):
        source.check()
        source(encoder)
    assert loud.offset == 70 and start.offset == 0
    said = capsys.readouterr().err
    assert "heard 0 to 5 s of 95 s" in said and "heard 70 to 75 s of 95 s" in said
    assert "heard whole, 95 s in parts of 5 s" in said
    assert loud.wave(rate).std() > 10 * start.wave(rate).std()
    one, other, mean = (source(encoder)[0].embed for source in (start, loud, every))
    assert mean.norm() == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(one, other) and not torch.allclose(mean, other)
