"""Store: reading a store's records, or those of any LMDB that BasicSR made."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import codecs, index
from alignvar_arch.errors import UserError


class Store:
    """The records of one LMDB folder, by key.

    Nothing is open until the first record is read, and environments are shared in a process and opened anew in a child
    (compat/lmdb_backend.py): a Store may be pickled, forked with, and opened twice on one file.

    Args:
        path: the folder; `~` is expanded.

    Attributes:
        path: the folder, a Path.
        keys: every key that meta_info.txt lists, sorted; read when first asked for.
        index: what index.json says, see index.py; None for an LMDB that BasicSR made.

    Raises:
        UserError: it is no LMDB, its data file is cut short, or its lists are missing or damaged.
    """

    def __init__(self, path):
        self.path = Path(os.path.expanduser(path))
        lmdb_backend.check(str(self.path))
        with self._lists():
            self.index = index.read_index(self.path)
            next(self.meta_info(), None)

    @functools.cached_property
    def keys(self) -> list[str]:
        with self._lists():
            return sorted(key for key, _ in self.meta_info())

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} images)"

    def read(self, key: str) -> bytes:
        """Returns a record's bytes.

        Raises:
            UserError: there is no such key, or the LMDB is damaged.
        """
        record = lmdb_backend.read(str(self.path), key)
        if record is None:
            raise UserError(f"{self.path} has no key {key!r}; see `basicsr lmdb verify {self.path}`.")
        return record

    def image(self, key: str) -> np.ndarray:
        """Decodes a whole image: (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16.

        Raises:
            UserError: see read; or the record is damaged.
        """
        return self._within(key, codecs.decode)

    def crop(self, key: str, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Decodes a window of an image, without decoding the whole where the codec allows; see codecs.crop.

        Raises:
            UserError: see image; or the window does not lie inside the image.
        """
        return self._within(key, lambda record: codecs.crop(record, top, left, height, width))

    def shape(self, key: str) -> tuple[int, ...]:
        """Reads an image's (H, W) or (H, W, C) from its record's header.

        Raises:
            UserError: see image.
        """
        return self._within(key, codecs.shape)

    def records(self) -> Iterator[index.Record]:
        """Yields the index's records in the order in which they were written; nothing where there is no index.

        Raises:
            UserError: the list cannot be read, or a line is damaged; the text says which.
        """
        if self.index is None:
            return
        with self._lists(), (self.path / index.RECORDS).open(encoding="ascii", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield index.Record.from_line(line)
                except ValueError as error:
                    raise ValueError(f"line {number} of {index.RECORDS} is damaged") from error

    def meta_info(self) -> Iterator[tuple[str, str]]:
        """Yields each line of meta_info.txt, with its key before it.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no text.
        """
        with (self.path / index.META_INFO).open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield line.split(".")[0], line

    @contextlib.contextmanager
    def _lists(self):
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: its {os.path.basename(error.filename)} cannot be read ({error.strerror}); "
                            "make it again.") from error  # fmt: skip
        except ValueError as error:
            raise UserError(f"{self.path}: {error}; see `basicsr lmdb verify {self.path}`.") from error

    def _within(self, key, use):
        """Applies a function of codecs.py to the record as it lies in the map, without a copy of the whole."""
        try:
            with lmdb_backend.open_shared(str(self.path)).begin(buffers=True) as transaction:
                record = transaction.get(key.encode())
                if record is not None:
                    return use(record)
        except lmdb.Error as error:
            raise UserError(f"{self.path} is damaged ({error}); make it again.") from error
        except ValueError as error:
            raise UserError(f"{self.path}: the record of {key!r} cannot be used: {error}; see `basicsr lmdb verify "
                            f"{self.path}`.") from error  # fmt: skip
        raise UserError(f"{self.path} has no key {key!r}; see `basicsr lmdb verify {self.path}`.")
