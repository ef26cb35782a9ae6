"""`basicsr lmdb`: image data sets in LMDBs: made, verified, measured, looked into. One file a group of commands."""

import importlib

from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.compat.registries import nearest
from alignvar_arch.errors import UserError

# command -> (module here, what it does)
COMMANDS = {
    "create": ("create", "images -> a GT store and its LR store"),
    "verify": ("verify", "every record, checksum and pair; --repair drops what is broken"),
    "bench": ("bench", "what a store brings on this machine: loaders, reading, codecs, makers"),
    "info": ("look", "counts, sizes, codec and origin"),
    "stats": ("look", "mean and standard deviation of the channels, histogram of sizes"),
    "extract": ("copy", "records -> image files"),
    "merge": ("copy", "several stores -> one"),
    "tokens": ("tokens", "fixed crops -> a cache of their token maps"),
}


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Runs one command; returns 0, or 1 if something was found wrong or some inputs failed.

    Raises:
        UserError: for whatever is wrong with the command.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
        print(f"usage: basicsr lmdb COMMAND …\n\n{lines}\n\n`basicsr lmdb COMMAND -h` shows a command's flags.")
        return 0 if argv else 2
    command, *rest = argv
    if command not in COMMANDS:
        raise UserError(f"lmdb has no command {command!r}{nearest(command, COMMANDS)}; known are "
                        f"{', '.join(COMMANDS)}.")  # fmt: skip
    module = importlib.import_module(f"alignvar_arch.cli.lmdb.{COMMANDS[command][0]}")
    return getattr(module, command)(rest)
