"""The front door: bad input is one sentence and leaves no trace; the commands do what they say."""

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from conftest import listing, write
from PIL import Image

from alignvar_arch.cli import main, plugins


def put(opt: dict, dotted: str, value) -> None:
    *blocks, key = dotted.split(".")
    for block in blocks:
        opt = opt[block]
    opt[key] = value


def remove(opt: dict, dotted: str) -> None:
    *blocks, key = dotted.split(".")
    for block in blocks:
        opt = opt[block]
    del opt[key]


def refused(capsys, arguments: list[str], *words: str) -> None:
    """Runs the command and asks for exit code 2, one line on stderr with all `words`, and an unchanged folder."""
    before = listing(Path.cwd())
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    for word in words:
        assert word in captured.err
    assert listing(Path.cwd()) == before


CHANGED = [
    ("model_type", "SRModle", ["model_type", "SRModel"]),
    ("network_g.type", "MSRResnet", ["network_g.type", "MSRResNet"]),
    ("train.pixel_opt.type", "L1Los", ["train.pixel_opt.type", "L1Loss"]),
    ("datasets.train.type", "PairedImageDatset", ["datasets.train.type", "PairedImageDataset"]),
    ("val.metrics.psnr.type", "calculate_psn", ["val.metrics.psnr.type", "calculate_psnr"]),
    ("train.total_itr", 5, ["opt.yml", "train.total_itr", "total_iter"]),
    ("datasets.train.dataroot_gtt", "gt", ["datasets.train.dataroot_gtt", "dataroot_gt"]),
    ("path.pretrain_netwrk_g", None, ["path.pretrain_netwrk_g", "pretrain_network_g"]),
    ("logger.print_frq", 1, ["logger.print_frq", "print_freq"]),
    ("modle_type", "SRModel", ["modle_type", "model_type"]),
    ("network_g.num_feats", 8, ["network_g.num_feats", "num_feat"]),
    ("train.pixel_opt.loss_wieght", 1.0, ["train.pixel_opt.loss_wieght", "loss_weight"]),
    ("val.metrics.psnr.crop_boarder", 2, ["val.metrics.psnr.crop_boarder", "crop_border"]),
    ("train.optim_g.type", "Adamw2", ["train.optim_g.type", "AdamW"]),
    ("train.scheduler.gama", 0.5, ["train.scheduler.gama", "gamma"]),
    ("train.total_iter", "abc", ["train.total_iter", "'abc'"]),
    ("logger.print_freq", 0, ["logger.print_freq"]),
    ("num_gpu", 99, ["num_gpu", "auto"]),
    ("datasets.train.dataroot_gt", "nowhere", ["datasets.train.dataroot_gt", "nowhere"]),
    ("datasets.train.dataroot_gt", None, ["datasets.train.dataroot_gt", "None"]),
    ("path.pretrain_network_g", "no.pth", ["path.pretrain_network_g", "no.pth"]),
    ("path.pretrain_network_g", "alignvar_arch:weights/no.safetensors", ["alignvar_arch:weights/no.safetensors"]),
    ("path.resume_state", "no.state", ["path.resume_state", "no.state"]),
    ("datasets.train.prefetch_mode", "gpu", ["prefetch_mode", "cuda"]),
    ("datasets.train.gt_size", 64, ["gt_size", "24x24", "64"]),
    ("network_g.num_block", "many", ["network_g", "MSRResNet"]),
    *[("name", name, ["opt.yml: name"]) for name in ("../elsewhere", "..", ".", " ", "a\nb", "a\0b", "a" * 129, 5)],
    *[(f"train.pixel_opt{key}", value, ["train.pixel_opt"]) for key, value in (
        ("", 5), ("", None), (".loss_weight", "abc"), (".loss_weight", float("nan")), (".reduction", "means"))],
    *[(f"train.optim_g.{key}", value, ["train.optim_g"]) for key, value in (
        ("type", [1]), ("lr", -1), ("weight_decay", -1), ("betas", None), ("betas", [0.9]))],
    *[("train.scheduler.milestones", value, ["train.scheduler.milestones"]) for value in (5, "abc", ["a"])],
    ("train.scheduler.restart_weights", [1, 1], ["train.scheduler", "MultiStepLR", "restarts"]),
    ("val.metrics.psnr.crop_border", "abc", ["val.metrics.psnr.crop_border"]),
    ("val.metrics.psnr.better", "lwoer", ["val.metrics.psnr.better"]),
    ("network_g.num_feat", 0, ["network_g", "no elements"]),
    ("manual_seed", 2**70, ["manual_seed"]),
    ("datasets.train.batch_size_per_gpu", 4.0, ["datasets.train.batch_size_per_gpu", "without a dot"]),
    ("datasets.train.io_backend.type", [1], ["datasets.train.io_backend.type"]),
    ("datasets.train.io_backend.typo", 1, ["datasets.train.io_backend.typo"]),
    ("datasets.train.io_backend", {"type": "memcached"}, ["datasets.train.io_backend", "missing"]),
    *[("path.resume_state", value, ["path.resume_state"]) for value in (float("nan"), [1])],
    ("path.param_key_g", [1], ["path.param_key_g"]),
    ("path.param_key_x", "params", ["path.param_key_x", "unknown"]),
    ("path.strict_load_x", True, ["path.strict_load_x", "strict_load_g"]),
    ("dist_params", {"prot": 1}, ["dist_params.prot", "port"]),
    ("logger.wandb", {"projct": "x"}, ["logger.wandb.projct", "project"]),
    ("datasets.val.name", "../../elsewhere", ["datasets.val.name", "'../../elsewhere'"]),
]


