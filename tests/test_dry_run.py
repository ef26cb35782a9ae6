"""`basicsr train --dry-run`: figures of the run to come, and nothing left behind."""
import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from conftest import listing, write
from torch import nn

from alignvar_arch.cli import main
from alignvar_arch.options import parse_options
from alignvar_arch.options.datasets import Builder
from alignvar_arch.training import dry_run
from alignvar_arch.training.loop import Run


def test_a_dry_run_tells_what_the_run_takes_and_writes_nothing(tiny, capsys):
    tiny["train"]["ema_decay"] = 0.9
    tiny["train"]["total_iter"] = 50
    tiny["val"]["val_freq"] = 25
    tiny["network_g"]["num_feat"] = 32
    tiny["logger"]["keep"] = 3
    command = ["train", "-opt", write(tiny), "--dry-run"]
    before = listing(Path.cwd())
    assert main(command) == 0
    said = capsys.readouterr().out
    assert listing(Path.cwd()) == before
    weights, gradients, optimiser = (float(re.search(rf"{name} +([0-9.]+) MiB", said)[1])
                                     for name in ("net_g", "gradients", "optimiser"))
    count = int(re.search(r"net_g +([0-9,]+) parameters", said)[1].replace(",", ""))
    net = MSRResNet(**{key: value for key, value in tiny["network_g"].items() if key != "type"})
    assert count == sum(parameter.numel() for parameter in net.parameters())
    size = count * 4 / 2**20
    assert weights == gradients == round(size, 1) > 0 and optimiser == round(2 * size, 1)  # Adam's two averages
    assert float(re.search(r"in 5 checkpoints of ([0-9.]+) MiB", said)[1]) == pytest.approx(4 * size, abs=0.1)
    assert "and 2 validations" in said
    assert "net_g_ema" in said and "peak" in said and "images/s" in said and "50 of 50" in said


def test_memory_is_told_apart_by_device_and_checkpoints_hold_what_is_trained():
    net, average, frozen = nn.Linear(3, 5, device="meta"), nn.Linear(3, 5), nn.Linear(2, 2)
    optimizer = SimpleNamespace(param_groups=[{"params": list(net.parameters())}],
                                state={net.weight: {"exp_avg": torch.zeros(5, 3, device="meta"), "step": 1}})
    model = SimpleNamespace(net_g=net, net_g_ema=average, tokenizer=frozen, optimizers=[optimizer])
    assert dry_run.memory_by_part(model, torch.device("meta")) == {"net_g": 80, "gradients": 80, "optimiser": 60}
    assert dry_run.memory_by_part(model, torch.device("cpu")) == {"net_g_ema": 80, "tokenizer": 24}
    assert dry_run.checkpoint_size(model) == 80 + 80 + 60


@pytest.mark.parametrize(("done", "total", "every", "times"), [
    (0, 50, 25, 2), (0, 51, 25, 3), (25, 50, 25, 1), (24, 26, 25, 2), (0, 5, 100, 1), (5, 5, 100, 0), (50, 50, 25, 0),
])
def test_validations_are_counted_with_the_last_one(done, total, every, times):
    assert dry_run.times(done, total, every, at_end=True) == times
    assert dry_run.times(done, total, every) == times - (total % every > 0 and total > done)


def test_the_time_of_the_run_counts_reading_and_each_processs_share_of_the_validation(tiny, monkeypatch):
    """By a clock that every image read or made moves on."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(dry_run, "time", clock)

    def taking(seconds, function):
        def wrapper(*arguments):
            now[0] += seconds
            return function(*arguments)
        return wrapper

    tiny["train"]["total_iter"], tiny["val"]["val_freq"] = 100, 60
    opt, args = parse_options(str(Path.cwd()), True, ["-opt", write(tiny)])
    run = Run(opt, args.opt, Builder({**opt, "root_path": str(Path.cwd())}))
    monkeypatch.setattr(type(run.model), "optimize_parameters", taking(2.0, type(run.model).optimize_parameters))
    monkeypatch.setattr(type(run.model), "test", taking(10.0, type(run.model).test))
    monkeypatch.setattr(run.feed, "batches", taking(3.0, run.feed.batches))
    # 100 steps of 2 s after 3 s of reading, and two validations of eleven pictures
    assert f"{timedelta(seconds=100 * 5 + 2 * 110)}, of which waiting for images {timedelta(seconds=300)} and 2 " \
        f"validations {timedelta(seconds=220)}" in dry_run.report(run)
    run.feed.workers, run.opt["world_size"] = 2, 2
    # two readers together take 1.5 s a batch, and each of two processes six pictures
    assert f"{timedelta(seconds=100 * 2 + 2 * 60)}, of which waiting for images 0:00:00 and" in dry_run.report(run)


def test_a_dry_run_leaves_an_older_run_and_resumes_nothing(tiny, capsys):
    command = ["train", "-opt", write(tiny)]
    assert main(command) == 0
    before = {path: Path(path).stat().st_mtime_ns for path in listing(Path.cwd())}
    assert main([*command, "--dry-run"]) == 0
    assert main([*command, "--dry-run", "--auto_resume"]) == 0
    assert {path: Path(path).stat().st_mtime_ns for path in listing(Path.cwd())} == before
    assert "1 of 5" in capsys.readouterr().out


def test_photographs_are_cut_into_a_temporary_store(tiny, capsys, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    tiny["datasets"]["train"] = {"name": "Photos", "type": "PhotoDataset", "photos": "gt", "dataroot": "datasets/mine",
                                 "gt_size": 16, "use_hflip": True, "use_rot": True, "num_worker_per_gpu": 0,
                                 "batch_size_per_gpu": 2}
    assert main(["train", "-opt", write(tiny), "--dry-run"]) == 0
    assert not Path("datasets").exists() and not listing(scratch)
    assert "images/s" in capsys.readouterr().out
