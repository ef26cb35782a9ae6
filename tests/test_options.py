"""Options are read as data, completed as BasicSR does, and checked by what the code really reads."""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import pytest
from basicsr.utils import options as basicsr_options
from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from conftest import write

from alignvar_arch import options
from alignvar_arch.errors import UserError
from alignvar_arch.options import known_keys, reader


def read(text: str) -> dict:
    Path("x.yml").write_text(text, encoding="utf-8")
    return reader.read("x.yml")


def test_numbers_with_an_exponent_are_numbers(tiny):
    found = read("a: 2e-4\nb: 1E5\nc: !!float 5e3\nd: [0.9, 1.]\ne: 1e\nf: 12\ng: .5\nh: -.inf\ni: 1_000\n")
    assert found == {"a": 2e-4, "b": 1e5, "c": 5e3, "d": [0.9, 1.0], "e": "1e", "f": 12, "g": 0.5,
                     "h": -np.inf, "i": 1000}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", ["'c'", "lines 3 and 4"]),
        ("a: !!python/name:os.system x\n", ["line 1", "python/name"]),
        ("a: [1\n", ["line"]),
        ("- 1\n", ["mapping"]),
        ("1: a\n", ["not a word"]),
        ("b: 1\na: !!int abc\n", ["line 2", "'abc'"]),
        ("a: !!bool perhaps\n", ["line 1", "'perhaps'"]),
        ("a: 2001-99-99\n", ["line 1", "2001-99-99"]),
        ("a: " + "9" * 5000, ["line 1", "9999"]),
        ("a: " + "[" * 3000 + "]" * 3000, ["nested too deeply"]),
        ("a: &a [*a]\n", ["recursive"]),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tiny, text, words):
    with pytest.raises(UserError) as caught:
        read(text)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "x.yml" in str(caught.value)


def test_anchors_and_merge_keys_work(tiny):
    assert read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")["b"] == {"x": 1, "y": 3}


def test_force_yml_reads_values_as_the_file_does():
    opt = {"train": {"lr": 1, "list": []}, "name": "x"}
    reader.force(opt, ["train:lr=2e-4", "train:list=[1, a]", "train:new=true", "name=a=b", "train:none=None"])
    assert opt == {"train": {"lr": 2e-4, "list": [1, "a"], "new": True, "none": None}, "name": "a=b"}
    for wrong in ("train:lr=!!float x", "train:lr=&a [*a]", "train", "nothing:x=1", "name:x=1",
                  "train:lr=!!python/name:os.system", "=1"):
        with pytest.raises(UserError):
            reader.force(opt, [wrong])


def validated(opt: dict, is_train: bool = True, *flags: str) -> dict:
    args = options.argument_parser("test").parse_args(["-opt", write(opt), *flags])
    return options.validated(args, str(Path.cwd()), is_train)[0]


@pytest.mark.parametrize("flags", [[], ["--debug"], ["--auto_resume"]])
def test_the_completed_options_are_those_of_basicsr(tiny, monkeypatch, flags):
    monkeypatch.setattr(sys, "argv", ["train.py", "-opt", write(tiny), *flags])
    expected, _ = basicsr_options.parse_options(str(Path.cwd()), is_train=True)
    found = validated(tiny, True, *flags)
    found["path"].pop("resume_note", None)  # for the log of our own loop
    assert found == expected


