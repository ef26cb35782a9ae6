"""What must be equal for two figures to be comparable, in words that go into the report."""

import torch

from alignvar_arch import metrics
from alignvar_arch.machine import device_name


def metric_entries(blocks: dict[str, dict]) -> list[dict]:
    """Returns the protocol's entries of metrics.

    Args:
        blocks: by key, as in `val.metrics` of an options file.
    """
    entries = []
    for key, block in blocks.items():
        options = {name: value for name, value in block.items() if name not in ("type", "better")}
        entries.append({"key": key, **metrics.describe(block), "crop_border": options.get("crop_border", 0),
                        "type": block["type"], "options": options, "version": metrics.version(block["type"], options)})
    for field in ("space", "key"):  # metrics of one label are told apart, by the colour space if that does it
        labels = [entry["label"] for entry in entries]
        for entry in entries:
            if labels.count(entry["label"]) > 1:
                entry["label"] += f" ({entry[field]})"
    return entries


def protocol(scale: int, seed: int, cuda: bool, metric_list: list[dict], sets: list[dict], timing: dict | None) -> dict:
    """Returns the whole protocol: what was compared on, how, and on which device."""
    precision = "float32, convolutions in TF32" if cuda and torch.backends.cudnn.allow_tf32 else "float32"
    return {"scale": scale, "seed": seed, "batch": 1, "device": device_name(cuda), "precision": precision,
            "metrics": metric_list, "sets": sets, "timing": timing}


def difference(one: dict, other: dict) -> str | None:
    """Says where two protocols differ first, or None where they are equal."""
    for key in {**one, **other}:
        if one.get(key) == other.get(key):
            continue
        if key not in ("metrics", "sets"):
            return f"{key} is {one.get(key)} in one and {other.get(key)} in the other"
        label = "key" if key == "metrics" else "name"
        first, second = ({entry[label]: entry for entry in protocol_[key]} for protocol_ in (one, other))
        if list(first) != list(second):
            return f"their {key} are {', '.join(first)} in one and {', '.join(second)} in the other"
        name = next(name for name in first if first[name] != second[name])
        mine, theirs = first[name], second[name]
        field = next(field for field in {**mine, **theirs} if mine.get(field) != theirs.get(field))
        return f"{field} of {key[:-1]} {name} is {mine.get(field)} in one and {theirs.get(field)} in the other"
    return None
