"""The report's tables as files: report.csv for computing, report.md for a paper or an issue."""

import csv
import re
from pathlib import Path

MISSING = "–"


def digits(metric: dict) -> int:
    """Decimal places in which a metric is shown: 2 for PSNR, 4 for SSIM and LPIPS, 3 for all others."""
    name = metric["type"].lower()
    return 2 if "psnr" in name else 4 if "ssim" in name or "lpips" in name else 3


def write(folder: Path, report: dict) -> None:
    """Writes folder/report.csv and folder/report.md.

    Args:
        folder: a report's folder.
        report: what report.json holds.

    Raises:
        OSError: a file cannot be written.
    """
    _write_csv(folder, report)
    _write_markdown(folder, report)


def _write_csv(folder: Path, report: dict) -> None:
    """A row for each set, image and model, with the metrics of an image as columns, empty where there is no value.

    Six decimal places, because programs read it.
    """
    metrics = [metric["key"] for metric in report["protocol"]["metrics"] if not metric["of_a_set"]]
    # A file name that is no valid Unicode is written with backslashes rather than not at all.
    with open(folder / "report.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["set", "image", "model", *metrics])
        for image in report["images"]:
            for model in report["models"]:
                values = image["values"].get(model["name"], {})
                row = [values.get(key) for key in metrics]
                table.writerow(
                    [image["set"], image["image"], model["name"], *("" if v is None else f"{v:.6f}" for v in row)]
                )


def _write_markdown(folder: Path, report: dict) -> None:
    """Two tables for each set (figures, differences), the protocol, and what failed."""
    names = [model["name"] for model in report["models"]]
    lines = [f"# {_plain(' compared with '.join([names[0], ', '.join(names[1:])]) if names[1:] else names[0])}"]
    for data in report["protocol"]["sets"]:
        lines += ["", f"## {_plain(data['name'])}", "", *_set_tables(report, data)]
    lines += ["", "## Protocol", "", *(f"- {line}" for line in _protocol(report)), "", "## Failures", ""]
    lines += [f"- {line}" for line in _failures(report)] or ["None."]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def _set_tables(report: dict, data: dict) -> list[str]:
    models, metrics = report["models"], report["protocol"]["metrics"]
    summary = report["summary"][data["name"]]
    timing = report["protocol"]["timing"]
    heads = [_head(summary, metric) for metric in metrics]
    batch = f"ms/image, batch {timing['batch']}" if timing else "ms/image, larger batch"
    best = {metric["key"]: _best(summary, metric, models) for metric in metrics}

    def figure(model: dict, metric: dict) -> str:
        entry = summary[metric["key"]][model["name"]]
        text = _number(entry["mean"], digits(metric))
        if text == best[metric["key"]]:
            text = f"**{text}**"
        if entry["low"] is not None:
            text += f" [{_number(entry['low'], digits(metric))}, {_number(entry['high'], digits(metric))}]"
        return text

    def difference(model: dict, metric: dict) -> str:
        entry = summary[metric["key"]][model["name"]]
        if entry["difference"] is None:
            return MISSING
        text = _number(entry["difference"], digits(metric), sign=True)
        return text if entry["p"] is None else f"{text} ({_p(entry['p'])})"

    lines = [
        f"Means over the {summary['common']} (of {data['count']}) images that every model did, with 95 % bootstrap "
        "intervals; the best in bold.",
        "",
        *_table(
            ["Model", *heads, "Parameters", "ms/image, batch 1", batch, "Peak MiB"],
            [[_plain(m["name"]), *(figure(m, metric) for metric in metrics), *_costs(m)] for m in models],
        ),
    ]
    if len(models) > 1:
        lines += [
            "",
            f"Mean paired difference to {_plain(models[0]['name'])}, and p of a paired permutation test.",
            "",
            *_table(
                ["Model", *heads],
                [[_plain(m["name"]), *(difference(m, metric) for metric in metrics)] for m in models[1:]],
            ),
        ]
    return lines


def _head(summary: dict, metric: dict) -> str:
    """Label and direction; and how many images are in the means where the metric is undefined for some."""
    count = max(entry["n"] for entry in summary[metric["key"]].values())
    fewer = "" if count == summary["common"] else f", n = {count}"
    return f"{_plain(metric['label'])} {'↑' if metric['better'] == 'higher' else '↓'}{fewer}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _best(summary: dict, metric: dict, models: list[dict]) -> str | None:
    """The best mean as it is printed, so that what reads the same is marked the same; None for a single model."""
    means = [summary[metric["key"]][model["name"]]["mean"] for model in models]
    means = [mean for mean in means if mean is not None]
    if len(models) < 2 or not means:
        return None
    return _number(max(means) if metric["better"] == "higher" else min(means), digits(metric))


def _costs(model: dict) -> list[str]:
    parameters, cost = model["parameters"], model["cost"] or {}
    times = [cost.get("ms_1"), cost.get("ms_n")]
    return [
        MISSING if parameters is None else f"{sum(parameters.values()) / 1e6:.2f} M",
        *(MISSING if time is None else f"{time:.0f}" if time >= 100 else f"{time:.3g}" for time in times),
        _number(cost.get("peak_mib"), 0),
    ]


def _protocol(report: dict) -> list[str]:
    protocol, environment = report["protocol"], report["environment"]
    lines = [
        f"{_plain(m['label'])}: {m['space']}, crop border {m['crop_border']}, {_plain(m['type'])}, "
        f"{_plain(m['version'])}; {m['better']} is better"
        for m in protocol["metrics"]
    ]
    lines += [
        f"{_plain(data['name'])}: {data['count']} images, LR {_plain(data['lr'])}, sha256 {data['hash']}"
        for data in protocol["sets"]
    ]
    lines.append(
        f"scale {protocol['scale']}, seed {protocol['seed']}, batch {protocol['batch']}, {protocol['precision']}, "
        f"{_plain(protocol['device'])}"
    )
    timing = protocol["timing"]
    if timing:
        height, width = timing["lr_size"]
        lines.append(
            f"costs: LR {height} x {width}, batch 1 and {timing['batch']}, median of up to {timing['repeats']} after "
            f"{timing['warmup']} of warm-up"
        )
    else:
        lines.append("costs: not measured")
    lines.append(", ".join(f"{name} {version}" for name, version in environment.items()))
    lines.append(f"{_plain(report['command'])}, {report['created']}")
    return lines


def _failures(report: dict) -> list[str]:
    unreadable = [("unreadable", entry) for entry in report["unreadable"]]
    failed = [(model["name"], entry) for model in report["models"] for entry in model["failed"]]
    return [
        f"{_plain(entry['set'])}, {_plain(entry['image'])}: {_plain(who)}: {_plain(entry['reason'])}"
        for who, entry in unreadable + failed
    ]


def _number(value: float | None, places: int, sign: bool = False) -> str:
    return MISSING if value is None else f"{value:{'+' if sign else ''}.{places}f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", " ".join(str(text).split()))
