"""SIGTERM and SIGINT: the step is finished and saved before the run ends."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from alignvar_arch.errors import Terminated

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_ECHO = 3.0  # seconds: torchrun and srun pass Ctrl-C on to processes that have had it from the terminal


class Asked(BaseException):  # a metric that guards itself with `except Exception` must not take it for its own
    """A signal came while the validation ran, which is not worth waiting for."""


class Watch:
    """While it is entered, the first SIGTERM or SIGINT only sets `asked`; a second one ends the run at once.

    Attributes:
        asked: the signal's number, or None.
    """

    def __init__(self):
        self.asked: int | None = None
        self._since = 0.0
        self._before: dict = {}
        self._interrupts = False

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _WORDS}
        return self

    def __exit__(self, *_error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interrupting(self, wanted: bool) -> Iterator[None]:
        """Where `wanted`, the first signal does not wait for the end of the block but raises Asked in it."""
        self._interrupts = wanted
        try:
            yield
        finally:
            self._interrupts = False

    def _remember(self, number: int, _frame) -> None:
        if self.asked is not None:
            if "WORLD_SIZE" in os.environ and time.monotonic() - self._since < _ECHO:
                return
            raise ending(number)
        self.asked, self._since = number, time.monotonic()
        # not print: the signal may have come in the middle of one
        os.write(2, f"basicsr: {_WORDS[number]}; finishing the step and saving. Once more ends it at once.\n".encode())
        if self._interrupts:
            raise Asked


def ending(number: int, sentence: str = "") -> BaseException:
    """The exception that ends a run on a signal; the command line exits with 130 or 143 on it."""
    return KeyboardInterrupt(sentence) if number == signal.SIGINT else Terminated(sentence)


def shield_worker(_worker: int) -> None:
    """Lets a loader's worker live until its parent ends it: Ctrl-C and a scheduler's SIGTERM go to every process.

    Without its workers the parent could not finish its step. A parent that has gone is noticed by torch's own watch.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait():
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
