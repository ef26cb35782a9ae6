"""Each shim does what it is there for; without it the test fails on today's stack."""

import importlib
import os
import resource
import sys
import types
from pathlib import Path

import basicsr.data
import basicsr.models
import basicsr.utils
import cv2
import lmdb
import numpy as np
import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.data import degradations
from basicsr.losses import basic_loss
from basicsr.models.base_model import BaseModel
from basicsr.utils.file_client import FileClient
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from conftest import listing
from torch.utils.data import DataLoader, Dataset

from alignvar_arch import checkpoints
from alignvar_arch.compat import lmdb_backend, networks, standins
from alignvar_arch.errors import UserError
from alignvar_arch.training import resuming


def write_lmdb(path: str, values: dict[str, bytes]) -> str:
    with lmdb.open(path, map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode("utf-8"), value)
    return path


class LmdbDataset(Dataset):
    """Reads keys '0'..'7' of one LMDB through BasicSR's client, as its datasets do."""

    def __init__(self, path: str):
        self.client = FileClient("lmdb", db_paths=[path], client_keys=["gt"])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return os.getpid(), self.client.get(str(index), "gt")


def test_one_lmdb_serves_two_datasets_and_forked_workers_after_the_parent_has_read(tmp_path):
    path = write_lmdb(str(tmp_path / "a.lmdb"), {str(index): bytes([index]) * 9000 for index in range(8)})
    first, second = LmdbDataset(path), LmdbDataset(path)
    assert first[3] == second[3] == (os.getpid(), bytes([3]) * 9000)
    loader = DataLoader(first, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        rows = list(loader)
        assert [value for _, value in rows] == [bytes([index]) * 9000 for index in range(8)]
        assert os.getpid() not in {worker for worker, _ in rows} and len({worker for worker, _ in rows}) == 2
    assert second[5][1] == bytes([5]) * 9000, "the parent's own environment still reads"
    lmdb_backend.close_all()


def test_an_lmdb_written_anew_is_read_anew(tmp_path):
    path = write_lmdb(str(tmp_path / "a.lmdb"), {"0": b"old"})
    dataset = LmdbDataset(path)
    assert dataset[0][1] == b"old"
    lmdb_backend.close_all()
    write_lmdb(path, {"0": b"new"})
    assert dataset[0][1] == b"new"
    lmdb_backend.close_all()


def test_lmdb_keys_are_utf8_and_a_missing_one_is_named(tmp_path):
    client = FileClient("lmdb", db_paths=write_lmdb(str(tmp_path / "a.lmdb"), {"Füße": b"1"}), client_keys="gt")
    assert client.get("Füße", "gt") == b"1"
    with pytest.raises(UserError, match=r"a.lmdb has no key 'Hände'"):
        client.get("Hände", "gt")
    lmdb_backend.close_all()


@pytest.mark.parametrize("damage", [slice(8192, None), slice(20, 21)], ids=["pages", "version"])
def test_a_damaged_lmdb_is_named(tmp_path, damage):
    path = write_lmdb(str(tmp_path / "a.lmdb"), {str(index): bytes(3000) for index in range(40)})
    data = Path(path) / "data.mdb"
    content = bytearray(data.read_bytes())
    content[damage] = bytes([99]) * len(content[damage])
    content[4096 + 20] = content[20]  # the version of both meta pages
    data.write_bytes(content)
    with pytest.raises(UserError, match=r"a.lmdb (is damaged|cannot be opened)"):
        lmdb_backend.read(path, "7")
    lmdb_backend.close_all()


@pytest.mark.parametrize("keep", [0, 100, 4096, 20_000])
def test_a_truncated_lmdb_is_refused_without_mapping_it(tmp_path, keep):
    path = write_lmdb(str(tmp_path / "a.lmdb"), {"0": bytes(50_000)})
    lmdb_backend.check(path)
    data = Path(path) / "data.mdb"
    data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"data.mdb is (truncated|empty)"):
        lmdb_backend.open_shared(path)


def test_stand_ins_hold_what_basicsr_asks_of_them(monkeypatch):
    filters = standins._scipy_filters()
    assert filters["convolve"](np.ones(3), np.ones(1)).tolist() == [1, 1, 1]
    loose = standins._distutils_version()["LooseVersion"]
    assert loose("0.29.1+cpu") >= loose("0.9.0") and not loose("0.8.2") >= loose("0.9.0")
    monkeypatch.setitem(sys.modules, "present", types.ModuleType("present"))
    for parent in ("present", "absent"):  # the second as distutils is on Python 3.12 without setuptools
        standins._stand_in(f"{parent}.child", lambda: {"value": 7})
        assert importlib.import_module(f"{parent}.child").value == 7
        del sys.modules[f"{parent}.child"]
    del sys.modules["absent"]


