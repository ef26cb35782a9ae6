"""Sheets for a paper: for one image, the same crop of GT and of every model side by side, with their error maps.

    GT, the crop marked | crop of GT | bicubic | model ... |     names and metrics beneath
                        |  (scale)   | error   | error ... |     |model - GT|, all amplified alike

Arrays are float32 (H, W, 3) RGB in [0, 255] unless said otherwise.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alignvar_arch.compare.tables import digits

ALL = 24
"""A set of more images than this has sheets of the worst and the best half of as many."""
GAP = 12
CELL = 256
"""About the side of an enlarged crop, pixels: 2.2 cm at 300 dpi."""
MARK = (214, 39, 40)
INK, GREY = (20, 20, 20), (150, 150, 150)
NAME_BYTES = 200
"""Longest file name but for its number and suffix; file systems allow 255."""


def write(folder: Path, report: dict) -> None:
    """Writes folder/sheets/SET_IMAGE.png.

    Of a set of up to 24 images all; of a larger one the 12 worst and the 12 best of the first model by the first
    metric that an image has.

    Args:
        folder: a report's folder, with its pictures.
        report: what report.json holds.

    Raises:
        OSError: a picture cannot be read or a sheet not written.
    """
    target = folder / "sheets"
    target.mkdir(exist_ok=True)
    taken = set()
    for data in report["protocol"]["sets"]:
        images = [image for image in report["images"] if image["set"] == data["name"]]
        for image in _chosen(images, report):
            name = _file_name(image, taken)
            taken.add(name)
            _sheet(folder, report, image).save(target / name, dpi=(300, 300))


def _chosen(images: list[dict], report: dict) -> list[dict]:
    metrics = [metric for metric in report["protocol"]["metrics"] if not metric["of_a_set"]]
    if len(images) <= ALL or not metrics:
        return images[:ALL]
    model, key = report["models"][0]["name"], metrics[0]["key"]
    ranked = [image for image in images if image["values"].get(model, {}).get(key) is not None]
    ranked.sort(key=lambda image: image["values"][model][key], reverse=metrics[0]["better"] == "lower")
    return ranked if len(ranked) <= ALL else [*ranked[: ALL // 2], *ranked[-ALL // 2 :]]


def _file_name(image: dict, taken: set[str]) -> str:
    """SET_IMAGE.png, shortened where the file system would refuse it, numbered where two come out the same."""
    stem = f"{image['set']}_{image['image']}".encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    name, count = f"{stem}.png", 2
    while name in taken:
        name, count = f"{stem} ({count}).png", count + 1
    return name


def _sheet(folder: Path, report: dict, image: dict) -> Image.Image:
    """One image's sheet, RGB."""
    models = sorted(report["models"], key=lambda model: model["kind"] != "bicubic")
    gt = _read(folder / image["gt"])
    pictures = {name: _read(folder / path) for name, path in image["pictures"].items()}
    # Bicubic differs from every network nearly everywhere; what is looked for is where networks differ.
    shown = [pictures[model["name"]] for model in models if model["kind"] != "bicubic" and model["name"] in pictures]
    shown = shown if len(shown) > 1 else [gt, *pictures.values()]
    side = min(max(48, round(min(gt.shape[:2]) / 4)), *gt.shape[:2])
    top, left = most_different(shown, side)

    def crop(picture):
        return picture[top : top + side, left : left + side]

    errors = {name: np.abs(crop(picture) - crop(gt)) for name, picture in pictures.items()}
    amplification = _amplification(list(errors.values()))
    factor = min(4, max(2, round(CELL / side)))
    cell = side * factor
    font = ImageFont.load_default(size=max(14, cell // 12))
    line = font.size * 5 // 4
    metrics = [metric for metric in report["protocol"]["metrics"] if not metric["of_a_set"]]
    caption = line * (1 + len(metrics)) + GAP
    whole = _whole(gt, (top, left, side), height=2 * cell + caption)
    width = whole.width + (1 + len(models)) * (cell + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, 2 * GAP + 2 * cell + caption), "white")
    draw = ImageDraw.Draw(sheet)
    below = GAP + cell + caption
    sheet.paste(whole, (GAP, GAP))

    def column(index):
        return 2 * GAP + whole.width + index * (cell + GAP)

    sheet.paste(_enlarged(crop(gt), factor), (column(0), GAP))
    _write_lines(draw, (column(0), GAP + cell), ["GT", image["image"], image["set"]][: 1 + len(metrics)], font, cell)
    legend = ["Error maps:", "|model - GT|", f"in RGB, x {amplification}", "black: equal"]
    _write_lines(draw, (column(0), below), legend, font, cell)
    for index, model in enumerate(models, start=1):
        name, x = model["name"], column(index)
        values = image["values"].get(name, {})
        lines = [(metric["label"], _value(metric, values.get(metric["key"]))) for metric in metrics]
        _write_lines(draw, (x, GAP + cell), [name, *lines], font, cell)
        if name in pictures:
            sheet.paste(_enlarged(crop(pictures[name]), factor), (x, GAP))
            sheet.paste(_enlarged(errors[name] * amplification, factor), (x, below))
        else:
            for y in (GAP, below):
                draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=GREY)
                _write_lines(draw, (x + GAP, y), ["failed"], font, cell - GAP)
    return sheet


def most_different(pictures: list[np.ndarray], side: int) -> tuple[int, int]:
    """Top and left of the square window of `side` pixels in which the pictures differ most from one another."""
    variance = np.var(np.stack(pictures), axis=0, dtype=np.float64).mean(axis=2)
    sums = np.pad(variance.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(np.argmax(windows), windows.shape)
    return int(top), int(left)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32)


def _amplification(errors: list[np.ndarray]) -> int:
    """The power of two, up to 32, with which the largest errors of the worst model are just not cut off."""
    peak = max((float(np.quantile(error, 0.995)) for error in errors), default=255.0)
    return 2 ** int(np.clip(np.floor(np.log2(255 / max(peak, 1.0))), 0, 5))


def _enlarged(picture: np.ndarray, factor: int) -> Image.Image:
    small = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)


def _whole(gt: np.ndarray, window: tuple[int, int, int], height: int) -> Image.Image:
    """All of GT at the given height, not wider than it is high twice over, with the window marked."""
    picture = Image.fromarray(gt.astype(np.uint8))
    scale = min(height / picture.height, 2 * height / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    top, left, side = (round(value * scale) for value in window)
    draw = ImageDraw.Draw(picture)
    # White outside the red, so that the box is seen on any ground.
    draw.rectangle((left - 2, top - 2, left + side + 1, top + side + 1), outline="white", width=2)
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=MARK, width=max(2, height // 200))
    return picture


def _write_lines(draw, place: tuple[int, int], lines: list[str | tuple[str, str]], font, width: int) -> None:
    """Lines of text under one another, each cut with dots at `width` pixels; of (words, figure) only the words are."""
    x, y = place
    for line in lines:
        words, figure = (line, "") if isinstance(line, str) else (line[0], f" {line[1]}")
        text = words = " ".join(words.split())
        while draw.textlength(text + figure, font) > width and words:
            words = words[:-1]
            text = words + "…"
        draw.text((x, y + GAP // 2), text + figure, INK, font)
        y += font.size * 5 // 4


def _value(metric: dict, value: float | None) -> str:
    return "-" if value is None else f"{value:.{digits(metric)}f}"
