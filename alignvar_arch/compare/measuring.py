"""The metrics of every picture, by the protocol's list."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from basicsr.metrics import calculate_metric
from tqdm import tqdm

from alignvar_arch.compare.material import read_kept
from alignvar_arch.compare.statistics import common_images
from alignvar_arch.errors import UserError


def measure(report: dict, folder: Path) -> None:
    """Fills in the `values` of every image of the report, from the pictures in its folder.

    A figure that is not defined or not finite (PSNR of a perfect copy) is None; why a metric fails stands on stderr.
    """
    single = [metric for metric in report["protocol"]["metrics"] if not metric["of_a_set"]]
    for image in tqdm(report["images"], desc="metrics", unit="image", disable=None):
        gt = read_kept(folder / image["gt"])
        image["values"] = {
            model: {metric["key"]: _value(metric, [(read_kept(folder / path), gt)], 1,
                                          f"{image['set']}/{image['image']} by {model}") for metric in single}
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
            for model in images[0]["pictures"] if images else ():
                pairs = ((read_kept(folder / image["pictures"][model]), read_kept(folder / image["gt"]))
                         for image in images)
                found[set_name, metric["key"], model] = _value(
                    metric, pairs, len(images), f"{set_name} by {model}")
    return found


def _value(metric: dict, pairs: Iterable[tuple], count: int, where: str) -> float | None:
    """What a metric makes of `count` pairs of a picture and its GT, None where it is no finite number."""
    try:
        # A metric of a set returns what gathers features under +, and is a number once divided by the count.
        value = float(sum(_calculate(metric, *pair) for pair in pairs) / count)
    except Exception as error:  # a metric is anybody's code; the other figures go on
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        print(f"basicsr: {metric['key']} of {where}: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return None
    return value if math.isfinite(value) else None


def _calculate(metric: dict, picture, gt):
    return calculate_metric({"img": picture, "img2": gt}, {"type": metric["type"], **metric["options"]})
