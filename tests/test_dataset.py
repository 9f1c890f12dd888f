"""The training data's rules: container readers, concept table, split, licences, recipes."""

import struct
import zlib
from collections import Counter, defaultdict

import numpy as np
import pytest

from acgd.training.data import (
    archives,
    duplicates,
    pictures,
    recordings,
    sampled,
    soundfonts,
    sounds,
    synthesis,
)


def test_cat_reader_finds_names_and_waves():
    waves = [b"RIFF....WAVEone", b"RIFF....WAVEtwo!"]
    names = [b"Cow. License: CC0\0", b"Train\0"]
    bodies = [bytes([len(n)]) + n + w for n, w in zip(names, waves, strict=True)]
    table, at = b"", 16
    for body, wave in zip(bodies, waves, strict=True):
        # OpenTTD marks the new format in the top bit of the offset
        table += struct.pack("<II", at | 0x80000000, len(wave))
        at += len(body)
    sounds_ = archives.read_cat(table + b"".join(bodies))
    assert sounds_ == [("Cow. License: CC0", waves[0]), ("Train", waves[1])]


def test_cat_reader_refuses_a_table_that_points_outside():
    with pytest.raises(ValueError, match="past its end"):
        archives.read_cat(struct.pack("<II", 8, 4))


def test_rcc_reader_walks_folders_and_unpacks_zlib():
    names, data, offsets = b"", b"", {}
    for name in ("sounds", "a.wav", "b.wav"):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    packed = struct.pack(">I", 5) + zlib.compress(b"drums")
    first, second = struct.pack(">I", 4) + b"bell", struct.pack(">I", len(packed)) + packed
    data = first + second
    tree = struct.pack(">IHII", 0, 2, 1, 1)
    tree += struct.pack(">IHII", offsets["sounds"], 2, 2, 2)
    tree += struct.pack(">IHHHI", offsets["a.wav"], 0, 0, 0, 0)
    tree += struct.pack(">IHHHI", offsets["b.wav"], 1, 0, 0, len(first))
    at = 20
    head = b"qres" + struct.pack(">IIII", 1, at, at + len(tree), at + len(tree) + len(data))
    files = archives.read_rcc(head + tree + data + names)
    assert files == {"sounds/a.wav": b"bell", "sounds/b.wav": b"drums"}


def test_rcc_reader_refuses_other_files():
    with pytest.raises(ValueError, match="not a Qt resource"):
        archives.read_rcc(b"RIFF" + bytes(40))


def test_no_origin_stands_on_both_sides_of_the_split():
    sides = defaultdict(set)
    for row in recordings.read_split():
        sides[row["group"]].add(row["split"])
    assert not [group for group, side in sides.items() if len(side) > 1]
    assert set().union(*sides.values()) == {"train", "heldout"}


def test_esc10_fold_three_is_held_out_and_nothing_else_of_its_concepts():
    rows = [row for row in recordings.read_split() if row["concept"] in sounds.ESC10]
    for row in rows:
        third = row["source"] == "esc-10" and row["file"].split("/")[1].startswith("3-")
        assert (row["split"] == "heldout") == third, row["file"]
    folds = Counter(row["concept"] for row in rows if row["split"] == "heldout")
    assert set(folds) == sounds.ESC10 and min(folds.values()) >= 8


def test_a_whole_soundfont_is_held_out():
    played = [row for row in recordings.read_split() if sounds.is_played(row)]
    fonts = {row["source"]: row["split"] for row in played}
    assert [name for name, split in fonts.items() if split == "heldout"] == ["csound"]
    assert fonts["musescore"] == fonts["fluid-gm"] == "train"


