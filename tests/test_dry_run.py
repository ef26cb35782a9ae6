"""`basicsr train --dry-run`: figures of the run to come, and nothing left behind."""
import re
from pathlib import Path

from basicsr.archs.srresnet_arch import MSRResNet
from conftest import listing, write

from alignvar_arch.cli import main


def test_a_dry_run_tells_what_the_run_takes_and_writes_nothing(tiny, capsys):
    tiny["train"]["ema_decay"] = 0.9
    tiny["train"]["total_iter"] = 50
    tiny["val"]["val_freq"] = 25
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
    assert weights == gradients == round(count * 4 / 2**20, 1) and optimiser in (0.0, 0.1)
    assert "net_g_ema" in said and "peak" in said and "images/s" in said and "50 of 50" in said


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
