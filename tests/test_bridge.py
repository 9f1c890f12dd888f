"""The linear map between encoders' spaces: fitted, measured on what it has not seen, refused."""

from __future__ import annotations

import json

import fit_bridge
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors import safe_open

from acgd.diffusion.bridge import Bridge
from acgd.encoders.audioclip import AudioCLIPEncoder
from acgd.prompts import vocabulary

COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "black")
SHAPES = ("ellipse", "rectangle", "triangle", "line", "arc")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of 40 drawings, each colour in each shape, with one twice and one that is none."""
    folder = tmp_path_factory.mktemp("drawn")
    for i, colour in enumerate(COLOURS):
        (folder / colour).mkdir()
        for shape in SHAPES:
            picture = Image.new("RGB", (64, 64), ("white", "lightgrey", "beige")[i % 3])
            pen, box = ImageDraw.Draw(picture), (8 + 2 * i, 10, 40 + 2 * i, 54)
            if shape == "triangle":
                pen.polygon([(box[0], 54), (box[2], 54), (32, 8)], fill=colour)
            elif shape == "line":
                pen.line(box, fill=colour, width=8)
            elif shape == "arc":
                pen.arc(box, 0, 270, fill=colour, width=6)
            else:
                getattr(pen, shape)(box, fill=colour)
            picture.save(folder / colour / f"{shape}.png")
    picture.save(folder / "again.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("\n".join(vocabulary.known()), encoding="utf-8")
    return path


def told(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["fitted"])


def test_it_leads_from_one_encoder_to_another(drawn, names, tmp_path, capsys):
    """On what was left out: nearer than the same answer for all, than no map, and than chance."""
    path = tmp_path / "new" / "bridge.safetensors"
    fit_bridge.main(["--from", "tiny", "--to", "embedded:tiny_judge", "--pictures", str(drawn),
                     "--texts", str(names), "--out", str(path), "--device", "cpu"])  # fmt: skip
    out, err = capsys.readouterr()
    assert "8 pictures left out: cosine 0." in out and "chance 12.5%" in out
    assert "left out" in err and "broken.png" in err
    known = told(path)
    assert known["from"] == "tiny" and known["to"] == "embedded:tiny_judge"
    assert known["pictures"]["seen"] == 40 and known["texts"]["seen"] > 100
    for kind in ("pictures", "texts"):
        found = known[kind]
        assert found["cosine"] > found["cosine of the mean alone"] + 0.05, kind
        assert found["first"] > 2 / found["of"] and found["among five"] >= found["first"], kind
    held = list(vocabulary.known())[:40]
    near, far = (AudioCLIPEncoder(f"embedded:tiny_{name}") for name in ("encoder", "judge"))
    led, right = F.normalize(Bridge(str(path), "cpu")(near.text(held)), dim=1), far.text(held)
    assert led.shape == right.shape and (led * right).sum(1).mean() > 0.7
    if near.dim == far.dim:  # without a bridge they have nothing to do with each other
        assert (near.text(held) * right).sum(1).mean().abs() < 0.3


def rows(count: int, start: int, end: int, noise: float = 0.0):
    generator = torch.Generator().manual_seed(1)
    drawn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, weight, bias = F.normalize(drawn(count, start), dim=1), drawn(end, start), drawn(end)
    return x, F.linear(x, weight, bias) + noise * drawn(count, end), weight, bias


def test_a_linear_map_is_found_exactly(tmp_path):
    x, y, weight, bias = rows(60, 12, 7)
    whole, blind, ridge = fit_bridge.fit(x, y, fit_bridge.fifths(60))
    assert ridge == min(fit_bridge.RIDGES)
    assert (whole.weight - weight).abs().max() < 1e-9 and (whole.bias - bias).abs().max() < 1e-9
    assert (blind(x) - y).abs().max() < 1e-9
    fit_bridge.write(whole, {}, tmp_path / "b.safetensors")
    read = Bridge(str(tmp_path / "b.safetensors"), "cpu")
    assert torch.allclose(read(3 * x.float()), y.float(), atol=1e-5)  # of any length


def test_the_ridge_grows_with_the_noise():
    """Against a map with as many rows as unknowns, which without a ridge learns the noise."""
    x, y, _, _ = rows(40, 30, 7, noise=1.0)
    fifth = fit_bridge.fifths(40)
    _, blind, ridge = fit_bridge.fit(x, y, fifth)
    assert ridge > 1e-4
    (bare,) = fit_bridge.solve(x[fifth > 0], y[fifth > 0], [1e-12])
    errors = [(one(x) - y)[fifth == 0].square().mean() for one in (blind, bare)]
    assert errors[0] < 0.8 * errors[1]


def test_what_is_left_out_is_not_seen():
    x, y, _, _ = rows(40, 12, 7, noise=0.5)
    fifth = fit_bridge.fifths(40)
    assert torch.bincount(fifth).tolist() == [8] * 5 and fifth.equal(fit_bridge.fifths(40))
    strange = torch.where((fifth == 0)[:, None], 1e3, y)
    one, other = (fit_bridge.fit(x, rows, fifth)[1] for rows in (y, strange))
    assert one.weight.equal(other.weight) and one.bias.equal(other.bias)


def test_scores_are_counted_by_hand():
    right = torch.eye(6, dtype=torch.float64)
    found = right[[0, 1, 2, 3, 5, 4]] + 0.01
    scores = fit_bridge.scores(found, right, torch.ones(6, dtype=torch.float64))
    assert scores["first"] == pytest.approx(4 / 6) and scores["of"] == 6
    assert scores["cosine of the mean alone"] == pytest.approx(6**-0.5)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pytest.importorskip("diffusers", reason="pip install 'acgd[diffusers]'")
    import tiny_pipelines

    return tiny_pipelines.unclip(tmp_path_factory.mktemp("unclip"))


def test_a_pipeline_s_own_pictures_are_where_it_leads(pipeline, drawn, tmp_path):
    import diffusers

    pipe = diffusers.StableUnCLIPImg2ImgPipeline.from_pretrained(pipeline)
    seen = [Image.open(drawn / "red" / f"{shape}.png") for shape in SHAPES]
    given = pipe.feature_extractor(images=seen, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = pipe.image_encoder(given).image_embeds
        found = fit_bridge.target(str(pipeline), [], "cpu").look(seen)
        alone = fit_bridge.target(str(pipeline / "image_encoder"), [], "cpu").look(seen)
    assert torch.allclose(found, expected, atol=1e-6) and torch.allclose(alone, found, atol=1e-2)
    path = tmp_path / "bridge.safetensors"
    fit_bridge.main(["--from", "tiny", "--to", str(pipeline), "--pictures", str(drawn),
                     "--out", str(path), "--device", "cpu"])  # fmt: skip
    bridge = Bridge(str(path), "cpu")
    assert bridge.weight.shape[0] == expected.shape[1]
    assert told(path)["to"] == str(pipeline) and "texts" not in told(path)
    near = AudioCLIPEncoder("embedded:tiny_encoder")
    led = bridge(near.image(torch.stack([fit_bridge.pixels(one, near.image_size) for one in seen])))
    assert (led.norm(dim=1) / expected.norm(dim=1) - 1).abs().max() < 0.3  # its length, too
    said = "fit_bridge: --texts: a picture tower reads nothing; give --pictures alone"
    words = ["--texts", str(drawn.parent / "t.txt"), "--from", "tiny", "--to", str(pipeline)]
    (drawn.parent / "t.txt").write_text("a dog\n")
    with pytest.raises(SystemExit, match=said):
        fit_bridge.main([*words, "--out", str(path), "--device", "cpu"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "there is nothing to look at"),
        (["--pictures", "{tmp}/none"], "there is no such folder"),
        (["--pictures", "{tmp}"], "holds no pictures"),
        (["--texts", "{tmp}/few.txt"], "2 pictures and texts: too few, a bridge takes 20 at least"),
        (["--texts", "{tmp}/few.txt", "--to", "elsewhere.pt"], "elsewhere.pt"),
        (["--texts", "{tmp}/few.txt", "--to", "{tmp}"], "has no image_encoder"),
        (["--texts", "{tmp}/few.txt", "encoder.nonsense=1"], "nonsense"),
        (["--texts", "{tmp}/few.txt", "to.window=1"], "is for a choice of conf/encoder/"),
        (["--texts", "{tmp}/missing.txt"], "missing.txt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(words, line, tmp_path):
    (tmp_path / "few.txt").write_text("a dog\nrain\n")
    given = ["--from", "tiny", "--to", "embedded:tiny_judge", "--device", "cpu"]
    given += ["--out", str(tmp_path / "b.safetensors"), *(w.format(tmp=tmp_path) for w in words)]
    with pytest.raises(SystemExit) as error:
        fit_bridge.main(given)
    assert line in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "b.safetensors").exists()