def test_recorded_notes_are_played_at_their_pitch_and_the_nearest_serves_its_neighbours():
    assert [sampled.midi(name) for name in ("C4", "A4", "As4", "Gs2")] == [60, 69, 70, 44]
    time = np.arange(2 * recordings.RATE) / recordings.RATE
    played = sampled.Sampled.__new__(sampled.Sampled)
    played.notes = {69: np.sin(2 * np.pi * 440 * time).astype(np.float32)}
    wave = played.play([(0.5, 1.0, 71, 127)], 2.0)  # two semitones above what was recorded
    assert wave.shape == (2 * recordings.RATE,) and not wave[: recordings.RATE // 2].any()
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(spectrum.argmax() / 2 - 440 * 2 ** (2 / 12)) < 2
    over = int((0.5 + 1.0 + sampled.RELEASE) * recordings.RATE)
    assert not wave[over:].any() and np.abs(np.diff(wave[over - 50 : over + 50])).max() < 0.01


def test_every_licence_is_accepted_and_every_author_credited():
    for row in recordings.read_split():
        assert row["licence"] in recordings.ACCEPTED, row
        assert row["credit"] or row["licence"] in ("CC0", "public domain"), row


def test_concept_table_is_consistent():
    rows = pictures.read_concepts()
    names = [row["concept"] for row in rows]
    emoji = [pictures.code(e) for row in rows for e in row["emoji"].split()]
    assert len(names) == len(set(names)) >= 60
    assert len(emoji) == len(set(emoji)), "an emoji serves two concepts"
    assert set(names) >= sounds.ESC10
    listed = {row["concept"] for row in recordings.read_split()} - {"instruments"}
    made = {*synthesis.RECIPES, *soundfonts.INSTRUMENTS, *soundfonts.KITS, "speech"}
    made |= {*soundfonts.GS_EFFECTS, *soundfonts.GM_EFFECTS}
    assert listed | made == set(names), "a concept without sound, or a sound without concept"
    heldout = {row["concept"] for row in recordings.read_split() if row["split"] == "heldout"}
    for row in rows:
        assert row["prompts"].split("|")[0] == row["concept"]
        assert row["testable"] == ("real" if row["concept"] in heldout else "synth")


def test_held_out_picture_is_fixed_and_leaves_four():
    names = [f"style{i}/1f436" for i in range(6)]
    chosen = pictures.held_out(names)
    assert names[chosen] == names[::-1][pictures.held_out(names[::-1])]
    assert pictures.held_out(names[:4]) is None


@pytest.mark.parametrize("concept", sorted(synthesis.RECIPES))
def test_recipe_makes_a_sound_in_range_that_varies(concept):
    first, again, other = (synthesis.make(concept, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.dtype == np.float32 and np.isfinite(first).all()
    assert 0.5 < np.abs(first).max() <= 1
    assert 1 * recordings.RATE < len(first) <= 5 * recordings.RATE
    assert np.array_equal(first, again)
    assert len(other) != len(first) or not np.allclose(first, other)


def test_duplicates_are_found_through_shift_gain_and_noise():
    rng = np.random.default_rng(0)
    rate = recordings.RATE
    bark = np.convolve(rng.standard_normal(2 * rate), np.ones(8) / 8, "same").astype(np.float32)
    other = np.convolve(rng.standard_normal(2 * rate), np.ones(8) / 8, "same").astype(np.float32)
    copy = 0.2 * np.concatenate([np.zeros(rate // 3, np.float32), bark[: 3 * rate // 2]])
    copy += 0.01 * rng.standard_normal(len(copy)).astype(np.float32)
    assert [pair[:2] for pair in duplicates.matches([bark, other, copy])] == [(0, 2)]


def test_clips_are_trimmed_cut_and_dropped():
    rate = recordings.RATE
    hum = np.sin(np.arange(25 * rate) * 0.05).astype(np.float32)
    quiet = np.zeros(3 * rate, np.float32)
    cut = recordings.clips(np.concatenate([quiet, hum, quiet]))
    assert [round(len(clip) / rate) for clip in cut] == [10, 10, 5]
    assert recordings.clips(quiet) == []
    assert recordings.clips(np.full(rate, np.nan, np.float32)) == []
    assert recordings.clips(hum[: rate // 20]) == []


def test_phrases_stay_in_range():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for start, length, key, velocity in soundfonts.phrase(rng, 48, 72, chordal=False):
            assert 48 <= key <= 72 and 0 < velocity < 128 and start >= 0 and length > 0
