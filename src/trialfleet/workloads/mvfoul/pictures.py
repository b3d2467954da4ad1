"""Pictures of an evaluation, as PNG: confusions, and the clips that were judged worst."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL, _MARGIN, _GAP = 56, 132, 8  # pixels
_THUMB, _CAPTION = 96, 18
_FONT_SIZE = 12


def confusion(table: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """A confusion matrix; each row is shaded by the share of its class."""
    side = _MARGIN + _CELL * len(names)
    picture = Image.new("RGB", (side + _GAP, side + _GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    draw.text((_GAP, _GAP), f"{title}: true by row, predicted by column", "black", font)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    for index, name in enumerate(names):
        middle = _MARGIN + _CELL * index + _CELL // 2
        draw.text((_MARGIN - _GAP, middle), name, "black", font, anchor="rm")
        upright = Image.new("L", (_MARGIN - 3 * _GAP, _FONT_SIZE + 4))
        ImageDraw.Draw(upright).text((0, 0), name, 255, font)
        turned = upright.rotate(90, expand=True)
        picture.paste("black", (middle - turned.width // 2, _MARGIN - _GAP // 2 - turned.height), turned)
    for row, column in np.ndindex(table.shape):
        x, y, share = _MARGIN + _CELL * column, _MARGIN + _CELL * row, float(shares[row, column])
        shade = tuple(round(255 + share * (dark - 255)) for dark in (24, 78, 148))
        draw.rectangle((x, y, x + _CELL, y + _CELL), shade, "#dddddd")
        ink = "white" if share > 0.5 else "black"
        draw.text((x + _CELL // 2, y + _CELL // 2), str(table[row, column]), ink, font, anchor="mm")
    return _png(picture)


class Strip(NamedTuple):
    """A clip in a contact sheet.

    Attributes:
        caption: what is written above.
        frames: (T, H, W, 3), uint8; None: there is nothing to see.
    """

    caption: str
    frames: np.ndarray | None


def contact_sheet(strips: Sequence[Strip], columns: int) -> bytes:
    """A row for each clip, with so many of its frames, evenly spread, and its caption above."""
    high, wide = _CAPTION + _THUMB, _THUMB + 2
    picture = Image.new("RGB", (columns * wide, max(1, len(strips)) * high), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    for row, (caption, frames) in enumerate(strips):
        draw.text((2, row * high + 2), caption, "black", font)
        if frames is None:
            continue
        for column, number in enumerate(np.linspace(0, len(frames) - 1, columns).round().astype(int)):
            thumb = Image.fromarray(frames[number]).resize((_THUMB, _THUMB), Image.Resampling.BILINEAR)
            picture.paste(thumb, (column * wide, row * high + _CAPTION))
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
