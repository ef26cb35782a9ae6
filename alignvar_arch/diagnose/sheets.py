"""Picture sheets, pixel for pixel: SCA's masks over the picture, and the picture after each scale."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps, font_manager
from PIL import Image, ImageDraw, ImageFont

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.diagnose.figures import TOKENS, Drawn

LEAST_CELL = 192  # a smaller picture is shown with every pixel as a square of pixels
GAP, FONT_SIZE = 8, 12
SHADE = 0.5  # how dark a black pixel makes the mask's colour
LINE = FONT_SIZE + 5


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 (side, side, 3), with a caption under it."""

    caption: str
    picture: np.ndarray


def write_masks(drawn: Drawn, schedule: ScaleSchedule, path: Path) -> None:
    """Write the strip of masks, one row a subject: |Laplacian| of the LR, then every scale's mask over the picture."""
    every = torch.cat([mask.flatten() for masks in drawn.masks.values() for mask in masks])
    low, high = every.min().item(), every.max().item()
    side = drawn.gt.shape[-1]
    rows = []
    for label, masks in drawn.masks.items():
        light = 1 - SHADE * (1 - _pixels(drawn.made[label][-1]).mean(-1, keepdims=True) / 255)
        cells = [Cell(f"|Laplacian| of LR, 0 to {drawn.laplacian.max().item():.2f}",
                      _coloured(drawn.laplacian, 0.0, drawn.laplacian.max().item(), side))]
        for mask, length in zip(masks, schedule.sides, strict=True):
            cells.append(Cell(f"{length}×{length}: {mask.min().item():.3f} to {mask.max().item():.3f}",
                              (light * _coloured(mask, low, high, side)).round().astype(np.uint8)))
        rows.append((label, cells))
    _write(rows, path, bar=(low, high))


def write_cumulative(drawn: Drawn, psnr: dict, schedule: ScaleSchedule, path: Path) -> None:
    """Write one row for the GT's tokens and one a subject: bicubic, the picture after each scale, GT."""
    rows = []
    for label in (TOKENS, *(label for label in drawn.made if label != TOKENS)):
        cells = [Cell(f"bicubic {psnr['bicubic']:.2f} dB", _pixels(drawn.bicubic))]
        cells += [Cell(f"{side}×{side} {value:.2f} dB", _pixels(picture))
                  for picture, side, value in zip(drawn.made[label], schedule.sides, psnr[label], strict=True)]
        rows.append((label, [*cells, Cell("GT", _pixels(drawn.gt))]))
    _write(rows, path)


def _pixels(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] → uint8 (H, W, 3)."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _coloured(values: torch.Tensor, low: float, high: float, side: int) -> np.ndarray:
    """Values (s, s) as colours from ``low`` to ``high``, every value a block of pixels: uint8 (side, side, 3)."""
    index = np.arange(side) * values.shape[-1] // side
    small = (values.cpu().numpy() - low) / max(high - low, 1e-12)
    return colormaps["viridis"](small[index][:, index], bytes=True)[..., :3]


def _write(rows: list[tuple[str, list[Cell]]], path: Path, bar: tuple[float, float] | None = None) -> None:
    """Lay out rows of cells, each row under its name; ``bar`` prints the colour scale's range below."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), FONT_SIZE)
    side = rows[0][1][0].picture.shape[0]
    zoom = -(-LEAST_CELL // side)
    side *= zoom
    height = LINE + side + LINE + GAP
    width = GAP + max(len(cells) for _, cells in rows) * (side + GAP)
    sheet = Image.new("RGB", (width, GAP + len(rows) * height + (LINE + GAP if bar else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, cells) in enumerate(rows):
        top = GAP + number * height
        draw.text((GAP, top), name, "black", font)
        for column, cell in enumerate(cells):
            left = GAP + column * (side + GAP)
            sheet.paste(Image.fromarray(cell.picture.repeat(zoom, 0).repeat(zoom, 1)), (left, top + LINE))
            draw.text((left, top + LINE + side + 2), cell.caption, "black", font)
    if bar:
        _draw_bar(sheet, draw, font, GAP + len(rows) * height, bar)
    sheet.save(path)


def _draw_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, top: int,
              ends: tuple[float, float]) -> None:
    before, after = f"mask m, all scales: {ends[0]:.4f}", f"{ends[1]:.4f}"
    left = GAP + int(draw.textlength(before, font)) + GAP
    colours = colormaps["viridis"](np.linspace(0, 1, 256), bytes=True)[None, :, :3].repeat(FONT_SIZE, 0)
    draw.text((GAP, top), before, "black", font)
    sheet.paste(Image.fromarray(colours), (left, top + 2))
    draw.text((left + 256 + GAP, top), after, "black", font)
