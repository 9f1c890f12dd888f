"""How good are captions of Clotho?

    python scripts/evaluate_captions.py --captions clotho_captions_evaluation.csv --said said.csv
    python scripts/evaluate_captions.py --captions clotho_captions_evaluation.csv \
        --audio clotho_audio_evaluation describer=muscaps

--said is a CSV with the columns file_name, caption, or JSON {file_name: caption}. With --audio the
describer of the config captions the folder; --save keeps what it said. The scorers are COCO's
(pip install "acgd[captions]"). METEOR needs Java; SPICE, and SPIDEr with it, also models that its
first use fetches, so it runs with --spice only. Words are lower-cased and freed of punctuation,
without the Java tokenizer of the original scripts.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from pathlib import Path

from acgd.config.compose import compose
from acgd.errors import UserError

NOTEBOOK = {"BLEU-1": 0.349, "BLEU-4": 0.052, "METEOR": 0.260, "ROUGE-L": 0.335, "CIDEr": 0.263}


def words(caption: str) -> str:
    """Lower case, single blanks, no punctuation."""
    return " ".join(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", caption.lower()))


def read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file_name" not in rows[0]:
        raise UserError(f"{path}: needs a column file_name and a line for each sound")
    return rows


def references(path: Path) -> dict[str, list[str]]:
    """File name -> its captions."""
    columns = [f"caption_{i}" for i in range(1, 6)]
    found = {
        row["file_name"]: [words(row[c]) for c in columns if row.get(c)] for row in read_table(path)
    }
    if not all(found.values()):
        raise UserError(f"{path}: needs the columns caption_1 to caption_5")
    return found


def candidates(path: Path) -> dict[str, str]:
    """File name -> what was said."""
    if path.suffix == ".json":
        said = json.loads(path.read_text(encoding="utf-8"))
    else:
        rows = read_table(path)
        if "caption" not in rows[0]:
            raise UserError(f"{path}: needs the columns file_name and caption")
        said = {row["file_name"]: row["caption"] for row in rows}
    return {name: words(caption) for name, caption in said.items()}


def describe(folder: Path, names: list[str], overrides: list[str]) -> dict[str, str]:
    """What the config's describer says about each file."""
    from tqdm import tqdm

    from acgd.config.instantiate import build
    from acgd.media import audio
    from acgd.pipeline import device, models
    from acgd.runs.run import resolve

    cfg = resolve(compose(overrides))
    where = {"device": device.pick_device(cfg["device"])}
    where["precision"] = device.pick_precision(cfg["precision"], where["device"])
    encoder = build(cfg["encoder"], **where)
    describer = models.make(cfg["describer"], encoder=encoder, **where)
    said = {}
    for name in tqdm(names):
        wave = audio.load(folder / name, encoder.sample_rate, duration=3600)
        said[name] = words(" ".join(describer(wave, encoder.sample_rate)))
    return said


def score(said: dict[str, str], known: dict[str, list[str]], spice: bool) -> dict[str, float]:
    """The metrics, all in [0, 1] but CIDEr, by name; those without Java where there is none."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        raise UserError('the scorers are missing: pip install "acgd[captions]"') from None
    if missing := [name for name in known if name not in said]:
        raise UserError(f"{len(missing)} files have no caption, such as {missing[0]}")
    spoken = {name: [said[name]] for name in known}
    bleu, _ = Bleu(4).compute_score(known, spoken, verbose=0)
    found = {f"BLEU-{i + 1}": float(value) for i, value in enumerate(bleu)}
    found["ROUGE-L"] = float(Rouge().compute_score(known, spoken)[0])
    found["CIDEr"] = float(Cider().compute_score(known, spoken)[0])
    if not shutil.which("java"):
        print("METEOR and SPICE left out: they need Java on the PATH", file=sys.stderr)
        return found
    from pycocoevalcap.meteor.meteor import Meteor

    found["METEOR"] = float(Meteor().compute_score(known, spoken)[0])
    if spice:
        from pycocoevalcap.spice.spice import Spice

        found["SPICE"] = float(Spice().compute_score(known, spoken)[0])
        found["SPIDEr"] = (found["SPICE"] + found["CIDEr"]) / 2
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--captions", type=Path, required=True, help="Clotho's captions CSV")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--said", type=Path, help="CSV or JSON of what was said")
    source.add_argument("--audio", type=Path, help="the folder to be described")
    parser.add_argument("--save", type=Path, help="a JSON file for what was said")
    parser.add_argument("--spice", action="store_true", help="also SPICE and SPIDEr")
    args = parser.parse_args(argv)
    try:
        known = references(args.captions)
        if args.said:
            said = candidates(args.said)
        else:
            said = describe(args.audio, list(known), ["describer=muscaps", *args.overrides])
        if args.save:
            args.save.write_text(json.dumps(said, indent=1), encoding="utf-8")
        found = score(said, known, args.spice)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{'':8} {'here':>7} {'notebook':>9}   ({len(known)} files)")
    for name, value in found.items():
        theirs = f"{NOTEBOOK[name]:9.3f}" if name in NOTEBOOK else f"{'-':>9}"
        print(f"{name:8} {value:7.3f} {theirs}")


if __name__ == "__main__":
    main()