@pytest.mark.parametrize(("key", "value", "words"), CHANGED, ids=[f"{key}={value!r:.30}" for key, value, _ in CHANGED])
def test_a_wrong_value_is_named(tiny, capsys, key, value, words):
    put(tiny, key, value)
    refused(capsys, ["train", "-opt", write(tiny)], *words)


def test_two_validation_sets_of_one_name_are_refused(tiny, capsys):
    tiny["datasets"]["val_2"] = dict(tiny["datasets"]["val"])
    refused(capsys, ["train", "-opt", write(tiny)], "datasets.val_2.name", "datasets.val", "rename")


@pytest.mark.parametrize("place", ["experiments", "experiments/tiny", "experiments/tiny/models", "tb_logger"])
@pytest.mark.parametrize("kind", ["file", "dangling link", "not writable"])
def test_a_place_that_cannot_hold_results_is_refused(tiny, capsys, monkeypatch, place, kind):
    put(tiny, "logger.use_tb_logger", True)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling link":
        path.symlink_to("/nowhere/at/all")
    else:
        path.mkdir()  # the tests may run as root, who may write anywhere
        monkeypatch.setattr(os, "access", lambda asked, mode: not str(asked).endswith(place))
    reason = "is not writable" if kind == "not writable" else "is not a folder"
    refused(capsys, ["train", "-opt", write(tiny)], place, reason)


@pytest.mark.parametrize(
    "key",
    ["name", "model_type", "path", "network_g", "network_g.type", "train.total_iter", "train.optim_g.lr",
     "train.scheduler", "logger.use_tb_logger", "datasets.train", "datasets.train.gt_size", "val.val_freq",
     "datasets.train.batch_size_per_gpu", "datasets.val.dataroot_lq", "train.pixel_opt.type"],
)  # fmt: skip
def test_a_missing_key_is_named(tiny, capsys, key):
    remove(tiny, key)
    refused(capsys, ["train", "-opt", write(tiny)], "opt.yml", key, "missing")


def test_files_that_do_not_fit_are_named(tiny, capsys):
    command = ["train", "-opt", write(tiny)]
    cv2.imwrite("gt/05.png", np.zeros((20, 30, 3), np.uint8))
    refused(capsys, command, "05.png", "30x20", "12x12", "24x24")
    Path("gt/05.png").write_bytes(b"no image")
    refused(capsys, command, "05.png", "damaged")
    Path("gt/05.png").unlink()
    refused(capsys, command, "datasets.train", "11, 10")
    put(tiny, "datasets.train.dataroot_lq", "void")
    Path("void").mkdir()
    refused(capsys, ["train", "-opt", write(tiny)], "datasets.train.dataroot_lq", "void", "empty")


def test_lmdb_that_cannot_serve_is_named(tiny, capsys):
    for name in ("gt.lmdb", "lq.lmdb"):
        lmdb.open(name, map_size=1 << 20).close()
    tiny["datasets"]["train"].update(dataroot_gt="gt.lmdb", dataroot_lq="lq.lmdb", io_backend={"type": "lmdb"})
    command = ["train", "-opt", write(tiny)]
    refused(capsys, command, "datasets.train.dataroot_gt", "gt.lmdb", "empty")
    with lmdb.open("gt.lmdb", map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", bytes(100_000))
    data = Path("gt.lmdb/data.mdb")
    data.write_bytes(data.read_bytes()[:50_000])
    refused(capsys, command, "gt.lmdb", "truncated")
    data.unlink()
    refused(capsys, command, "gt.lmdb", "data.mdb")


def test_a_checkpoint_of_another_shape_is_named_with_both_shapes(tiny, capsys):
    from basicsr.archs.srresnet_arch import MSRResNet

    torch.save({"params": MSRResNet(num_feat=16, num_block=1, upscale=2).state_dict()}, "other.pth")
    put(tiny, "path.pretrain_network_g", "other.pth")
    refused(capsys, ["train", "-opt", write(tiny)], "other.pth", "conv_first.weight", "(16, 3, 3, 3)", "(8, 3, 3, 3)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["train"], ["-opt"]),
        (["train", "-opt", "none.yml"], ["none.yml"]),
        (["train", "-opt", "opt.yml", "--auto_resum"], ["--auto_resum"]),
        (["train", "-opt", "opt.yml", "--launcher", "pytorch"], ["torchrun", "RANK is not set"]),
        (["train", "-opt", "opt.yml", "--force_yml", "train:total_iter"], ["train:total_iter"]),
        (["train", "-opt", "opt.yml", "--force_yml", "no:block=1"], ["no"]),
        (["doctor", "--verbos"], ["--verbos"]),
    ],
)
def test_a_wrong_command_line_is_one_sentence(tiny, capsys, arguments, words):
    write(tiny)
    refused(capsys, arguments, *words)


def test_unsafe_yaml_and_forced_code_are_not_executed(tiny, capsys):
    text = Path(write(tiny)).read_text(encoding="utf-8")
    Path("evil.yml").write_text(text + "degrade: !!python/object/apply:os.mkdir [pwned]\n", encoding="utf-8")
    refused(capsys, ["train", "-opt", "evil.yml"], "evil.yml, line", "python/object")
    for code in ("__import__('os').mkdir('pwned')", "[__import__('os').mkdir('pwned')]"):
        refused(capsys, ["train", "-opt", "opt.yml", "--force_yml", f"train:total_iter={code}"], "train.total_iter")
        refused(capsys, ["train", "-opt", "opt.yml", "--force_yml", f'train"][{code}]["x=1'])
    assert not Path("pwned").exists()


def test_a_bad_file_leaves_the_previous_run_alone(tiny, capsys):
    assert main(["train", "-opt", write(tiny), "--force_yml", "train:total_iter=1"]) == 0
    put(tiny, "train.total_iter", "abc")
    refused(capsys, ["train", "-opt", write(tiny)], "train.total_iter")


def test_train_runs_exactly_total_iter_and_resumes_on_the_cpu(tiny, capsys):
    command = ["train", "-opt", write(tiny)]
    assert main(command) == 0  # 11 images in batches of 4: two iterations an epoch, three epochs
    folder = Path("experiments/tiny")
    assert sorted(path.name for path in (folder / "training_states").iterdir()) == ["2.state", "4.state"]
    assert " iter:       5" in capsys.readouterr().err
    log = next(folder.glob("train_tiny_*.log"))
    assert "iter:       6" not in log.read_text()
    log.unlink()
    assert main([*command, "--auto_resume", "--force_yml", "train:total_iter=8"]) == 0
    resumed = next(folder.glob("train_tiny_*.log")).read_text()
    assert "Resuming training from epoch: 1, iter: 4" in resumed and "net_g_4.pth" in resumed
    assert "INFO: resuming from" in resumed and "warning: resuming from" not in capsys.readouterr().err
    assert [f"iter:{i:8}" in resumed for i in (4, 5, 8, 9)] == [False, True, True, False]
    assert torch.load(folder / "training_states/8.state", weights_only=False)["iter"] == 8
    assert not list(Path("experiments").glob("*archived*"))
    kept = (folder / "opt.yml").read_text()
    refused(capsys, [*command, "--auto_resume", "--force_yml", "network_g:num_feat=16"], "net_g_8.pth", "(16, 3, 3, 3)")
    weights = folder / "models/net_g_8.pth"
    assert (folder / "opt.yml").read_text() == kept
    weights.write_bytes(weights.read_bytes()[:900])
    (folder / "training_states/9.state").write_bytes(b"<html>")
    capsys.readouterr()
    assert main([*command, "--auto_resume", "--force_yml", "train:total_iter=8"]) == 0
    said = capsys.readouterr().err
    assert "passed over" in said and "9.state is not a training state" in said and "net_g_8.pth" in said
    assert "resuming from" in said and "Resuming training from epoch: 2, iter: 6" in said
    logs = sorted(folder.glob("train_tiny_*.log"), key=lambda path: path.stat().st_mtime_ns)
    assert "passed over" in logs[-1].read_text()
    for state in (folder / "training_states").glob("*.state"):
        state.write_bytes(b"<html>")
    refused(capsys, [*command, "--auto_resume"], "none of the", "is whole", "remove it")


def test_training_and_validation_share_an_lmdb_with_workers(tiny):
    for name in ("gt", "lq"):
        paths = sorted(Path(name).iterdir())
        with lmdb.open(f"{name}.lmdb", map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
            for path in paths:
                transaction.put(path.stem.encode(), path.read_bytes())
        Path(f"{name}.lmdb/meta_info.txt").write_text("".join(f"{path.name} (1,1,3) 1\n" for path in paths))
    for phase in ("train", "val"):
        block = tiny["datasets"][phase]
        block.update(dataroot_gt="gt.lmdb", dataroot_lq="lq.lmdb", io_backend={"type": "lmdb"})
    put(tiny, "datasets.train.num_worker_per_gpu", 2)
    put(tiny, "val.val_freq", 2)  # the parent reads before the next epoch's workers are forked
    assert main(["train", "-opt", write(tiny)]) == 0
    assert Path("experiments/tiny/models/net_g_latest.pth").is_file()


def test_a_batch_larger_than_the_data_is_refused(tiny, capsys):
    put(tiny, "datasets.train.batch_size_per_gpu", 12)
    refused(capsys, ["train", "-opt", write(tiny)], "batch of 12 is larger than the 11 images")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meta_info_file": "none.txt"}, ["datasets.train", "no images"]),
        ({"mean": "abc", "std": [1, 1, 1]}, ["datasets.train", "PairedImageDataset"]),
        ({"type": "SingleImageDataset"}, ["datasets.train.type", "no GT"]),
        ({"filename_tmpl": [1]}, ["datasets.train", "list"]),
    ],
)
def test_data_that_fail_are_refused_before_anything_is_made(tiny, capsys, changes, words):
    Path("none.txt").write_text("")
    tiny["datasets"]["train"].update(changes)
    refused(capsys, ["train", "-opt", write(tiny)], *words)


def test_a_metric_that_compares_needs_gt(tiny_test, capsys):
    del tiny_test["datasets"]["test_1"]["dataroot_gt"]
    put(tiny_test, "datasets.test_1.type", "SingleImageDataset")
    refused(capsys, ["test", "-opt", write(tiny_test)], "datasets.test_1.type", "psnr")


