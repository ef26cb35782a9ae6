"""The key of a record: the path of its source, without extension, in ASCII.

BasicSR cuts the lines of meta_info.txt at their first dot and encodes keys as ASCII, and a line ends where a name holds
a newline. So everything but letters, digits, `_`, `-`, `~` and `/` is percent-escaped as in URLs, the dot as well.
Escaping is reversible: `Crème/v1.2.png` is `Cr%C3%A8me/v1%2E2`. File names that are no UTF-8 keep their bytes.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from alignvar_arch.errors import UserError

LONGEST = 511  # bytes that LMDB allows a key

_SUB_IMAGE = re.compile(r"_s\d{3,}$")


def from_path(path: str) -> str:
    """Makes the key of a source.

    Args:
        path: the file, relative to its root, with `/`.
    """
    return from_name(str(PurePosixPath(path).with_suffix("")))


def from_name(name: str) -> str:
    """Escapes a name, of which every character is kept; `to_name` gives it back."""
    return quote(name, safe="/", errors="surrogateescape").replace(".", "%2E")


def to_name(key: str) -> str:
    """Gives back the name that a key was made from."""
    return unquote(key, errors="surrogateescape")


def sub_image(key: str, number: int) -> str:
    """The key of a source's sub-image, counted from 1 as BasicSR's extract_subimages does."""
    return f"{key}_s{number:03d}"


def of_source(key: str) -> str:
    """The key without a sub-image's ending."""
    return _SUB_IMAGE.sub("", key)


def check(key: str) -> None:
    """Raises UserError where LMDB would refuse the key for its length."""
    if not 0 < len(key.encode()) <= LONGEST:
        raise UserError(f"the key {key[:60]}… has {len(key)} bytes of at most {LONGEST}; shorten the file's name.")
