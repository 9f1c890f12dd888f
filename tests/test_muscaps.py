"""MusCaps: published keys and numbers, decoding, chunks, vocabulary, the describer."""

import json
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_clip import described, manifest

from acgd.describers import muscaps as describers
from acgd.describers.muscaps import MusCapsDescriber, cut_chunks, read_vocabulary
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.encoders.zero_shot import Viewer, read_labels
from acgd.errors import UserError
from acgd.models.harmonic_cnn import HarmonicCNN
from acgd.models.muscaps import EOS, OPTIONAL, SOS, MusCaps, masked_softmax
from acgd.models.musicnn import Musicnn
from acgd.training.data import sound_sentences
from acgd.training.data.pairs import concept_prompts

WORDS = [*describers.SPECIAL, *["a", "dog", "barks", "twice", "in", "the", "rain"]]
SMALL = {"word_embed_dim": 12, "hidden_dim_encoder": 16, "hidden_dim_decoder": 16}
SMALL |= {"attention_dim": 8, "vocab_size": len(WORDS)}


def small(**changes) -> MusCaps:
    torch.manual_seed(3)
    config = {**SMALL, "feature_extractor_type": "ears", "feature_dim": 6, **changes}
    return MusCaps(**config).eval()


@pytest.mark.parametrize(
    "name,make",
    [
        ("mtt_hcnn", HarmonicCNN),
        ("mtt_musicnn", Musicnn),
        ("muscaps_hcnn_clotho", lambda: MusCaps(vocab_size=4000)),
    ],
)
def test_keys_shapes_and_dtypes_are_the_published_ones(name, make):
    published = manifest(name)
    assert described(make()) == published["keys"]
    for key in published.get("optional_keys", {"keys": []})["keys"]:
        assert any(fnmatchcase(key, pattern) for pattern in OPTIONAL)


def test_masked_softmax_of_nothing_is_nothing():
    shares = masked_softmax(torch.randn(2, 3), torch.tensor([[1.0, 1, 0], [0, 0, 0]]))
    assert shares[0].sum().item() == pytest.approx(1) and not shares[:, 2].any()
    assert not shares[1].any()


def test_beam_of_one_is_greedy_and_wider_beams_are_at_least_as_likely():
    model = small()
    memory = model.remember(torch.randn(5, 4, 6))
    with torch.no_grad():
        model.decoder.dense.weight_g.mul_(8)
        model.decoder.dense.bias[EOS] += 1.5
    greedy = model.greedy(memory)
    assert model.beam(memory, 1) == greedy
    wide = model.beam(memory, 4, unfinished=False)
    for i, (one, other) in enumerate(zip(greedy, wide, strict=True)):
        if one[-1] == EOS and other:
            assert likelihood(model, memory, i, other) >= likelihood(model, memory, i, one) - 1e-5


def likelihood(model, memory, i, ids) -> float:
    row = type(memory)(memory.features[[i]], memory.mask[[i]], memory.pooled[[i]])
    scores = model(row, torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    return scores.gather(1, torch.tensor(ids[1:])[:, None]).sum().item()


def test_a_search_that_does_not_end_answers_its_best_beam_or_nothing():
    model = small()
    with torch.no_grad():
        model.decoder.dense.bias[EOS] = -100
    memory = model.remember(torch.randn(2, 1, 6))
    assert model.beam(memory, 3, unfinished=False) == [[], []]
    assert [len(ids) for ids in model.beam(memory, 3)] == [23, 23]
    assert all(ids[0] == SOS for ids in model.greedy(memory))


def test_a_sound_is_described_alike_alone_and_among_longer_ones():
    model = small()
    one, other = torch.randn(2, 6), torch.randn(5, 6)
    both = torch.nn.utils.rnn.pad_sequence([one, other], batch_first=True)
    memory = model.remember(both, torch.tensor([2, 5]), own=True)
    alone = model.remember(one[None])
    ids = torch.tensor([[SOS, 4, 5]])
    among = model(memory, ids.repeat(2, 1))[:1]
    assert torch.allclose(among, model(alone, ids), atol=1e-6)


def test_chunks():
    wave = np.arange(250.0)
    assert cut_chunks(wave, 100, "drop").shape == (2, 100)
    chunks = cut_chunks(wave, 100, "overlap")
    assert chunks.shape == (3, 100) and chunks[2, 0] == 150 and chunks[2, -1] == 249
    short = cut_chunks(wave[:30], 100, "overlap")
    assert short.shape == (1, 100) and (short[0, 30:60] == wave[:30]).all()
    with pytest.raises(UserError, match="overlap"):
        cut_chunks(wave[:30], 100, "drop")


@pytest.mark.parametrize("pairs", [False, True])
def test_vocabulary_keeps_the_files_order_and_leaves_rare_words_out(tmp_path, pairs):
    counts = {"zebra": 3, "rare": 1, "a": 2}
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(list(counts.items()) if pairs else counts))
    assert read_vocabulary(str(path)) == [*describers.SPECIAL, "zebra", "a"]
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="no vocabulary"):
        read_vocabulary(str(path))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as MusCaps' training wrote it (random weights), without its window, and vocab.json."""
    folder = tmp_path_factory.mktemp("muscaps")
    torch.manual_seed(0)
    model = MusCaps(**SMALL)
    model.decoder.dense.bias.data[4:] += 3  # words, not marks
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("window")}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, folder / "best.pth.tar")
    (folder / "vocab.json").write_text(json.dumps(dict.fromkeys(WORDS[4:], 5)))
    return {
        "checkpoint": str(folder / "best.pth.tar"),
        "vocabulary": str(folder / "vocab.json"),
        **{k: v for k, v in SMALL.items() if k != "vocab_size"},
    }


