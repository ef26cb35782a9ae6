"""Every options file that ships: the embedded-data ones train two iterations and test, in whatever folder they are."""
import copy
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from alignvar_arch import checkpoints
from alignvar_arch.cli import main

OPTIONS = Path(__file__).parent.parent / "options"
TRAIN = sorted(path for path in OPTIONS.rglob("*.yml") if not path.stem.endswith("_test"))
TEST = sorted(OPTIONS.rglob("*_test.yml"))
# Two small steps and one validation, at the end.
SHORT = ["train:total_iter=2", "val:val_freq=1000", "datasets:train:batch_size_per_gpu=1",
         "datasets:train:num_worker_per_gpu=0", "logger:print_freq=1", "val:metrics:niqe:type=calculate_psnr"]


def name(path: Path) -> str:
    return path.relative_to(OPTIONS).as_posix()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """A folder that has nothing to do with the repository, where the data are made once."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(autouse=True)
def there(elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


def test_what_should_ship_does():
    shipped = {name(path) for path in TRAIN + TEST}
    assert shipped >= {"alignvar_x4.yml", "alignvar_x4_test.yml", "tokenizer_x4.yml", "alignvar_x4_own.yml",
                       "ablation/sca_laplacian_x4.yml", "ablation/sca_random_x4.yml", "ablation/sca_off_x4.yml",
                       "ablation/hcc_off_x4.yml"}
    assert shipped >= {f"baseline/{arch}_x4{kind}.yml" for arch in ("swinir", "esrgan", "rrdbnet")
                       for kind in ("", "_test")}


@pytest.mark.parametrize("path", TRAIN, ids=name)
def test_it_trains_two_iterations_validates_and_saves(path, elsewhere):
    short = [*SHORT, "train:quantise_from=1"] if "quantise_from" in path.read_text() else SHORT
    assert main(["train", "-opt", shutil.copy(path, elsewhere), "--force_yml", *short]) == 0
    run = elsewhere / "experiments" / path.stem
    log = next(run.glob("train_*.log")).read_text()
    assert "iter:       2," in log and "psnr" in log
    states, _ = checkpoints.read(str(run / "models" / "net_g_latest.pth"))
    assert all(value.isfinite().all() for value in states["params"].values())
    assert list((run / "visualization").rglob("*.png"))


@pytest.mark.parametrize("path", TEST, ids=name)
def test_it_tests(path, elsewhere, capsys):
    opt = yaml.safe_load(path.read_text())
    weights = opt["path"]["pretrain_network_g"]
    if not weights.startswith(checkpoints.PREFIX) and not Path(weights).is_file():
        pytest.skip(f"{weights} comes from the training file's own test, which did not run")
    assert main(["test", "-opt", shutil.copy(path, elsewhere)]) == 0
    made = elsewhere / "results" / opt["name"]
    assert "psnr" in next(made.glob("test_*.log")).read_text() and list(made.rglob("*.png"))


@pytest.mark.parametrize("path", [path for path in TEST if path.parent.name == "baseline"], ids=name)
def test_a_baseline_without_weights_says_how_to_train_it(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["test", "-opt", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "basicsr train -opt" in error
    assert not list(tmp_path.iterdir())


def test_the_ablations_differ_from_the_main_file_in_one_thing():
    main_file = yaml.safe_load((OPTIONS / "alignvar_x4.yml").read_text())
    for file, block, key, value in (("sca_laplacian", "network_g", "sca", "laplacian"),
                                    ("sca_random", "network_g", "sca", "random"),
                                    ("sca_off", "network_g", "sca", "off"),
                                    ("hcc_off", "train", "hcc_opt", {"loss_weight": 0.0})):
        expected = copy.deepcopy(main_file)
        expected["name"] = f"{file}_x4"
        if isinstance(value, dict):
            expected[block][key].update(value)
        else:
            expected[block][key] = value
        assert yaml.safe_load((OPTIONS / "ablation" / f"{file}_x4.yml").read_text()) == expected
