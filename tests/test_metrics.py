"""LPIPS-squeeze against a plain computation on torchvision's network, and its behaviour without weights."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
from basicsr.metrics import calculate_metric

from alignvar_arch.archs.lpips import LPIPSSqueeze, lpips_weights_missing
from alignvar_arch.data.photos import find_photos, read_photo
from alignvar_arch.errors import UserError
from alignvar_arch.metrics import calculate_lpips_squeeze, version
from alignvar_arch.version import __version__

SHARED = Path(__file__).parents[2] / "shared/data/weights"
PAIR = os.environ.get("ALIGNVAR_LPIPS_PAIR")
needs_published_weights = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the published weights are not at {SHARED}")


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """No weights in any of the places that are looked into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNVAR_LPIPS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def network():
    return small.squeezenet()


@pytest.fixture
def linear():
    return small.lpips_linear()


@pytest.fixture
def weights(tmp_path):
    return small.lpips_weights(tmp_path / "random")


def images(size=40, count=2):
    return [torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]


def plain_lpips(network, linear, x, y):
    """LPIPS as the paper's eq. 1 has it, image by image, on what torchvision's layers give out."""
    def features(image):
        outputs, hooks = [], []
        for index in (1, 4, 7, 9, 10, 11, 12):
            hooks.append(network.features[index].register_forward_hook(lambda *a: outputs.append(a[2].clone())))
        mean, std = torch.tensor([-.030, -.088, -.188]), torch.tensor([.458, .448, .450])
        network.features(((image * 2 - 1) - mean[:, None, None]) / std[:, None, None])
        for hook in hooks:
            hook.remove()
        return outputs

    total = 0.0
    with torch.no_grad():
        for index, (a, b) in enumerate(zip(features(x[None]), features(y[None]), strict=True)):
            a, b = (f[0] / f[0].pow(2).sum(0).sqrt().clamp(min=1e-10) for f in (a, b))
            total += (linear[f"lin{index}.model.1.weight"].flatten() @ (a - b).pow(2).mean((1, 2))).item()
    return total


def test_equals_plain_computation(weights, network, linear):
    x, y = images()
    found = LPIPSSqueeze(weights=weights)(x, y)
    assert found.shape == (2,)
    assert found.tolist() == pytest.approx([plain_lpips(network, linear, *pair) for pair in zip(x, y, strict=True)],
                                           rel=1e-4)


def test_zero_for_equal_and_symmetric(weights):
    model, (x, y) = LPIPSSqueeze(weights=weights), images()
    assert model(x, x).tolist() == [0, 0]
    assert torch.equal(model(x, y), model(y, x)) and (model(x, y) > 0).all()


def test_gradient_reaches_the_image_and_nothing_else(weights):
    model, (x, y) = LPIPSSqueeze(weights=weights), images()
    x.requires_grad_(True)
    model.train()
    model(x, y).sum().backward()
    assert x.grad.abs().amin((1, 2, 3)).isfinite().all() and (x.grad != 0).any()
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_gradient_is_finite_where_no_feature_fires(weights, network):
    with torch.no_grad():
        network.features[0].weight.zero_()
        network.features[0].bias.fill_(-1)  # every feature of the first tap is zero
    torch.save(network.features.state_dict(), weights / "squeezenet1_1_features_fp32.pth")
    x, y = images()
    LPIPSSqueeze(weights=weights)(x.requires_grad_(True), y).sum().backward()
    assert x.grad.isfinite().all()


def test_building_leaves_the_random_state_alone(weights):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    LPIPSSqueeze(weights=weights)
    assert torch.equal(torch.rand(1), expected)


def test_metric_through_basicsr(weights):
    rng = np.random.default_rng(0)
    img, img2 = rng.integers(0, 256, (2, 44, 52, 3), dtype=np.uint8)
    option = {"type": "calculate_lpips_squeeze", "crop_border": 4, "better": "lower", "weights": str(weights)}
    found = calculate_metric({"img": img, "img2": img2}, option)
    a, b = (torch.from_numpy(image[4:-4, 4:-4, ::-1].transpose(2, 0, 1) / np.float32(255))[None]
            for image in (img, img2))
    assert found == pytest.approx(LPIPSSqueeze(weights=weights)(a, b).item(), rel=1e-5)
    turned = calculate_lpips_squeeze(img.transpose(2, 0, 1), img2.transpose(2, 0, 1), 4, "CHW", weights=str(weights))
    assert turned == found
    with pytest.raises(ValueError, match="one shape"):
        calculate_lpips_squeeze(img, img2[:-1], 0, weights=str(weights))


def test_too_small_images_are_refused(weights):
    model = LPIPSSqueeze(weights=weights)
    assert model(*images(17)).shape == (2,)
    with pytest.raises(UserError, match="at least 17x17 pixels, not 16x16"):
        model(*images(16))


def test_without_weights_one_sentence_says_what_to_do():
    sentence = calculate_lpips_squeeze.unavailable(crop_border=4, better="lower")
    assert "squeezenet1_1" in sentence and "lin_v0.1_squeeze.pth" in sentence and "./weights" in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="LPIPS has no weights here"):
        calculate_lpips_squeeze(image, image, 0)


def test_only_what_is_missing_is_asked_for(weights):
    (weights / "lin_v0.1_squeeze.pth").unlink()
    sentence = lpips_weights_missing(weights)
    assert "lin_v0.1_squeeze.pth" in sentence and "squeezenet1_1" not in sentence and str(weights) in sentence


