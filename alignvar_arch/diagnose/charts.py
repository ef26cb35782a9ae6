"""Charts of the figures of one picture or of their means: PNG by matplotlib, without its global state."""
import warnings
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.diagnose import attention
from alignvar_arch.diagnose.figures import TOKENS

DPI = 110
# Okabe and Ito's colours, told apart by the colour-blind; markers and widths tell lines apart that cover each other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE = {"color": "0.3", "linewidth": 1.3, "linestyle": "--", "zorder": 5}
BASE = {**REFERENCE, "linestyle": ":"}
LONGEST_TITLE = 48
ANNOTATED_LAYERS = 12  # a cell of more layers is too low for its number


def draw_all(figures: dict, schedule: ScaleSchedule, title: str, folder: Path) -> None:
    """Write every chart into a folder; ``title`` says what the figures are of."""
    drawing = {"attention.png": _attention, "attention_layers.png": _layers, "psnr.png": _psnr, "latent.png": _latent,
               "planting.png": _planting}
    if figures["masks"]:
        drawing["mask_strength.png"] = _masks
    title = " ".join(title.split())
    title = title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE - 1]}…"
    # A file's name may hold dollar signs, which are no formula, and letters that the font lacks.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        for name, draw in drawing.items():
            draw(figures, schedule, title).savefig(folder / name, dpi=DPI)


def _figure(title: str, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def _style(number: int) -> dict:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)],
            "linewidth": max(3.2 - 0.9 * number, 1.0), "markersize": max(8 - 1.5 * number, 4)}


