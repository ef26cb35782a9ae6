"""The whole way: bicubic, the AlignVAR that ships, a SwinIR just trained, in one report, opened in a real Chromium."""

import json
from pathlib import Path

import pytest

from alignvar_arch.cli.main import main

OPTIONS = Path(__file__).parents[1] / "options"
SHORT = ("train:total_iter=3", "datasets:train:batch_size_per_gpu=1", "datasets:train:num_worker_per_gpu=0",
         "datasets:train:dataset_enlarge_ratio=1", "val=none", "logger:use_tb_logger=false")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of the report, and its report.json."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-opt", str(OPTIONS / "baseline/swinir_x4.yml"), "--force_yml", *SHORT]) == 0
        files = [str(OPTIONS / name) for name in ("alignvar_x4_test.yml", "baseline/swinir_x4_test.yml")]
        flags = ["--metrics", "psnr", "ssim", "niqe", "--cost_size", "16", "--cost_batch", "2", "-o", "report"]
        assert main(["compare", "-opt", *files, *flags]) == 0
    return folder / "report", json.loads((folder / "report/report.json").read_text(encoding="utf-8"))


def test_the_report_is_whole(report):
    folder, found = report
    assert [model["name"] for model in found["models"]] == ["alignvar_x4_test", "swinir_x4_test", "bicubic"]
    assert found["unreadable"] == [] and not any(model["failed"] for model in found["models"])
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "report.json", "report.csv", "report.md", "pictures", "sheets"}
    values = found["images"][0]["values"]
    assert 28 < values["bicubic"]["psnr"] < 32 and 28 < values["alignvar_x4_test"]["psnr"] < 32
    assert all(value["niqe"] > 0 for value in values.values())
    assert all(model["cost"]["ms_n"] > 0 for model in found["models"][:2])


def test_it_opens_in_a_browser_and_shows_its_figures(report, browser):
    folder, found = report
    browser.get_log("browser")
    browser.get((folder / "index.html").as_uri())
    text = browser.find_element("css selector", "body").text
    for name, figures in found["summary"]["skimage_val"]["psnr"].items():
        assert name in text and f"{figures['mean']:.2f}" in text
    assert found["protocol"]["sets"][0]["hash"] in text
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