@pytest.mark.parametrize("place", ["variable", "current folder"])
def test_weights_are_found(place, weights, monkeypatch):
    if place == "variable":
        monkeypatch.setenv("ALIGNVAR_LPIPS", str(weights))
    else:
        os.rename(weights, "weights")
    assert calculate_lpips_squeeze.unavailable() is None
    assert LPIPSSqueeze()(*images()).shape == (2,)


def test_files_as_torchvision_and_richzhang_name_them(weights, network, tmp_path):
    expected = LPIPSSqueeze(weights=weights)(*images())
    checkpoints = tmp_path / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(network.state_dict(), checkpoints / "squeezenet1_1-b8a52dc0.pth")  # with the classifier
    Path("weights").mkdir()
    os.rename(weights / "lin_v0.1_squeeze.pth", "weights/squeeze.pth")
    assert torch.equal(LPIPSSqueeze()(*images()), expected)


def test_new_weights_in_the_same_folder_name_are_used(weights, tmp_path, monkeypatch):
    """The metric keeps its network, but not past a change of place."""
    image, other = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(weights))
    first = calculate_lpips_squeeze(image, other, 0)
    second = tmp_path / "second"
    second.mkdir()
    for path in weights.iterdir():
        state = torch.load(path, weights_only=True)
        torch.save({name: 2 * value for name, value in state.items()} if path.name.startswith("lin") else state,
                   second / path.name)
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(second))
    assert calculate_lpips_squeeze(image, other, 0) == pytest.approx(2 * first, rel=1e-5)


def test_damaged_and_foreign_files_are_named(weights, linear):
    path = weights / "lin_v0.1_squeeze.pth"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="lin_v0.1_squeeze.pth"):
        LPIPSSqueeze(weights=weights)
    torch.save({name: value[:, :1] for name, value in linear.items()}, path)
    with pytest.raises(UserError, match="lin_v0.1_squeeze.pth is of another network"):
        LPIPSSqueeze(weights=weights)


def test_version_is_of_the_values_and_not_of_the_files(weights, network, tmp_path):
    found = version("calculate_lpips_squeeze", {"type": "calculate_lpips_squeeze", "weights": str(weights)})
    assert found.startswith(f"alignvar {__version__}, weights ")
    other = tmp_path / "other"
    other.mkdir()
    torch.save(network.state_dict(), other / "squeezenet1_1-b8a52dc0.pth")  # torchvision's form, with the classifier
    linear = torch.load(weights / "lin_v0.1_squeeze.pth", weights_only=True)
    torch.save(linear, other / "lin_v0.1_squeeze.pth")
    assert version("calculate_lpips_squeeze", {"weights": str(other)}) == found
    changed = tmp_path / "changed"
    changed.mkdir()
    torch.save(network.state_dict(), changed / "squeezenet1_1-b8a52dc0.pth")
    torch.save({name: value + 1e-6 for name, value in linear.items()}, changed / "lin_v0.1_squeeze.pth")
    assert version("calculate_lpips_squeeze", {"weights": str(changed)}) != found
    with pytest.raises(UserError, match="LPIPS has no weights here"):
        version("calculate_lpips_squeeze", {})


def test_grey_images_are_repeated(weights):
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=3)
    assert (calculate_lpips_squeeze(*grey, 4, weights=str(weights))
            == calculate_lpips_squeeze(*colour, 4, weights=str(weights)) > 0)


@needs_published_weights
def test_published_weights_give_torchvisions_features(network, linear):
    """The fixtures' random network, filled with the published values: the plain computation on torchvision's layers."""
    network.features.load_state_dict(torch.load(SHARED / "squeezenet1_1_features_fp32.pth", weights_only=True))
    linear.update(torch.load(SHARED / "lin_v0.1_squeeze.pth", map_location="cpu", weights_only=True))
    gt = read_photo(find_photos("scikit-image/val")[0])[:128, :160]
    sr = cv2.GaussianBlur(gt, (0, 0), 1.6)
    x, y = (torch.from_numpy(image[..., ::-1].transpose(2, 0, 1) / np.float32(255)) for image in (sr, gt))
    found = calculate_lpips_squeeze(sr, gt, 0, weights=str(SHARED))
    assert found == pytest.approx(plain_lpips(network, linear, x, y), rel=1e-4)


@needs_published_weights
@pytest.mark.skipif(not PAIR, reason="ALIGNVAR_LPIPS_PAIR names no folder with ex_ref, ex_p0 and ex_p1.png, which lie "
                                     "in richzhang/PerceptualSimilarity under imgs")
def test_published_pair():
    reference, *others = (cv2.imread(str(Path(PAIR, f"ex_{name}.png"))) for name in ("ref", "p0", "p1"))
    found = [calculate_lpips_squeeze(other, reference, 0, weights=str(SHARED)) for other in others]
    assert found == pytest.approx([0.711, 0.148], abs=1e-3)


@needs_published_weights
def test_published_weights_rank_blur():
    image = read_photo(find_photos("scikit-image/val")[0])
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.8, 1.6, 3.2)]
    found = [calculate_lpips_squeeze(picture, image, 4, weights=str(SHARED)) for picture in blurred]
    assert 0 < found[0] < found[1] < found[2] < 1
