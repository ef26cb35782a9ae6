"""Whether an LMDB's pages form a whole tree, found out without lmdb.

LMDB checks nothing: a flipped bit in a page's header, or in a length, makes it read outside its map, which ends the
process. So what is to be verified is walked here first, by file reads. Layout as of lmdb's mdb.c, 64 bit.
"""

import struct
from pathlib import Path

_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_HEADER = 16  # bytes: page number (8), pad (2), flags (2), and lower and upper (2 + 2) or the number of pages (4)
_BIG, _TABLE = 1, 2  # a node's flags: its data lies on overflow pages; it is a named table
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_NO_PAGE = (1 << 64) - 1


class _Damaged(Exception):
    """The tree is no tree; the text says where."""


def damage(path: Path) -> str | None:
    """Says what is wrong with the pages of a data.mdb, or None where every record can be reached.

    Args:
        path: the file, which compat.lmdb_backend.check has found long enough.
    """
    try:
        with path.open("rb") as file:
            _Tree(file).walk()
    except (_Damaged, struct.error) as error:
        return str(error)
    return None


class _Tree:
    def __init__(self, file):
        self.file = file
        self.size = struct.unpack("<I", self._bytes(40, 4))[0]
        if self.size not in (4096, 8192, 16384, 32768, 65536):
            raise _Damaged(f"its pages have {self.size} bytes")
        metas = []
        for number in (0, 1):
            page = self._bytes(number * self.size, 152)
            own, flags, magic, version = struct.unpack_from("<Q2xH4xII", page)
            if (own, flags & _META, magic, version) != (number, _META, _MAGIC, _VERSION):
                raise _Damaged(f"page {number}, one of the two it begins with, is damaged")
            metas.append(page)
        newest = max(metas, key=lambda page: struct.unpack_from("<Q", page, 144))
        self.depth = struct.unpack_from("<H", newest, 94)[0]
        self.entries, self.root, self.last = struct.unpack_from("<QQQ", newest, 120)

    def walk(self):
        """Visits every record; raises _Damaged."""
        found = 0 if self.root == _NO_PAGE else self._visit(self.root, self.depth)
        if found != self.entries:
            raise _Damaged(f"its tree holds {found} records and should hold {self.entries}")

    def _visit(self, number, depth):
        page = self._page(number, _BRANCH if depth > 1 else _LEAF, self.size)
        lower, upper = struct.unpack_from("<HH", page, 12)
        if not _HEADER < lower <= upper <= self.size or lower % 2:
            raise _Damaged(f"page {number} is damaged")
        found = 0
        for (start,) in struct.iter_unpack("<H", page[_HEADER:lower]):
            if not upper <= start <= self.size - 8:
                raise _Damaged(f"page {number} is damaged")
            low, high, flags, key = struct.unpack_from("<HHHH", page, start)
            if depth > 1:
                found += self._visit(low | high << 16 | flags << 32, depth - 1)
                end = start + 8 + key
            else:
                length, found = low | high << 16, found + 1
                end = start + 8 + key + (8 if flags & _BIG else length)
                if flags & _BIG and end <= self.size:
                    self._check_overflow(struct.unpack_from("<Q", page, end - 8)[0], length)
                elif flags not in (0, _TABLE):
                    raise _Damaged(f"page {number} is damaged")
            if end > self.size:
                raise _Damaged(f"page {number} is damaged")
        return found

    def _check_overflow(self, number, length):
        page = self._page(number, _OVERFLOW, _HEADER)
        count = struct.unpack_from("<I", page, 12)[0]
        if count * self.size < _HEADER + length or number + count - 1 > self.last:
            raise _Damaged(f"page {number} is damaged")

    def _page(self, number, kind, length):
        if not 2 <= number <= self.last:
            raise _Damaged(f"its tree names a page {number}, but has {self.last + 1}")
        page = self._bytes(number * self.size, length)
        own, flags = struct.unpack_from("<Q2xH", page)
        if own != number or flags != kind:
            raise _Damaged(f"page {number} is damaged")
        return page

    def _bytes(self, start, length):
        self.file.seek(start)
        return self.file.read(length)
