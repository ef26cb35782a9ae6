"""Folders of results that are whole or not there."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignvar_arch.errors import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def check_free(path: str) -> None:
    """Refuses a place that is taken.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    target = Path(path)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{path} exists; name another folder with -o, or move it away.")


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """Gives a temporary folder that becomes `path` if the block ends well, and vanishes if it does not.

    Raises:
        UserError: `path` is taken (see check_free), or cannot be written.
    """
    check_free(path)
    target = Path(path).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:64]}."))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with -o.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in _DISK:  # anything else is a fault of ours, which must not pass for the user's
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; nothing was kept.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
