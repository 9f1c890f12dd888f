"""A run, a sweep or outputs/NAME as one static page that opens from disk, without a network.

    report.html    the page, with its style and its script in it
    report/        what it shows: thumbnails, pictures, previews, sounds, data.js, contact_sheet.png

The two together are all there is to send. A run's page takes the pictures from where they lie,
beside it, and adds the run's animation.webp. Everything is made from the files alone, at any time;
what is there already and still up to date is kept. torch is not needed.
"""

from __future__ import annotations

from pathlib import Path

from acgd.atomic_files import write
from acgd.errors import UserError
from acgd.report import page
from acgd.runs import records as run_records

NAME = "report.html"
GIVE = "give the folder of a run, of a sweep, or outputs/NAME"


def build(folder: str | Path) -> Path:
    """The page of a run, of a sweep or of outputs/NAME: the path of its report.html.

    Raises UserError for a folder that holds none of these.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {GIVE}")
    records = run_records.read(folder)
    if not records:
        raise UserError(f"{folder}: there are no runs in it; {GIVE}")
    alone = records[0]["folder"] == folder
    content = page.of_run(records[0]) if alone else page.of_many(folder, records)
    write(folder / NAME, content)
    return folder / NAME
