"""The release's recipe: its data, its options files trained for two iterations in pieces, its ablations."""
import functools
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import yaml
from basicsr.utils.matlab_functions import imresize
from skimage import data

from alignvar_arch import Upscaler, checkpoints
from alignvar_arch.data.store import Store

ROOT = Path(__file__).parent.parent
RELEASE = ROOT / "options/release"
STAGES = sorted(path.stem for path in RELEASE.glob("*_x4.yml"))
SHORT = ["train:total_iter=2", "val:val_freq=1000", "datasets:train:batch_size_per_gpu=1",
         "datasets:train:num_worker_per_gpu=0", "val:metrics={psnr: {type: calculate_psnr, crop_border: 4}}"]


@pytest.fixture(scope="module", autouse=True)
def lpips(tmp_path_factory) -> Iterator[None]:
    """Random weights for LPIPS, which ESRGAN's stage and the ablations need, and not every machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNVAR_LPIPS", str(small.lpips_weights(tmp_path_factory.mktemp("lpips") / "random")))
        yield


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """A folder where the release's data have been made of two photographs."""
    folder = tmp_path_factory.mktemp("release")
    for name, path in (("coffee", "photos/a cup of coffee.PNG"), ("rocket", "photos/more/rocket.jpg")):
        (folder / path).parent.mkdir(parents=True)
        cv2.imwrite(str(folder / path), getattr(data, name)()[..., ::-1])
    make(folder, "datasets/release")
    return folder


def make(folder: Path, output: str) -> None:
    script("release_data.py", "photos", "-o", output, "--crop", "128", "--most", "3", cwd=folder)


def script(name: str, *arguments: str, cwd: Path, code: int = 0) -> str:
    """Return what a benchmark prints, or what it says where it fails."""
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / name, *arguments], cwd=cwd, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr if code else done.stdout


def detail(image: np.ndarray) -> float:
    return cv2.Laplacian(image.astype(np.float32), cv2.CV_32F).std()


def test_each_crop_has_its_kind_of_lr_in_turn(there):
    gts, lqs = (Store(str(there / f"datasets/release_{part}.lmdb")) for part in ("gt", "lq"))
    keys = [line.split()[0].removesuffix(".png") for line in
            (there / "datasets/release_gt.lmdb/meta_info.txt").read_text().splitlines()]
    assert len(keys) == 6 and {key.split("_")[1] for key in keys} == {"a%20cup%20of%20coffee", "rocket"}
    for number, key in enumerate(sorted(keys)):
        assert int(key.split("_")[0]) == number
        gt, lq = gts.image(key), lqs.image(key)
        assert gt.shape == (128, 128, 3) and lq.shape == (32, 32, 3)
        bicubic = imresize(torch.from_numpy(gt.transpose(2, 0, 1) / 255).float(), 1 / 4).numpy().transpose(1, 2, 0)
        bicubic = 255 * bicubic.clip(0, 1)
        apart, kind = np.abs(bicubic - lq).max(), ("bicubic", "blurred", "degraded")[number % 3]
        assert apart <= 1 if kind == "bicubic" else apart > 3
        if kind == "blurred":
            assert detail(lq) < 0.9 * detail(bicubic)


