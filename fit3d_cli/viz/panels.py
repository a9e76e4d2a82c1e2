"""Pictures beside each other: scaling of token grids, captions, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fit3d_cli.shapes import check_dims

Picture = NDArray[np.uint8]

_PAPER = (250, 250, 248)
_INK = (38, 40, 46)
_EDGE = (214, 214, 210)


@dataclass(frozen=True)
class Panel:
    """One captioned picture.

    Attributes:
        caption: Short plain text.
        picture: ``[H, W, 3]`` uint8.
    """

    caption: str
    picture: Picture

    def __post_init__(self) -> None:
        check_dims(picture=(self.picture, "H W 3"))


def to_uint8(rgb: Tensor) -> Picture:
    """``[h, w, 3]`` colours in 0..1 to 8 bits, rounded."""
    check_dims(rgb=(rgb, "h w 3"))
    picture: Picture = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return picture


def upsample(
    rgb: Tensor, height: int, width: int, mode: Literal["nearest", "bicubic"] = "bicubic"
) -> Tensor:
    """Scale the colours of a token grid to pixels.

    Args:
        rgb: ``[h, w, 3]`` in 0..1.
        height: Pixels.
        width: Pixels.
        mode: ``nearest`` keeps the borders of clusters, ``bicubic`` suits PCA colours.

    Returns:
        ``[height, width, 3]`` in 0..1.
    """
    check_dims(rgb=(rgb, "h w 3"))
    batch = rgb.permute(2, 0, 1)[None].float()
    if mode == "nearest":
        # "nearest-exact" has its sample points at cell centres, as the tokens have.
        scaled = torch.nn.functional.interpolate(batch, (height, width), mode="nearest-exact")
    else:
        scaled = torch.nn.functional.interpolate(
            batch, (height, width), mode="bicubic", align_corners=False
        )
    return scaled[0].permute(1, 2, 0).clamp(0, 1)


def label_map(labels: Tensor, colours: Tensor) -> Tensor:
    """``[h, w]`` int64 labels to ``[h, w, 3]`` colours; labels outside the table are dark grey."""
    check_dims(labels=(labels, "h w"), colours=(colours, "K 3"))
    inside = (labels >= 0) & (labels < len(colours))
    rgb = colours[labels.clamp(0, len(colours) - 1)]
    return torch.where(inside[..., None], rgb, torch.full_like(rgb, 0.16))


def side_by_side(panels: Sequence[Panel], *, height: int | None = None, title: str = "") -> Picture:
    """One row of captioned pictures of equal height.

    Args:
        panels: Left to right, at least one.
        height: Of each picture in pixels; default: the tallest one.
        title: Line above the row.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    return contact_sheet([panels], height=height, titles=[title])


def contact_sheet(
    rows: Sequence[Sequence[Panel]],
    *,
    height: int | None = None,
    titles: Sequence[str] | None = None,
) -> Picture:
    """Rows of captioned pictures; all pictures have equal height.

    Args:
        rows: Rows of panels; at least one panel in all.
        height: Of each picture in pixels; default: the tallest one.
        titles: A line above each row, empty for none.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        ValueError: No panels, or not one title per row.
    """
    if not any(rows):
        raise ValueError("a contact sheet needs at least one panel")
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"{len(titles)} titles for {len(rows)} rows")
    tall = height or max(panel.picture.shape[0] for row in rows for panel in row)
    size = max(11, min(22, round(tall * 0.05)))
    gap, margin = max(6, size // 2 + 2), size + 4
    caption_font, title_font = _font(size), _font(round(size * 1.15))
    scaled = [[_scaled(panel.picture, tall) for panel in row] for row in rows]
    width = max(sum(p.width for p in row) + gap * (len(row) - 1) for row in scaled) + 2 * margin
    heads = [round(size * 1.9) if titles is not None and titles[i] else 0 for i in range(len(rows))]
    foot = round(size * 1.6)
    total = 2 * margin + sum(heads) + len(rows) * (tall + foot) + gap * (len(rows) - 1)
    sheet = Image.new("RGB", (width, total), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = margin
    for index, images in enumerate(scaled):
        if heads[index] and titles is not None:
            line = _fitted(titles[index], title_font, width - 2 * margin)
            draw.text((margin, y), line, fill=_INK, font=title_font)
            y += heads[index]
        x = margin
        for panel, image in zip(rows[index], images, strict=True):
            sheet.paste(image, (x, y))
            draw.rectangle((x - 1, y - 1, x + image.width, y + tall), outline=_EDGE)
            caption = _fitted(panel.caption, caption_font, image.width)
            draw.text((x, y + tall + size * 0.4), caption, fill=_INK, font=caption_font)
            x += image.width + gap
        y += tall + foot + gap
    result: Picture = np.asarray(sheet, dtype=np.uint8).copy()
    return result


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(size: int) -> _Font:
    try:
        return ImageFont.load_default(size=size)
    except ImportError:  # a Pillow built without FreeType has one small bitmap font
        return ImageFont.load_default()


def _fitted(text: str, font: _Font, width: int) -> str:
    """``text`` on one printable line, cut off with dots where it is wider than ``width``."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    if not isinstance(font, ImageFont.FreeTypeFont):
        line = line.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."


def _scaled(picture: Picture, height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.height == height:
        return image
    width = max(1, round(image.width * height / image.height))
    # A cluster picture that grows keeps its hard borders only with nearest neighbours, a photo that
    # shrinks needs area filtering; LANCZOS serves both photos and PCA, so callers scale clusters.
    return image.resize((width, height), Image.Resampling.LANCZOS)
