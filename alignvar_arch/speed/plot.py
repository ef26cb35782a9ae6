"""The measurements as a plot."""

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignvar_arch.speed.report import NAMES

_DPI = 110
_COLOURS = ("#999999", "#56B4E9", "#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, told apart by the colour-blind


def draw(found: dict, path: Path) -> None:
    """Writes the plot: loaders, stages, sizes and reading."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    material = found["material"]
    figure.suptitle(f"{Path(material['gt']).name}: {material['records']} pairs, crops of {material['gt_size']}x"
                    f"{material['gt_size']}, {found['machine']['device']}", fontsize=11)  # fmt: skip
    axes = figure.subplots(2, 2)
    _loaders(axes[0, 0], found)
    _stages(axes[0, 1], found)
    _sizes(axes[1, 0], found)
    _codecs(axes[1, 1], found)
    figure.savefig(path, dpi=_DPI, format="png")


def _loaders(axes: Axes, found: dict) -> None:
    groups = {f"{count} workers": [statistics.median(rates[key]) for key in NAMES]
              for count, rates in found["loaders"].items()}  # fmt: skip
    _bars(axes, groups, list(NAMES.values()))
    axes.set_ylabel("images/s")
    axes.set_title(f"loader ({found['speedup']['loader']:.1f} times the PNG folder's)")


def _stages(axes: Axes, found: dict) -> None:
    names, left = [NAMES[key] for key in found["stages"]], [0.0] * len(found["stages"])
    for number, stage in enumerate(found["stages"]["store"]):
        widths = [times[stage] for times in found["stages"].values()]
        axes.barh(names, widths, left=left, label=stage, color=_COLOURS[number])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("ms of CPU time a pair")
    axes.legend()
    axes.set_title("stages")


def _sizes(axes: Axes, found: dict) -> None:
    axes.bar(list(found["codecs"]), [one["size_ratio"] for one in found["codecs"].values()], color=_COLOURS[2])
    axes.axhline(1, color="0.3", linestyle="--", linewidth=1)
    axes.set_ylabel("size / PNGs'")
    axes.set_title("size on disk by codec")


def _codecs(axes: Axes, found: dict) -> None:
    groups = {codec: [one["whole"], one["crop"]] for codec, one in found["codecs"].items()}
    one = found["reading"]["png_folder"]
    _bars(axes, {"PNG folder": [one["whole"], one["crop"]], **groups}, ["whole image", "crop"])
    axes.set_yscale("log")
    axes.set_ylabel("GT images/s, one process")
    axes.set_title("reading by codec")


def _bars(axes: Axes, groups: dict[str, list[float]], labels: list[str]) -> None:
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        places = [group + (number - (len(labels) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, [values[number] for values in groups.values()], width, label=label, color=_COLOURS[number])
    axes.margins(y=0.35)  # room for the legend
    axes.set_xticks(range(len(groups)), list(groups))
    axes.legend()
