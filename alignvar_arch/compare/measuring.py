"""The metrics of every picture, by the protocol's list."""

import math
import sys
from pathlib import Path

import cv2
from basicsr.metrics import calculate_metric
from tqdm import tqdm

from alignvar_arch.compare.statistics import common_images
from alignvar_arch.errors import UserError


def measure(report: dict, folder: Path) -> None:
    """Fills in the `values` of every image of the report, from the pictures in its folder.

    A figure that is not defined or not finite (PSNR of a perfect copy) is None.
    """
    single = [metric for metric in report["protocol"]["metrics"] if not metric["of_a_set"]]
    for image in tqdm(report["images"], desc="metrics", unit="image", disable=None):
        gt = _read(folder / image["gt"])
        image["values"] = {
            model: {metric["key"]: _value(metric, _read(folder / path), gt, f"{image['set']}/{image['image']}")
                    for metric in single}
            for model, path in image["pictures"].items()
        }  # fmt: skip


def measure_sets(report: dict, folder: Path) -> dict[tuple[str, str, str], float]:
    """Returns the figures that only a whole set has (FID), over the images that every model did.

    Returns:
        Figures by set, metric and model.
    """
    found = {}
    for metric in (metric for metric in report["protocol"]["metrics"] if metric["of_a_set"]):
        for set_name in (entry["name"] for entry in report["protocol"]["sets"]):
            images = common_images(report, set_name)
            if not images:
                continue
            for model in report["models"]:
                # What such a metric returns gathers features under +, and is a number once divided by the count.
                total = sum(_calculate(metric, _read(folder / image["pictures"][model["name"]]),
                                       _read(folder / image["gt"])) for image in images)
                value = float(total / len(images))
                found[set_name, metric["key"], model["name"]] = value if math.isfinite(value) else None
    return found


def _value(metric: dict, picture, gt, where: str) -> float | None:
    try:
        value = float(_calculate(metric, picture, gt))
    except (UserError, ValueError, RuntimeError) as error:
        print(f"basicsr: {metric['key']} of {where}: {' '.join(str(error).split())}", file=sys.stderr)
        return None
    return value if math.isfinite(value) else None


def _calculate(metric: dict, picture, gt):
    return calculate_metric({"img": picture, "img2": gt}, {"type": metric["type"], **metric["options"]})


def _read(path: Path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)
