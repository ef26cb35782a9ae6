"""The folder of a diagnosis: charts and sheets, diagnose.json with every number, diagnose.md that explains them."""
import json
import math
from pathlib import Path

import torch

from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.diagnose import attention, charts, sheets
from alignvar_arch.diagnose.figures import completed, mean, measure
from alignvar_arch.diagnose.guide import guide
from alignvar_arch.diagnose.planting import planted_scales
from alignvar_arch.diagnose.subjects import Subject
from alignvar_arch.diagnose.tiles import Tile, Tiles
from alignvar_arch.errors import UserError
from alignvar_arch.version import __version__

OVERALL = "overall"
_SAMPLING = ("guidance", "choice", "top_k", "top_p", "temperature", "sample_seed")


def write(tiles: Tiles, tokenizer: AlignVARTokenizer, subjects: list[Subject], percent: float, folder: Path) -> None:
    """Diagnose every tile and write all of it into an empty folder.

    Raises:
        UserError: not one image could be used.
    """
    schedule, entries, every = tokenizer.schedule, [], []
    for number, tile in enumerate(tiles, start=1):
        print(f"{number} of {len(tiles)}: {tile.name}")
        figures, drawn = measure(tile, tokenizer, subjects, percent, border=tiles.scale)
        every.append(figures)
        place = folder / tile.name
        place.mkdir(parents=True)
        charts.draw_all(completed(figures), schedule, tile.name, place)
        sheets.write_cumulative(drawn, figures["psnr"], schedule, place / "cumulative.png")
        if drawn.masks:
            sheets.write_masks(drawn, schedule, place / "masks.png")
        entries.append({**_entry(tile), **completed(figures), "mask_maps": {
            label: [mask.tolist() for mask in masks] for label, masks in drawn.masks.items()}})
    if not every:
        raise UserError(f"none of the {len(tiles)} images could be used." if tiles.failed else "there are no images.")
    overall = completed(mean(every))
    (folder / OVERALL).mkdir(exist_ok=True)  # a set may have this name
    charts.draw_all(overall, schedule, f"mean of {len(every)} image{'s' if len(every) > 1 else ''}", folder / OVERALL)
    content = {
        "alignvar": __version__, "torch": torch.__version__, "device": str(tokenizer.quantize.embedding.weight.device),
        "scale": tiles.scale, "sides": list(schedule.sides), "tile": tokenizer.image_side, "plant_percent": percent,
        "planted_scales": planted_scales(len(schedule)),
        "subjects": [{"label": subject.label, "file": subject.file, "sca": subject.sca, "trained_sca": subject.net.sca,
                      "sampling": {key: value for key, value in subject.val.items() if key in _SAMPLING}}
                     for subject in subjects],
        "uniform_attention": dict(zip(("distance", "window"), zip(*map(attention.uniform, schedule.sides), strict=True),
                                      strict=True)),
        "overall": overall, "images": entries, "failed": [{"image": name, "reason": why} for name, why in tiles.failed],
    }
    (folder / "diagnose.json").write_text(json.dumps(_finite(content), indent=1, allow_nan=False), encoding="utf-8")
    (folder / "diagnose.md").write_text(guide(content), encoding="utf-8")


def _entry(tile: Tile) -> dict:
    side = tile.lr.shape[-1]
    return {"name": tile.name, "lr_size": list(tile.whole), "tile_top": tile.top, "tile_left": tile.left,
            "whole_image": tile.whole == (side, side)}


def _finite(value):
    """Replace what JSON cannot hold, such as the PSNR of equal pictures, by None."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
