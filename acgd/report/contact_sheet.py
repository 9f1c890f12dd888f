"""The contact sheet: all pictures in one PNG, sounds as rows, settings as columns."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from acgd import atomic_files
from acgd.evaluation.pairing import in_order
from acgd.report.thumbnails import UNREADABLE

LARGEST = 4000  # pixels of a side
TILE, SMALLEST = 128, 24  # pixels of a picture at most, and where columns are given up
LEFT, TOP, NOTE, GAP, BETWEEN = 150, 48, 24, 2, 10
PAPER, INK, PALE, BAD = "#ffffff", "#1b1f24", "#6b7480", "#f6d9d5"


@dataclass
class Plan:
    """Where the tiles go: in each column `across` tiles side by side, `side` pixels large."""

    columns: list[str]
    across: int
    side: int

    @property
    def wide(self) -> int:
        """A column's width in pixels."""
        return self.across * (self.side + GAP)

    def x(self, column: int) -> int:
        return LEFT + column * (self.wide + BETWEEN)

    def high(self, cells: list[list[dict]]) -> int:
        """A row's height in pixels, by its fullest cell."""
        down = max(1, math.ceil(max(len(cell) for cell in cells) / self.across))
        return down * (self.side + GAP) + BETWEEN


def write(path: Path, home: Path, rows: list[dict], keys: list[str], samples: list[dict]) -> None:
    """Draw the sheet; rows that don't fit below one another are counted in its last line."""
    plan, table = arranged(len(rows), samples)
    heights = [plan.high(cells) for cells in table]
    shown = fitting(heights)
    note = NOTE if shown < len(rows) else 0
    size = (plan.x(len(plan.columns)), min(LARGEST, TOP + sum(heights[:shown]) + note))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    titles(draw, plan, ", ".join(keys))
    y = TOP
    for i in range(shown):
        lines(draw, (8, y), rows[i]["label"], LEFT - 16, heights[i])
        for j, cell in enumerate(table[i]):
            fill(canvas, draw, (plan.x(j), y), plan, cell, home)
        y += heights[i]
    if note:
        draw.text((8, y + 4), f"and {len(rows) - shown} rows more", INK, font(13))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=4)
    atomic_files.write(path, buffer.getvalue())


def arranged(count: int, samples: list[dict]) -> tuple[Plan, list[list[list[dict]]]]:
    """The plan, and each row's cells; one column for all where there are too many of them."""
    settings = in_order(list(dict.fromkeys(tuple(sample["settings"]) for sample in samples)))
    cells: dict[tuple, list[dict]] = {}
    for sample in samples:
        cells.setdefault((sample["row"], tuple(sample["settings"])), []).append(sample)
    plan = planned([", ".join(one) for one in settings], max(map(len, cells.values())))
    table = [[cells.get((i, one), []) for one in settings] for i in range(count)]
    if plan is None:
        table = [[[sample for cell in row for sample in cell]] for row in table]
        across = min(max(len(row[0]) for row in table), (LARGEST - LEFT) // (64 + GAP))
        plan = Plan([""], across, 64)
    return plan, table


def planned(columns: list[str], most: int) -> Plan | None:
    """The largest tiles with which all columns stand side by side; None where they would be tiny.

    most: pictures in the fullest cell.
    """
    across = min(most, max(1, round(math.sqrt(most) * 1.5)))
    room = (LARGEST - LEFT) // len(columns) - BETWEEN
    side = min(TILE, room // across - GAP)
    return Plan(columns, across, side) if side >= SMALLEST else None


def fitting(heights: list[int]) -> int:
    """How many rows fit, one at least."""
    total = TOP + NOTE
    for i, one in enumerate(heights):
        total += one
        if total > LARGEST:
            return max(1, i)
    return len(heights)


def titles(draw: ImageDraw.ImageDraw, plan: Plan, keys: str) -> None:
    draw.text((LEFT, 6), cut(keys, LARGEST, font(12)), PALE, font(12))
    for j, column in enumerate(plan.columns):
        draw.text((plan.x(j), 24), cut(column, plan.wide, font(13)), INK, font(13))


def fill(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    plan: Plan,
    cell: list[dict],
    home: Path,
) -> None:
    """A cell's pictures; what has none is a pale square with its status."""
    for n, sample in enumerate(cell):
        x = corner[0] + n % plan.across * (plan.side + GAP)
        y = corner[1] + n // plan.across * (plan.side + GAP)
        if y + plan.side > canvas.height:
            return
        try:
            with Image.open(home.parent / sample["thumb"]) as image:
                image.draft("RGB", (plan.side, plan.side))
                small = image.convert("RGB").resize((plan.side, plan.side))
                canvas.paste(small, (x, y))
        except (KeyError, *UNREADABLE):
            draw.rectangle((x, y, x + plan.side - 1, y + plan.side - 1), BAD)
            said = cut(sample["status"], plan.side - 8, font(11))
            draw.text((x + 4, y + 4), said, INK, font(11))


def lines(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, height: int
) -> None:
    """A label on as many lines as there is room for."""
    words, y = text.split(), corner[1]
    while words and y + 16 <= corner[1] + height:
        line = words.pop(0)
        while words and font(13).getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        draw.text((corner[0], y), cut(line, width, font(13)), INK, font(13))
        y += 16


def cut(text: str, width: int, face: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened to a width in pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..." if text else ""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
