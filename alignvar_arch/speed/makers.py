"""This project's maker against BasicSR's, from the same PNG folders, at the same number of processes."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.speed.loaders import ratio
from alignvar_arch.speed.material import Material


def compare(material: Material, workers: int, rounds: int) -> dict:
    """Times both makers in turn; each writes GT's and LR's LMDB to the disk of the temporary folder.

    Args:
        material: with its PNG folders written.
        workers: threads of ours, and processes of BasicSR's `multiprocessing_read`, which its REDS and Vimeo90K
            scripts use; the DIV2K script's single process is timed once.
        rounds: of measurements.

    Returns:
        Medians of images/s, `speedup`, and bytes on disk: `png_bytes`, `basicsr_bytes`, `store_bytes`, `size_ratio`.
    """
    place = material.folder / "makers"
    made = {"store": lambda: material.write_store(material.codec, place, workers),
            "basicsr": lambda: material.write_basicsr_lmdb(place, workers)}  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in made}
    sizes = {}
    for _ in range(rounds):
        for name, make in made.items():
            passed, sizes[name] = _timed(make, place)
            rates[name].append(len(material.keys) / passed)
    single, _ = _timed(lambda: material.write_basicsr_lmdb(place), place)
    pngs = sum(path.stat().st_size for name in ("gt", "lq") for path in material.pngs(name))
    return {"workers": workers, "codec": material.codec, "store": statistics.median(rates["store"]),
            "basicsr": statistics.median(rates["basicsr"]), "basicsr_one_process": len(material.keys) / single,
            "speedup": ratio(rates["store"], rates["basicsr"]), "png_bytes": pngs, "basicsr_bytes": sizes["basicsr"],
            "store_bytes": sizes["store"], "size_ratio": sizes["store"] / pngs}  # fmt: skip


def folder_bytes(path: Path) -> int:
    """Bytes of the files in a folder and its sub-folders."""
    return sum(os.path.getsize(file) for file in path.rglob("*") if file.is_file())


def _timed(make: Callable, place: Path) -> tuple[float, int]:
    place.mkdir()
    begun = time.perf_counter()
    make()
    passed = time.perf_counter() - begun
    size = folder_bytes(place)
    lmdb_backend.close_all()
    shutil.rmtree(place)
    return passed, size
