"""What several of the lmdb commands share."""

import argparse
import contextlib
import os
from pathlib import Path

from alignvar_arch.data.store import Store


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds --workers."""
    parser.add_argument("--workers", type=positive, metavar="N", help="threads (one a core)")


def resolved(path: Path) -> Path:
    """The path with `~` expanded."""
    return Path(os.path.expanduser(path))


def open_store(path: Path) -> Store:
    """Opens a store that the user has named."""
    return Store(resolved(path))


@contextlib.contextmanager
def resumable(advice: str):
    """Lets an interrupted command, by Ctrl-C or SIGTERM, say how it goes on."""
    try:
        yield
    except BaseException as error:
        # cli.main's Terminated cannot be imported here: it imports the commands
        if isinstance(error, Exception) or error.args:
            raise
        raise type(error)(advice) from None


def positive(text: str) -> int:
    """The type of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}, but must be at least 1")
    return value
