"""The text tower learns everyday words and forgets nothing that the diffusion model was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acgd.checkpoints.load import load_state
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.errors import UserError
from acgd.models.tokenizer import tokenizer
from acgd.paths import WEIGHTS
from acgd.prompts import vocabulary
from acgd.training import export, words
from acgd.training.data import meanings, wordnet

LICENCE = "  1 This software and database is being provided to you\n"
# key, words, the key above, what it means
SENSES = [
    ("00000001", "animal", "", "a living thing that moves"),
    ("00000002", "dog domestic_dog", "00000001", "it barks"),
    ("00000003", "hound", "00000002", "a dog that hunts"),
    ("00000004", "cat", "00000001", "it meows"),
    ("00000005", "kitty", "00000004", "a young cat"),
    ("00000006", "kitty", "", "the money that players have in common"),
    ("00000007", "justice", "", "being just"),
]
INDEX = {"animal": [1], "dog": [2], "domestic_dog": [2], "hound": [3], "cat": [4],
         "kitty": [6, 5], "justice": [7]}  # fmt: skip


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A folder in WordNet's format."""
    folder = tmp_path_factory.mktemp("wordnet")
    data, index = LICENCE, LICENCE
    for key, own, above, meaning in SENSES:
        own = own.split(" ")
        spelled = " ".join(f"{word} 0" for word in own)
        links = f"001 @ {above} n 0000" if above else "000"
        data += f'{key} 05 n {len(own):02x} {spelled} {links} | {meaning}; "so they say"  \n'
    for word, keys in INDEX.items():
        numbers = " ".join(f"{key:08d}" for key in keys)
        index += f"{word} n {len(keys)} 1 @ {len(keys)} 0 {numbers}  \n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text(index)
    return folder


def test_nouns_know_what_they_are_kinds_of(net):
    nouns, known = wordnet.words(net), wordnet.senses(net)
    assert nouns["domestic dog"] == nouns["dog"] == ["00000002"]
    assert known["00000002"].words == ("dog", "domestic dog")
    assert known["00000005"].meaning == "a young cat"
    assert wordnet.kinds_of("00000003", known) == {"00000003": 0, "00000002": 1, "00000001": 2}


def test_a_missing_wordnet_is_told(tmp_path):
    with pytest.raises(UserError, match=r"index\.noun is missing: install wordnet-base"):
        wordnet.words(tmp_path)


def test_kinds_of_a_drawn_thing_are_near_it(net):
    things = [meanings.Drawn("dog", ["00000002"], ["dog"]), meanings.Drawn("cat", ["00000004"], [])]
    kinds = meanings.Kinds(things, net)
    dog, cat = kinds("hound").tolist()
    assert dog > 0 and cat == 0
    dog, cat = kinds("kitty").tolist()  # the rarer of its senses
    assert dog == 0 and 0 < cat < kinds("cat")[1]
    assert 0 < kinds("animal")[0] < kinds("hound")[0]  # above it, not below
    assert kinds("justice").tolist() == [0, 0]
    assert kinds.common({"hound", "domestic", "dog", "justice"}) == [
        "dog", "domestic dog", "hound", "justice"]  # fmt: skip
    assert "domestic dog" not in kinds.common({"dog"})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A sentence encoder of the real class, small and random."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("teacher")
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hound", "kitty", "animal", "meowing"]
    (folder / "vocab.txt").write_text("\n".join(known))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(known), intermediate_size=16, **sizes)).save_pretrained(
        folder
    )
    return folder


def test_the_text_tower_learns_words_and_keeps_the_names(net, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        meanings, "drawn",
        lambda nouns: [meanings.Drawn(name, nouns[name], [name]) for name in ("dog", "cat")],
    )  # fmt: skip
    monkeypatch.setattr(words, "NEAR", -2.0)
    monkeypatch.setattr(words, "ALIKE", 2.0)  # a random teacher finds all words alike
    np.savez(tmp_path / "pictures.npz", name=np.array(["lion", "tractor"]))
    given = ["--data", str(tmp_path), "--teacher", str(teacher), "--wordnet", str(net)]
    words.main([*given, "--out", str(tmp_path / "out"), "--steps", "60", "--batch", "64"])
    new = torch.load(tmp_path / "out" / "state.pt", weights_only=True)["modules"]["model"]
    old = load_state(WEIGHTS / "tiny_encoder.safetensors")
    rows = new["token_embedding.weight"].half(), old["token_embedding.weight"].half()
    ids = tokenizer().encode("hound"), tokenizer().encode("microsoft")
    assert not torch.equal(rows[0][ids[0]], rows[1][ids[0]])
    assert torch.equal(rows[0][ids[1]], rows[1][ids[1]])  # never said
    assert torch.equal(new["visual.conv1.weight"].half(), old["visual.conv1.weight"].half())
    last = (tmp_path / "out" / "log.csv").read_text().splitlines()
    found = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert float(found["words"]) > 0.9 and float(found["kept"]) > 0.9


def test_the_shipped_encoder_reads_everyday_words():
    encoder = AudioCLIPEncoder("embedded:tiny_encoder")
    meant = {"kitty": "cat", "lorry": "truck", "a photo of a hound": "dog", "two fiddles": "violin",
             "pumpkin": "jack-o-lantern"}  # fmt: skip
    for said, thing in meant.items():
        assert vocabulary.nearest(said, encoder) == [thing]
    several = vocabulary.nearest("quantum physics", encoder)
    assert len(several) == 3
    assert vocabulary.drawn_as("x", several).startswith('"x" is not among')


def test_rows_that_stay_keep_every_bit():
    before = torch.randn(3, 8).half()
    after = before.clone()
    after[1] += 0.5
    short = export.rounded(after, before)
    assert torch.equal(short[[0, 2]], before[[0, 2]])
    assert 0 < float((short[1] / after[1] - 1).abs().max()) <= 2**-5


def test_articles_fit_what_follows():
    assert words.articles("a owl and a dog") == "an owl and a dog"
