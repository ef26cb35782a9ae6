"""Training on cached token maps: the losses of training without the cache, and refused where they would be others."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
from basicsr.models import build_model
from conftest import listing, write

from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import maker, sources
from alignvar_arch.options import parse_options
from alignvar_arch.options.datasets import Builder


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Six crops with their LR, other ones without, and a tokenizer and a cache of each target."""
    folder = tmp_path_factory.mktemp("stores")
    drawn = np.random.default_rng(0)
    for name in ("gt", "other"):
        (folder / name).mkdir()
        for number in range(6):
            cv2.imwrite(f"{folder}/{name}/{number}.png", drawn.integers(0, 256, (16, 16, 3), np.uint8))
        maker.create(sources.find([f"{folder}/{name}"]), maker.Recipe(scale=4), folder / f"{name}.lmdb", bar=False)
    for target in ("image", "residual"):
        network = small.tokenizer_options(target=target)
        write_safetensors(f"{folder}/{target}.safetensors", small.tokenizer(target=target).state_dict(),
                          {"network": json.dumps(network), "scale": "4"})
        assert main(["lmdb", "tokens", f"{folder}/gt.lmdb", "--tokenizer", f"{folder}/{target}.safetensors", "-o",
                     f"{folder}/{target}.lmdb", "--device", "cpu", "--batch", "3"]) == 0
    lmdb_backend.close_all()
    return folder


@pytest.fixture
def options(stores, tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    data = {"name": "Train", "type": "LMDBPairDataset", "dataroot_gt": f"{stores}/gt.lmdb", "gt_size": 16,
            "dataroot_lq": f"{stores}/gt_lq_x4.lmdb", "use_hflip": False, "use_rot": False, "num_worker_per_gpu": 0,
            "batch_size_per_gpu": 3}
    yield {"name": "a", "model_type": "AlignVARModel", "scale": 4, "num_gpu": 0, "manual_seed": 0,
           "datasets": {"train": data},
           "network_g": {**small.TRANSFORMER, "drop_path": 0.1},
           "network_tokenizer": small.tokenizer_options(target="residual"),
           "path": {"pretrain_network_g": None, "pretrain_network_tokenizer": f"{stores}/residual.safetensors"},
           "train": {"token_cache": f"{stores}/residual.lmdb", "optim_g": {"type": "AdamW", "lr": 1e-3},
                     "scheduler": {"type": "LinearWarmupCosineLR"}, "total_iter": 2,
                     "ce_opt": {"type": "TokenCrossEntropyLoss"}, "hcc_opt": {"type": "HCCLoss"}},
           "val": None, "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False}}
    lmdb_backend.close_all()


def losses(options: dict) -> list[dict]:
    """The figures of two steps."""
    torch.manual_seed(0)
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(options)])
    dataset = Builder(opt)(opt["datasets"]["train"])
    model, found = build_model(opt), []
    if options["train"].get("token_cache"):
        model.tokenizer.encoder.forward = None  # nobody needs it
    for step in (1, 2):
        model.feed_data(torch.utils.data.default_collate([dataset[index] for index in range(3 * step - 3, 3 * step)]))
        model.optimize_parameters(step)
        found.append(model.get_current_log())
    return found


@pytest.mark.parametrize(("target", "data"), [("residual", "LMDBPairDataset"), ("image", "PairedImageDataset")])
def test_losses_are_those_without_the_cache(options, stores, target, data):
    options["network_tokenizer"] = small.tokenizer_options(target=target)
    options["path"]["pretrain_network_tokenizer"] = f"{stores}/{target}.safetensors"
    options["datasets"]["train"].update(type=data, io_backend={"type": "lmdb"})
    options["train"].update(token_cache=f"{stores}/{target}.lmdb", accumulate=3)
    cached = losses(options)
    del options["train"]["token_cache"]
    assert losses(options) == cached and {"l_ce", "l_hcc"} < set(cached[0]) and cached[0] != cached[1]


def test_the_front_door_trains_with_it(options):
    assert main(["train", "-opt", write(options)]) == 0
    assert "l_hcc" in next(Path("experiments/a").glob("train_*.log")).read_text()


@pytest.mark.parametrize(("key", "value", "words"), [
    ("train.token_cache", "{stores}/gt.lmdb", "train.token_cache: {stores}/gt.lmdb holds no token maps"),
    ("train.token_cache", "{stores}/image.lmdb", "{stores}/image.lmdb was made by another tokenizer"),
    ("train.token_cache", 3, "train.token_cache: is 3"),
    ("train.bad_quality_rate", 0.1, "train.bad_quality_rate: is 0.1"),
    ("train.hcc_opt", {"type": "HCCLoss", "target": "quantised"}, "train.hcc_opt.target: is quantised"),
    ("datasets.train.use_hflip", True, "datasets.train.use_hflip: must be false"),
    ("datasets.train.type", "PairedImageDataset", "goes by the keys of an LMDB"),
    ("datasets.train.dataroot_gt", "{stores}/other.lmdb", "is not what {stores}/other.lmdb holds now"),
    ("datasets.train.dataroot_lq", "{stores}/other_lq_x4.lmdb", "is not what {stores}/other_lq_x4.lmdb holds now"),
])
def test_what_would_have_other_tokens_is_refused_in_one_sentence(options, stores, capsys, key, value, words):
    *blocks, last = key.split(".")
    block = options
    for name in blocks:
        block = block[name]
    block[last] = value.format(stores=stores) if isinstance(value, str) else value
    if value == "PairedImageDataset":
        block.update(io_backend={"type": "disk"}, dataroot_gt=f"{stores}/gt", dataroot_lq=f"{stores}/gt", scale=1)
        options["scale"], options["network_tokenizer"] = 1, dict(small.TOKENIZER)  # a residual target is of scale 4
        options["path"]["pretrain_network_tokenizer"] = f"{stores}/image.safetensors"
        options["train"]["token_cache"] = f"{stores}/image.lmdb"
    path = write(options)
    before = listing(Path.cwd())
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]  # behind what building the tokenizer has logged
    assert error.startswith("basicsr: ") and words.format(stores=stores) in error, error
    assert listing(Path.cwd()) == before
