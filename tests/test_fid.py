"""FID: the distance against the textbook formula, and features that add up within BasicSR's validation."""

import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric
from conftest import write
from scipy import linalg

from alignvar_arch.cli import main
from alignvar_arch.metrics import calculate_fid, fid
from alignvar_arch.metrics.fid import FeaturePairs, frechet_distance


def features(count, width, seed, shift=0.0):
    mixing = np.random.default_rng(9).normal(size=(width, width))
    return (np.random.default_rng(seed).normal(size=(count, width)) @ mixing + shift).astype(np.float32)


def textbook(a, b):
    """Heusel et al. 2017, eq. 6, by the matrix root."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)


def test_distance_equals_the_matrix_root():
    a, b = features(40, 6, 0), features(50, 6, 1, shift=0.5)
    assert frechet_distance(a, b) == pytest.approx(textbook(a, b), rel=1e-9)


def test_fewer_images_than_features():
    """A root of a singular product, by its eigenvalues; scipy's Schur method is inexact there."""
    a, b = features(7, 30, 0), features(5, 30, 1, shift=0.5)
    first, second = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    root = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    shift = ((a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(shift + np.trace(first) + np.trace(second) - 2 * root, rel=1e-5)


@pytest.mark.parametrize("count", [5, 40])
def test_a_shift_is_its_square(count):
    a = features(count, 8, 0).astype(np.float64)
    assert frechet_distance(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9) and frechet_distance(a, a) >= 0


def test_pairs_add_up_like_numbers():
    a, b = features(9, 4, 0), features(9, 4, 1)
    pairs = [FeaturePairs(a[index:index + 1], b[index:index + 1]) for index in range(9)]
    total = 0  # as BasicSR's validation has it
    for pair in pairs:
        total += pair
    total /= 9
    assert isinstance(total, float) and total == frechet_distance(a, b)
    assert sum(pairs) / 9 == total and (pairs[0] + 0) + sum(pairs[1:]) is not pairs[0]
    assert len(pairs[0]) == 1, "adding must leave the parts alone"


def test_pairs_refuse_what_means_nothing():
    pair = FeaturePairs(features(1, 4, 0), features(1, 4, 1))
    assert math.isnan(pair / 1)
    with pytest.raises(ValueError, match="FID of 1 images is no figure of 2"):
        pair / 2
    for other in (1, 0.5, None):
        with pytest.raises(TypeError):
            pair + other


@pytest.fixture
def mean_colours(monkeypatch):
    """In InceptionV3's place ten times the mean colour of an image: FID without pyiqa."""
    def model(batch, resize, normalise):
        assert batch.shape[1:] == (3, 299, 299) and not resize and not normalise
        return [10 * batch.mean((2, 3), keepdim=True)]

    monkeypatch.setattr(fid, "FID", SimpleNamespace(build=lambda device: SimpleNamespace(model=model),
                                                    unavailable=lambda device: None))


def test_metric_crops_turns_and_scales(mean_colours):
    image = np.full((20, 24, 3), (64, 128, 192), np.uint8)
    image[:4] = image[-4:] = 0
    image[:, :4] = image[:, -4:] = 0
    pair = calculate_metric({"img": image, "img2": image}, {"type": "calculate_fid", "crop_border": 4})
    assert pair._features[0] == pytest.approx(np.array([[5, 0, -5]]), abs=1e-6)  # RGB, 10 * (x - 128) / 128
    turned = calculate_fid(image.transpose(2, 0, 1), image.transpose(2, 0, 1), 4, "CHW")
    assert np.array_equal(turned._features[0], pair._features[0])


def test_fid_in_an_ordinary_options_file(tiny_test, mean_colours):
    """BasicSR sums and divides, unpatched: the log has the FID of the whole set."""
    tiny_test["val"]["metrics"]["fid"] = {"type": "calculate_fid", "crop_border": 2, "better": "lower"}
    assert main(["test", "-opt", write(tiny_test)]) == 0
    log = next(Path("results/tiny").glob("*.log")).read_text(encoding="utf-8")
    pairs = []
    for index in range(11):
        outputs = [cv2.imread(path) for path in (f"results/tiny/visualization/Set/{index:02}_tiny.png",
                                                 f"gt/{index:02}.png")]
        pairs.append(calculate_fid(*outputs, 2))
    found = sum(pairs) / 11
    assert found > 0.001 and f"# fid: {found:.4f}" in log


def test_features_equal_pyiqas_on_files(tmp_path, monkeypatch):
    """pyiqa reads folders; ours takes images: with one network both see the same."""
    fid_arch = pytest.importorskip("pyiqa.archs.fid_arch", reason="pyiqa is not installed")

    class InceptionLike(torch.nn.Module):
        def forward(self, batch, resize, normalise):
            return [torch.nn.functional.adaptive_avg_pool2d(batch.roll(1, 2) * batch, 3).flatten(1)[..., None, None]]

    monkeypatch.setattr(fid, "FID", SimpleNamespace(build=lambda device: SimpleNamespace(model=InceptionLike())))
    rng, pairs = np.random.default_rng(0), []
    for index in range(40):
        images = rng.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
        images = [cv2.resize(image, (40 + index, 30), interpolation=cv2.INTER_CUBIC) for image in images]
        for name, image in zip(("sr", "gt"), images, strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{index:02}.png"), image)
        pairs.append(calculate_fid(*images, 0))
    total = sum(pairs)
    theirs = [fid_arch.get_folder_features(str(tmp_path / name), InceptionLike(), num_workers=0, verbose=False,
                                           device=torch.device("cpu")) for name in ("sr", "gt")]
    assert np.allclose(np.concatenate(total._features), theirs[0], atol=1e-6)
    statistics = [value for array in theirs for value in (array.mean(0), np.cov(array, rowvar=False))]
    assert total / 40 == pytest.approx(fid_arch.frechet_distance(*statistics), rel=1e-4)
