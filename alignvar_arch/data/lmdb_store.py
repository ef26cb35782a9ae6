"""A pair of LMDBs in BasicSR's format, `{base}_lq.lmdb` and `{base}_gt.lmdb`, written whole or not at all.

Each is filled under a temporary name in the same folder and renamed when complete, so that a killed process leaves
nothing under the final name and two processes writing at once end with one good copy. Beside the records lies
`photos.json`, which says what they were made from; it is how a later run knows its own data from somebody else's.
It also holds their digest: LMDB itself checks nothing, and a damaged page can end the process.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import cv2
import lmdb

from alignvar_arch.errors import UserError
from alignvar_arch.hashing import remembered_sha256

MANIFEST = "photos.json"
PNG_LEVEL = 1  # BasicSR's own: decoding costs the same at every level, writing does not
FIRST_MAP_SIZE = 1 << 24
BYTE_NAMES = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names need not be UTF-8


def lmdb_paths(base):
    """Returns the paths of the LR and the GT database of a base name, in BasicSR's order (lq, gt)."""
    base = os.path.normpath(os.path.expanduser(base))
    return Path(f"{base}_lq.lmdb"), Path(f"{base}_gt.lmdb")


class LmdbWriter:
    """Fills one LMDB under a temporary name; leaving the `with` block without an error gives it its final name.

    Args:
        path: final folder, ending in `.lmdb`.
        manifest: JSON-able dict saying what the records are made from.

    Raises:
        UserError: the disk is full or does not let us write; or another process has written something else there.
    """

    def __init__(self, path, manifest):
        self.path = Path(path)
        self.manifest = manifest
        self.lines = []
        self.part = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex}.part"

    def __enter__(self):
        folder = self.path.parent
        self.made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        try:
            with self._writing():
                folder.mkdir(parents=True, exist_ok=True)
                self.part.mkdir()
                # nobody else knows this name, so neither LMDB's lock file nor a sync at every record is needed
                self.env = lmdb.open(str(self.part), map_size=FIRST_MAP_SIZE, lock=False, sync=False)
        except BaseException:
            self._clear()
            raise
        return self

    def put(self, key, image):
        """Stores an image as PNG.

        Args:
            key: ASCII name without a dot.
            image: uint8 array (H, W, 3), BGR.
        """
        png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()
        with self._writing():
            while not self._fits(key, png):
                self.env.set_mapsize(2 * self.env.info()["map_size"])
        height, width, channels = image.shape
        self.lines.append(f"{key}.png ({height},{width},{channels}) {PNG_LEVEL}\n")

    def __exit__(self, error, *_):
        try:
            with self._writing():
                if error is None:
                    self.env.sync(True)
                self.env.close()
                if error is None:
                    self._finish()
        finally:
            self._clear()

    def _fits(self, key, png):
        try:
            with self.env.begin(write=True) as txn:
                txn.put(key.encode("ascii"), png)
        except lmdb.MapFullError:
            return False
        return True

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, lmdb.Error) as error:
            raise UserError(f"{self.path} cannot be written ({error}): make room there or choose another "
                            f"dataroot.") from error

    def _clear(self):
        """Leaves nothing but what has got its final name."""
        shutil.rmtree(self.part, ignore_errors=True)
        for folder in self.made:
            with contextlib.suppress(OSError):  # not empty: it is in use, by us or by somebody else
                folder.rmdir()

    def _finish(self):
        (self.part / "meta_info.txt").write_text("".join(self.lines), encoding="ascii")
        text = json.dumps({**self.manifest, "sha256": _digest(self.part)}, indent=1, sort_keys=True, ensure_ascii=False)
        (self.part / MANIFEST).write_text(text + "\n", **BYTE_NAMES)
        try:
            os.rename(self.part, self.path)
        except OSError:
            if not self.path.exists():
                raise
            check_lmdb(self.path, self.manifest)  # another process was first: is what it wrote the same?


def check_lmdb(path, manifest):
    """Says whether the LMDB is there and was made from what `manifest` says.

    Args:
        path: folder of the LMDB.
        manifest: what it should have been made from.

    Returns:
        True if it is there and fits, False if nothing is there.

    Raises:
        UserError: something is there that is not ours, was made from something else, or is damaged.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return False
    mend = "move it away or choose another dataroot; it is never replaced"
    try:
        found = json.loads((path / MANIFEST).read_text(**BYTE_NAMES))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} exists but PhotoDataset did not make it (no readable {MANIFEST} in it): {mend}.")
    written = found.pop("sha256", None)
    if found != manifest:
        raise UserError(f"{path} was made with other settings ({_difference(found, manifest)}): {mend}.")
    try:
        digest = _digest(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): {mend}.") from error
    if digest != written:
        raise UserError(f"{path} is damaged (data.mdb or meta_info.txt is not as it was written): {mend}.")
    return True


def _digest(folder):
    """SHA-256 over the records and their list."""
    digests = remembered_sha256(folder / "data.mdb") + remembered_sha256(folder / "meta_info.txt")
    return hashlib.sha256(digests.encode()).hexdigest()


def _difference(found, wanted):
    """Names the first key of two manifests that differs, with both values where they are short."""
    keys = ["version", *sorted({*found, *wanted})]  # another version may well have other keys
    key = next(key for key in keys if found.get(key) != wanted.get(key))
    old, new = found.get(key), wanted.get(key)
    if key != "photos" or not isinstance(old, list):
        return f"{key} is {old} there, {new} in the options"
    old, new = ({photo["name"]: photo for photo in photos} for photos in (old, new))
    for word, names in (("more", set(old) - set(new)), ("fewer", set(new) - set(old))):
        if names:
            return f"it holds {len(names)} photographs {word}, for example {min(names)}"
    name = min(name for name in new if new[name] != old[name])
    return f"the photograph {name} has changed since"
