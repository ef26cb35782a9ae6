"""All measurements of a store, as one dict that becomes JSON."""

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from alignvar_arch.data.store import Store, codecs
from alignvar_arch.machine import device_name
from alignvar_arch.speed import loaders, makers, reading, stages, training
from alignvar_arch.speed.material import PNG_LEVEL, Material, select
from alignvar_arch.version import __version__

_CODEC_IMAGES = 64  # lossless WebP takes 0.1 s each
_STAGE_BATCHES = 8


def run(path: Path, folder: Path, *, pair: Path | None = None, opt: dict | None = None, workers: list[int],
        limit: int, batch: int, gt_size: int | None, seconds: float, rounds: int, say: Callable[[str], None]) -> dict:
    """Measures a store against BasicSR's ways, in the temporary `folder`.

    Args:
        path: GT's store, or a folder of photographs; see material.select.
        folder: temporary, empty.
        pair: LR's store; None means the one that GT's index names.
        opt: complete options of a training, whose step is measured too; None measures none.
        workers: numbers of loaders' workers.
        limit: pairs at most.
        batch: of loaders.
        gt_size: side of crops; None means 192, or what fits.
        seconds: a measurement.
        rounds: how often compared things are measured in turn.
        say: takes a line about what is being done.

    Returns:
        What report.py says; ratios under `speedup` and `size_ratio`.

    Raises:
        UserError: see material.select and training.measure.
    """
    say("choosing records and writing PNG folders")
    material = select(path, pair, folder, limit, gt_size)
    material.write_pngs()
    say("timing makers")
    made = makers.compare(material, max(workers) or 1, min(rounds, 3))
    material.write_basicsr_lmdb()
    say("reading")
    found = {"machine": _machine(), "material": _describe(material, batch), "create": made,
             "reading": _reading(material, seconds, rounds), "stages": stages.measure(material, batch, _STAGE_BATCHES)}
    say("loaders")
    found["loaders"] = _loaders(material, workers, batch, seconds, rounds)
    say("codecs")
    found["codecs"] = _codecs(material, workers, batch, seconds)
    if opt is not None:
        say("training steps")
        found["training"] = training.measure(opt, material, workers, seconds)
    speedups = {count: loaders.ratio(rates["store"], rates["png_folder"]) for count, rates in found["loaders"].items()}
    found["speedup"] = {"loader": min(speedups.values()), "loader_by_workers": speedups, "create": made["speedup"]}
    found["size_ratio"] = made["size_ratio"]
    return found


def _machine() -> dict:
    versions = {name: metadata.version(name) for name in ("basicsr", "torch", "numpy", "lmdb")}
    return {"device": device_name(), "python": platform.python_version(), "threads": torch.get_num_threads(),
            "versions": {"alignvar": __version__, **versions}}  # fmt: skip


def _describe(material: Material, batch: int) -> dict:
    shapes = [material.gt.shape(key) for key in material.keys]
    return {"gt": str(material.gt.path), "lq": str(material.lq.path), "records": len(material.keys),
            "of": len(material.gt), "smallest": min(shapes), "largest": max(shapes), "scale": material.scale,
            "gt_size": material.gt_size, "batch": batch, "png_level": PNG_LEVEL,
            "one_disk": material.gt.path.stat().st_dev == material.folder.stat().st_dev}  # fmt: skip


def _reading(material: Material, seconds: float, rounds: int) -> dict:
    readers = {"png_folder": reading.of_pngs(material), "basicsr_lmdb": reading.of_basicsr_lmdb(material),
               "store": reading.of_store(material.gt, material.keys)}  # fmt: skip
    shapes = [material.gt.shape(key) for key in material.keys]
    found = {name: reading.passes(reader, len(shapes)) for name, reader in readers.items()}
    rates = reading.rates(readers, shapes, material.gt_size, seconds / 3, rounds)
    return {name: {**found[name], **rates[name]} for name in found}


def _loaders(material: Material, workers: list[int], batch: int, seconds: float, rounds: int) -> dict:
    variants = {"png_folder": material.of_pngs(), "store": material.of_store(),
                "basicsr_lmdb": material.of_basicsr_lmdb()}  # fmt: skip
    return {count: loaders.compare(variants, count, batch, seconds, rounds) for count in workers}


def _codecs(material: Material, workers: list[int], batch: int, seconds: float) -> dict:
    """What each codec makes of fewer records: size against their PNGs, reading, loaders."""
    folder = material.folder / "codecs"
    folder.mkdir()
    part = material.part(_CODEC_IMAGES, folder)
    part.write_pngs()
    pngs = sum(path.stat().st_size for name in ("gt", "lq") for path in part.pngs(name))
    keys = [path.stem for path in part.pngs()]
    shapes = [part.gt.shape(key) for key in part.keys]
    found = {}
    for codec in codecs.CODECS:
        gt, lq = part.write_store(codec)
        size = sum((path / "data.mdb").stat().st_size for path in (gt, lq))
        readers = {codec: reading.of_store(Store(gt), keys)}
        found[codec] = {
            "size_ratio": size / pngs,
            "lossless": codec not in codecs.LOSSY,
            **reading.rates(readers, shapes, part.gt_size, seconds / 3, 1)[codec],
            "loader": {count: loaders.rate(part.of_codec(codec), count, batch, seconds / 2) for count in workers},
        }
    return found