def test_jpeg_takes_a_fractional_quality():
    image = np.full((16, 16, 3), 0.5, np.float32)
    assert degradations.add_jpg_compression(image, 71.6).shape == image.shape
    assert degradations.random_add_jpg_compression(image, (30, 90)).shape == image.shape


def test_perceptual_loss_takes_l2(monkeypatch):
    class NoVGG(torch.nn.Module):
        def __init__(self, **_arguments):
            super().__init__()

        def forward(self, x):
            return {"conv": x}

    monkeypatch.setattr(basic_loss, "VGGFeatureExtractor", NoVGG)
    loss = basic_loss.PerceptualLoss({"conv": 2.0}, criterion="l2")
    x = torch.zeros(1, 3, 4, 4)
    assert loss(x, x + 3)[0].item() == pytest.approx(18.0)


def test_niqe_is_nan_where_it_is_not_defined_and_a_number_elsewhere():
    niqe = METRIC_REGISTRY.get("calculate_niqe")
    flat = np.full((200, 200, 3), 128, np.uint8)
    assert np.isnan(niqe(flat, 0))
    assert np.isnan(niqe(flat[:64], 0))
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 255, (200, 200, 3)).astype(np.uint8), (0, 0), 1.5)
    assert np.isfinite(niqe(noise, 4))


def test_an_unregistered_name_gets_the_nearest_and_no_noise(capsys):
    with pytest.raises(UserError, match="MSRResNett.*nearest: MSRResNet"):
        ARCH_REGISTRY.get("MSRResNett")
    assert ARCH_REGISTRY.get("SRVGGNetCompact").__name__ == "SRVGGNetCompact"
    assert capsys.readouterr().out == ""


def network(width: int = 8) -> MSRResNet:
    torch.manual_seed(width)
    return MSRResNet(num_feat=width, num_block=1, upscale=2)


@pytest.fixture
def loader() -> BaseModel:
    return BaseModel({"num_gpu": 0, "is_train": False})


@pytest.mark.parametrize("form", ["pth", "ema", "bare", "module", "safetensors"])
def test_load_network_reads_every_form(tmp_path, loader, form):
    state = network().state_dict()
    path = str(tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth"))
    if form == "safetensors":
        checkpoints.write_safetensors(path, state)
    else:
        torch.save({"pth": {"params": state}, "ema": {"params_ema": state, "params": network(8).state_dict()},
                    "bare": state, "module": {"params": {f"module.{k}": v for k, v in state.items()}}}[form],
                   path)  # fmt: skip
    target = MSRResNet(num_feat=8, num_block=1, upscale=2)
    loader.load_network(target, path, True, "params_ema")
    for key, value in target.state_dict().items():
        assert torch.equal(value, state[key])


def test_load_network_names_what_does_not_fit(tmp_path, loader):
    path = str(tmp_path / "a.pth")
    state = network().state_dict()
    torch.save({"params": state}, path)
    with pytest.raises(UserError, match=r"conv_first.weight has shape \(8, 3, 3, 3\) in the file and \(16, 3, 3, 3\)"):
        loader.load_network(network(16), path)
    with pytest.raises(UserError, match="no parameter name in common"):
        loader.load_network(torch.nn.Linear(2, 2), path)
    torch.save({"params": {key: value for key, value in state.items() if key != "conv_last.bias"}}, path)
    with pytest.raises(UserError, match="1 missing .conv_last.bias"):
        loader.load_network(network(), path)
    loader.load_network(network(), path, strict=False)
    with pytest.raises(UserError, match="no checkpoint at .*none.pth"):
        loader.load_network(network(), str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"params": {1: torch.zeros(1)}}, "no state dict"),
        ({"params": {"a": torch.zeros(1)}, "metadata": [1]}, "metadata are a list"),
        ({1: {"a": 1}}, "its keys are 1"),
    ],
)
def test_a_checkpoint_of_another_form_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=words):
        checkpoints.read(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("kind", ["network", "state", "safetensors"])
def test_a_full_disk_ends_the_run_and_keeps_the_old_file(tmp_path, loader, monkeypatch, kind):
    loader.opt["path"] = {"models": str(tmp_path), "training_states": str(tmp_path)}
    net = network()
    loader.optimizers = [torch.optim.Adam(net.parameters())]
    save = {"network": lambda: loader.save_network([net, net], "net_g", 5, ["params", "params_ema"]),
            "state": lambda: loader.save_training_state(1, 5),
            "safetensors": lambda: checkpoints.write_safetensors(str(tmp_path / "a.safetensors"), net.state_dict()),
            }[kind]  # fmt: skip
    save()
    [path] = tmp_path.iterdir()
    assert path.name == {"network": "net_g_5.pth", "state": "5.state", "safetensors": "a.safetensors"}[kind]
    old = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"cannot write .*{path.name} .No space left on device"):
        save()
    assert listing(tmp_path) == [path.name] and path.read_bytes() == old


