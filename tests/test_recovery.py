"""Losses that are not finite: the step is skipped and counted, and after too many the run goes back or stops."""
import functools
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.models.sr_model import SRModel
from runs import Kill, differences, end, folder, losses, options, outcome, said, start, train, wait_for

from alignvar_arch.models.base import TokenModel
from alignvar_arch.training import resuming
from alignvar_arch.training.recovery import Recovery


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _nan(first: int, last: int, above: float = 0.0, then=None) -> None:
    """Training batches of the iterations from `first` to `last` are NaN, while the rate is above something."""
    feed = SRModel.feed_data

    def feed_data(self, data):
        if "place" in data:
            iteration, rate = self.schedulers[0].last_epoch + 1, self.optimizers[0].param_groups[0]["lr"]
            if first <= iteration <= last and rate > above:
                data = {**data, "lq": data["lq"] * float("nan")}
        feed(self, data)

    SRModel.feed_data = feed_data
    if then is not None:
        then()


def run(opt: dict, *nan, flags=(), then=None) -> int:
    return end(start(functools.partial(train, before=functools.partial(_nan, *nan, then=then)), opt, *flags))


def settings(kind: str, limit: int = 2, **changes) -> dict:
    opt = options(kind)
    opt["train"].update(warmup_iter=-1, total_iter=8, optim_g={"type": "Adam", "lr": 4e-4},
                        nonfinite={"limit": limit, **changes})
    opt["logger"]["keep"] = 2
    return opt


def rates() -> dict[int, list[float]]:
    """The logged rates by iteration, in the order of the log."""
    found: dict[int, list[float]] = {}
    for line in Path("losses.txt").read_text().splitlines():
        iteration, rate, *_ = line.split()
        found.setdefault(int(iteration), []).append(float.fromhex(rate))
    return found


@pytest.mark.parametrize("kind", ["sr", "esrgan", "alignvar"])
def test_one_bad_step_is_skipped_and_said(kind):
    opt = settings(kind)
    assert run(opt, 3, 3) == 0
    assert "1 since the last look, 1 in all" in said() and sorted(rates()) == list(range(1, 9))
    lines = [line for line in said().splitlines() if "[eta: " in line]
    assert ["skipped: 1" in line for line in lines] == [number >= 3 for number in range(1, 9)]
    assert outcome(kind)["state"]["skipped_in_all"] == 1
    found = outcome(kind)
    assert not any("nan" in str(value) for states in found["weights"].values() for value in states["params"].values())


