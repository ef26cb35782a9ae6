"""A report's folder: completed and written, read again, merged."""

import json
import shutil
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from platform import python_version

from alignvar_arch import metrics
from alignvar_arch.compare import page, sheets, tables, wholeness
from alignvar_arch.compare.measuring import measure_sets
from alignvar_arch.compare.protocol import difference
from alignvar_arch.compare.statistics import summarise
from alignvar_arch.data.evaluation_dataset import read_image
from alignvar_arch.errors import UserError
from alignvar_arch.version import __version__

FORMAT = 1
NAME = "report.json"


def new(protocol: dict, models: list[dict], images: list[dict], unreadable: list[dict], command: str) -> dict:
    """Returns a report without its summary; docs/report.md describes every key."""
    environment = {"alignvar": __version__, "basicsr": metadata.version("basicsr"), "torch": metadata.version("torch"),
                   "python": python_version()}
    return {"format": FORMAT, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command,
            "environment": environment, "protocol": protocol, "models": models, "images": images,
            "unreadable": unreadable}


def write(report: dict, place: Path) -> None:
    """Completes a report whose pictures lie in `place`: summary, JSON, CSV, Markdown, sheets and page."""
    report["summary"] = summarise(report, measure_sets(report, place))
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    # A file name that is no valid Unicode keeps its bytes: "\udcff" is JSON too.
    (place / NAME).write_text(text, encoding="utf-8", errors="backslashreplace")
    for writer in (tables, sheets, page):
        writer.write(place, report)


def read(path: str) -> dict:
    """Returns the report of a folder.

    Raises:
        UserError: there is none, or it was written by another version of the format, or it is not whole.
    """
    try:
        report = json.loads((Path(path) / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no readable {NAME}; name folders that `basicsr compare` made.") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path}/{NAME} has not format {FORMAT}, which this version reads; make it again.")
    try:
        wholeness.check(report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}/{NAME} is damaged ({error}); make the report again.") from error
    return report


def merge(paths: list[str], place: Path, command: str) -> dict:
    """Joins reports of one protocol into a report in `place`, still to be written; the first's first model stays first.

    Raises:
        UserError: protocols differ, one name stands for different figures, or a figure of a set, which is computed
            anew, would be another version's.
    """
    reports = [read(path) for path in paths]
    first = reports[0]
    _check_versions(first["protocol"], paths[0])
    merged = new(first["protocol"], [], [], first["unreadable"], command)
    merged["images"] = [{**image, "pictures": {}, "values": {}} for image in first["images"]]
    for path, report in zip(paths, reports, strict=True):
        problem = difference(first["protocol"], report["protocol"])
        if problem:
            raise UserError(f"{paths[0]} and {path} cannot be merged: {problem}.")
        try:
            _join(merged, report, Path(path), place)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}/{NAME} is damaged ({error!r}); make the report again.") from error
    return merged


def _check_versions(protocol: dict, path: str) -> None:
    for metric in (metric for metric in protocol["metrics"] if metric["of_a_set"]):
        here = metrics.version(metric["type"], metric["options"])
        if here != metric["version"]:
            raise UserError(f"{path}: {metric['key']} is of {metric['version']}, but would be computed anew by {here}; "
                            "merge where the reports were made.")


def _join(merged: dict, report: dict, source: Path, place: Path) -> None:
    values = {(image["set"], image["image"]): image for image in report["images"]}
    for model in report["models"]:
        name = model["name"]
        known = any(name == other["name"] for other in merged["models"])
        for image in merged["images"]:
            theirs = values[image["set"], image["image"]]
            if known:
                if image["values"].get(name) != theirs["values"].get(name):
                    raise UserError(f"{source} has other figures for {name} on {image['set']}/{image['image']} than "
                                    "the reports before it; rename one of the two.")
                continue
            for key in ("gt", "lr"):
                _copy(source, place, image[key], image["size"] if key == "gt" else None)
            if name in theirs["pictures"]:
                image["pictures"][name] = theirs["pictures"][name]
                image["values"][name] = theirs["values"][name]
                _copy(source, place, theirs["pictures"][name], image["size"])
        if not known:
            merged["models"].append(model)


def _copy(source: Path, place: Path, path: str, size: list[int] | None) -> None:
    """Copies a picture that is not there yet, if it can be read and is of `size`."""
    if not (source / path).is_file():
        raise UserError(f"{source} lacks {path}, which its {NAME} names; make the report again.")
    height, width = read_image(str(source / path)).shape[:2]
    if size and [height, width] != size:
        raise UserError(f"{source / path} is {width}x{height}, but {NAME} says {size[1]}x{size[0]}; make the report "
                        "again.")
    if (place / path).exists():
        return
    (place / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / path, place / path)
