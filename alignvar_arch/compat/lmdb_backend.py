"""LMDB reading that works with lmdb >= 2, under fork, and that says what is wrong with a damaged database.

lmdb >= 2 refuses to open one path twice in a process, also in a forked child of a process that has it open. BasicSR
opens once a dataset and once a worker (`utils/file_client.py:94`), so a validation set on the training file, or workers
started after a read in the parent, end in `lmdb.Error: … is already open in this process`. Here environments are shared
inside a process and opened anew in a child.
"""

import os
import struct

import lmdb
from basicsr.utils.file_client import FileClient, LmdbBackend

from alignvar_arch.errors import UserError

# real path -> (process id, identity of data.mdb, environment)
_environments: dict[str, tuple[int, tuple[int, ...], lmdb.Environment]] = {}
# The same by the paths as given: finding the real path takes longer than reading a crop.
_given: dict[str, tuple[int, tuple[int, ...], lmdb.Environment]] = {}


def install() -> None:
    """Goes when BasicSR shares environments, encodes keys as UTF-8 and checks what it opens."""
    FileClient._backends["lmdb"] = SharedLmdbBackend


def open_shared(path: str) -> lmdb.Environment:
    """Returns this process's read-only environment of the LMDB folder `path`, opened on first use.

    Raises:
        UserError: if the folder holds no LMDB, or a truncated one.
    """
    try:
        status = os.stat(os.path.join(path, "data.mdb"))
    except FileNotFoundError:
        status = None
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else None
    given = _given.get(path)
    if given is not None and given[:2] == (os.getpid(), identity):
        return given[2]
    real = os.path.realpath(path)
    known = _environments.get(real)
    if known is not None:
        if known[:2] == (os.getpid(), identity):
            _given[path] = known
            return known[2]
        # Inherited through fork, or the file was written anew: lmdb opens a path again only once it is closed here.
        known[2].close()
        del _environments[real]
    check(path)
    try:
        # With readahead, for a record spans many pages: without, each is a read of its own, and the first pass over a
        # store of 320x320 sub-images takes eleven times as long. What is in memory is read as fast either way.
        environment = lmdb.open(real, readonly=True, lock=False)
    except lmdb.Error as error:
        raise UserError(f"{path} cannot be opened as an LMDB ({error}); make it again.") from error
    _environments[real] = _given[path] = (os.getpid(), identity, environment)
    return environment


def read(path: str, key: str) -> bytes | None:
    """Returns what the LMDB folder `path` holds under `key`, or None.

    Raises:
        UserError: if the database is damaged.
    """
    try:
        with open_shared(path).begin(write=False) as transaction:
            return transaction.get(key.encode("utf-8"))
    except lmdb.Error as error:
        raise UserError(f"{path} is damaged ({error}); make it again.") from error


def close_all() -> None:
    """Closes this process's environments, so that other code may open or replace the files; reading opens them anew."""
    _given.clear()
    while _environments:
        _environments.popitem()[1][2].close()


def check(path: str) -> None:
    """Raises UserError unless `path` is an LMDB folder whose data file is whole.

    Reading a truncated map ends in SIGBUS, so the size is compared with the last page that the newer of the two meta
    pages names, without mapping anything.
    """
    data = os.path.join(path, "data.mdb")
    if not os.path.isfile(data):
        raise UserError(f"{path} is not an LMDB folder: it has no data.mdb; check dataroot and io_backend.")
    with open(data, "rb") as file:
        head = file.read(2 * 65536)
    size = os.path.getsize(data)
    needed = _needed_bytes(head)
    if needed is None:
        raise UserError(f"{data} is empty or is no LMDB file; make it again.")
    if size < needed:
        raise UserError(f"{data} is truncated: it has {size} bytes and needs {needed}; make or copy it again.")


def _needed_bytes(head: bytes) -> int | None:
    """Returns the size in bytes that the newer meta page asks for, or None where `head` starts no LMDB file.

    Layout (lmdb's mdb.c, 64 bit): 16 bytes of page header, then magic, version, address, map size, two 48-byte tree
    records of which the first starts with the page size, last page number, transaction number.
    """
    if len(head) < 152 or struct.unpack_from("<I", head, 16)[0] != 0xBEEFC0DE:
        return None
    page = struct.unpack_from("<I", head, 40)[0]
    metas = [struct.unpack_from("<QQ", head, start + 136) for start in (0, page) if len(head) >= start + 152]
    if page == 0 or len(metas) < 2:
        return None
    last_page, _ = max(metas, key=lambda meta: meta[1])
    return (last_page + 1) * page


class SharedLmdbBackend(LmdbBackend):
    """BasicSR's LMDB backend on shared environments; keys are UTF-8, and a missing key is named."""

    def __init__(self, db_paths, client_keys="default", **_open_arguments):
        paths = db_paths if isinstance(db_paths, list) else [db_paths]
        names = [client_keys] if isinstance(client_keys, str) else client_keys
        if len(names) != len(paths):
            raise ValueError(f"client_keys and db_paths differ in length: {len(names)} and {len(paths)}")
        self.db_paths = [str(path) for path in paths]
        self.paths = dict(zip(names, self.db_paths, strict=True))

    def get(self, filepath, client_key):
        """Returns the bytes stored under the key `filepath`; raises UserError naming file and key if it is absent."""
        path = self.paths[client_key]
        value = read(path, str(filepath))
        if value is None:
            raise UserError(f"{path} has no key {str(filepath)!r}, though its meta_info.txt lists it; make it again.")
        return value