@pytest.mark.parametrize("kind", ["sr", "alignvar"])
def test_too_many_go_back_to_the_last_good_state_at_half_the_rate(kind):
    """Iteration 6 is in the midst of it and not saved; killed and resumed, it all comes out the same."""
    with folder("whole"):
        opt = settings(kind, limit=3)
        assert run(opt, 5, 99, 3e-4, then=Kill()) == 0
        points = int(Path("points.txt").read_text())
        assert "Going back to iteration 4, with learning rates 0.5 times" in said()
        assert "Iteration 6 is not saved" in said()
        found = rates()
        assert found[4] == [4e-4] and found[5] == [4e-4, 2e-4] and found[8] == [2e-4]
        expected = {**outcome(kind), "losses": losses()}
    settings(kind, limit=3)
    assert run(opt, 5, 99, 3e-4, flags=("--auto_resume",), then=Kill(points * 3 // 4)) == -signal.SIGKILL
    assert run(opt, 5, 99, 3e-4, flags=("--auto_resume",)) == 0
    assert not differences(expected, {**outcome(kind), "losses": losses()})


@pytest.mark.parametrize("kind", ["sr", "alignvar"])
def test_before_any_checkpoint_it_goes_back_to_the_start(kind):
    """It is then the run of half the rate: same first weights, same batches, same draws."""
    with folder("half"):
        opt = settings(kind)
        opt["train"]["optim_g"]["lr"] = 2e-4
        assert run(opt, 99, 99) == 0
        expected = outcome(kind)
    opt = settings(kind)
    opt["logger"]["save_checkpoint_freq"] = 4
    opt["val"]["val_freq"] = 4
    assert run(opt, 1, 99, 3e-4) == 0
    assert "Going back to iteration 0" in said()
    assert not differences(expected["weights"], outcome(kind)["weights"])


@pytest.mark.parametrize("name", ["4.state", "best.state"])
def test_a_resumed_run_goes_back_to_what_it_was_resumed_from(name):
    opt = settings("sr")
    opt["train"]["total_iter"] = 4
    assert run(opt, 99, 99) == 0
    opt["train"]["total_iter"] = 8
    opt["name"] = "other"
    Path("experiments/sr/training_states/4.state").rename(f"experiments/sr/training_states/{name}")
    opt["path"]["resume_state"] = f"experiments/sr/training_states/{name}"
    assert run(opt, 5, 99, 3e-4) == 0
    assert "Going back to iteration 4" in said() and rates()[5] == [4e-4, 2e-4]
    assert outcome("other")["state"]["saved"][-1] == 8


def test_a_rate_that_was_forced_is_not_forced_again_by_going_back():
    """Iteration 8 is saved at half the forced rate, from which the second way back starts."""
    opt = settings("sr")
    opt["train"]["total_iter"] = 4
    assert run(opt, 99, 99) == 0
    opt["train"].update(total_iter=10, optim_g={"type": "Adam", "lr": 8e-4})
    later = functools.partial(_nan, 9, 99, 3e-4)
    assert run(opt, 7, 8, 6e-4, flags=("--auto_resume", "--force_resume"), then=later) == 0
    found = rates()
    assert found[7] == [8e-4, 4e-4] and found[9] == [4e-4, 2e-4] and found[10][-1] == 2e-4


def test_a_gpu_is_asked_every_so_many_steps_and_a_cpu_always():
    recovery = Recovery({"limit": 4})
    for name, asked in (("cpu", list(range(1, 10))), ("cuda", [4, 8])):
        assert [number for number in range(1, 10) if recovery.looks(number, torch.device(name))] == asked


def test_skips_between_two_looks_are_said_and_counted(caplog):
    """Also where the last step was a good one."""
    model = SimpleNamespace(skipped_in_a_row=lambda: 0, skipped_in_all=lambda: 3)
    recovery = Recovery(None, in_all=2)
    recovery.watch(model)
    recovery.check()
    assert "3 since the last look, 5 in all" in caplog.text
    recovery.let_go()
    recovery.watch(SimpleNamespace(skipped_in_a_row=lambda: 0, skipped_in_all=lambda: 0))
    assert recovery.skipped_in_all() == 5


def test_what_halving_does_not_help_ends_with_a_sentence():
    opt = settings("sr")
    assert run(opt, 5, 99) == 2
    last = said().strip().splitlines()[-1]
    assert said().count("Going back to iteration 4") == 5 and "newest good checkpoint is of iteration 4" in last


def test_stop_stops():
    opt = settings("sr", then="stop")
    assert run(opt, 5, 99) == 2
    last = said().strip().splitlines()[-1]
    assert last.startswith("basicsr: 2 steps in a row had losses or gradients that are not finite; the run ends")
    assert "Resume with: basicsr train --auto_resume" in last and "Going back" not in said()
    assert outcome("sr")["state"]["iter"] == 4


def _slowly() -> None:
    step = SRModel.optimize_parameters
    SRModel.optimize_parameters = lambda self, iteration: (step(self, iteration), time.sleep(0.3))


@pytest.mark.parametrize("kind", ["sr", "alignvar"])
def test_a_signal_in_the_midst_keeps_the_good_state_and_the_count(kind):
    """What is saved then is not what the resumed run goes back to, and does not push that out of the folder."""
    with folder("whole"):
        opt = settings(kind, limit=3)
        opt["logger"]["keep"] = 1
        assert run(opt, 5, 99, 3e-4) == 0
        expected = outcome(kind)["weights"]
    settings(kind)
    nan = functools.partial(_nan, 5, 99, 3e-4, then=_slowly if kind == "sr" else _slowly_ours)
    process = start(functools.partial(train, before=nan), opt)
    wait_for(lambda: Path("losses.txt").exists() and "5" in losses(), process)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process) == 143
    state = outcome_state(kind)
    assert state["iter"] in (5, 6) and state["skipped"] == [state["iter"] - 4]
    assert run(opt, 5, 99, 3e-4, flags=("--auto_resume",)) == 0
    assert "Going back to iteration 4, with learning rates 0.5 times" in said()
    assert not differences(expected, outcome(kind)["weights"])


def _slowly_ours() -> None:
    step = TokenModel.optimize_parameters
    TokenModel.optimize_parameters = lambda self, iteration: (step(self, iteration), time.sleep(0.3))


def outcome_state(name: str) -> dict:
    return resuming.read(resuming.newest_first(f"experiments/{name}/training_states")[0])
