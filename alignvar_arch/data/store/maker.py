"""Images -> a GT store and, where asked for, its LR store: in parallel, in order, resumable.

The content depends on the sources and the recipe only, not on the number of workers or on interruptions. Memory holds
names and, a few for each worker, images; both stores are committed together, LR first, at the ends of sources.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from alignvar_arch.data.store import codecs, index, keys, writer
from alignvar_arch.data.store.imaging import bicubic, read_image, starts
from alignvar_arch.data.store.parallel import ahead, pool
from alignvar_arch.data.store.sources import Source
from alignvar_arch.data.store.writer import StoreWriter
from alignvar_arch.errors import UserError
from alignvar_arch.version import __version__

_FAILURES = "failures.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How records are made from images; sizes in pixels of GT.

    Attributes:
        codec: one of codecs.CODECS.
        crop: side of the square sub-images; None keeps whole images.
        step: from one sub-image to the next; None means crop.
        thresh: the last one of a row or column is moved to the edge if more than this would be left over.
        centre: take only the square of side crop in the middle.
        scale: of GT against LR, which makes an LR store; None makes none. GT is then cut to a multiple of it.

    Raises:
        UserError: a value makes no sense.
    """

    codec: str = codecs.DEFAULT
    crop: int | None = None
    step: int | None = None
    thresh: int = 0
    centre: bool = False
    scale: int | None = None

    def __post_init__(self):
        codecs.check_codec(self.codec)
        for name, flag in (("crop", "--crop"), ("step", "--step"), ("scale", "--lq-scale")):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{flag}: is {value}, but must be at least 1.")
        if self.crop is None and (self.step or self.thresh or self.centre):
            raise UserError("--step, --thresh and --centre need --crop: whole images have none of them.")
        if self.thresh < 0:
            raise UserError(f"--thresh: is {self.thresh}, but must be at least 0.")
        for flag, value in (("--crop", self.crop), ("--step", self.step)):
            if self.scale and value and value % self.scale:
                raise UserError(f"{flag}: {value} is no multiple of --lq-scale {self.scale}, so that LR would not fit.")

    @property
    def whole(self) -> bool:
        """Whether an image makes one record, with the image's own key."""
        return self.crop is None or self.centre

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """The sub-images of an image as (top, left, height, width), row by row.

        Raises:
            ValueError: the image is smaller than one.
        """
        size = self.crop
        if size is None:
            return [(0, 0, height, width)]
        if min(height, width) < size:
            raise ValueError(f"it is {width}x{height}, smaller than --crop {size}")
        if self.centre:
            unit = self.scale or 1  # LR has a pixel where the square begins
            return [((height - size) // 2 // unit * unit, (width - size) // 2 // unit * unit, size, size)]
        step = self.step or size
        return [(top, left, size, size) for top in starts(height, size, step, self.thresh)
                for left in starts(width, size, step, self.thresh)]  # fmt: skip


class Made(NamedTuple):
    """What `create` has done.

    Attributes:
        paths: of the GT store and, if there is one, the LR store.
        records: in each of them.
        resumed: sources that an interrupted run had already done.
        failed: (file, reason) of sources that could not be used.
    """

    paths: list[Path]
    records: int
    resumed: int
    failed: list[tuple[str, str]]


def lq_path(path: Path, scale: int) -> Path:
    """The LR store beside a GT store: NAME.lmdb -> NAME_lq_xN.lmdb."""
    return path.with_name(f"{path.stem}_lq_x{scale}.lmdb")


def create(sources: list[Source], recipe: Recipe, output: Path, *, made_from: Iterable[str] = (), command: str = "",
           workers: int | None = None, bar: bool = True) -> Made:  # fmt: skip
    """Makes the stores; they get their names when both are whole.

    Args:
        sources: images, each key once.
        recipe: what to do with them.
        output: the GT store, ending in .lmdb; the LR store gets lq_path's name.
        made_from: what index.json says about the sources: folders, the preset.
        command: what index.json says about the command.
        workers: threads; None means one a core.
        bar: whether to show a bar on a terminal.

    Raises:
        UserError: a name is taken, another command's leftover is in the way, the disk is full, or no image at all can
            be used. What an interrupted run leaves behind is resumed by the same call.
    """
    for source in sources:
        keys.check(keys.sub_image(source.key, 10**6))
    paths = [output] if recipe.scale is None else [lq_path(output, recipe.scale), output]
    print_of_sources = _fingerprint(sources)
    plans = [{"format": index.FORMAT, "store": path.name, "sources": print_of_sources, **asdict(recipe)}
             for path in paths]  # fmt: skip
    if not writer.was_finished(paths, plans):
        for path in paths:
            writer.check_free(path)
        fields = {"version": __version__, "command": command, "made_from": list(made_from), **asdict(recipe),
                  "lossless": recipe.codec not in codecs.LOSSY, "images": len(sources)}  # fmt: skip
        made = _make(sources, recipe, paths, plans, fields, workers, bar)
    else:
        failed = index.read_index(output)["failed"]
        made = len(sources), index.read_index(output)["records"], [tuple(failure) for failure in failed]
    resumed, records, failed = made
    return Made(paths[::-1], records, resumed, failed)


def _make(sources, recipe, paths, plans, fields, workers, bar):
    with ExitStack() as stack:
        writers = []
        for path, plan in zip(paths, plans, strict=True):
            writers.append(StoreWriter(path, plan))
            stack.callback(writers[-1].close)
        first = _resume(sources, recipe, writers)
        failures = _Failures(writers[-1], first)
        stack.callback(failures.close)
        progress = stack.enter_context(tqdm(total=len(sources), initial=first, unit="image", desc=paths[-1].name,
                                            disable=None if bar else True))  # fmt: skip
        count = workers or os.cpu_count()
        executor = stack.enter_context(pool(count))
        images = ahead(executor, (partial(_read, source, recipe) for source in sources[first:]), count)
        tasks = _encodings(zip(sources[first:], images, strict=True), recipe, first, failures, progress)
        for last, contents in ahead(executor, tasks, count + 1):
            for store, (record, content) in zip(writers, contents, strict=True):
                store.put(record, content)
            if last:
                progress.update()
                if any(store.full for store in writers):
                    for store in writers:
                        store.commit()
        failures.close()
        _publish(writers, recipe, failures.found, fields)
        return first, writers[-1].count, failures.found


def _encodings(read, recipe, first, failures, progress) -> Iterator[partial]:
    for number, (source, images) in enumerate(read, first):
        if isinstance(images, str):
            failures.add(number, source, images)
            progress.update()
            continue
        boxes = recipe.boxes(*images[-1].shape[:2])
        for count, box in enumerate(boxes, 1):
            key = source.key if recipe.whole else keys.sub_image(source.key, count)
            yield partial(_encode, source, key, images, box, recipe, count == len(boxes))


def _read(source: Source, recipe: Recipe) -> list[np.ndarray] | str:
    """GT, with LR before it where the recipe has one; or the reason why it cannot be used."""
    try:
        gt, scale = read_image(source.path), recipe.scale
        images = [gt] if scale is None else _pair(gt, source, scale)
        recipe.boxes(*images[-1].shape[:2])
    except ValueError as error:
        return str(error)
    return images


def _pair(gt, source, scale):
    height, width = gt.shape[:2]
    if source.lq_path is None:
        if min(height, width) < scale:
            raise ValueError(f"it is {width}x{height}, too small for an LR at --lq-scale {scale}")
        gt = gt[: height - height % scale, : width - width % scale]
        return [bicubic(gt, scale), gt]
    try:
        lq = read_image(source.lq_path)
    except ValueError as error:
        raise ValueError(f"its LR {source.lq_path}: {error}") from error
    rows, columns = lq.shape[0] * scale, lq.shape[1] * scale
    if not (0 <= height - rows < scale and 0 <= width - columns < scale):
        raise ValueError(f"it is {width}x{height}, but its LR asks for {columns}x{rows} at --lq-scale {scale}")
    return [lq, gt[:rows, :columns]]


def _encode(source, key, images, box, recipe, last):
    """Cuts one sub-image out of GT and of LR and makes their records; `last` tells the end of a source."""
    contents = []
    for image, path, unit in zip(images, [source.lq_path or source.path, source.path][-len(images):],
                                 [recipe.scale, 1][-len(images):], strict=True):  # fmt: skip
        top, left, height, width = part = tuple(value // unit for value in box)
        cut = image[top : top + height, left : left + width]
        content = codecs.encode(cut, recipe.codec)
        contents.append((index.Record(key, cut.shape, str(cut.dtype), len(content), index.digest(content), str(path),
                                      None if recipe.crop is None else part), content))  # fmt: skip
    return last, contents


def _resume(sources, recipe, writers) -> int:
    """Brings interrupted stores to the last commit that both have, and returns the number of the next source."""
    count = min(store.count for store in writers)
    last = [store.rollback(count) for store in writers][-1]
    if last is None:
        return 0
    # by key, for folders may overlap, so that one file has several
    key = last.key if recipe.whole else keys.of_source(last.key)
    return next(number for number, source in enumerate(sources, 1) if source.key == key)


def _publish(writers, recipe, failed, fields):
    output = writers[-1].path
    if not writers[-1].count:
        for store in writers:
            store.close()
            writer.discard(store.path)
        file, reason = failed[0]
        raise UserError(f"none of the {len(failed)} images can be used; the first, {file}: {reason}.")
    lq = writers[0].path.name if recipe.scale else None
    for store in writers:
        role = "gt" if store.path == output else "lq"
        store.finish({**fields, "role": role, "gt": output.name, "lq": lq, "failed": failed})
    (writers[-1].part / _FAILURES).unlink()  # index.json has them now
    for store in writers:
        store.publish()


def _fingerprint(sources) -> str:
    """Tells whether sources are the same, by their names, sizes and times of change."""
    found = hashlib.sha256()
    for source in sources:
        for path in filter(None, source[1:]):
            try:
                status = path.stat()
                state = [status.st_size, status.st_mtime_ns]
            except OSError:
                state = []  # reading it will tell
            found.update(json.dumps([source.key, str(path), *state]).encode("ascii"))
    return found.hexdigest()


class _Failures:
    """Sources that could not be used, on disk beside the GT store so that a resumed run still knows them."""

    def __init__(self, store: StoreWriter, first: int):
        self._store, path = store, store.part / _FAILURES
        lines = path.read_text(encoding="ascii").splitlines() if store.resumed and path.exists() else []
        kept = [line for line in lines if line.endswith("]") and json.loads(line)[0] < first]
        with store.writing():
            self._file = path.open("w", encoding="ascii")
            self._file.writelines(f"{line}\n" for line in kept)
            self._file.flush()
        self.found = [tuple(json.loads(line)[1:]) for line in kept]

    def add(self, number: int, source: Source, reason: str) -> None:
        self.found.append((str(source.path), reason))
        with self._store.writing():
            self._file.write(json.dumps([number, str(source.path), reason]) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()
