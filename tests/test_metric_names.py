"""Short names, what a report says of a metric, and the versions that a protocol pins."""

import os
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric, psnr_ssim
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.data.photos import find_photos, read_photo
from alignvar_arch.errors import UserError
from alignvar_arch.metrics import NAMES, describe, version
from alignvar_arch.options.components import check_metrics

BASICSR = f"basicsr {metadata.version('basicsr')}"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_block_that_an_options_file_may_have(name):
    block = {**NAMES[name], "crop_border": 4}
    kept = {"metrics": {name: dict(block)}}
    left_out = check_metrics(kept)
    assert kept["metrics"] == {} if left_out else kept["metrics"] == {name: block}
    assert describe(block)["better"] == block["better"] == describe({"type": block["type"]})["better"]


def test_names_head_different_columns():
    shown = {(describe(block)["label"], describe(block)["space"]) for block in NAMES.values()}
    assert len(shown) == len(NAMES)


def test_descriptions():
    psnr = {"label": "PSNR", "space": "RGB", "better": "higher", "of_a_set": False}
    assert describe({"type": "calculate_psnr", "crop_border": 4}) == psnr
    assert describe({"type": "calculate_psnr", "test_y_channel": True}) == {**psnr, "space": "Y"}
    assert describe({"type": "calculate_niqe"}) == {"label": "NIQE", "space": "Y", "better": "lower", "of_a_set": False}
    assert describe({"type": "calculate_niqe", "convert_to": "gray"})["space"] == "grey"
    assert describe({"type": "calculate_ssim", "better": "lower"})["better"] == "lower"
    assert [name for name, block in NAMES.items() if describe(block)["of_a_set"]] == ["fid"]
    for ask in (lambda: describe({"type": "calculate_none"}), lambda: version("calculate_none", {})):
        with pytest.raises(UserError, match="calculate_none"):
            ask()


def test_a_metric_of_anybody_is_described(monkeypatch):
    def calculate_mean_error(img, img2, **kwargs):
        return 0.0

    calculate_mean_error.__module__ = "numpy.anything"
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "calculate_mean_error", calculate_mean_error)
    block = {"type": "calculate_mean_error"}
    assert describe(block) == {"label": "MEAN_ERROR", "space": "RGB", "better": "higher", "of_a_set": False}
    assert version("calculate_mean_error", block) == f"numpy {np.__version__}"
    calculate_mean_error.__module__ = "a_script"
    assert version("calculate_mean_error", block) == "a_script"


@pytest.mark.parametrize("name", ["psnr", "ssim", "psnr_rgb", "niqe"])
def test_basicsrs_own_have_its_version(name):
    assert version(NAMES[name]["type"], NAMES[name]) == BASICSR


def photographs():
    for path in find_photos("scikit-image/val"):
        gt = read_photo(path)
        gt = gt[:gt.shape[0] // 4 * 4, :gt.shape[1] // 4 * 4]
        small = cv2.resize(gt, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        yield cv2.resize(small, gt.shape[1::-1], interpolation=cv2.INTER_CUBIC), gt


def test_names_give_basicsrs_figures():
    """On photographs: PSNR and SSIM against BasicSR's second implementation of them, in torch; NIQE unguarded."""
    for sr, gt in photographs():
        batches = [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1) / 255.0)[None] for image in (sr, gt)]
        for name, function in (("psnr", psnr_ssim.calculate_psnr_pt), ("ssim", psnr_ssim.calculate_ssim_pt)):
            for suffix, y in (("", True), ("_rgb", False)):
                found = calculate_metric({"img": sr, "img2": gt}, {**NAMES[name + suffix], "crop_border": 4})
                assert found == pytest.approx(function(*batches, 4, test_y_channel=y).item(), rel=1e-4)
        niqe = METRIC_REGISTRY.get("calculate_niqe")
        assert calculate_metric({"img": sr}, {**NAMES["niqe"], "crop_border": 4}) == niqe.__wrapped__(sr, 4)


def test_niqe_of_basicsrs_own_test_image():
    """MATLAB and BasicSR give 5.7296, says its docstring; the image is not ours to ship."""
    source = os.environ.get("BASICSR_SOURCE")
    if not source:
        pytest.skip("BASICSR_SOURCE names no clone of XPixelGroup/BasicSR; its test image is there")
    image = cv2.imread(str(Path(source, "test_scripts/data/baboon.png")), cv2.IMREAD_UNCHANGED)
    assert calculate_metric({"img": image}, {**NAMES["niqe"], "crop_border": 0}) == pytest.approx(5.7296, abs=5e-5)
