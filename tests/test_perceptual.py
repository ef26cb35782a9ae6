"""pyiqa's metrics: without pyiqa or weights one sentence, with weights the figures that pyiqa itself gives.

The published weights are not at hand, so files of random values stand in for them, of pyiqa's own networks, made small.
"""

import hashlib
import importlib.util
import inspect
import sys
import urllib.request

import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.errors import UserError
from alignvar_arch.metrics import NAMES, perceptual, pyiqa_networks, version
from alignvar_arch.options.components import check_metrics

NETWORKS = {name: getattr(pyiqa_networks, name.upper())
            for name in ("lpips", "dists", "maniqa", "maniqa_pipal", "clipiqa", "musiq", "fid")}
needs_pyiqa = pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="pyiqa is not installed")


def metric(name):
    return METRIC_REGISTRY.get(NAMES[name]["type"])


def pair(size=48):
    return np.random.default_rng(0).integers(0, 256, (2, size, size + 9, 3), dtype=np.uint8)


@pytest.fixture
def no_pyiqa(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "pyiqa"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyiqa", None)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_pyiqa_one_sentence_says_what_to_do(name, no_pyiqa):
    sentence = metric(name).unavailable(crop_border=4)
    assert "pip install 'alignvar[metrics]'" in sentence and "pyiqa" in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    options = {"metrics": {"figure": {**NAMES[name], "crop_border": 4}}}
    assert check_metrics(options) == [f"val.metrics.figure is left out: {sentence}"]
    for use in (lambda: calculate_metric(dict(zip(("img", "img2"), pair(), strict=True)),
                                         {**NAMES[name], "crop_border": 4}),
                lambda: version(NAMES[name]["type"], NAMES[name])):
        with pytest.raises(UserError, match="pyiqa"):
            use()


def test_only_those_that_compare_ask_for_a_ground_truth():
    comparing = [name for name in NETWORKS if "img2" in inspect.signature(metric(name)).parameters]
    assert comparing == ["lpips", "dists", "fid"]


def test_devices():
    with pytest.raises(UserError, match="'gpu', but must be cpu or cuda"):
        metric("musiq").unavailable(device="gpu")
    if not torch.cuda.is_available():
        assert "no GPU here" in metric("musiq").unavailable(device="cuda")


@pytest.mark.parametrize("name", ["lpips", "clipiqa"])
def test_images_that_pooling_swallows_are_refused(name):
    with pytest.raises(UserError, match="at least 31x31 pixels, not 31x30"):
        calculate_metric({"img": np.zeros((38, 39, 3)), "img2": np.zeros((38, 39, 3))},
                         {**NAMES[name], "crop_border": 4})


def test_images_must_pair():
    with pytest.raises(ValueError, match="one shape"):
        perceptual.calculate_lpips(pair()[0], pair()[1][1:], 0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the network."""
    from pyiqa.utils import download_util

    def refuse(*arguments, **options):
        raise AssertionError(f"a download was tried: {arguments}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path / "hub/pyiqa"))
    monkeypatch.setattr(download_util, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    yield tmp_path
    pyiqa_networks._build.cache_clear()


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def headless(monkeypatch, name, features):
    """torchvision's network without the classifier, which LPIPS and DISTS throw away and which is 20 times as large."""
    class Headless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = features

    def create(weights=None):
        network = Headless()
        if weights is not None:
            weights = torchvision.models.get_model_weights(name)[weights]
            network.load_state_dict(weights.get_state_dict(check_hash=True))
        return network

    monkeypatch.setattr(torchvision.models, name, create)
    return create().state_dict()


def fill_lpips(monkeypatch):
    backbone, linear = NETWORKS["lpips"].files()
    save(headless(monkeypatch, "alexnet", torchvision.models.AlexNet().features), backbone)
    save({f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1)
          for index, width in enumerate((64, 192, 384, 256, 256))}, linear)


def fill_dists(monkeypatch):
    vgg = torchvision.models.vgg
    backbone, mixing = NETWORKS["dists"].files()
    save(headless(monkeypatch, "vgg16", vgg.make_layers(vgg.cfgs["D"], batch_norm=False)), backbone)
    save({name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}, mixing)


def fill_maniqa(monkeypatch, name="maniqa"):
    import timm
    from pyiqa.archs.maniqa_arch import MANIQA
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    create = timm.create_model

    def small(name, pretrained):
        assert not pretrained, "timm would download"
        return create(name, embed_dim=48, depth=10, num_heads=4)

    options = DEFAULT_CONFIGS[name.replace("_", "-")]["metric_opts"]
    for key, value in {"embed_dim": 48, "dim_mlp": 48, "test_sample": 1}.items():
        monkeypatch.setitem(options, key, value)
    monkeypatch.setattr(timm, "create_model", small)
    with pyiqa_networks._timm_from_scratch():
        network = MANIQA(**{key: value for key, value in options.items() if key != "type"}, pretrained=False)
    torch.nn.init.constant_(network.fc_score[3].bias, 0.5)  # so that the last ReLU lets something through
    save(network.state_dict(), NETWORKS[name].files()[0])


def fill_clipiqa(monkeypatch):
    """CLIP is read from a TorchScript archive of the right SHA-256; its sizes are found in the values."""
    from pyiqa.archs import clip_model

    def hold(module):
        holder = torch.nn.Module()
        for name, value in module.named_parameters(recurse=False):
            holder.register_parameter(name, value)
        for name, value in module.named_buffers(recurse=False):
            holder.register_buffer(name, value)
        for name, child in module.named_children():
            holder.add_module(name, hold(child))
        return holder

    path, = NETWORKS["clipiqa"].files()
    path.parent.mkdir(parents=True)
    torch.jit.save(torch.jit.script(hold(clip_model.CLIP(16, 64, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 1))), path)
    assert "damaged or another file" in metric("clipiqa").unavailable()
    parts = clip_model._MODELS["RN50"].split("/")
    parts[-2] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(clip_model._MODELS, "RN50", "/".join(parts))


def fill_musiq(monkeypatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    save(MUSIQ(pretrained=False).state_dict(), NETWORKS["musiq"].files()[0])


def fill_fid(monkeypatch):
    from pyiqa.archs import inception

    with monkeypatch.context() as patched:
        patched.setattr(inception, "load_pretrained_network", lambda *arguments, **options: None)
        save(inception.fid_inception_v3().state_dict(), NETWORKS["fid"].files()[0])


FILL = {"lpips": fill_lpips, "dists": fill_dists, "maniqa": fill_maniqa,
        "maniqa_pipal": lambda monkeypatch: fill_maniqa(monkeypatch, "maniqa_pipal"),
        "clipiqa": fill_clipiqa, "musiq": fill_musiq, "fid": fill_fid}


@needs_pyiqa
@pytest.mark.parametrize("name", NETWORKS)
def test_without_weights_one_sentence_names_every_file_and_its_folder(name, cache):
    sentence = metric(name).unavailable()
    for path in NETWORKS[name].files():
        assert path.is_relative_to(cache) and f"{path.name} into {path.parent}" in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".") and "http" not in sentence
    with pytest.raises(UserError, match="has no weights here"):
        NETWORKS[name].build("cpu")


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fid"])
def test_equals_pyiqa_on_the_same_tensors(name, cache, monkeypatch, capfd):
    import pyiqa

    torch.manual_seed(0)
    FILL[name](monkeypatch)
    assert metric(name).unavailable() is None
    img, img2 = pair()
    state = torch.random.get_rng_state()
    data = {"img": img, "img2": img2}
    found = calculate_metric(data, {**NAMES[name], "crop_border": 4})
    assert torch.equal(torch.random.get_rng_state(), state), "a seeded run must not notice"
    assert capfd.readouterr().out == ""

    with pyiqa_networks._pkg_resources(), pyiqa_networks._timm_from_scratch():
        theirs = pyiqa.create_metric(name.replace("_", "-"), device="cpu")
    tensors = [torch.from_numpy(image[4:-4, 4:-4, ::-1].transpose(2, 0, 1) / np.float32(255))[None]
               for image in (img, img2)]
    assert theirs.lower_better == (NAMES[name]["better"] == "lower")
    assert found == theirs(*tensors[:2 if theirs.metric_mode == "FR" else 1]).item() != 0
    turned = {key: image.transpose(2, 0, 1) for key, image in data.items()}
    assert calculate_metric(turned, {**NAMES[name], "crop_border": 4, "input_order": "CHW"}) == found


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
def test_fid_equals_pyiqas_network(cache, monkeypatch):
    import pyiqa

    torch.manual_seed(0)
    fill_fid(monkeypatch)
    images = pair(299)[:, :, :299]  # no resizing: that is tested against pyiqa's in test_fid.py
    found = calculate_metric({"img": images[0], "img2": images[1]}, {**NAMES["fid"], "crop_border": 0})
    batch = torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        features = pyiqa.create_metric("fid", device="cpu").net.model((batch - 128) / 128, False, False)[0][..., 0, 0]
    assert np.allclose(np.concatenate([*found._features, *found._references]), features, rtol=1e-4, atol=1e-6)


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
def test_other_weights_are_another_version_and_give_another_figure(cache, monkeypatch):
    import pyiqa

    data = dict(zip(("img", "img2"), pair(), strict=True))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        fill_lpips(monkeypatch)
        found.append((version("calculate_lpips", NAMES["lpips"]),
                      calculate_metric(data, {**NAMES["lpips"], "crop_border": 4})))
    assert found[0][0].startswith(f"pyiqa {pyiqa.__version__}, lpips, weights ")
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


@needs_pyiqa
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_hold_no_weights_are_named(content, cache):
    path, = NETWORKS["musiq"].files()
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        NETWORKS["musiq"].build("cpu")


@needs_pyiqa
def test_weights_of_another_network_are_refused(cache):
    save({"conv.weight": torch.zeros(1)}, NETWORKS["musiq"].files()[0])
    with pytest.raises(UserError, match="cannot read its weights"):
        NETWORKS["musiq"].build("cpu")
