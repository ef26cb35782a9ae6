"""Finding the images that a store is made from."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alignvar_arch.data.store import keys
from alignvar_arch.errors import UserError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
KEYS = ("relative", "common")


class Source(NamedTuple):
    """An image: its key, its file, and the file of its LR where that is not to be made from it."""

    key: str
    path: Path
    lq_path: Path | None = None


def find(places: list[str], naming: str = "relative") -> list[Source]:
    """Lists the images of folders with their sub-folders, files, and globs of either, sorted by key.

    Hidden files and folders, LMDBs and what has no image's suffix are passed over in folders; every link is followed,
    each folder once.

    Args:
        places: folders, files or globs (`**` means any depth).
        naming: "relative" makes an image's key from its path in the folder that was named; "common" from its path in
            the deepest folder that all places lie in.

    Raises:
        UserError: a place is missing or holds no image, or two images would have one key.
    """
    if naming not in KEYS:
        raise UserError(f"--keys: is {naming!r}, but must be one of {', '.join(KEYS)}.")
    roots = [root for place in places for root in _expanded(place)]
    common = os.path.commonpath([os.path.abspath(_folder(root)) for root in roots])
    found: dict[str, Source] = {}
    for root in roots:
        start, count = common if naming == "common" else _folder(root), 0
        for path in _images(root) if root.is_dir() else [root]:
            source, count = Source(keys.from_path(os.path.relpath(path, start)), path), count + 1
            other = found.setdefault(source.key, source)
            if other.path != path and not _is_same(other.path, path):
                advice = ("name those that you want by a glob" if other.path.parent == path.parent else
                          "give --keys common to begin keys with the names of their folders")  # fmt: skip
                raise UserError(f"{other.path} and {path} would both have the key {source.key}; rename one, or "
                                f"{advice}.")  # fmt: skip
        if not count:
            raise UserError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return sorted(found.values(), key=lambda source: source.key)


def with_lq(sources: list[Source], places: list[str], naming: str = "relative") -> list[Source]:
    """Gives each source the LR of the same key.

    Raises:
        UserError: see find; or a GT or an LR has no partner.
    """
    lq = {source.key: source.path for source in find(places, naming)}
    alone = sorted({source.key for source in sources} ^ set(lq))
    if alone:
        raise UserError(f"--lq: {len(alone)} images have no partner of the same name, for example "
                        f"{keys.to_name(alone[0])}; mend that.")  # fmt: skip
    return [source._replace(lq_path=lq[source.key]) for source in sources]


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # a link that leads nowhere; reading it will tell
        return False


def _expanded(place: str) -> list[Path]:
    if not place:
        raise UserError("one of the sources is an empty name; name folders, images or a glob.")
    path = Path(os.path.expanduser(place))
    if path.exists():
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise UserError(f"there is no {place}; name folders, images or a glob.")
    return [Path(match) for match in found if Path(match).is_dir() or Path(match).suffix.lower() in SUFFIXES]


def _folder(root: Path) -> Path:
    return root if root.is_dir() else root.parent


def _images(folder: Path) -> Iterator[Path]:
    seen = set()
    for root, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".lmdb"))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(root, name)


def _stop(error: OSError):
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}).") from error
