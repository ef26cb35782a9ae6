"""The selection of records that is measured, and the forms that it takes in a temporary folder."""

import contextlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from alignvar_arch.data import LMDBPairDataset
from alignvar_arch.data.store import Store, codecs, maker, sources
from alignvar_arch.data.store.parallel import ahead, pool
from alignvar_arch.errors import UserError

PNG_LEVEL = 3  # of BasicSR's extract_subimages
GT_SIZE, SUB_IMAGE, SCALE = 192, 320, 4  # where the user says nothing else
_PIXELS = 10**8  # of GT at most: large photographs would fill the temporary folder


@dataclass(frozen=True)
class Material:
    """A selection of pairs.

    Attributes:
        folder: the temporary folder; `gt` and `lq` in it are folders of PNGs, NUMBER.png in the order of the keys.
        gt: GT's store.
        lq: LR's store.
        keys: the selection, sorted.
        scale: of GT against LR.
        gt_size: side of training's crops.
    """

    folder: Path
    gt: Store
    lq: Store
    keys: list[str]
    scale: int
    gt_size: int

    @property
    def codec(self) -> str:
        """What the store says that it was made with; the default for an LMDB of BasicSR's."""
        codec = (self.gt.index or {}).get("codec")
        return codec if codec in codecs.CODECS else codecs.DEFAULT

    def of_store(self) -> dict:
        """Options of LMDBPairDataset on the selection in the store itself."""
        return self._options("LMDBPairDataset", self.gt.path, self.lq.path, meta_info_file=str(self._list))

    def of_codec(self, codec: str) -> dict:
        """Options of LMDBPairDataset on what `write_store` has written."""
        path = self._store(codec)
        return self._options("LMDBPairDataset", path, maker.lq_path(path, self.scale))

    def of_pngs(self) -> dict:
        """Options of BasicSR's PairedImageDataset on the PNG folders."""
        return self._options("PairedImageDataset", self.folder / "gt", self.folder / "lq", io_backend={"type": "disk"})

    def of_basicsr_lmdb(self) -> dict:
        """Options of BasicSR's PairedImageDataset on what `write_basicsr_lmdb` has written."""
        return self._options("PairedImageDataset", self.folder / "basicsr_gt.lmdb", self.folder / "basicsr_lq.lmdb",
                             io_backend={"type": "lmdb"})  # fmt: skip

    def pngs(self, name: str = "gt") -> list[Path]:
        """The PNG files of GT or LR, in the order of the keys."""
        return [self.folder / name / f"{number:06d}.png" for number in range(len(self.keys))]

    def write_pngs(self) -> None:
        """Writes the PNG folders from the records."""
        for name, store in (("gt", self.gt), ("lq", self.lq)):
            (self.folder / name).mkdir()
            jobs = (partial(_write_png, store, key, path)
                    for key, path in zip(self.keys, self.pngs(name), strict=True))  # fmt: skip
            with pool(2) as executor:
                for _ in ahead(executor, jobs, 4):
                    pass

    def write_basicsr_lmdb(self, folder: Path | None = None, processes: int = 0) -> None:
        """Makes LMDBs of the PNG folders by BasicSR's own maker.

        Args:
            folder: where to; None means the temporary folder.
            processes: that read and encode; 0 means BasicSR's way of one process that holds nothing in memory.
        """
        size = 4 * sum(path.stat().st_size for name in ("gt", "lq") for path in self.pngs(name)) + 2**26
        for name in ("gt", "lq"):
            files = [path.name for path in self.pngs(name)]
            made = (folder or self.folder) / f"basicsr_{name}.lmdb"
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                make_lmdb_from_imgs(str(self.folder / name), str(made), files, [Path(file).stem for file in files],
                                    multiprocessing_read=processes > 0, n_thread=processes, map_size=size)

    def write_store(self, codec: str, folder: Path | None = None, workers: int | None = None) -> list[Path]:
        """Makes stores of the PNG folders by this project's maker; returns GT's and LR's."""
        found = sources.with_lq(sources.find([str(self.folder / "gt")]), [str(self.folder / "lq")])
        recipe = maker.Recipe(codec=codec, scale=self.scale)
        return maker.create(found, recipe, self._store(codec, folder), workers=workers, bar=False).paths

    def part(self, count: int, folder: Path) -> "Material":
        """A smaller selection, in a folder of its own."""
        return _with_list(Material(folder, self.gt, self.lq, spread(self.keys, count), self.scale, self.gt_size))

    @property
    def _list(self) -> Path:
        return self.folder / "selection.txt"

    def _store(self, codec: str, folder: Path | None = None) -> Path:
        return (folder or self.folder) / f"{codec}.lmdb"

    def _options(self, kind: str, gt: Path, lq: Path, **others) -> dict:
        return {"name": "bench", "type": kind, "phase": "train", "scale": self.scale, "gt_size": self.gt_size,
                "use_hflip": True, "use_rot": True, "dataroot_gt": str(gt), "dataroot_lq": str(lq), **others}


def select(path: Path, pair: Path | None, folder: Path, limit: int, gt_size: int | None) -> Material:
    """Chooses pairs evenly from a store, or from one that is first made of a folder of photographs.

    Args:
        path: GT's store, or a folder of images: then sub-images of 320x320 and their LR at scale 4 are made of it.
        pair: LR's store; None means the one that GT's index names.
        folder: temporary.
        limit: pairs at most.
        gt_size: of the crops; None means 192, or what fits into the smallest image.

    Raises:
        UserError: there is no store, no pair, or an image is smaller than gt_size.
    """
    if path.is_dir() and not (path / "data.mdb").exists():
        recipe = maker.Recipe(crop=SUB_IMAGE, scale=SCALE)
        path = maker.create(sources.find([str(path)]), recipe, folder / "photographs.lmdb").paths[0]
    gt = Store(path)
    named = (gt.index or {}).get("lq")
    if pair is None and (named is None or (gt.index or {}).get("role") == "lq"):
        raise UserError(f"{path} names no LR store of its own; name it with --pair.")
    lq = Store(pair or path.parent / named)
    keys = spread(gt.keys, limit)
    if not keys:
        raise UserError(f"{path} has no records.")
    shape, small = gt.shape(keys[0]), lq.shape(keys[0])
    scale = shape[0] // small[0]
    if scale < 1:
        raise UserError(f"{lq.path} has larger images than {gt.path}; name GT first and LR by --pair.")
    keys = spread(keys, max(_PIXELS // (shape[0] * shape[1]), 1))
    side = min(min(gt.shape(key)[:2]) for key in keys)
    material = Material(folder, gt, lq, keys, scale, gt_size or min(GT_SIZE, side) // scale * scale)
    LMDBPairDataset.check_options(_with_list(material).of_store())
    return material


def spread(keys: list[str], count: int) -> list[str]:
    """At most `count` keys, evenly spaced."""
    count = min(count, len(keys))
    return [keys[number * len(keys) // count] for number in range(count)]


def _with_list(material: Material) -> Material:
    material._list.write_text("".join(f"{key}.png\n" for key in material.keys), encoding="utf-8")
    return material


def _write_png(store: Store, key: str, path: Path) -> None:
    content: np.ndarray = cv2.imencode(".png", store.image(key), [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1]
    path.write_bytes(content.tobytes())
