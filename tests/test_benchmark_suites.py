"""options/benchmark: one command tests on every benchmark store that is there, and says which are not."""
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY

from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.photos import find_photos, read_photo
from alignvar_arch.data.store import maker, presets

SUITES = sorted((Path(__file__).parent.parent / "options/benchmark").glob("*.yml"))
ALIGNVAR = next(path for path in SUITES if path.stem == "alignvar_x4_test")
QUICK = ["--force_yml", "val:metrics={psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: true}}",
         "val:token_metrics=false", "val:top_k=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Patches of scikit-image's photographs as HR pictures of equal names, and as real pairs in RealSR's layout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    photos = [read_photo(photo)[100:164, 100:164] for photo in find_photos("scikit-image/train")]
    for name, picture in zip(("Set5/HR/a/x", "Set5/HR/b/x", "RealSR/HR/Canon_001_LR4"), photos, strict=False):
        write(f"{name}.png", picture)
    write("RealSR/LR/Canon_001_LR4.png", cv2.resize(photos[2], (16, 16), interpolation=cv2.INTER_LINEAR))
    yield tmp_path
    lmdb_backend.close_all()


def write(file: str, image: np.ndarray) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(file, image)


def make_stores() -> None:
    assert main(["lmdb", "create", "Set5/HR", "-o", "datasets/set5.lmdb"]) == 0
    assert main(["lmdb", "create", "RealSR", "--preset", "realsr", "--any-count", "--crop", "64", "-o",
                 "datasets/realsr.lmdb"]) == 0  # fmt: skip


def psnr(run: str) -> dict[str, float]:
    """The figures of a test's log by data set."""
    text = next(Path("results", run).glob("test_*.log")).read_text()
    return {name: float(value) for name, value in re.findall(r"Validation (\S+)\n\s+# psnr: ([\d.]+)", text)}


def test_a_suite_tests_what_is_there_and_names_what_is_not(capsys):
    make_stores()
    assert main(["test", "-opt", str(ALIGNVAR), *QUICK]) == 0
    absent = re.findall(r"the data set (\S+) is left out: there is no datasets/", capsys.readouterr().err)
    assert absent == ["Set14", "BSD100", "Urban100", "Manga109", "DIV2K-Val", "DRealSR"]
    figures = psnr("alignvar_x4_benchmark")
    pictures = Path("results/alignvar_x4_benchmark/visualization")
    assert sorted(path.name for path in pictures.rglob("*.png")) == [
        f"{name}_alignvar_x4_benchmark.png" for name in ("Canon_001", "a%2Fx", "b%2Fx")]

    # the same pictures in plain folders, one of which cannot hold both names
    for name in ("a", "b"):
        write(f"flat/{name}.png", cv2.imread(f"Set5/HR/{name}/x.png"))
    assert main(["test", "-opt", str(ALIGNVAR), *QUICK, "name=plain", "--sets", "Set5=flat",
                 "RealSR=RealSR/HR,RealSR/LR"]) == 0  # fmt: skip
    assert figures == psnr("plain") and set(figures) == {"Set5", "RealSR"}


def test_any_model_takes_the_suite():
    """The other files: random weights of their networks."""
    make_stores()
    for path in SUITES:
        if path == ALIGNVAR:
            continue
        block = yaml.safe_load(path.read_text())["network_g"]
        torch.save({"params_ema": ARCH_REGISTRY.get(block.pop("type"))(**block).state_dict()}, "random.pth")
        assert main(["test", "-opt", str(path), "--weights", "random.pth", *QUICK[:2]]) == 0
        assert set(psnr(path.stem.replace("_test", "_benchmark"))) == {"Set5", "RealSR"}


def test_without_any_set_nothing_is_made(capsys):
    assert main(["test", "-opt", str(ALIGNVAR)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "none of the 8 sets is here" in error and "--preset" in error
    assert not Path("results").exists() and not Path("datasets").exists()


def test_compare_takes_stores(capsys):
    make_stores()
    assert main(["compare", "-opt", str(ALIGNVAR), "-o", "report", "--sets", "set5=datasets/set5.lmdb",
                 "real=datasets/realsr.lmdb,datasets/realsr_lq_x4.lmdb", "--metrics", "psnr", "--no_cost"]) == 0
    assert {path.name for path in Path("report/pictures/set5").iterdir()} == {"a%2Fx", "b%2Fx"}


def test_every_suite_has_the_sets_that_presets_make():
    blocks = [yaml.safe_load(path.read_text())["datasets"] for path in SUITES]
    assert len(blocks) > 1 and all(block == blocks[0] for block in blocks)
    sets = list(blocks[0].values())
    assert len(sets) == 8 and all(one["optional"] is True for one in sets)
    for one in sets:
        gt = Path(one["dataroot_gt"])
        given = presets.PRESETS[gt.stem].layouts[0][1] is not None
        assert one.get("dataroot_lq") == (str(maker.lq_path(gt, 4)) if given else None)
