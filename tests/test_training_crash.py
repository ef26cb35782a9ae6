"""Exact resume and nothing lost: runs that are killed, run out of disk or are asked to stop, and what goes on."""
import functools
import os
import random
import resource
import shlex
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch
from basicsr.models.sr_model import SRModel
from conftest import listing, write
from runs import Kill, differences, end, folder, losses, options, outcome, said, start, train, wait_for

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.errors import UserError
from alignvar_arch.training import resuming


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def whole(opt: dict, **arguments) -> dict:
    """What a run leaves that nothing has happened to."""
    assert end(start(functools.partial(train, **arguments), opt)) == 0, said()[-3000:]
    return {**outcome(opt["name"]), "losses": losses()}


def same_as(expected: dict, name: str) -> None:
    found = losses()
    assert not [line for line in found.values() if len(line) > 1]  # what was run twice gave the same twice
    assert not differences(expected, {**outcome(name), "losses": found})


@pytest.mark.parametrize(("kind", "workers", "kills", "seed"), [
    ("sr", 0, 6, 0), ("alignvar", 0, 3, 1), ("alignvar", 2, 2, 2), ("tokenizer", 0, 3, 3), ("esrgan", 0, 2, 4),
    ("pool", 0, 2, 5),
])
def test_a_run_killed_anywhere_and_resumed_equals_one_never_killed(kind, workers, kills, seed):
    """To the last bit: logged losses and rates, weights, averages, optimisers, random states, best metrics, files."""
    rng = random.Random(seed)
    with folder("whole"):
        opt = options(kind)
        opt["datasets"]["train"]["num_worker_per_gpu"] = workers
        expected = whole(opt, before=Kill())
        points = int(Path("points.txt").read_text())
    with folder("killed"):
        options(kind)
        codes = []
        for part in range(kills):  # each part of the run once; a resumed run is killed again
            at = rng.randint(part * points // kills // 2 + 1, (part + 1) * points // kills // 2 + 1)
            codes.append(end(start(functools.partial(train, before=Kill(at)), opt, "--auto_resume")))
        # The last of many may ask for more than is left of the run.
        assert set(codes) <= {-signal.SIGKILL, 0} and codes.count(-signal.SIGKILL) >= max(kills - 1, 2), codes
        assert end(start(train, opt, "--auto_resume")) == 0, said()[-3000:]
        assert not list(Path("experiments", kind).rglob(".*"))  # nothing half written stays
        same_as(expected, kind)


def _failing_validation() -> None:
    test = SRModel.test

    def fails(self):
        if self.schedulers[0].last_epoch > 3:
            raise RuntimeError("out of memory")
        test(self)

    SRModel.test = fails


def test_a_validation_that_fails_costs_no_iteration():
    opt = options("sr")
    opt["logger"]["save_checkpoint_freq"] = 3
    with folder("whole"):
        options("sr")
        expected = whole(opt)
    assert end(start(functools.partial(train, before=_failing_validation), opt)) == 1
    state = resuming.read(resuming.newest_first("experiments/sr/training_states")[0])
    assert (state["iter"], state["owes_validation"]) == (6, True)
    assert end(start(train, opt, "--auto_resume")) == 0
    same_as(expected, "sr")


def test_the_newest_whole_state_is_taken_and_what_is_passed_over_is_said():
    """Truncated, damaged in the middle where torch does not look, without weights: each is passed over."""
    opt = options("sr")
    opt["logger"].update(save_checkpoint_freq=1, keep=None)
    with folder("whole"):
        options("sr")
        expected = whole(opt)
    assert end(start(train, opt)) == 0
    models, states = (Path("experiments/sr", name) for name in ("models", "training_states"))
    content = (states / "6.state").read_bytes()
    (states / "6.state").write_bytes(content[:len(content) // 2])
    content = bytearray((models / "net_g_5.pth").read_bytes())
    largest = max(zipfile.ZipFile(models / "net_g_5.pth").infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + largest.file_size] ^= 1  # behind the header, so within the tensor
    (models / "net_g_5.pth").write_bytes(content)
    (models / "net_g_4.pth").unlink()
    assert end(start(train, opt, "--auto_resume")) == 0
    text = said()
    for words in ("6.state is not a training state, or a truncated one", "net_g_5.pth is not whole", "net_g_4.pth is",
                  "resuming from", "3.state, the newest whole one"):
        assert words in text
    found = outcome("sr")
    assert not differences(expected["state"], found["state"]) and not differences(expected["weights"], found["weights"])
    assert {"4.state.aside", "5.state.aside"} <= {path.name for path in states.iterdir()}


def test_the_newest_few_and_the_best_are_kept():
    opt = options("sr")
    opt["train"]["total_iter"] = 9
    opt["logger"].update(save_checkpoint_freq=1, keep=2)
    opt["val"].update(val_freq=1)
    opt["val"]["metrics"]["psnr"]["better"] = "lower"  # it rises: the first validation stays the best
    found = whole(opt)
    best = next(iter(found["state"]["best"]["Val"].values()))["iter"]
    assert best < 8
    assert found["names"] == sorted([f"{n}.state" for n in (best, 8, 9)] + [f"net_g_{n}.pth" for n in (best, 8, 9)]
                                    + ["net_g_latest.pth"])


def test_an_older_checkpoint_goes_only_once_the_new_one_reads_back(monkeypatch):
    opt = options("sr")
    damage = resuming.damage
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "damage", lambda file: "damaged" if "4" in file.name else damage(file))
        assert main(["train", "-opt", write(opt)]) == 2
    assert resuming.damage(Path("experiments/sr/training_states/3.state")) is None  # saved for its validation's sake
    assert Path("experiments/sr/models/net_g_3.pth").is_file()


def _no_file_over(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _disk_full_after(count: int) -> None:
    save, calls = torch.save, iter(range(100))

    def full(content, file):
        if next(calls) >= count:
            raise OSError(28, "No space left on device")
        save(content, file)

    torch.save = full


@pytest.mark.parametrize("before", [functools.partial(_disk_full_after, 2), functools.partial(_disk_full_after, 3)],
                         ids=["weights", "state"])
def test_a_full_disk_stops_with_a_sentence_and_leaves_the_last_checkpoint(before):
    with folder("whole"):
        opt = options("sr")
        expected = whole(opt)
    options("sr")
    assert end(start(functools.partial(train, before=before), opt)) == 2
    last = said().strip().splitlines()[-1]
    assert last.startswith("basicsr: cannot write ") and "No space left on device" in last and "Traceback" not in said()
    command = shlex.split(last.split("basicsr train ")[1])
    assert not list(Path("experiments").rglob(".*"))
    checkpoints.read("experiments/sr/models/net_g_2.pth")
    assert end(start(train, opt, *command)) == 0
    same_as(expected, "sr")


def test_a_file_too_large_for_the_disk_leaves_nothing():
    """The kernel itself refuses, in the middle of torch's own writing."""
    opt = options("sr")
    opt["network_g"]["num_feat"] = 48
    assert end(start(functools.partial(train, before=functools.partial(_no_file_over, 100_000)), opt)) == 2
    last = said().strip().splitlines()[-1]
    assert "cannot write" in last and "File too large" in last and "Traceback" not in said()
    assert not list(Path("experiments").rglob("*.pth")) and not list(Path("experiments").rglob(".*"))


def _slow_steps() -> None:
    step = SRModel.optimize_parameters
    SRModel.optimize_parameters = lambda self, iteration: (time.sleep(0.2), step(self, iteration))[1]


def _slow_validation() -> None:
    test = SRModel.test
    SRModel.test = lambda self: (Path("validating").touch(), time.sleep(0.1), test(self))[2]


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"),
                                                      (signal.SIGINT, 130, "interrupted")])
@pytest.mark.parametrize("when", ["step", "validation"])
def test_a_signal_finishes_the_step_and_the_printed_command_completes_the_run(number, code, word, when):
    opt = options("sr")
    opt["datasets"]["train"]["num_worker_per_gpu"] = 1
    with folder("whole"):
        options("sr")
        expected = whole(opt)
    slow = _slow_steps if when == "step" else _slow_validation
    process = start(functools.partial(train, before=slow), opt)
    path = Path("losses.txt" if when == "step" else "validating")
    wait_for(path.exists, process)
    os.kill(process.pid, number)
    assert end(process) == code
    text = said()
    last = text.strip().splitlines()[-1]
    assert f"{word}; finishing the step and saving" in text and "Traceback" not in text
    assert last.startswith(f"basicsr: {word}. Resume with: basicsr train --auto_resume")
    state = resuming.read(resuming.newest_first("experiments/sr/training_states")[0])
    assert state["iter"] == (3 if when == "validation" else max(map(int, losses())))
    assert state["owes_validation"] is (when == "validation")
    command = shlex.split(last.split("basicsr train ")[1])
    assert end(start(train, opt, *command)) == 0
    same_as(expected, "sr")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_run_at_once(number):
    opt = options("sr")
    process = start(functools.partial(train, before=_endless_step), opt)
    wait_for(Path("stepping").exists, process)
    os.kill(process.pid, number)
    wait_for(lambda: "Once more ends it at once" in said(), process)
    os.kill(process.pid, number)
    assert end(process) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in said() and not list(Path("experiments/sr").rglob("*.state"))


def _endless_step() -> None:
    def step(self, _iteration):
        Path("stepping").touch()
        while True:
            time.sleep(0.01)

    SRModel.optimize_parameters = step


def test_a_signal_in_a_validation_that_is_made_up_leaves_it_owed():
    opt = options("sr")
    with folder("whole"):
        options("sr")
        expected = whole(opt)
    for flags in ((), ("--auto_resume",)):
        Path("validating").unlink(missing_ok=True)
        process = start(functools.partial(train, before=_slow_validation), opt, *flags)
        wait_for(Path("validating").exists, process)
        os.kill(process.pid, signal.SIGTERM)
        assert end(process) == 143
        state = resuming.read(resuming.newest_first("experiments/sr/training_states")[0])
        assert (state["iter"], state["owes_validation"]) == (3, True)
    assert end(start(train, opt, "--auto_resume")) == 0
    same_as(expected, "sr")


@pytest.mark.parametrize(("change", "words"), [
    ({"network_g": {"num_feat": 16}}, ["(16, 3, 3, 3)", "(8, 3, 3, 3)"]),
    ({"datasets.train": {"batch_size_per_gpu": 2}}, ["batch_size_per_gpu was 4 and is 2", "--force_resume"]),
    ({"datasets.train": {"dataroot_gt": "more_gt", "dataroot_lq": "more_lq"}}, ["number of training images was 11"]),
    ({"": {"manual_seed": 1}}, ["manual_seed was 0 and is 1"]),
    ({"train.scheduler": {"milestones": [2]}}, ["train.scheduler.milestones was [100] and is [2]"]),
    ({"train.optim_g": {"lr": 1e-3}}, ["train.optim_g.lr was 0.0002 and is 0.001"]),
    ({"train": {"total_iter": 7}}, []),
])
def test_what_cannot_be_resumed_exactly_is_refused_and_named(change, words, capsys):
    opt = options("sr")
    opt["train"]["total_iter"] = 4
    assert main(["train", "-opt", write(opt)]) == 0
    Path("more_gt").mkdir(), Path("more_lq").mkdir()
    for file in [*Path("gt").iterdir(), *Path("gt").iterdir()]:
        for name in ("gt", "lq"):
            (Path(f"more_{name}") / file.name).write_bytes((Path(name) / file.name).read_bytes())
            (Path(f"more_{name}") / f"x{file.name}").write_bytes((Path(name) / file.name).read_bytes())
    opt["train"]["total_iter"] = 6
    for path, values in change.items():
        block = opt
        for key in filter(None, path.split(".")):
            block = block[key]
        block.update(values)
    before = listing(Path.cwd())
    capsys.readouterr()
    command = ["train", "-opt", write(opt), "--auto_resume"]
    assert main(command) == (2 if words else 0)
    if not words:
        return
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert listing(Path.cwd()) == before
    if "--force_resume" in error:
        assert main([*command, "--force_resume"]) == 0
        assert "--force_resume: resuming from" in capsys.readouterr().err
        assert outcome("sr")["state"]["iter"] == 6


def test_forced_rates_are_the_options_rates():
    """A longer schedule, or another rate: what the state holds of them must not win over what is asked for."""
    opt = options("sr")
    opt["train"].update(total_iter=4, warmup_iter=-1,
                        scheduler={"type": "LinearWarmupCosineLR", "warmup": 2, "eta_min": 0})
    assert main(["train", "-opt", write(opt)]) == 0
    opt["train"].update(total_iter=8, optim_g={"type": "Adam", "lr": 1e-3})
    assert main(["train", "-opt", write(opt), "--auto_resume"]) == 2
    assert end(start(train, opt, "--auto_resume", "--force_resume")) == 0
    rates = {int(key): float.fromhex(next(iter(value)).split()[0]) for key, value in losses().items()}
    with folder("whole"):
        options("sr")
        assert end(start(train, opt)) == 0
        wanted = {int(key): float.fromhex(next(iter(value)).split()[0]) for key, value in losses().items()}
    assert sorted(rates) == [5, 6, 7, 8] and all(rates[key] == pytest.approx(wanted[key]) for key in rates)


def test_a_longer_tokenizer_training_revives_codes_longer_and_says_so(capsys):
    opt = options("tokenizer")
    del opt["train"]["revive_until"]
    assert main(["train", "-opt", write(opt)]) == 0
    opt["train"]["total_iter"] = 10
    capsys.readouterr()
    assert main(["train", "-opt", write(opt), "--auto_resume"]) == 2
    assert "the last iteration that revives codes was 4 and is 8" in capsys.readouterr().err


def test_a_state_of_another_kind_of_model_is_a_sentence(capsys):
    opt = options("esrgan")
    opt["train"]["total_iter"] = 2
    assert main(["train", "-opt", write(opt)]) == 0
    other = options("sr")
    other["name"] = "esrgan"
    capsys.readouterr()
    for flags in ((), ("--force_resume",)):
        assert main(["train", "-opt", write(other), "--auto_resume", *flags]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_new_metrics_after_resuming_begin_anew():
    opt = options("sr")
    opt["train"]["total_iter"] = 4
    assert main(["train", "-opt", write(opt)]) == 0
    best = outcome("sr")["state"]["best"]["Val"]["psnr"]
    opt["train"]["total_iter"] = 6
    opt["val"]["metrics"]["ssim"] = {"type": "calculate_ssim", "crop_border": 2}
    assert main(["train", "-opt", write(opt), "--auto_resume"]) == 0
    records = outcome("sr")["state"]["best"]["Val"]
    assert records["psnr"]["val"] >= best["val"] and records["ssim"]["iter"] == 6


@pytest.mark.parametrize("kind", ["alignvar", "tokenizer"])
def test_a_run_from_given_weights_is_still_one_after_resuming(kind):
    """Its average has no warm-up of its own, and its codebook is placed: the state says so, the weights cannot."""
    with folder("whole"):
        opt = options(kind)
        assert main(["train", "-opt", write(opt)]) == 0
        given = str(Path(f"experiments/{kind}/models/net_g_latest.pth").absolute())
        opt["path"]["pretrain_network_g"] = given
        opt["train"]["quantise_from"] = 4
        if kind == "alignvar":
            del opt["train"]["quantise_from"]
        opt["name"] = "tuned"
        Path("losses.txt").unlink(missing_ok=True)
        expected = whole(opt)
    options(kind)
    process = start(functools.partial(train, before=Kill(40)), opt)
    assert end(process) == -signal.SIGKILL
    assert list(Path("experiments/tuned").rglob("*.state"))
    assert end(start(train, opt, "--auto_resume")) == 0
    same_as(expected, "tuned")


def test_an_older_run_is_renamed_only_once_the_network_is_good(monkeypatch, capsys):
    opt = options("sr")
    assert main(["train", "-opt", write(opt)]) == 0
    before = listing(Path.cwd())

    def fails(_opt):
        raise UserError("no network.")

    def ends(_opt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    for build, code in ((fails, 2), (ends, 143)):
        monkeypatch.setattr("alignvar_arch.training.loop.build_model", build)
        capsys.readouterr()
        assert main(["train", "-opt", write(opt)]) == code
        assert listing(Path.cwd()) == before
        assert "Resume" not in capsys.readouterr().err  # what lies there is another run's


def test_a_finished_run_that_is_resumed_writes_the_same_last_weights():
    opt = options("alignvar")
    expected = whole(opt)
    Path("experiments/alignvar/models/net_g_latest.pth").unlink()
    assert end(start(train, opt, "--auto_resume")) == 0
    same_as(expected, "alignvar")