def test_the_same_photographs_give_the_same_data(there):
    """And so does a call that goes on where one was killed."""
    make(there, "datasets/again")
    shutil.rmtree(there / "datasets/again_lq.lmdb")  # the second of two names
    stale = there / "datasets/.again.part/gt/00500_of_other_photographs.png"
    stale.parent.mkdir(parents=True)
    cv2.imwrite(str(stale), np.zeros((128, 128, 3), np.uint8))
    make(there, "datasets/again")
    for name in ("gt", "lq"):
        one, other = (Store(str(there / f"datasets/{start}_{name}.lmdb")) for start in ("release", "again"))
        assert one.keys == other.keys
        for key in one.keys:
            assert np.array_equal(one.image(key), other.image(key))
    assert not stale.parent.parent.exists()
    said = script("release_data.py", "photos", "-o", "datasets/again", cwd=there, code=2)
    assert "are there already" in said and len(said.splitlines()) == 1
    shutil.rmtree(there / "datasets/again_lq.lmdb")
    (there / "others/more").mkdir(parents=True)  # of the same names and sizes
    for path in ("a cup of coffee.PNG", "more/rocket.jpg"):
        cv2.imwrite(str(there / "others" / path), 255 - cv2.imread(str(there / "photos" / path)))
    flags = ["-o", "datasets/again", "--crop", "128", "--most", "3"]
    said = script("release_data.py", "others", *flags, cwd=there, code=2)
    assert "again_gt.lmdb is there already, of other photographs" in said
    assert not (there / "datasets/again_lq.lmdb").exists()


@pytest.mark.parametrize(("photos", "crop", "words"), [
    ("nowhere", "128", "nowhere: give a folder of photographs"), ("empty", "128", "empty holds no photographs"),
    ("photos", "700", "no photograph in photos has room for a crop of 700 x 700"),
    ("broken", "128", "broken/a.png"),
])
def test_photographs_that_cannot_be_used_are_one_sentence(there, photos, crop, words):
    for name in ("empty", "broken"):
        (there / name).mkdir(exist_ok=True)
    (there / "broken/a.png").write_bytes(b"no image")
    said = script("release_data.py", photos, "-o", "datasets/none", "--crop", crop, cwd=there, code=2)
    assert words in said and len(said.splitlines()) == 1 and not list((there / "datasets").glob("*none*_*"))


def test_the_stages_are_trained_in_pieces_until_all_is_done(there):
    order = ["tokenizer_x4", "alignvar_x4", "decoder_x4", "ablation_tokenizer_x4", "ablation_x4", "swinir_x4",
             "esrgan_x4"]
    assert sorted(order) == STAGES
    for stage in order:
        opt = yaml.safe_load((RELEASE / f"{stage}.yml").read_text())
        own = [f"{key}={value}" for key, value in (("train:quantise_from", 1), ("train:scheduler:warmup", 0))
               if functools.reduce(lambda block, part: block.get(part, {}), key.split(":"), opt) != {}]
        flags = ["--stages", stage, "--force_yml", *SHORT, *own]
        assert f"{stage} is next; call again" in script("release.py", "--minutes", "0", *flags, cwd=there)
        assert script("release.py", *flags, cwd=there).strip().endswith("all is done.")
        run = there / "experiments" / opt["name"]
        assert "End of training" in next(run.glob("train_*.log")).read_text()
        assert (run / "models/net_g_latest.pth").exists()
    assert script("release.py", "--stages", *order, cwd=there).splitlines() == ["all is done."]
    script("release.py", "--pack", ".", cwd=there)
    upscale = Upscaler.from_file(str(there / "alignvar_x4_small.safetensors"),
                                 str(there / "tokenizer_x4_small.safetensors"), device="cpu")
    assert upscale(np.zeros((5, 7, 3), np.uint8)).shape == (20, 28, 3)


def test_a_stage_that_is_cut_off_while_it_starts_goes_on(there):
    shutil.rmtree(there / "experiments/release_swinir_x4", ignore_errors=True)
    flags = ["--stages", "swinir_x4", "--force_yml", *SHORT]
    assert "swinir_x4 is saved; call again" in script("release.py", "--minutes", "0.01", *flags, cwd=there)
    assert script("release.py", *flags, cwd=there).strip().endswith("all is done.")


