"""What is in a store, and its records as files again."""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from alignvar_arch.data.store import index, keys
from alignvar_arch.data.store.parallel import ahead, pool
from alignvar_arch.data.store.reader import Store
from alignvar_arch.errors import UserError

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class Stats(NamedTuple):
    """Figures over all pixels of a store.

    Attributes:
        images: how many were counted.
        mean: of R, G and B, each in [0, 1].
        std: of R, G and B.
        sizes: how many images have a (width, height).
    """

    images: int
    mean: list[float]
    std: list[float]
    sizes: Counter


def info(store: Store) -> dict:
    """Counts, sizes and origin, from the lists alone: no record is decoded.

    Returns:
        Fields in the order in which they are shown; what nobody knows is None.
    """
    fields = store.index or {}
    count, pixels, sizes = 0, 0, Counter()
    for key, line in store.meta_info():
        try:
            height, width = map(int, line[len(key):].split("(")[1].split(",")[:2])
        except (IndexError, ValueError) as error:
            raise UserError(f"{store.path}: its {index.META_INFO} is damaged; see `basicsr lmdb verify {store.path}`."
                            ) from error  # fmt: skip
        count, pixels = count + 1, pixels + height * width
        sizes[width, height] += 1
    return {
        "images": count,
        "pixels": pixels,
        "sizes": [[*size, number] for size, number in sizes.most_common(5)],
        "distinct sizes": len(sizes),
        "bytes on disk": os.stat(store.path / index.DATA).st_blocks * 512,
        "codec": fields.get("codec"),
        "lossless": fields.get("lossless"),
        "role": fields.get("role"),
        "pair": fields.get("lq" if fields.get("role") == "gt" else "gt"),
        "scale": fields.get("scale"),
        "made from": fields.get("made_from"),
        "command": fields.get("command"),
        "sources failed": len(fields["failed"]) if "failed" in fields else None,
        "version": fields.get("version"),
    }


def stats(store: Store, workers: int | None = None, bar: bool = True) -> Stats:
    """Mean and standard deviation of each channel over all pixels, and the sizes; decodes everything once.

    Grey images count as three equal channels, alpha is left out.

    Raises:
        UserError: a record is damaged, or there is none.
    """
    count, pixels, sizes = 0, 0, Counter()
    first, second = np.zeros(3), np.zeros(3)  # sums of x and of x²
    for figures in _each(store, partial(_figures, store), workers, bar):
        size, mean, std = figures
        number = size[0] * size[1]
        first += number * mean
        second += number * (std**2 + mean**2)
        count, pixels = count + 1, pixels + number
        sizes[size] += 1
    if not count:
        raise UserError(f"{store.path} holds no images, so there is nothing to count.")
    mean = first / pixels
    std = np.sqrt(np.maximum(second / pixels - mean**2, 0))
    return Stats(count, mean.tolist(), std.tolist(), sizes)


def extract(store: Store, folder: Path, suffix: str = ".png", workers: int | None = None,
            bar: bool = True) -> tuple[int, list[tuple[str, str]]]:  # fmt: skip
    """Writes every record as an image file, under the name that its key was made from.

    Args:
        store: the store.
        folder: a new or empty folder, which gets the files when all are written.
        suffix: of the files, which tells the format; all but .jpg are lossless.
        workers: threads; None means one a core.
        bar: whether to show a bar on a terminal.

    Returns:
        How many were written, and (key, reason) of those that could not be.

    Raises:
        UserError: the folder holds something, or the disk is full.
    """
    part = folder.resolve().with_name(f".{folder.resolve().name}.{os.getpid()}.part")
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"-o: {folder} is not empty; choose a new folder.")
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"-o: {folder} cannot be written ({error.strerror}); choose another folder.") from error
    written, failed = 0, []
    try:
        # Closed before the folder goes, wherever an interruption hits: its threads make the folder anew.
        with contextlib.closing(_each(store, partial(_extract, store, part, suffix), workers, bar)) as results:
            for key, reason in results:
                if reason:
                    failed.append((key, reason))
                else:
                    written += 1
        _take_over(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return written, failed


def _take_over(part, folder):
    """Gives a folder its name, or its content to one that is there, which may be somebody's current one."""
    if not folder.is_dir():
        os.rename(part, folder)
        return
    for path in part.iterdir():
        os.rename(path, folder / path.name)
    part.rmdir()


def _each(store, task, workers, bar) -> Iterator:
    """What a task returns for every key, in their order."""
    count = workers or os.cpu_count()
    if len(store):
        store.read(store.keys[0])  # opens it here, for threads must not do so at once
    with pool(count) as executor, tqdm(total=len(store), unit="image", desc=store.path.name,
                                       disable=None if bar else True) as progress:  # fmt: skip
        for result in ahead(executor, (partial(task, key) for key in store.keys), 2 * count):
            progress.update()
            yield result


def _figures(store, key):
    image = store.image(key)
    mean, std = (value[:, 0] for value in cv2.meanStdDev(image))
    most = np.iinfo(image.dtype).max
    colour = [0, 0, 0] if image.ndim == 2 else [2, 1, 0]  # BGR -> RGB
    return (image.shape[1], image.shape[0]), mean[colour] / most, std[colour] / most


def _extract(store, folder, suffix, key):
    name = PurePosixPath(keys.to_name(key) + suffix)
    if name.is_absolute() or ".." in name.parts or "\0" in str(name):
        return key, "its name would leave the folder"
    try:
        image = store.image(key)
    except UserError as error:
        return key, str(error)
    if suffix == ".webp" and (image.ndim == 2 or image.dtype != np.uint8 or image.shape[2] == 4):
        return key, "WebP keeps 8-bit colour without alpha only; choose another --format"
    parameters = {".png": _PNG, ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}
    try:
        content = cv2.imencode(suffix, image, parameters.get(suffix, []))[1]
    except cv2.error:
        return key, f"{suffix} cannot hold it; choose another --format"
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return key, "another key has written its file"
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); make room or choose another folder.") from error
    return key, None


