"""What several tests need: BasicSR mended before anything imports it, tiny data, a tiny options file."""

import copy
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import yaml

import alignvar_arch  # noqa: F401 - before any test module imports basicsr

# A shell starts its background jobs deaf to SIGINT, and what the tests interrupt must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"

TINY = {
    "name": "tiny",
    "model_type": "SRModel",
    "scale": 2,
    "num_gpu": 0,
    "manual_seed": 0,
    "datasets": {
        "train": {
            "name": "Train",
            "type": "PairedImageDataset",
            "dataroot_gt": "gt",
            "dataroot_lq": "lq",
            "io_backend": {"type": "disk"},
            "gt_size": 16,
            "use_hflip": True,
            "use_rot": True,
            "num_worker_per_gpu": 0,
            "batch_size_per_gpu": 4,
        },
        "val": {
            "name": "Val",
            "type": "PairedImageDataset",
            "dataroot_gt": "gt",
            "dataroot_lq": "lq",
            "io_backend": {"type": "disk"},
        },
    },
    "network_g": {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 2},
    "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
    "train": {
        "optim_g": {"type": "Adam", "lr": 2e-4},
        "scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.5},
        "total_iter": 5,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    },
    "val": {
        "val_freq": 100,
        "save_img": False,
        "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": False}},
    },
    "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
}


def write_pairs(folder: Path, count: int = 11, size: int = 24) -> None:
    """Writes `count` smooth pairs, GT size x size in gt/ and half of it in lq/."""
    rng = np.random.default_rng(0)
    for name in ("gt", "lq"):
        (folder / name).mkdir()
    for index in range(count):
        gt = cv2.resize(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "gt" / f"{index:02}.png"), gt)
        cv2.imwrite(str(folder / "lq" / f"{index:02}.png"), cv2.resize(gt, (size // 2, size // 2)))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> dict:
    """A current folder with eleven pairs, and options for them; `write` puts the options on disk."""
    write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    return copy.deepcopy(TINY)


@pytest.fixture
def tiny_test(tiny) -> dict:
    """Options for `test` in the folder of `tiny`, with one test set."""
    tiny["datasets"] = {"test_1": {**tiny["datasets"]["val"], "name": "Set"}}
    tiny["val"] = {"save_img": True, "suffix": None, "metrics": tiny["val"]["metrics"]}
    for key in ("train", "logger"):
        del tiny[key]
    return tiny


def write(opt: dict, path: str = "opt.yml") -> str:
    """Writes options as YAML and returns the path."""
    Path(path).write_text(yaml.safe_dump(opt, sort_keys=False), encoding="utf-8")
    return path


def listing(folder: Path) -> list[str]:
    """Everything under a folder, to show that nothing was made, renamed or removed."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def shared() -> Path:
    """The folder of photographs, weights and reference figures that only the project's own machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent; it holds photographs and reference figures that do not ship")
    return SHARED


@pytest.fixture(scope="session")
def small_files(tmp_path_factory) -> tuple[str, str]:
    """The files of a tiny transformer and of its tokenizer."""
    return small.files(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def compiler() -> None:
    """A C++ compiler that torch.compile can use."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:
        pytest.skip(f"torch.compile works on no machine without a C++ compiler ({type(error).__name__})")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real headless Chromium, driven by selenium; one for all tests, since starting it takes seconds."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
             "disable-background-networking", "disable-component-update", "force-color-profile=srgb",
             f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    browser.get("about:blank")  # away from the browser's own first page and its requests
    yield browser
    browser.quit()