def test_a_disk_that_fills_up_while_torch_writes_is_said_in_its_words(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match="a.pth .File too large"):
            checkpoints.write_pth(str(tmp_path / "a.pth"), {"a": torch.zeros(90_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert listing(tmp_path) == []


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_checkpoint_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": {"a": torch.zeros(1)}, "evil": Evil()}, "evil.pth")
    with pytest.raises(UserError, match="evil.pth cannot be read as weights: it holds Python objects, which"):
        checkpoints.read("evil.pth")
    torch.save({"iter": 1, "epoch": 0, "evil": Evil()}, "evil.state")
    with pytest.raises(UserError, match="evil.state is not a training state"):
        resuming.read("evil.state")
    assert listing(tmp_path) == ["evil.pth", "evil.state"]


def test_safetensors_keep_tensors_and_metadata_and_replace_whole(tmp_path):
    path = str(tmp_path / "sub" / "a.safetensors")
    checkpoints.write_safetensors(path, {"a": torch.arange(6).reshape(2, 3).T}, {"scale": "4"})
    checkpoints.write_safetensors(path, {"a": torch.arange(6).reshape(2, 3).T}, {"scale": "2"})
    states, metadata = checkpoints.read(path)
    assert metadata == {"scale": "2"} and torch.equal(states["params"]["a"], torch.arange(6).reshape(2, 3).T)
    assert listing(tmp_path) == ["sub", "sub/a.safetensors"]
    Path(path).write_bytes(Path(path).read_bytes()[:-4])
    with pytest.raises(UserError, match="a.safetensors cannot be read as weights: truncated"):
        checkpoints.read(path)
    with pytest.raises(UserError, match="does not ship"):
        checkpoints.resolve("alignvar_arch:weights/none.safetensors")


def test_adamw_stands_beside_adam(loader):
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    assert type(loader.get_optimizer("AdamW", parameter, 1e-3, weight_decay=0.1)) is torch.optim.AdamW
    assert type(loader.get_optimizer("Adam", parameter, 1e-3)) is torch.optim.Adam


def test_real_esrgan_tools_stay_on_the_cpu_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    from basicsr.models import realesrnet_model

    assert realesrnet_model.USMSharp().cuda().kernel.device.type == "cpu"
    model = realesrnet_model.RealESRNetModel.__new__(realesrnet_model.RealESRNetModel)
    model.queue_size, model.lq, model.gt = 2, torch.ones(2, 3, 4, 4), torch.ones(2, 3, 8, 8)
    model._dequeue_and_enqueue()
    model._dequeue_and_enqueue()
    assert model.queue_gt.shape == (2, 3, 8, 8) and torch.equal(model.lq, torch.ones(2, 3, 4, 4))


def test_misfit_is_silent_where_everything_fits():
    state = network().state_dict()
    assert networks.misfit(state, dict(state), "MSRResNet", "a.pth", strict=True) is None


def test_folders_are_read_in_the_order_of_their_names(tmp_path, monkeypatch):
    from basicsr.data.data_util import paths_from_folder

    for name in ("b.png", "a.png", "c.png"):
        (tmp_path / name).touch()
    real = os.scandir
    for reverse in (False, True):
        monkeypatch.setattr(os, "scandir", lambda path, r=reverse: iter(
            sorted(real(path), key=lambda entry: entry.name, reverse=r)))
        assert [Path(path).name for path in paths_from_folder(str(tmp_path))] == ["a.png", "b.png", "c.png"]


def test_an_image_that_cannot_be_written_is_named(tmp_path):
    path = str(tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(UserError, match="cannot write the image .*x.png: .*name too long"):
        basicsr.utils.imwrite(np.zeros((4, 4, 3), np.uint8), path)
