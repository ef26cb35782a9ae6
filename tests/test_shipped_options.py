"""Every options file that ships: the embedded-data ones train two iterations and test, in whatever folder they are."""
import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY

from alignvar_arch import checkpoints, options
from alignvar_arch.cli import main
from alignvar_arch.options import components

OPTIONS = Path(__file__).parent.parent / "options"
# Those of the paper's size, of data and weights that are not here: tests/test_paper_options.py.
PAPER = list((OPTIONS / "paper").iterdir())
# Those of data that are made first: tests/test_release.py.
RELEASE = list((OPTIONS / "release").iterdir())
TRAIN = sorted(path for path in set(OPTIONS.rglob("*.yml")) - set(PAPER) - set(RELEASE)
               if not path.stem.endswith("_test"))
# Those of public checkpoints, which neither ship nor are trained here.
PUBLIC = [OPTIONS / "baseline/realesr-general-x4v3_x4_test.yml", *sorted((OPTIONS / "baseline/public").iterdir())]
# Those of data sets that do not ship: tests/test_benchmark_suites.py.
SUITES = list((OPTIONS / "benchmark").iterdir())
TEST = sorted(set(OPTIONS.rglob("*_test.yml")) - set(PUBLIC) - set(SUITES) - set(PAPER) - set(RELEASE))
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
    assert shipped >= {f"baseline/{arch}_x4{kind}.yml" for arch in ("swinir", "esrgan", "rrdbnet", "srvggnet", "edsr")
                       for kind in ("", "_test")}
    assert {path.stem.removesuffix("_x4_test") for path in PUBLIC} == {
        "realesr-general-x4v3", "realesrgan-x4plus", "swinir-m", "edsr-m", "edsr-l"}


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


@pytest.mark.parametrize("path", [path for path in TEST if path.parent.name != "ablation"], ids=name)
def test_it_tests(path, elsewhere, capsys):
    opt = yaml.safe_load(path.read_text())
    weights = opt["path"]["pretrain_network_g"]
    if not weights.startswith(checkpoints.PREFIX) and not Path(weights).is_file():
        pytest.skip(f"{weights} comes from the training file's own test, which did not run")
    assert main(["test", "-opt", shutil.copy(path, elsewhere)]) == 0
    made = elsewhere / "results" / opt["name"]
    assert "psnr" in next(made.glob("test_*.log")).read_text() and list(made.rglob("*.png"))


@pytest.mark.parametrize("path", [path for path in TEST if path.parent.name in ("baseline", "ablation")],
                         ids=name)
def test_a_test_file_without_weights_says_how_to_train_them(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["test", "-opt", str(path)]) == 2
    error = capsys.readouterr().err
    trainer = str(path).replace("_test.yml", ".yml")
    assert error.strip().endswith(f"train {Path(trainer).stem} first: basicsr train -opt {trainer}.")
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", PUBLIC, ids=name)
def test_a_public_checkpoint_that_is_absent_is_asked_for(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = Path(yaml.safe_load(path.read_text())["path"]["pretrain_network_g"])
    assert weights.parent == Path("weights")
    head = path.read_text().partition("\nname:")[0]
    assert f"Put {weights.name}, of " in head and path.name in head
    assert main(["test", "-opt", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and f"no {weights} here" in error and "--weights" in error
    assert not list(tmp_path.iterdir())


def validated(path: Path, *flags: str) -> dict:
    args = options.argument_parser("basicsr test", False).parse_args(["-opt", str(path), *flags])
    return options.validated(args, str(Path.cwd()), False)[0]


@pytest.mark.parametrize("path", [path for path in PUBLIC if path.stem != "edsr-l_x4_test"], ids=name)
@pytest.mark.parametrize("key", ["params", "params_ema"])
def test_a_public_checkpoint_of_the_right_shape_is_accepted(path, key, tmp_path):
    """Random weights of the network that the file describes, under either of the keys that releases use."""
    block = yaml.safe_load(path.read_text())["network_g"]
    net = ARCH_REGISTRY.get(block.pop("type"))(**block)
    torch.save({key: net.half().state_dict()}, tmp_path / "public.pth")
    opt = validated(path, "--weights", str(tmp_path / "public.pth"))
    assert opt["path"]["pretrain_network_g"] == str(tmp_path / "public.pth")


@pytest.mark.parametrize(("file", "millions"), [("realesr-general-x4v3", 1.2), ("public/realesrgan-x4plus", 16.7),
                                                ("public/swinir-m", 11.9), ("public/edsr-m", 1.5),
                                                ("public/edsr-l", 43.1)])
def test_the_networks_of_public_checkpoints_have_their_published_size(file, millions):
    block = yaml.safe_load((OPTIONS / "baseline" / f"{file}_x4_test.yml").read_text())["network_g"]
    network = components.build(ARCH_REGISTRY.get(block["type"]), block, "network_g")
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


def test_real_esrgans_general_model_has_its_measured_psnr_on_set5(shared, elsewhere, capsys):
    weights = shared / "data/weights/realesr-general-x4v3_fp16.pth"
    assert main(["test", "-opt", str(PUBLIC[0]), "--weights", str(weights), "--sets", f"set5={shared}/data/set5",
                 "--force_yml", "val:save_img=false", "val:metrics={psnr: {type: calculate_psnr, crop_border: 4, "
                 "test_y_channel: true}}"]) == 0
    assert "psnr: 26.64" in next((elsewhere / "results" / PUBLIC[0].stem).glob("test_*.log")).read_text()


def test_the_ablations_tests_differ_from_the_main_one_in_weights_and_sca():
    main_file = yaml.safe_load((OPTIONS / "alignvar_x4_test.yml").read_text())
    for trainer in (path for path in TRAIN if path.parent.name == "ablation"):
        expected = copy.deepcopy(main_file)
        expected["name"] = f"{trainer.stem}_test"
        expected["path"]["pretrain_network_g"] = f"experiments/{trainer.stem}/models/net_g_latest.pth"
        expected["network_g"]["sca"] = yaml.safe_load(trainer.read_text())["network_g"]["sca"]
        assert yaml.safe_load(trainer.with_name(f"{trainer.stem}_test.yml").read_text()) == expected


def test_the_small_model_is_the_same_network_in_every_file():
    """Also in those of the release, which train what ships; and its weights fit."""
    files = [path for path in OPTIONS.rglob("*.yml") if path.parent.name not in ("paper", "baseline", "public")
             and path.stem not in ("ablation_x4", "ablation_tokenizer_x4")]  # whose networks are their own
    tokenizer, transformer = (yaml.safe_load((OPTIONS / "alignvar_x4.yml").read_text())[key]
                              for key in ("network_tokenizer", "network_g"))
    seen = {"AlignVAR": 0, "AlignVARTokenizer": 0}
    for path in files:
        opt = yaml.safe_load(path.read_text())
        for block in (opt.get("network_g"), opt.get("network_tokenizer")):
            if block is not None and block["type"] in seen:
                expected = tokenizer if block["type"] == "AlignVARTokenizer" else {**transformer, "sca": block["sca"]}
                assert block == expected, path
                seen[block["type"]] += 1
    assert seen["AlignVAR"] >= 13 and seen["AlignVARTokenizer"] >= 15
    for file, block in (("alignvar", transformer), ("tokenizer", tokenizer)):
        path = f"{checkpoints.PREFIX}weights/{file}_x4_small.safetensors"
        assert json.loads(checkpoints.read(checkpoints.resolve(path))[1]["network"]) == block


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