def _scales(axes: Axes, schedule: ScaleSchedule, label: str) -> None:
    axes.set_xticks(range(len(schedule)), [str(side) for side in schedule.sides])
    axes.set_xlabel("scale (side of its token map)")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _logarithmic(axes: Axes) -> None:
    """Logarithmic, with plain numbers at the ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")


def _attention(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    figure = _figure(f"Attention by scale, mean over layers and heads · {title}", 12, 6.6)
    panels = figure.subplots(2, 3)
    labels = {"distance": "mean attention distance\n(sides of the picture)",
              "window": "mass inside 3×3 tokens\n(share of own scale)", "own": "mass on own scale (share)",
              "coarser": "mass on coarser scales (share)", "lr": "mass on LR prefix (share)"}
    places = dict(zip(labels, [panels[0, 0], panels[0, 1], *panels[1]], strict=True))
    for key, axes in places.items():
        for number, (label, layers) in enumerate(figures["attention"].items()):
            values = [sum(column) / len(column) for column in zip(*layers[key], strict=True)]
            axes.plot(values, label=label, **_style(number))
        _scales(axes, schedule, labels[key])
    uniform = [attention.uniform(side) for side in schedule.sides]
    for key, values in zip(("distance", "window"), zip(*uniform, strict=True), strict=True):
        places[key].plot(values, label="uniform attention", **REFERENCE)
        places[key].set_ylim(bottom=0)
    for key in ("own", "coarser", "lr"):
        places[key].set_ylim(0, 1)
    panels[0, 2].axis("off")
    panels[0, 2].legend(*places["distance"].get_legend_handles_labels(), loc="center", fontsize=11)
    return figure


def _layers(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    """The first subject as it is, the others as what they have more; networks of another depth as they are."""
    (first, base), *others = figures["attention"].items()
    depth = max(len(layers["distance"]) for layers in figures["attention"].values())
    figure = _figure(f"Attention by layer and scale · {title}", 1.5 + 5 * (1 + len(others)), 2.4 + 2 * 0.28 * depth)
    panels = figure.subplots(2, 1 + len(others), squeeze=False)
    for row, key, name in ((0, "distance", "distance (sides)"), (1, "window", "mass inside 3×3")):
        _heat(panels[row, 0], base[key], schedule, f"{first}: {name}", None)
        more = {label: _less(layers[key], base[key]) for label, layers in others if len(layers[key]) == len(base[key])}
        reach = max((abs(value) for layers in more.values() for layer in layers for value in layer), default=0) or 1e-9
        for axes, (label, layers) in zip(panels[row, 1:], others, strict=True):
            if label in more:
                _heat(axes, more[label], schedule, f"{label} − {first}:\n{name}", reach)
            else:
                _heat(axes, layers[key], schedule, f"{label}: {name}", None)
    return figure


def _less(layers: list[list[float]], base: list[list[float]]) -> list[list[float]]:
    return [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(layers, base, strict=True)]


def _heat(axes: Axes, layers: list[list[float]], schedule: ScaleSchedule, title: str, reach: float | None) -> None:
    """Layers by scales in colour; with ``reach`` differences from −reach to reach."""
    settings = {"cmap": "cividis", "vmin": 0} if reach is None else {"cmap": "PuOr", "vmin": -reach, "vmax": reach}
    image = axes.imshow(layers, aspect="auto", **settings)
    axes.figure.colorbar(image, ax=axes, format="%.3g")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(schedule)), [str(side) for side in schedule.sides])
    axes.set_yticks(range(0, len(layers), 1 if len(layers) <= ANNOTATED_LAYERS else 4))
    axes.set_xlabel("scale (side of its token map)")
    axes.set_ylabel("layer")
    if len(layers) > ANNOTATED_LAYERS:
        return
    for y, layer in enumerate(layers):
        for x, value in enumerate(layer):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = f"{value:.2f}" if reach is None else f"{value:+.3f}" if abs(value) >= 0.0005 else "0"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _psnr(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    figure = _figure(f"The picture after each scale · {title}", 7.5, 4.6)
    axes = figure.subplots()
    values = dict(figures["psnr"])
    axes.axhline(values.pop("bicubic"), label="bicubic", **BASE)
    axes.plot(values.pop(TOKENS), label=TOKENS, marker="x", **REFERENCE)
    for number, (label, by_scale) in enumerate(values.items()):
        axes.plot(by_scale, label=label, **_style(number))
    _scales(axes, schedule, "PSNR to GT, on Y (dB)")
    axes.legend()
    return figure


def _latent(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    figure = _figure(f"Error of the cumulative latent, reduced to each scale's side · {title}", 12, 4.8)
    to_latent, to_tokens = figure.subplots(1, 2)
    values = dict(figures["to_latent"])
    to_latent.plot(values.pop("nothing"), label="no tokens at all", **BASE)
    to_latent.plot(values.pop(TOKENS), label=TOKENS, marker="x", **REFERENCE)
    for axes, entries, name in ((to_latent, values, "MSE to GT's latent"),
                                (to_tokens, figures["to_tokens"], "MSE to GT tokens' latent")):
        for number, (label, by_scale) in enumerate(entries.items()):
            axes.plot(by_scale, label=label, **_style(number))
        _scales(axes, schedule, f"{name} (latent units²)")
        _logarithmic(axes)
        axes.legend()
    return figure


def _planting(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    planted = figures["planting"]
    scales = list(next(iter(planted.values())))
    figure = _figure(f"Errors planted at one scale, and what becomes of them · {title}", 3.4 * len(scales), 9)
    panels = figure.subplots(3, len(scales), sharey="row", squeeze=False)
    for (share, carried, changed), k in zip(panels.T, scales, strict=True):
        share.set_title(f"planted at {schedule.sides[k]}×{schedule.sides[k]}", fontsize=10)
        for number, (label, entries) in enumerate(planted.items()):
            share.plot(range(k, len(schedule)), entries[k]["relative_mse"], label=label, **_style(number))
            carried.plot(range(k, len(schedule)), entries[k]["carried"], **_style(number))
            changed.plot(range(k + 1, len(schedule)), entries[k]["changed"][1:], **_style(number))
        carried.axhline(1, label="no reaction", **REFERENCE)
        for axes in (share, carried, changed):
            _scales(axes, schedule, "")
            axes.set_xlim(k - 0.3, len(schedule) - 0.7)
            axes.margins(y=0.1)
    for axes, label in zip(panels[:, 0], ("latent's MSE to the unplanted run\n(times that latent's mean square)",
                                          "latent's MSE to the unplanted run\n(times the planted MSE)",
                                          "tokens of later scales that change\n(share)"), strict=True):
        axes.set_ylabel(label)
    _logarithmic(panels[0, 0])
    _logarithmic(panels[1, 0])
    panels[2, 0].set_ylim(0, 1)
    lines = [line for axes in panels[:2, 0] for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=lines, loc="outside lower center", ncols=4)
    return figure


def _masks(figures: dict, schedule: ScaleSchedule, title: str) -> Figure:
    figure = _figure(f"SCA's masks m: mean over tokens, band one standard deviation · {title}", 7.5, 4.6)
    axes = figure.subplots()
    for number, (label, entry) in enumerate(figures["masks"].items()):
        axes.plot(entry["mean"], label=label, **_style(number))
        low, high = ([m + sign * s for m, s in zip(entry["mean"], entry["spread"], strict=True)] for sign in (-1, 1))
        axes.fill_between(range(len(schedule)), low, high, color=_style(number)["color"], alpha=0.15)
    _scales(axes, schedule, "mask m")
    axes.legend()
    return figure
