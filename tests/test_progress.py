"""What a run says of itself: ETA, images/s and memory, by a clock that the test moves."""
import contextlib
import io
import re
from types import SimpleNamespace

import pytest

from alignvar_arch.training import progress
from alignvar_arch.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, which nothing else moves; three GiB are in use."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "peak_memory", lambda cuda: 3 * 2**30)
    return now


@contextlib.contextmanager
def begun(total: int, board=None, rank: int = 0):
    """Progress of a run of batches of eight, on a terminal."""
    opt = {"name": "run", "rank": rank, "num_gpu": 0}
    with contextlib.redirect_stderr(Terminal()), Progress(opt, 0, total, 8, board) as shown:
        yield shown


def run(shown: Progress, clock: list[float], iterations, seconds: float, waited: float = 0.0) -> None:
    for iteration in iterations:
        clock[0] += seconds
        shown.step(iteration, waited)


def line(shown: Progress, caplog, **more) -> str:
    caplog.clear()
    with caplog.at_level("INFO", "basicsr"):
        shown.say(0, [2e-4], {"l_pix": 0.5, "grad_norm": 1.5}, **more)
    return caplog.messages[-1]


def test_the_line_and_the_bar_say_what_is_left_how_fast_and_how_much_memory(clock, caplog):
    told = {}
    board = SimpleNamespace(add_scalar=lambda tag, value, step: told.update({tag: (value, step)}))
    with begun(101, board) as shown:
        run(shown, clock, [1], 600.0)  # compiling
        run(shown, clock, range(2, 22), 2.0, waited=0.5)
        text = line(shown, caplog)
        # eighty iterations of two seconds
        assert "[eta: 0:02:40, time (data): 2.000 (0.500), 4.00 images/s, 3.00 GiB]" in text and "skipped" not in text
        bar = str(shown._bar)
        for words in ("21/101", "eta 0:02:40", "lr=0.0002", "l_pix=0.5", "images/s=4", "GiB=3.00"):
            assert words in bar
        clock[0] += 20.0  # a validation
        run(shown, clock, [22], 0.0)
        assert "eta: 0:03:45" in line(shown, caplog)  # 60 s in 21 iterations
    assert told["run/images_per_second"] == (8 / (60 / 21), 22) and told["run/memory_gib"] == (3.0, 22)
    assert told["losses/l_pix"] == (0.5, 22) and told["grad_norm"] == (1.5, 22)


def test_after_going_back_it_counts_anew(clock, caplog):
    with begun(100) as shown:
        run(shown, clock, range(1, 51), 10.0)
        shown.restart(10)
        run(shown, clock, range(11, 21), 1.0)
        text = line(shown, caplog, skipped=12)
        assert "eta: 0:01:20" in text and "skipped: 12" in text
        assert re.search(r"20/100 .*eta 0:01:20", str(shown._bar))
        assert shown._bar.last_print_n <= 20  # else it would not be drawn before iteration 51


def test_other_ranks_are_silent(clock, caplog, capsys):
    with begun(5, rank=1) as shown:
        run(shown, clock, range(1, 4), 1.0)
        shown.say(0, [2e-4], {"l_pix": 0.5})
        assert shown._bar.disable
    assert not caplog.messages and not capsys.readouterr().out
