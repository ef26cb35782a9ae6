"""Networks of pyiqa, built from weight files that lie on this machine: nothing is ever downloaded.

pyiqa itself downloads what it lacks, in the middle of a validation if need be. Here its own tables are asked which
files a network reads, and it is built only once they are all there.
"""

import contextlib
import functools
import hashlib
import importlib.util
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.models

from alignvar_arch.errors import UserError
from alignvar_arch.hashing import remembered_sha256

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Network:
    """A network of pyiqa.

    Args:
        name: its name in pyiqa, which pins architecture, weights and settings.
        files: gives the paths of the weight files it reads, from pyiqa's tables.
        sha256: gives the SHA-256 of the only file; for a file that pyiqa fetches again where it differs.
    """

    name: str
    files: Callable[[], list[Path]]
    sha256: Callable[[], str] | None = None

    def unavailable(self, device):
        """Why the network cannot run on `device` here, in one sentence, or None.

        Raises:
            UserError: there is no such device.
        """
        if device not in DEVICES:
            raise UserError(f"pyiqa's {self.name}: device is {device!r}, but must be {' or '.join(DEVICES)}.")
        if device == "cuda" and not torch.cuda.is_available():
            return f"pyiqa's {self.name} is to run on cuda, and there is no GPU here: give device: cpu."
        try:
            _module("api_helpers")
            files = self.files()
        except ImportError as error:
            return (f"{self.name} needs pyiqa, which cannot be imported ({error}): "
                    "run pip install 'alignvar[metrics]'.")
        absent = [path for path in files if not path.is_file()]
        if absent:
            places = " and ".join(f"{path.name} into {path.parent}" for path in absent)
            return (f"pyiqa's {self.name} has no weights here: put {places}; on a machine with a network "
                    f"pyiqa.create_metric({self.name!r}) brings them there.")
        if self.sha256 and remembered_sha256(files[0]) != self.sha256():
            return f"{files[0]} is damaged or another file, by the SHA-256 that pyiqa names: get it again."
        return None

    def version(self):
        """pyiqa's version, the network's name, and a hash of what its weight files hold; raises UserError as build."""
        self._check("cpu")
        hashes = "".join(remembered_sha256(path) for path in self.files())
        weights = hashlib.sha256(hashes.encode()).hexdigest()[:12]
        return f"pyiqa {_module('version').__version__}, {self.name}, weights {weights}"

    def build(self, device):
        """Gives the network in eval mode on `device`, built at the first call.

        Raises:
            UserError: pyiqa, a weight file or the device is missing, or a weight file cannot be read.
        """
        self._check(device)
        return _build(self.name, device, tuple(_stamp(path) for path in self.files()))

    def _check(self, device):
        reason = self.unavailable(device)
        if reason:
            raise UserError(reason)


@contextlib.contextmanager
def exact():
    """The same arithmetic on every device: float32 without TF32, deterministic convolutions, no gradients."""
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)


def _table(module, key):
    """The file that `default_model_urls` of one of pyiqa's modules names, where pyiqa keeps it."""
    return _cached(_module(f"archs.{module}").default_model_urls[key])


def _cached(url):
    return Path(_module("utils.download_util").DEFAULT_CACHE_DIR, url.rpartition("/")[2])


def _backbone(weights):
    """The file of a torchvision network, where torch.hub keeps it."""
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])


def _clip_url():
    return _module("archs.clip_model")._MODELS["RN50"]


LPIPS = Network("lpips", lambda: [_backbone(torchvision.models.AlexNet_Weights.IMAGENET1K_V1),
                                  _table("lpips_arch", "0.1_alex")])
DISTS = Network("dists", lambda: [_backbone(torchvision.models.VGG16_Weights.IMAGENET1K_V1),
                                  _table("dists_arch", "url")])
MANIQA = Network("maniqa", lambda: [_table("maniqa_arch", "koniq")])
MANIQA_PIPAL = Network("maniqa-pipal", lambda: [_table("maniqa_arch", "pipal")])
CLIPIQA = Network("clipiqa", lambda: [Path(torch.hub.get_dir(), "clip", _clip_url().rpartition("/")[2])],
                  sha256=lambda: _clip_url().split("/")[-2])
MUSIQ = Network("musiq", lambda: [_table("musiq_arch", "koniq10k")])
FID = Network("fid", lambda: [_cached(_module("archs.inception").FID_WEIGHTS_URL)])


def _module(name):
    with _pkg_resources():
        return importlib.import_module(f"pyiqa.{name}")


@contextlib.contextmanager
def _pkg_resources():
    """OpenAI's clip takes `packaging` from pkg_resources, which setuptools 82 dropped. Goes when clip 1.0.1 does."""
    name = "pkg_resources"
    absent = name not in sys.modules and importlib.util.find_spec(name) is None
    if absent:
        import packaging.version  # comes with pyiqa

        sys.modules[name] = types.ModuleType(name, "Stand-in by alignvar_arch.")
        sys.modules[name].packaging = packaging
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


@contextlib.contextmanager
def _timm_from_scratch():
    """MANIQA has timm download a backbone's weights, which its own checkpoint then overwrites, all of them."""
    import timm  # comes with pyiqa

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **options: create(name, pretrained=False, **options)
    try:
        yield
    finally:
        timm.create_model = create


@functools.lru_cache(maxsize=16)
def _build(name, device, stamps):
    """The network; `stamps` is part of the key because the files may change."""
    try:
        # Its first values are overwritten, and a seeded run must not notice; stdout is for figures; pyiqa's warnings
        # are about its own calls of torchvision.
        with (torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(),
              _pkg_resources(), _timm_from_scratch()):
            warnings.simplefilter("ignore")
            return _module("api_helpers").create_metric(name, device=torch.device(device)).net.eval()
    except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        files = " and ".join(path for path, _, _ in stamps)
        raise UserError(f"pyiqa's {name} cannot read its weights, {files}: get them again ({reason}).") from error


def _stamp(path):
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns
