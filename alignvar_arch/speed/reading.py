"""Reading in one process: bytes for the first and second time, whole images, crops."""

import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from basicsr.utils import FileClient, imfrombytes

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import Store
from alignvar_arch.speed.material import Material


class Reader(NamedTuple):
    """How GT is read, by its number in the selection.

    Attributes:
        files: what holds it on disk.
        read: number -> its bytes.
        whole: number -> image.
        crop: number, top, left, side -> window.
    """

    files: list[Path]
    read: Callable
    whole: Callable
    crop: Callable


def of_pngs(material: Material) -> Reader:
    """BasicSR's way of reading a folder."""
    client, paths = FileClient("disk"), material.pngs()
    return _whole_first(paths, lambda number: client.get(paths[number]))


def of_basicsr_lmdb(material: Material) -> Reader:
    """BasicSR's way of reading an LMDB."""
    root = material.of_basicsr_lmdb()["dataroot_gt"]
    client = FileClient("lmdb", db_paths=[root], client_keys=["gt"])
    names = [path.stem for path in material.pngs()]
    return _whole_first([Path(root, "data.mdb")], lambda number: client.get(names[number], "gt"))


def of_store(store: Store, keys: list[str]) -> Reader:
    """This project's way of reading a store."""
    return Reader([store.path / "data.mdb"], lambda number: store.read(keys[number]),
                  lambda number: store.image(keys[number]),
                  lambda number, top, left, side: store.crop(keys[number], top, left, side, side))  # fmt: skip


def _whole_first(files: list[Path], read: Callable) -> Reader:
    def whole(number):
        return imfrombytes(read(number))

    return Reader(files, read, whole, lambda number, top, left, side: np.ascontiguousarray(
        whole(number)[top : top + side, left : left + side]))  # fmt: skip


def drop(files: list[Path]) -> bool:
    """Asks the system to forget what it has in memory of files, and returns whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    lmdb_backend.close_all()  # what is mapped stays
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet stays
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def passes(reader: Reader, count: int) -> dict:
    """Reads the bytes of all images in random order twice, the first time after `drop`.

    Returns:
        `dropped`, and of `first` and `second` images_per_s and mb_per_s.
    """
    order = random.Random(0).sample(range(count), count)
    found: dict = {"dropped": drop(reader.files)}
    for name in ("first", "second"):
        begun = time.perf_counter()
        size = sum(len(reader.read(number)) for number in order)
        passed = time.perf_counter() - begun
        found[name] = {"images_per_s": count / passed, "mb_per_s": size / passed / 1e6}
    return found


def rates(readers: dict[str, Reader], shapes: list[tuple[int, ...]], side: int, seconds: float, rounds: int) -> dict:
    """Measures decoding whole images and windows of `side` in turn.

    Args:
        readers: by name.
        shapes: of the images.
        side: of the windows.
        seconds: a measurement.
        rounds: of measurements.

    Returns:
        By name `whole` and `crop`, medians of images/s.
    """
    found = {name: {"whole": [], "crop": []} for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            found[name]["whole"].append(_rate(lambda number, _, reader=reader: reader.whole(number), shapes, seconds))
            found[name]["crop"].append(_rate(
                lambda number, draw, reader=reader: reader.crop(number, *_corner(shapes[number], side, draw), side),
                shapes, seconds))  # fmt: skip
    return {name: {kind: statistics.median(values) for kind, values in kinds.items()} for name, kinds in found.items()}


def _corner(shape: tuple[int, ...], side: int, draw: random.Random) -> tuple[int, int]:
    return draw.randint(0, shape[0] - side), draw.randint(0, shape[1] - side)


def _rate(read: Callable, shapes: list, seconds: float) -> float:
    draw, count, begun = random.Random(0), 0, time.perf_counter()
    while not count or time.perf_counter() - begun < seconds:
        read(draw.randrange(len(shapes)), draw)
        count += 1
    return count / (time.perf_counter() - begun)
