"""Results that are whole or not there: folders and files."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from alignvar_arch.errors import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def check_free(path: str) -> None:
    """Refuses a place that is taken, or that a new folder cannot take.

    Raises:
        UserError: `path` is not an empty folder but exists, is the current folder, a mount point or no possible name.
    """
    if not path:
        raise UserError("-o: names no folder.")
    target = Path(path)
    try:
        target.lstat()
        free = target.is_dir() and not any(target.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with -o.") from error
    if not free:
        raise UserError(f"{path} exists; name another folder with -o, or move it away.")
    if os.path.ismount(target) or target.samefile(os.curdir):  # neither can be replaced
        kind = "a mount point" if os.path.ismount(target) else "the current folder"
        raise UserError(f"{path} is {kind}; name a new folder in it with -o.")


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """Gives a temporary folder that becomes `path` if the block ends well, and vanishes if it does not.

    Raises:
        UserError: `path` is taken (see check_free), or cannot be written.
    """
    check_free(path)
    target = Path(path).resolve()  # of a link to an empty folder, that folder
    start = target.name.encode(errors="ignore")[:64].decode(errors="ignore")
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{start}."))
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with -o.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except OSError as error:
        # Anything else is a fault of ours, which must not pass for the user's.
        if error.errno not in _DISK and error.filename != str(temporary):
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; nothing was kept.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)


def check_file(path: Path) -> None:
    """Refuses a place where no file can be written, as far as that can be told without writing.

    Raises:
        UserError: `path` is a folder or no possible name, or the nearest folder that exists cannot be written.
    """
    try:
        code = errno.EISDIR if stat.S_ISDIR(path.lstat().st_mode) else None
    except FileNotFoundError:
        code = None
    except OSError as error:  # too long a name, or a file in place of a folder
        code = error.errno
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if code is None and not folder.is_dir():
        code = errno.ENOTDIR
    if code is None and not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    if code is not None:
        raise UserError(f"cannot write {path}: {os.strerror(code)}.")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Gives an empty file, open beside `path`, that becomes `path` if the block ends well and vanishes if it does not.

    Folders on the way are made. What is there already stays until it is replaced as a whole.

    Raises:
        UserError: it cannot be written; before the block, if the folder is not writable.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        start = path.name.encode(errors="ignore")[:64].decode(errors="ignore")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{start}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if error.errno not in (*_DISK, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise
        raise UserError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, the inmost first, as long as there is nothing in them."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
