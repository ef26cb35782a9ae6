"""Is a report that was read from disk what `basicsr compare` writes? It may have been cut short or edited by hand."""

import math
from pathlib import PurePosixPath

from alignvar_arch.compare.material import PICTURES

_TEXTS = {"metrics": ("key", "label", "space", "type", "version", "better"), "sets": ("name", "hash", "lr"),
          "models": ("name", "kind"), "failures": ("set", "image", "reason")}


def check(report: dict) -> None:
    """Checks every part of a report that merging and writing rely on.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: a part is missing or is not what it has to be.
    """
    protocol, models = report["protocol"], report["models"]
    for key in ("scale", "seed", "batch", "device", "precision", "timing"):
        protocol[key]
    _check_texts(protocol["metrics"], "metrics")
    _check_texts(protocol["sets"], "sets")
    _check_texts(models, "models")
    _check_texts(report["unreadable"], "failures")
    for metric in protocol["metrics"]:
        _need(isinstance(metric["of_a_set"], bool) and isinstance(metric["options"], dict), "protocol.metrics")
        metric["crop_border"]
    for model in models:
        _check_texts(model["failed"], "failures")
        _need(all(isinstance(model[key], dict) for key in ("weights", "settings")), f"model {model['name']}")
        for figures in (model["parameters"], model["cost"]):
            _need(figures is None or all(_is_figure(value) for value in figures.values()), f"model {model['name']}")
        _need(isinstance(model["source"], str | None) and isinstance(model["model_type"], str | None), "models")
    _need(models, "models")
    for data in protocol["sets"]:
        _need("/" not in data["name"], f"set {data['name']}")
        count = sum(image["set"] == data["name"] for image in report["images"])
        _need(count == data["count"], f"set {data['name']}: it lists {count} of {data['count']} images")
    single = [metric["key"] for metric in protocol["metrics"] if not metric["of_a_set"]]
    for image in report["images"]:
        _check_image(image, {model["name"] for model in models}, single)


def _check_image(image: dict, models: set[str], metrics: list[str]) -> None:
    where = f"image {image['set']}/{image['image']}"
    _need(isinstance(image["image"], str) and "/" not in image["image"], where)
    _need(len(image["size"]) == 2 and all(type(side) is int and side > 0 for side in image["size"]), f"size of {where}")
    for path in (image["gt"], image["lr"], *image["pictures"].values()):
        _need(PurePosixPath(path).parts[:1] == (PICTURES,) and path.endswith(".png") and "\0" not in path
              and ".." not in PurePosixPath(path).parts, f"the picture {path} is outside of the report")
    _need(set(image["pictures"]) == set(image["values"]) <= models, where)
    for values in image["values"].values():
        _need(all(_is_figure(values[key]) for key in metrics), f"figures of {where}")


def _check_texts(entries: list[dict], kind: str) -> None:
    _need(isinstance(entries, list) and all(isinstance(entry[key], str) for entry in entries for key in _TEXTS[kind]),
          kind)


def _is_figure(value) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _need(condition, where: str) -> None:
    if not condition:
        raise ValueError(where)
