"""One comparison from beginning to end: gather, make every picture, time, measure."""

import sys
from pathlib import Path

from torch.utils.data import Dataset
from tqdm import tqdm

from alignvar_arch.compare import cost, report
from alignvar_arch.compare.contenders import Bicubic, Failed, Network, Results
from alignvar_arch.compare.material import Item, gather
from alignvar_arch.compare.measuring import measure
from alignvar_arch.compare.protocol import metric_entries, protocol


def compare(networks: list[Network], datasets: list[Dataset], folders: dict[str, str], metrics: dict[str, dict],
            place: Path, *, scale: int, seed: int, cuda: bool, limit: int | None, timing: dict | None,
            command: str) -> dict:
    """Runs everything on the same LR and measures it by the same metrics.

    Args:
        networks: from options files, in the report's order; the first is what all are tested against.
        datasets: BasicSR data sets in their test phase.
        folders: of pictures made elsewhere, by name.
        metrics: blocks as in `val.metrics`, by key.
        place: the report's folder, where the pictures go.
        scale: GT's size over LR's.
        seed: of every picture.
        cuda: whether the networks run on a GPU.
        limit: at most so many images of each set.
        timing: from `cost.timing`; None leaves the costs out.
        command: for the report.

    Returns:
        The report, without its summary.
    """
    entries = metric_entries(metrics)
    material = gather(datasets, place, scale, limit)
    contenders = [*networks, *(Results(folder, name, material.items, scale) for name, folder in folders.items()),
                  Bicubic(scale)]
    models = []
    for contender in contenders:
        if isinstance(contender, Network):
            models.append(_run_network(contender, material.items, cuda, timing))
        else:
            models.append({**contender.entry(), "failed": _make_all(contender, material.items)})
    result = report.new(protocol(scale, seed, cuda, entries, material.sets, timing), models,
                        [_image(item, models) for item in material.items], material.unreadable, command)
    measure(result, place)
    return result


def _run_network(network: Network, items: list[Item], cuda: bool, timing: dict | None) -> dict:
    memory = cost.Memory(cuda)
    network.build()
    entry = network.entry()
    entry["failed"] = _make_all(network, items)
    if timing:
        entry["cost"] = cost.measure(network, memory, items[0].read("LR"), timing["lr_size"][0], timing["batch"])
    network.drop()
    return entry


def _make_all(contender: Network | Results | Bicubic, items: list[Item]) -> list[dict]:
    """Makes every picture and returns those that could not be made, with reasons."""
    failed = []
    for item in tqdm(items, desc=contender.name, unit="image", disable=None):
        try:
            item.write(contender.name, contender.make(item))
        except Failed as error:
            failed.append({"set": item.set_name, "image": item.image, "reason": str(error)})
            print(f"basicsr: {contender.name} on {item.set_name}/{item.image}: {error}", file=sys.stderr)
    return failed


def _image(item: Item, models: list[dict]) -> dict:
    pictures = {model["name"]: item.place(model["name"]) for model in models
                if not any((entry["set"], entry["image"]) == (item.set_name, item.image) for entry in model["failed"])}
    return {"set": item.set_name, "image": item.image, "size": list(item.size), "gt": item.place("GT"),
            "lr": item.place("LR"), "pictures": pictures, "values": {}}