def test_the_completed_test_options_are_those_of_basicsr(tiny_test, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test.py", "-opt", write(tiny_test)])
    expected, _ = basicsr_options.parse_options(str(Path.cwd()), is_train=False)
    assert validated(tiny_test, False) == expected


def test_keys_are_found_in_the_code_that_reads_them():
    model = MODEL_REGISTRY.get("ESRGANModel")
    assert {"net_d_iters", "perceptual_opt", "network_d", "optim_d"} <= known_keys.known(model)
    needed = known_keys.required(model, ("__init__", "init_training_settings", "setup_optimizers"), True)
    assert {"network_g", "network_d"} <= needed[""]
    assert {"optim_g", "optim_d"} <= needed["train"]
    assert "perceptual_opt" not in needed["train"], "it is read under an if"
    dataset = DATASET_REGISTRY.get("PairedImageDataset")
    assert "gt_size" in known_keys.required(dataset, ("__init__", "__getitem__"), True)[""]
    assert "gt_size" not in known_keys.required(dataset, ("__init__", "__getitem__"), False)[""]


def test_keys_of_published_files_pass(tiny):
    tiny["datasets"]["train"].update(filename_tmpl="{}", use_shuffle=True, dataset_enlarge_ratio=1, prefetch_mode=None)
    tiny["datasets"]["val"].update(mean=None, std=None, color="y")
    tiny["path"].update(param_key_g="params_ema", ignore_resume_networks=None)
    tiny["train"].update(ema_decay=0.999, perceptual_opt=None, total_iter=5e0)
    tiny["val"].update(pbar=False)
    tiny["logger"]["wandb"] = {"project": None, "resume_id": None}
    tiny["dist_params"] = {"backend": "nccl", "port": 29500}
    tiny["find_unused_parameters"] = True
    validated(tiny)


def test_hooks_see_their_own_options_and_name_the_block(tiny, monkeypatch):
    seen = []
    model, dataset = MODEL_REGISTRY.get("SRModel"), DATASET_REGISTRY.get("PairedImageDataset")
    monkeypatch.setattr(model, "check_options", staticmethod(seen.append), raising=False)
    found = validated(tiny)
    assert seen[0] is found and found["path"]["experiments_root"].endswith("experiments/tiny")

    def refuse(opt):
        raise UserError(f"{opt['phase']} is not to my liking.")

    monkeypatch.setattr(dataset, "check_options", staticmethod(refuse), raising=False)
    with pytest.raises(UserError, match=r"opt.yml: datasets.train: train is not"):
        validated(tiny)


def test_a_metric_that_cannot_run_is_left_out_with_its_reason(tiny, monkeypatch, capsys):
    metric = METRIC_REGISTRY.get("calculate_ssim")
    tiny["val"]["metrics"]["ssim"] = {"type": "calculate_ssim", "crop_border": 0}
    monkeypatch.setattr(metric, "unavailable", lambda **kwargs: f"no weights for {kwargs}.", raising=False)
    opt, args = options.parse_options(str(Path.cwd()), True, ["-opt", write(tiny)])
    assert isinstance(args, argparse.Namespace) and list(opt["val"]["metrics"]) == ["psnr"]
    assert "val.metrics.ssim is left out: no weights for {'crop_border': 0}." in capsys.readouterr().err


@pytest.mark.parametrize(("gt", "fits"), [((24, 25), True), ((26, 24), False), ((23, 24), False)])
def test_a_validation_gt_may_exceed_a_multiple_of_scale_only_by_a_rest(tiny, gt, fits):
    import cv2

    cv2.imwrite("gt/00.png", np.zeros((*gt, 3), np.uint8))
    tiny["datasets"]["train"]["dataroot_gt"] = "gt_train"
    tiny["datasets"]["train"]["dataroot_lq"] = "lq_train"
    for name in ("gt", "lq"):
        Path(f"{name}_train").mkdir()
        Path(f"{name}_train/01.png").write_bytes(Path(f"{name}/01.png").read_bytes())
    if fits:
        validated(tiny)
        return
    with pytest.raises(UserError, match=rf"datasets.val: gt/00.png is {gt[1]}x{gt[0]}"):
        validated(tiny)


def test_known_traps_are_said_before_training(tiny):
    wrong = copy.deepcopy(tiny)
    wrong["train"]["scheduler"] = {"type": "CosineAnnealingRestartLR", "periods": [2, 2], "restart_weights": [1, 1]}
    with pytest.raises(UserError, match="end at iteration 4, before total_iter 5"):
        validated(wrong)
    tiny["network_g"] = {"type": "SwinIR", "img_size": 8, "window_size": 8, "depths": [1], "num_heads": [2],
                         "embed_dim": 8, "use_checkpoint": True}  # fmt: skip
    with pytest.raises(UserError, match="network_g.use_checkpoint"):
        validated(tiny)


def test_two_warm_ups_are_refused_for_every_model(tiny):
    tiny["train"].update(warmup_iter=2, scheduler={"type": "LinearWarmupCosineLR", "warmup": 2})
    with pytest.raises(UserError, match="train.warmup_iter: LinearWarmupCosineLR has a warm-up of its own"):
        validated(tiny)
    tiny["train"]["warmup_iter"] = -1
    validated(tiny)


def optional_sets(tiny_test: dict, **roots) -> dict:
    """Test sets a, b, … with the given roots, all optional, in place of the one."""
    tiny_test["datasets"] = {
        f"test_{number}": {"name": name, "type": "EvaluationDataset", "dataroot_gt": gt, "dataroot_lq": lq,
                           "optional": True} for number, (name, (gt, lq)) in enumerate(roots.items())}  # fmt: skip
    return tiny_test


def test_an_optional_set_that_is_absent_is_left_out_with_a_word(tiny_test, capsys):
    opt = optional_sets(tiny_test, a=("gt", "lq"), b=("nowhere.lmdb", None), c=("gt", "~/nothing"), d=("gt", None))
    opt["path"]["pretrain_network_g"] = None
    found, _ = options.parse_options(str(Path.cwd()), False, ["-opt", write(opt)])
    assert [block["name"] for block in found["datasets"].values()] == ["a", "d"]
    assert all("optional" not in block for block in found["datasets"].values())
    error = capsys.readouterr().err.splitlines()
    assert error == ["warning: the data set b is left out: there is no nowhere.lmdb.",
                     "warning: the data set c is left out: there is no ~/nothing."]


def test_not_one_optional_set_is_one_sentence(tiny_test):
    opt = optional_sets(tiny_test, a=("nowhere.lmdb", None), b=("neither", "lq"))
    with pytest.raises(UserError, match=r"none of the 2 sets is here \(nowhere.lmdb, neither\); make them with"):
        options.parse_options(str(Path.cwd()), False, ["-opt", write(opt)])


@pytest.mark.parametrize(("value", "words"), [("perhaps", "optional: is 'perhaps'"), (1, "optional: is 1"),
                                              (False, "datasets.test_0: dataroot_gt: there is no folder nowhere")])
def test_optional_is_a_flag(tiny_test, value, words):
    opt = optional_sets(tiny_test, a=("nowhere", None))
    opt["datasets"]["test_0"]["optional"] = value
    with pytest.raises(UserError, match=words):
        options.parse_options(str(Path.cwd()), False, ["-opt", write(opt)])


def test_training_data_are_never_optional_but_validation_may_be(tiny):
    tiny["datasets"]["val"].update(dataroot_gt="nowhere", optional=True)
    assert list(validated(tiny)["datasets"]) == ["train"]
    tiny["datasets"]["train"]["optional"] = True
    with pytest.raises(UserError, match="datasets.train.optional: this key is unknown"):
        validated(tiny)
