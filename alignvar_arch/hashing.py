"""SHA-256 of files."""

import functools
import hashlib
from pathlib import Path


def sha256(path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def remembered_sha256(path: Path) -> str:
    """The same, computed again only when the file's size or time of change is another one."""
    status = path.stat()
    return _remembered(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.cache
def _remembered(path, _size, _mtime_ns):
    return sha256(path)
