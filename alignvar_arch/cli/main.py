"""Sub-commands and exit codes: 0 done, 1 some inputs failed, 2 the user's mistake, 130 and 143 interrupted."""

import importlib
import io
import os
import signal
import sys
import threading
import warnings
from typing import NoReturn

from alignvar_arch.cli import plugins
from alignvar_arch.compat.registries import nearest
from alignvar_arch.errors import Terminated, UserError
from alignvar_arch.training import distributed

COMMANDS = {
    "train": "train a network from an options file",
    "test": "run a network over the test sets of an options file",
    "upscale": "pictures of any size and format, four times as large",
    "compare": "models side by side: figures, cost and pictures in one report",
    "diagnose": "what AlignVAR's masks, attention, scales and errors do, in charts",
    "lmdb": "image data sets in LMDBs: create, verify, look into, merge",
    "convert": "a training checkpoint as one safetensors file",
    "list": "every registered arch, model, loss, dataset and metric",
    "doctor": "versions, device, what is missing and how to mend it",
}
HELP = "usage: basicsr COMMAND …\n\n{}\n\n`basicsr COMMAND -h` shows a command's flags."


def main(argv: list[str] | None = None) -> int:
    """Runs one sub-command and returns its exit code.

    Args:
        argv: arguments without the program's name; None means `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an arrow must not end a command whose output is Latin-1
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format("\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())))
        return 0 if arguments else 2
    # BasicSR's SwinIR calls torch.meshgrid in the old way; nobody who trains can do anything about it.
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    _catch_sigterm()
    command, *rest = arguments
    try:
        if command not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UserError(f"no command named {command!r}{nearest(command, COMMANDS)}; known are {known}.")
        found = plugins.load()
        for plugin in found:
            if plugin.error and command in ("train", "test"):
                print(f"warning: the plugin {plugin.name} ({plugin.value}) failed: {plugin.error}", file=sys.stderr)
        return importlib.import_module(f"alignvar_arch.cli.{command}").run(rest, found)
    except UserError as error:
        print(f"basicsr: {sentence(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `basicsr list | head`: nobody reads on, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        print(f"basicsr: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130
    except Terminated as interrupt:
        print(f"basicsr: terminated. {interrupt}".rstrip(), file=sys.stderr)
        return 143


def entry() -> NoReturn:
    """The process of the console command: `main`, then its exit code."""
    code = main()
    if "RANK" in os.environ:  # one of several processes
        distributed.leave(code)
    sys.exit(code)


def sentence(error: UserError) -> str:
    """Returns the error's one sentence, also where a DataLoader worker has wrapped it into its traceback."""
    return " ".join(str(error).rsplit("UserError: ", 1)[-1].split())


def _catch_sigterm() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    owner = os.getpid()

    def stop(_number, _frame):
        if os.getpid() != owner:  # a loader's worker has inherited this handler; it just ends
            os._exit(143)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
