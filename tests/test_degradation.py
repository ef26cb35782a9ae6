"""Real-ESRGAN's degradation on the training device: BasicSR's own, of each sample alone, from its place alone."""
import copy
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import yaml
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models import build_model
from conftest import TINY, listing, write

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.data.store import maker, sources
from alignvar_arch.models.degradation import Degradation
from alignvar_arch.options import parse_options
from alignvar_arch.training import rng

PAPER = yaml.safe_load((Path(__file__).parent.parent / "options/paper/alignvar_d24_x4.yml").read_text())
KEYS = {key: value for key, value in PAPER.items() if isinstance(value, list) or key.endswith("_prob")
        or key.endswith("prob2") or key == "gt_usm"}
CPU = torch.device("cpu")


@pytest.fixture
def options(tmp_path, monkeypatch) -> dict:
    """A current folder with six small photographs, listed, and options that train a tiny tokenizer on them."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(6):
        image = cv2.resize(drawn.integers(0, 255, (9, 8, 3)).astype(np.uint8), (48, 44), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"photos/{index}.png", image)
    Path("list.txt").write_text("".join(f"{index}.png\n" for index in range(6)))
    train = {**PAPER["datasets"]["train"], "dataroot_gt": "photos", "meta_info": "list.txt", "gt_size": 16,
             "num_worker_per_gpu": 0, "batch_size_per_gpu": 2, "pin_memory": False, "prefetch_mode": None}
    return {"name": "a", "model_type": "AlignVARTokenizerModel", "scale": 4, "num_gpu": 0, "manual_seed": 0, **KEYS,
            "gt_usm": False,  # a kernel of 51 on 400 pixels takes most of the time
            "datasets": {"train": train},
            "network_g": small.tokenizer_options(target="residual"),
            "path": {"pretrain_network_g": None},
            "train": {"optim_g": {"type": "AdamW", "lr": 1e-3}, "total_iter": 2, "pixel_opt": {"type": "L1Loss"},
                      "scheduler": {"type": "LinearWarmupCosineLR"}, "vq_opt": {"type": "VQLoss"}},
            "val": None, "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False}}


@pytest.fixture
def batch(options) -> dict:
    """Three samples of RealESRGANDataset, cut to 64 pixels, which degrade faster than its 400."""
    dataset = RealESRGANDataset(copy.deepcopy(options["datasets"]["train"]))
    random.seed(0)
    np.random.seed(0)
    samples = [dataset[index] for index in range(3)]
    return {"gt": torch.stack([sample["gt"][:, :64, :64] for sample in samples]),
            **{key: torch.stack([sample[key] for sample in samples]) for key in ("kernel1", "kernel2", "sinc_kernel")}}


def test_lr_is_basicsrs_own_for_the_same_draws(options, batch):
    net = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 4}
    options["gt_usm"] = True
    made, lr = Degradation(options, CPU)(batch, [11, 12, 13])
    assert made.shape == (3, 3, 16, 16) and lr.shape == (3, 3, 4, 4)
    for number, seed in enumerate((11, 12, 13)):
        theirs = build_model({**TINY, **KEYS, "scale": 4, "gt_size": 16, "queue_size": 1, "is_train": True, "rank": 0,
                              "dist": False, "network_g": dict(net), "model_type": "RealESRNetModel"})
        rng.seed(seed)
        theirs.feed_data({key: value[number:number + 1] for key, value in batch.items()})  # goes past the empty pool
        assert torch.equal(theirs.lq[0], lr[number]) and torch.equal(theirs.gt[0], made[number])


def test_a_sample_is_the_same_in_any_batch_and_nobody_elses_draws_are_touched(options, batch):
    degrade = Degradation(options, CPU)
    before = rng.get()
    _, lr = degrade(batch, [11, 12, 13])
    assert random.getstate() == before["python"] and torch.equal(torch.get_rng_state(), before["torch"])
    assert np.random.get_state()[1].tolist() == before["numpy"][1]
    turned = {key: value.flip(0) for key, value in batch.items()}
    assert torch.equal(degrade(turned, [13, 12, 11])[1].flip(0), lr)
    assert torch.equal(degrade({key: value[1:2] for key, value in batch.items()}, [12])[1][0], lr[1])


def test_lr_follows_from_epoch_and_place(options, batch):
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(options)])
    model = build_model(opt)
    same = {key: value[:1].expand(3, *value.shape[1:]) for key, value in batch.items()}

    def lr(*places: tuple[int, int]) -> torch.Tensor:
        model.feed_data({**same, "place": torch.tensor(places)})
        return model.lq

    one = lr((0, 0), (0, 1), (1, 0))
    assert not any(torch.equal(one[i], one[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(lr((1, 0), (0, 0), (0, 1)), one[[2, 0, 1]])
    model.feed_data({"gt": model.gt, "lq": one})  # validation's pairs pass as they are
    assert torch.equal(model.lq, one)


def params(name: str) -> dict[str, torch.Tensor]:
    return checkpoints.read(f"experiments/{name}/models/net_g_latest.pth")[0]["params"]


def test_training_again_with_a_break_and_a_worker_or_from_a_store_is_the_same_to_the_bit(options):
    options["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [9]}
    for name in ("whole", "again"):
        options["name"] = name
        assert main(["train", "-opt", write(options)]) == 0
    options["name"] = "broken"
    options["train"]["total_iter"] = 1
    assert main(["train", "-opt", write(options)]) == 0
    options["train"]["total_iter"] = 2
    options["datasets"]["train"]["num_worker_per_gpu"] = 1
    assert main(["train", "-opt", write(options), "--auto_resume"]) == 0
    maker.create(sources.find(["photos"]), maker.Recipe(), Path("photos.lmdb"), bar=False)
    options["name"] = "store"
    options["datasets"]["train"].update(dataroot_gt="photos.lmdb", io_backend={"type": "lmdb"})
    assert main(["train", "-opt", write(options)]) == 0
    for other in map(params, ("again", "broken", "store")):
        assert all(torch.equal(value, other[name]) for name, value in params("whole").items())


def test_an_unreadable_photograph_is_named_counted_and_passed_over(options, capsys):
    Path("photos/3.png").write_bytes(b"no image")
    Path("photos/4.png").unlink()
    options["datasets"]["train"].update(bad_images=2, batch_size_per_gpu=3)
    assert main(["train", "-opt", write(options)]) == 0
    log = next(Path("experiments/a").glob("train_*.log")).read_text()
    assert "cannot read the image photos/3.png" in log and "cannot read photos/4.png: No such file" in log
    assert "number 2 of 2 allowed" in log
    options["datasets"]["train"]["bad_images"] = 1
    assert main(["train", "-opt", write(options)]) == 2
    assert "bad_images allows 1" in capsys.readouterr().err


@pytest.mark.parametrize(("gt_size", "side"), [(16, 400), (400, 400), (512, 512)])
def test_the_data_sets_crops_are_never_smaller_than_gt_size(options, gt_size, side):
    cv2.imwrite("photos/0.png", np.arange(600 * 520, dtype=np.uint16).reshape(600, 520))  # grey, and of 16 bits
    block = {**options["datasets"]["train"], "gt_size": gt_size}
    for index in (0, 1):
        sample = RealESRGANDataset(copy.deepcopy(block))[index]["gt"]
        assert sample.shape == (3, side, side) and 0 <= sample.min() < sample.max() <= 1


@pytest.mark.parametrize(("key", "value", "words"), [
    ("resize_prob2", "absent", "resize_prob2: missing"), ("gt_usm", "yes", "gt_usm: is 'yes'"),
    ("gray_noise_prob", 1.5, "gray_noise_prob: is 1.5"), ("resize_prob", [1, 2], "three weights"),
    ("jpeg_range", [95, 30], "the smaller first"), ("resize_range", [1.1, 1.5], "resize_range: is [1.1, 1.5]"),
    ("noise_range2", 3, "noise_range2: is 3"), ("gt_size", 32, "leave the second out"),
    ("queue_size", 180, "queue_size: there is no pool"), ("high_order_degradation", False, "gives no LR"),
    ("datasets.train.gt_size", 32, "describe pictures of 16"), ("datasets.train.kernel_prob", "absent", "kernel_prob"),
    ("datasets.val", {"name": "v", "type": "RealESRGANDataset"}, "gives no LR and is"),
    ("datasets.train", {"type": "PairedImageDataset", "dataroot_lq": "photos", "scale": 1}, "gives no kernels"),
])
def test_what_does_not_fit_is_refused_in_one_sentence(options, capsys, key, value, words):
    *blocks, last = key.split(".")
    block = options
    for name in blocks:
        block = block[name]
    if value == "absent":
        del block[last]
    elif key == "datasets.val":
        block[last] = {**block["train"], **value}
    elif key == "datasets.train":
        options["high_order_degradation"] = True
        Path("half").mkdir()
        for path in Path("photos").iterdir():
            cv2.imwrite(f"half/{path.name}", cv2.imread(str(path))[::4, ::4])
        block[last] = {"name": "p", "type": "PairedImageDataset", "dataroot_gt": "photos", "dataroot_lq": "half",
                       "io_backend": {"type": "disk"}, "gt_size": 16, "use_hflip": True, "use_rot": True,
                       "num_worker_per_gpu": 0, "batch_size_per_gpu": 2}
    else:
        block[last] = value
    path = write(options)
    before = listing(Path.cwd())
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1, error
    assert listing(Path.cwd()) == before