def wait_for(script: subprocess.Popen, run: Path, word: str) -> None:
    deadline = time.monotonic() + 120
    while not any(word in log.read_text() for log in run.glob("train_*.log")):
        assert script.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_scripts_group_lets_the_training_save(there, number):
    run = there / "experiments/release_swinir_x4"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, ROOT / "benchmarks/release.py", "--stages", "swinir_x4", "--force_yml", *SHORT,
               "train:total_iter=100000", "logger:print_freq=1"]
    with subprocess.Popen(command, cwd=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as script:
        try:
            wait_for(script, run, "eta:")
            os.killpg(script.pid, number)
            _, said = script.communicate(timeout=60)
        finally:
            script.terminate()
    words = {signal.SIGTERM: (143, "terminated."), signal.SIGINT: (130, "interrupted.")}[number]
    assert (script.returncode, said.splitlines()[-1]) == words
    text = "".join(log.read_text() for log in run.glob("train_*.log"))
    logged = max(int(found.replace(",", "")) for found in re.findall(r"iter: +([\d,]+), lr", text))
    last = max(int(path.stem) for path in (run / "training_states").glob("*.state"))
    assert last >= logged  # nothing of it is lost
    shutil.rmtree(run)


def test_the_recipe_is_not_trained_without_its_perceptual_loss(there, monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(tmp_path))
    (tmp_path / "datasets").symlink_to(there / "datasets")
    for stage in ("tokenizer_x4", "esrgan_x4"):
        said = script("release.py", "--stages", stage, cwd=tmp_path, code=2)
        assert f"{stage} learns by LPIPS. LPIPS has no weights here" in said and len(said.splitlines()) == 1
    assert "swinir_x4 is next" in script("release.py", "--stages", "swinir_x4", "--minutes", "0", cwd=tmp_path)


def test_nothing_is_packed_of_what_is_not_trained_or_does_not_belong_together(tmp_path):
    said = script("release.py", "--pack", ".", cwd=tmp_path, code=2)
    assert "release_decoder_x4/models/net_g_latest.pth" in said and len(said.splitlines()) == 1
    for stage, network, metadata in (("decoder", small.tokenizer(), {}),
                                     ("alignvar", small.transformer(), {"codebook": "another"})):
        path = tmp_path / f"experiments/release_{stage}_x4/models/net_g_latest.pth"
        path.parent.mkdir(parents=True)
        checkpoints.write_pth(str(path), {"params_ema": network.state_dict(), "metadata": metadata})
    assert "was trained on other codes" in script("release.py", "--pack", ".", cwd=tmp_path, code=2)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_stage_that_is_cut_off_is_saved_and_goes_on(there):
    run = there / "experiments/release_swinir_x4"
    shutil.rmtree(run, ignore_errors=True)  # what the test above has finished
    flags = ["--stages", "swinir_x4", "--force_yml", *SHORT, "train:total_iter=100000"]
    assert "swinir_x4 is saved; call again" in script("release.py", "--minutes", "0.4", *flags, cwd=there)
    assert list((run / "training_states").glob("*.state"))
    assert "swinir_x4 is saved; call again" in script("release.py", "--minutes", "0.4", *flags, cwd=there)
    logs = sorted(run.glob("train_*.log"))
    assert "esuming training from" in "".join(log.read_text() for log in logs)


def test_without_data_it_asks_for_photographs(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "benchmarks/release.py"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 2 and "name the photographs with --photos" in done.stderr


def test_what_is_compared_has_the_networks_that_were_trained():
    for name in ("swinir", "esrgan"):
        trained, tested = (yaml.safe_load((RELEASE / f"{name}_x4{kind}.yml").read_text()) for kind in ("", "_test"))
        assert tested["network_g"] == trained["network_g"]
        assert tested["path"]["pretrain_network_g"] == f"experiments/{trained['name']}/models/net_g_latest.pth"
    trained = yaml.safe_load((RELEASE / "alignvar_x4.yml").read_text())
    shipped = yaml.safe_load((ROOT / "options/alignvar_x4_test.yml").read_text())
    tokenizer = yaml.safe_load((RELEASE / "tokenizer_x4.yml").read_text())
    assert trained["network_g"] == shipped["network_g"]
    assert trained["network_tokenizer"] == shipped["network_tokenizer"] == tokenizer["network_g"]


def test_the_ablations_have_the_tokenizer_that_is_trained_for_them():
    opt, trained = (yaml.safe_load((RELEASE / f"{name}.yml").read_text())
                    for name in ("ablation_x4", "ablation_tokenizer_x4"))
    assert opt["network_tokenizer"] == trained["network_g"]
    assert opt["path"]["pretrain_network_tokenizer"] == f"experiments/{trained['name']}/models/net_g_latest.pth"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks/ablation.py"))


def test_the_ablations_table_counts_the_seeds_that_beat_base(ablation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, figures in {"base_0": (30.0, 0.2), "base_1": (31.0, 0.3), "sca_off_0": (30.5, 0.3),
                          "sca_off_1": (30.0, 0.1)}.items():
        folder = Path("experiments", f"ablation_{name}")
        folder.mkdir(parents=True)
        keys = ("set5 psnr drawn", "set5 lpips")
        (folder / "figures.json").write_text(json.dumps(dict(zip(keys, figures, strict=True))))
    Path("experiments/ablation_sca_off_1/diagnosis.json").write_text('{"error left": 0.5}')
    assert ablation["table"](["base", "sca_off", "hcc_0"], [0, 1, 2]).splitlines() == [
        "| seeds | base (2) | sca_off (2) |", "|---|---|---|",
        "| set5 psnr drawn | 30.50 ± 0.71 | 30.25 ± 0.35 (1/2) |",
        "| set5 lpips | 0.2500 ± 0.0707 | 0.2000 ± 0.1414 (1/2) |",
        "| error left |  | 0.50 ± 0.00 |"]


def test_the_ablations_are_trained_measured_and_diagnosed(there):
    """After the stages above, whose tokenizer they have; two variants of one seed, cut off, then finished."""
    (there / "sets").mkdir()
    cv2.imwrite(str(there / "sets/coffee.png"), data.coffee()[:256, :256, ::-1])
    flags = ["--sets", "coffee=sets", "--variants", "base", "sca_off", "--seeds", "3", "--force_yml", *SHORT,
             "train:scheduler:warmup=0"]
    assert "ablation_base_3 is next" in script("ablation.py", "--minutes", "0", *flags, cwd=there)
    lines = [line.split(" | ") for line in script("ablation.py", *flags, cwd=there).splitlines() if " | " in line]
    assert lines[0] == ["| seeds", "base (1)", "sca_off (1) |"]
    keys = [line[0][2:] for line in lines[1:]]
    ways = [f"coffee {key}{way}" for way in ("", " drawn") for key in ("psnr", "ssim", "lpips", "lpips beside", "niqe")]
    assert keys == [*ways, "coffee ce", "coffee ce other lr", "attention distance", "attention 3x3", "error left",
                    "planted error carried", "tokens changed by it"]
    runs = [there / f"experiments/ablation_{name}_3" for name in ("base", "sca_off")]
    for run in runs:
        assert json.loads((run / "figures.json").read_text())["coffee psnr"] > 10
        assert 0 < json.loads((run / "diagnosis.json").read_text())["attention distance"] < 2
        (run / "figures.json").write_text('{"what is measured": 1}')  # is left alone
    again = script("ablation.py", *flags, cwd=there)
    assert "what is measured" in again and "coffee psnr" not in again


def test_the_ablations_change_what_their_names_say(ablation):
    plain = yaml.safe_load((RELEASE / "ablation_x4.yml").read_text())
    for variant, changes in ablation["VARIANTS"].items():
        for change in changes:
            keys, value = change.split("=")
            block = plain
            for key in keys.split(":"):
                block, last = block[key] if key in block else block, block
            assert str(last[keys.split(":")[-1]]) != value, variant
