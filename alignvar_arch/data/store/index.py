"""What lies beside the records of a store `NAME.lmdb/`:

    data.mdb        the records, by key
    meta_info.txt   `KEY.png (h,w,c) 1`, a line a record: what BasicSR's data sets read
    records.jsonl   a line of JSON a record: key, shape, dtype, bytes, sha256, source and, of a sub-image, its box
    index.json      what it is as a whole: format, codec, sources, command, counts, digests of the two lists

The records' index is lines of JSON in the order of meta_info.txt: it is written, resumed and checked line by line, in
memory that does not grow with the number of images, and any other tool reads it. (One JSON for all of LSDIR's
sub-images would be a gigabyte; a table inside the LMDB would be read by nothing but us, and damaged together with it.)

SHA-256, because it is what comes with Python and is the fastest there of what has 64 bits or more: 1.7 GB/s against 0.8
of BLAKE2b and 0.7 of MD5, which is 0.2 ms for a raw sub-image of 320x320.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from alignvar_arch.hashing import sha256

FORMAT = 1  # raise it when a store written before would be read wrongly
META_INFO, RECORDS, INDEX, DATA = "meta_info.txt", "records.jsonl", "index.json", "data.mdb"
_LEVEL = 1  # meta_info.txt's last column, PNG's level in BasicSR; nothing reads it


class Record(NamedTuple):
    """A line of records.jsonl.

    Attributes:
        key: the key.
        shape: (H, W) or (H, W, C) of the image.
        dtype: uint8 or uint16.
        bytes: length of the record.
        sha256: of the record, in hexadecimal.
        source: the file that it was made from.
        box: (top, left, height, width) of a sub-image in its source, in pixels; None for the whole.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str
    source: str
    box: tuple[int, ...] | None = None

    def to_line(self) -> str:
        """The record as a line of JSON; file names that are no UTF-8 survive it."""
        fields = {name: value for name, value in self._asdict().items() if value is not None}
        return json.dumps(fields, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """Reads a line again.

        Raises:
            ValueError: the line is no record.
        """
        try:
            fields = json.loads(line)
            found = cls(**{**fields, "shape": tuple(fields["shape"]), "box": tuple(fields["box"])
                           if "box" in fields else None})  # fmt: skip
        except (TypeError, KeyError) as error:
            raise ValueError(f"no record: {line[:80]!r}") from error
        return found

    def meta_line(self) -> str:
        """The record as a line of BasicSR's meta_info.txt."""
        return meta_line(self.key, self.shape)


def meta_line(key: str, shape: tuple[int, ...]) -> str:
    """A line of meta_info.txt, grey images with one channel as BasicSR's maker writes them."""
    height, width, channels = (*shape, 1)[:3]
    return f"{key}.png ({height},{width},{channels}) {_LEVEL}\n"


def digest(content) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_index(folder: Path, fields: dict) -> None:
    """Writes index.json, with the digests of the two lists and of its own fields, through a temporary name.

    Args:
        folder: the store, whose records.jsonl and meta_info.txt are whole.
        fields: JSON-able; what it says beside format and digests.
    """
    fields = {"format": FORMAT, **fields, "sha256_of": {name: sha256(folder / name)
                                                        for name in (RECORDS, META_INFO)}}  # fmt: skip
    fields["sha256"] = _own_digest(fields)
    temporary = folder / f"{INDEX}.part"
    with temporary.open("w", encoding="ascii") as file:
        file.write(json.dumps(fields, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / INDEX)


def read_index(folder: Path) -> dict | None:
    """Reads index.json.

    Returns:
        Its fields; None where there is none, as in an LMDB that BasicSR made.

    Raises:
        ValueError: it is damaged, or a newer version's; the text says which.
    """
    try:
        text = (folder / INDEX).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ValueError(f"{INDEX} is damaged") from error
    try:
        fields = json.loads(text)
        written = fields.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{INDEX} is damaged") from error
    if written != _own_digest(fields):
        raise ValueError(f"{INDEX} is not as it was written")
    if fields["format"] != FORMAT:
        raise ValueError(f"{INDEX} has format {fields['format']}, this version reads {FORMAT}")
    return fields


def _own_digest(fields: dict) -> str:
    return digest(json.dumps(fields, sort_keys=True).encode("ascii"))
