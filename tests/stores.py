"""What tests of stores share: small seeded images, a store of them, and ways to look into it and damage it."""

from pathlib import Path

import cv2
import numpy as np

from alignvar_arch.data.store import Store, index, maker, sources
from alignvar_arch.data.store.verify import verify


def picture(shape=(40, 60, 3), dtype=np.uint8, seed=0, flat=False) -> np.ndarray:
    """Noise, or a slope that every codec shrinks."""
    if flat:
        return np.add.outer(np.arange(shape[0]), np.zeros(shape[1:], int)).astype(dtype)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def fill(folder: Path, names, **arguments) -> dict[str, np.ndarray]:
    """Writes an image of its own under each name and returns them by name."""
    images = {name: picture(seed=number, **arguments) for number, name in enumerate(names)}
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, image)[1])
    return images


def make(folder: Path, output: Path, workers=2, **recipe) -> maker.Made:
    return maker.create(sources.find([str(folder)]), maker.Recipe(**recipe), output, workers=workers, bar=False)


def content(path: Path) -> dict:
    """Every key with its record, and the lists: what must be the same however a store came about."""
    store = Store(path)
    return {**{key: store.read(key) for key in store.keys},
            **{name: (path / name).read_bytes() for name in (index.RECORDS, index.META_INFO)}}  # fmt: skip


def problems(*paths) -> list[str]:
    return [text for subject in verify(*paths, workers=2, bar=False) for _, text in subject.problems]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 8]))


def position_of(path: Path, key: str) -> int:
    """Where the middle of a record lies in data.mdb."""
    record = Store(path).read(key)
    return (path / index.DATA).read_bytes().index(record) + len(record) // 2