@pytest.mark.parametrize("mode", [None, "cpu"])
def test_an_unreadable_image_in_training_is_named_from_a_worker(tiny, capsys, mode):
    path = Path("gt/03.png")
    content = bytearray(path.read_bytes())
    tiny["datasets"]["train"].update(num_worker_per_gpu=1, prefetch_mode=mode)
    command = ["train", "-opt", write(tiny)]
    assert main([*command, "--force_yml", "train:total_iter=1"]) == 0
    # A GIF header passes the check of headers; OpenCV then finds no picture behind it.
    path.write_bytes(b"GIF89a" + bytes(content[6:40]))
    capsys.readouterr()
    assert main(command) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("basicsr: ") and "gt/03.png" in last and "Traceback" not in last


def test_test_passes_over_an_unreadable_image(tiny_test, capsys):
    command = ["test", "-opt", write(tiny_test)]
    assert main(command) == 0
    Path("lq/04.png").write_bytes(b"no image")
    assert main(command) == 1
    assert "lq/04.png" in capsys.readouterr().err
    assert len(list(Path("results/tiny/visualization/Set").glob("*.png"))) == 10
    for path in Path("lq").iterdir():
        path.write_bytes(b"no image")
    assert main(command) == 2
    assert "none of the 11 images" in capsys.readouterr().err.splitlines()[-1]


def test_convert_says_where_it_cannot_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": {"a": torch.zeros(2)}}, "a.pth")
    Path("folder.safetensors").mkdir()
    refused(capsys, ["convert", "a.pth", "-o", "folder.safetensors"], "folder.safetensors", "directory")
    refused(capsys, ["convert", "a.pth", "-o", "/proc/a.safetensors"], "/proc/a.safetensors")


def test_images_that_may_not_or_should_not_be_opened_are_named(tiny, capsys, monkeypatch):
    def forbid(source):  # the tests may run as root, who may read anything
        raise PermissionError(13, "Permission denied", source)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", forbid)
        refused(capsys, ["train", "-opt", write(tiny)], "cannot read the image", "no permission")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    refused(capsys, ["train", "-opt", write(tiny)], "datasets.train", "exceeds limit")
    monkeypatch.setattr(os, "listdir", forbid)
    refused(capsys, ["train", "-opt", write(tiny)], "opt.yml: cannot read gt: Permission denied")


def test_list_names_everything_and_its_package(capsys):
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["arch", "AlignVAR", "alignvar_arch"] in rows
    assert ["model", "SRModel", "basicsr"] in rows
    assert ["metric", "calculate_psnr", "basicsr"] in rows


def test_plugins_are_found_and_a_broken_one_is_only_reported(tiny, monkeypatch, capsys):
    Path("good_plugin.py").write_text(
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "@ARCH_REGISTRY.register()\nclass PluginNet:\n    '''Registered by a test.'''\n"
    )
    Path("bad_plugin.py").write_text("raise RuntimeError('I am broken')\n")
    Path("exiting_plugin.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(".")
    names = ("good_plugin", "bad_plugin", "exiting_plugin")
    entries = [metadata.EntryPoint(name, name, plugins.GROUP) for name in names]
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: entries if group == plugins.GROUP else [])
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "PluginNet" in out and "good_plugin" in out and "I am broken" in out
    assert main(["train", "-opt", "none.yml"]) == 2
    warning, exiting, problem = capsys.readouterr().err.splitlines()
    assert "bad_plugin" in warning and "SystemExit: 3" in exiting and "none.yml" in problem
    assert main(["doctor"]) == 1
    assert "bad_plugin" in capsys.readouterr().out


def test_the_real_command_says_one_sentence_and_stops_on_sigterm(tiny):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "alignvar_arch", "train", "-opt"]
    result = subprocess.run([*command, "none.yml"], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "") and result.stderr.count("\n") == 1, result.stderr
    put(tiny, "train.total_iter", 1_000_000)
    put(tiny, "logger.print_freq", 1_000_000)
    process = subprocess.Popen([*command, write(tiny)], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path("experiments/tiny/training_states").glob("*.state")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "basicsr train --auto_resume -opt opt.yml" in error.splitlines()[-1] and "Traceback" not in error
