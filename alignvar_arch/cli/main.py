"""Sub-commands and exit codes: 0 done, 1 some inputs failed, 2 the user's mistake, 130 and 143 interrupted."""

import importlib
import sys

from alignvar_arch.errors import UserError

COMMANDS = {
    "train": "train a network from an options file",
    "test": "run a network over the test sets of an options file",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one sub-command and returns its exit code.

    Args:
        argv: arguments without the program's name; None means `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command = arguments[0]
        return importlib.import_module(f"alignvar_arch.cli.{command}").run(arguments[1:])
    except UserError as error:
        print(f"basicsr: {sentence(error)}", file=sys.stderr)
        return 2


def sentence(error: UserError) -> str:
    """Returns the error's one sentence, also where a DataLoader worker has wrapped it into its traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip().replace("\n", " ")
