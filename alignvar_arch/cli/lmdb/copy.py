"""`basicsr lmdb extract` and `merge`."""

import shlex
import sys
from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import add_workers, open_store, resolved, resumable
from alignvar_arch.data.store import copying, summary

FORMATS = ("png", "tiff", "webp", "bmp", "jpg")


def extract(argv: list[str]) -> int:
    """Writes records as files; returns 0, or 1 if some could not be written."""
    parser = options.Parser(prog="basicsr lmdb extract", allow_abbrev=False,
                            description="Writes every record as an image file, named by its key.")  # fmt: skip
    parser.add_argument("path", type=Path, metavar="NAME.lmdb")
    parser.add_argument("-o", dest="output", required=True, type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("--format", choices=FORMATS, default="png", help="all but jpg are lossless (png)")
    add_workers(parser)
    args = parser.parse_args(argv)
    store = open_store(args.path)
    written, failed = summary.extract(store, resolved(args.output), f".{args.format}", args.workers)
    for key, reason in failed:
        print(f"basicsr: {key}: {reason.rstrip('.')}.", file=sys.stderr)
    print(f"{args.output}: {written} of {len(store)} records")
    return 1 if failed else 0


def merge(argv: list[str]) -> int:
    """Copies several stores, and their LR stores, into one."""
    parser = options.Parser(prog="basicsr lmdb merge", allow_abbrev=False, description="Copies the records of several "
                            "stores into one, and those of their LR stores, where they lie beside, into one beside it."
                            )  # fmt: skip
    parser.add_argument("paths", nargs="+", type=Path, metavar="NAME.lmdb")
    parser.add_argument("-o", dest="output", required=True, type=Path, metavar="NAME.lmdb", help="the new store")
    parser.add_argument("--prefix", action="store_true", help="begin every key with its store's name")
    args = parser.parse_args(argv)
    command = shlex.join(["basicsr", "lmdb", "merge", *argv])
    with resumable("repeat the command to go on where it stopped."):
        made = copying.merge([resolved(path) for path in args.paths], resolved(args.output), args.prefix, command)
    for path, count in made:
        print(f"{path}: {count} records")
    return 0
