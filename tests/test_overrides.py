"""`--weights` and `--sets`: tests on other weights and other data than the options file names."""
import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from conftest import write
from test_cli import put, refused

from alignvar_arch import options
from alignvar_arch.cli import main
from alignvar_arch.errors import UserError
from alignvar_arch.options.overrides import parse_set


def network(seed: int = 0, **changes) -> MSRResNet:
    torch.manual_seed(seed)
    return MSRResNet(**{"num_feat": 8, "num_block": 1, "upscale": 2, **changes})


def parsed(*flags: str, is_train: bool = False) -> argparse.Namespace:
    return options.argument_parser("basicsr test", is_train).parse_args(["-opt", "opt.yml", *flags])


def validated(opt: dict, *flags: str) -> dict:
    write(opt)
    return options.validated(parsed(*flags), str(Path.cwd()), False)[0]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("a=gt", ("a", "gt", None)),
        ("a b=gt,lq", ("a b", "gt", "lq")),
        ("a=with,comma", ("a", "with,comma", None)),
        ("a=with,comma,lq", ("a", "with,comma", "lq")),
        ("a=with=sign", ("a", "with=sign", None)),
    ],
)
def test_a_set_is_a_name_and_one_or_two_folders(tiny, entry, found):
    for name in ("with,comma", "with=sign"):
        Path(name).mkdir()
    assert parse_set(entry) == found


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["a"], ["--sets 'a'", "NAME=HR_FOLDER,LR_FOLDER"]),
        (["a="], ["--sets 'a='", "NAME=HR_FOLDER"]),
        (["=gt"], ["--sets '=gt'", "NAME=HR_FOLDER"]),
        (["a=gt,"], ["--sets 'a=gt,'", "NAME=HR_FOLDER"]),
        (["a=,lq"], ["--sets 'a=,lq'", "NAME=HR_FOLDER"]),
        (["a=nowhere"], ["--sets a", "no folder nowhere"]),
        (["a=gt,nowhere"], ["--sets a", "no folder nowhere"]),
        (["a=gt,no,where"], ["--sets a", "no folder gt,no"]),
        (["a=gt", "--sets", "a=lq"], ["--sets", "'a' is given twice"]),
        (["a/b=gt"], ["datasets.test_1.name", "'a/b'"]),
        (["..=gt"], ["datasets.test_1.name", "'..'"]),
        (["a=gt", "b=void"], ["opt.yml: datasets.test_2", "dataroot_gt", "void holds no images"]),
        (["a=gt,few"], ["opt.yml: datasets.test_1", "11 images", "few 1"]),
        (["a=gt,gt"], ["opt.yml: datasets.test_1", "24x24", "48x48"]),
        ([], ["--sets"]),
    ],
)
def test_a_wrong_set_is_one_sentence(tiny_test, capsys, flags, words):
    Path("void").mkdir()
    Path("few").mkdir()
    Path("few/00.png").write_bytes(Path("lq/00.png").read_bytes())
    refused(capsys, ["test", "-opt", write(tiny_test), "--sets", *flags], *words)


def test_sets_replace_the_data_of_the_file(tiny_test):
    put(tiny_test, "datasets.test_1.dataroot_gt", "absent")
    found = validated(tiny_test, "--sets", "Two=gt,lq", "One=gt", "--sets", "Three=lq")["datasets"]
    roots = {phase: (block["name"], block["type"], block["dataroot_gt"], block["dataroot_lq"])
             for phase, block in found.items()}
    assert roots == {"test_1": ("Two", "EvaluationDataset", "gt", "lq"),
                     "test_2": ("One", "EvaluationDataset", "gt", None),
                     "test_3": ("Three", "EvaluationDataset", "lq", None)}
    assert all(block["scale"] == 2 and block["phase"] == "test" for block in found.values())


def test_training_does_not_offer_them_but_every_namespace_has_them(tiny, capsys):
    assert (parsed().weights, parsed().sets) == (None, None)
    assert (parsed(is_train=True).weights, parsed(is_train=True).sets) == (None, None)
    for flags in (["--weights", "a.pth"], ["--sets", "a=gt"]):
        refused(capsys, ["train", "-opt", write(tiny), *flags], flags[0])


def test_a_test_runs_on_the_given_sets_with_the_given_weights(tiny_test, capsys):
    """The pictures are those of the network itself, also from half-precision weights, which compute in float32."""
    net = network().half()
    torch.save({"params": net.state_dict()}, "given.pth")
    put(tiny_test, "path.pretrain_network_g", "experiments/absent/models/net_g_latest.pth")
    put(tiny_test, "path.param_key_g", "params_ema")
    command = ["test", "-opt", write(tiny_test), "--weights", "given.pth", "--sets", "Own=gt,lq", "Made=gt"]
    assert main(command) == 0
    made = Path("results/tiny/visualization")
    assert sorted(path.name for path in made.iterdir()) == ["Made", "Own"]
    lq = torch.from_numpy(cv2.imread("lq/05.png")[..., ::-1] / np.float32(255)).permute(2, 0, 1)
    with torch.no_grad():
        wanted = net.float()(lq[None])[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(cv2.imread(str(made / "Own/05_tiny.png"))[..., ::-1], wanted)
    Path("gt/03.png").write_bytes(b"no image")
    capsys.readouterr()
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()
    assert sum("cannot read the image gt/03.png" in line for line in error) == 2
    assert error[-1] == "basicsr: 2 of 22 images could not be read; the others are done."


def test_weights_that_cannot_be_used_are_named(tiny_test, capsys):
    torch.save({"params": network(num_feat=16).state_dict()}, "wide.pth")
    Path("broken.pth").write_bytes(b"no weights")
    command = ["test", "-opt", write(tiny_test), "--weights"]
    refused(capsys, [*command, "absent.pth"], "--weights: there is no file absent.pth")
    refused(capsys, [*command, "gt"], "--weights: there is no file gt")
    refused(capsys, [*command, "experiments/x/net_g_latest.pth"], "--weights: there is no file experiments/x/net_g")
    refused(capsys, [*command, "alignvar_arch:weights/no.pth"], "alignvar_arch:weights/no.pth")
    refused(capsys, [*command, "broken.pth"], "broken.pth", "truncated")
    refused(capsys, [*command, "wide.pth"], "wide.pth", "(16, 3, 3, 3)", "(8, 3, 3, 3)")
    refused(capsys, command, "--weights")
    del tiny_test["network_g"]
    refused(capsys, ["test", "-opt", write(tiny_test), "--weights", "wide.pth"], "network_g")


def test_a_file_without_network_g_has_no_place_for_weights(tiny_test):
    from alignvar_arch.options.overrides import use_weights

    del tiny_test["network_g"]
    with pytest.raises(UserError, match="no block network_g"):
        use_weights(tiny_test, "given.pth")