def test_published_file_describes_sounds_of_any_length_and_rate(published):
    describer = MusCapsDescriber(**published, beam_size=2)
    rng = np.random.default_rng(0)
    for samples in (3000, 441000 // 2):
        (text,) = describer(rng.uniform(-1, 1, samples).astype(np.float32), 44100)
        assert text and set(text.split()) <= set(WORDS[4:])
    faithful = {"resample": False, "last_chunk": "drop"}
    features = MusCapsDescriber(**published, **faithful).features(rng.uniform(-1, 1, 170000), 44100)
    assert features.shape == (2, 256)  # taken for 16 kHz: 10.6 s, the rest dropped


def test_vocabulary_of_other_weights_is_refused(published, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"one": 2}))
    with pytest.raises(UserError, match=r"knows 11 words, .* has 5"):
        MusCapsDescriber(**{**published, "vocabulary": str(tmp_path / "vocab.json")})
    with pytest.raises(UserError, match=r"vocab\.json"):
        MusCapsDescriber(**{**published, "vocabulary": None})


def test_tiny_describer_hears_with_the_encoders_ears(weights, tmp_path):
    encoder = AudioCLIPEncoder(str(weights / "encoder.safetensors"))
    config = {**SMALL, "feature_extractor_type": "ears", "feature_dim": 2 * encoder.dim}
    model, path = MusCaps(**config), tmp_path / "tiny.safetensors"
    model.decoder.dense.bias.data[4:] += 3
    metadata = {"config": json.dumps(config), "vocabulary": json.dumps(WORDS)}
    save_file(model.state_dict(), path, metadata)
    describer = MusCapsDescriber(str(path), encoder=encoder)
    assert describer.ears is encoder.model.audio
    wave = np.random.default_rng(0).uniform(-1, 1, 40000).astype(np.float32)
    found = describer.features(wave, 16000)
    whole = encoder.audio(torch.from_numpy(wave)[None])
    assert torch.allclose(found[:, encoder.dim :], whole.expand(len(found), -1), atol=1e-5)
    leaning = MusCapsDescriber(str(path), encoder=encoder, lean=1)
    viewer = Viewer(encoder, read_labels("concepts"))
    heard = viewer.direction(whole[0])
    assert torch.allclose(leaning.features(wave, 16000)[0], heard.repeat(2), atol=1e-5)
    first, second = describer.batch([wave, wave[:9000]], 16000)
    assert describer(wave[:9000], 16000) == second and describer(wave, 16000) == first
    other = MusCapsDescriber(str(path), ears=str(weights / "encoder.safetensors"))
    assert other(wave, 16000) == first


def test_sentences_name_their_concept_and_no_other():
    import random

    known, draw = sound_sentences.grammars(), random.Random(1)
    assert list(known) == list(concept_prompts())
    names = [name for grammar in known.values() for name in grammar.names]
    assert len(names) == len(set(names))
    for concept, grammar in known.items():
        made = {sound_sentences.sentence(grammar, draw.randint(0, 5), draw) for _ in range(60)}
        assert len(made) > 5
        for text in made:
            assert sound_sentences.concepts_named(text, known) == [concept], text


def test_bursts_are_counted():
    time = np.arange(22050 * 2) / 22050
    wave = np.zeros_like(time)
    for start in (0.2, 0.9, 1.5):
        wave[(time > start) & (time < start + 0.15)] = 0.5
    assert sound_sentences.count_bursts(wave, 22050) == 3
    assert sound_sentences.count_bursts(np.sin(500 * time), 22050) == 1
    assert sound_sentences.count_bursts(0 * wave, 22050) == 0
