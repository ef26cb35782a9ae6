"""LMDBPairDataset: BasicSR's pairs from LMDBs, equal to the last bit, in any worker; what is wrong in one sentence."""
import copy
import os
import random
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from conftest import TINY, write, write_pairs
from torch.utils.data import DataLoader, default_collate

from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data import LMDBPairDataset
from alignvar_arch.data.store import codecs, maker, sources
from alignvar_arch.errors import UserError

SWINIR = {"type": "SwinIR", "upscale": 2, "img_size": 8, "window_size": 4, "depths": [1], "embed_dim": 8,
          "num_heads": [2], "mlp_ratio": 1, "upsampler": "pixelshuffledirect"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Five colour pairs for scale 2 in gt/ and lq/ of the current folder, GT 24x24."""
    write_pairs(tmp_path, count=5)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    lmdb_backend.close_all()


def make(codec: str = "auto") -> None:
    """gt.lmdb and lq.lmdb from gt/ and lq/."""
    for name in ("gt", "lq"):
        maker.create(sources.find([name]), maker.Recipe(codec=codec), Path(f"{name}.lmdb"), workers=1, bar=False)


def make_as_basicsr() -> None:
    for name in ("gt", "lq"):
        files = sorted(path.name for path in Path(name).iterdir())
        make_lmdb_from_imgs(name, f"{name}.lmdb", files, [file.split(".")[0] for file in files], map_size=1 << 20)


def options(**changes) -> dict:
    return {"name": "set", "type": "LMDBPairDataset", "phase": "train", "scale": 2, "dataroot_gt": "gt.lmdb",
            "dataroot_lq": "lq.lmdb", "gt_size": 16, "use_hflip": True, "use_rot": True, **changes}


def basicsr(**changes) -> PairedImageDataset:
    """BasicSR's own data set on the folders, in the order of their names, which is not that of the disk."""
    dataset = PairedImageDataset(options(dataroot_gt="gt", dataroot_lq="lq", io_backend={"type": "disk"}, **changes))
    dataset.paths.sort(key=lambda pair: pair["gt_path"])
    return dataset


def items(dataset, seed: int = 0) -> list[dict]:
    """Every item four times, from one seed."""
    random.seed(seed)
    return [dataset[index] for _ in range(4) for index in range(len(dataset))]


def assert_equal(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in ("lq", "gt"):
            assert one[name].dtype == torch.float32 and one[name].is_contiguous()
            assert torch.equal(one[name], other[name])


def refusal(**changes) -> str:
    """The sentence of a data set that its options alone show to be wrong."""
    with pytest.raises(UserError) as caught:
        LMDBPairDataset.check_options(options(**changes))
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def change(name: str, key: str, value: bytes | None) -> None:
    """Replaces a record of NAME.lmdb, or removes it."""
    with lmdb.open(f"{name}.lmdb", map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.delete(key.encode()) if value is None else transaction.put(key.encode(), value)


@pytest.mark.parametrize("codec", ["auto", "raw", "png", "webp"])
@pytest.mark.parametrize("changes", [{}, {"phase": "val"}, {"use_hflip": False}, {"use_rot": False}, {"color": "y"},
                                     {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}], ids=str)
def test_items_are_basicsrs_for_the_same_draws(codec, changes):
    make(codec)
    found = items(LMDBPairDataset(options(**changes)))
    assert_equal(found, items(basicsr(**changes)))
    assert [item["gt_path"] for item in found[:5]] == ["00", "01", "02", "03", "04"]
    assert [item["lq_path"] for item in found[:5]] == ["00", "01", "02", "03", "04"]


def test_lmdbs_that_basicsr_made_work_too():
    make_as_basicsr()
    found, wanted = LMDBPairDataset(options()), PairedImageDataset(options(io_backend={"type": "lmdb"}))
    assert_equal(items(found), items(wanted))
    assert [item["gt_path"] for item in items(found)] == [item["gt_path"] for item in items(wanted)]


def test_grey_transparent_and_oblong_images_are_read_as_basicsr_reads_them():
    rng = np.random.default_rng(0)
    for name, unit in (("gt", 2), ("lq", 1)):
        cv2.imwrite(f"{name}/00.png", rng.integers(0, 256, (9 * unit, 14 * unit), np.uint8))
        cv2.imwrite(f"{name}/01.png", rng.integers(0, 256, (13 * unit, 8 * unit, 4), np.uint8))
    make()
    assert_equal(items(LMDBPairDataset(options())), items(basicsr()))
    assert_equal(items(LMDBPairDataset(options(phase="val"))), items(basicsr(phase="val")))


def test_sixteen_bits_keep_their_depth_also_beside_eight():
    deep = np.random.default_rng(0).integers(0, 65536, (24, 24, 3), np.uint16)
    cv2.imwrite("gt/00.png", deep)
    make()
    dataset = LMDBPairDataset(options(phase="test"))
    wanted = torch.from_numpy(deep[..., ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(65535))
    assert torch.equal(dataset[0]["gt"], wanted)
    loader = DataLoader(dataset, 5, num_workers=1, multiprocessing_context="fork")
    assert_equal(list(loader), [default_collate([dataset[index] for index in range(5)])])


def test_a_gt_beyond_scale_times_its_lr_is_cut_in_validation_and_refused_in_training():
    cv2.imwrite("gt/01.png", np.random.default_rng(1).integers(0, 255, (25, 24, 3), np.uint8))
    make()
    assert_equal(items(LMDBPairDataset(options(phase="test"))), items(basicsr(phase="test")))
    assert refusal() == "gt.lmdb: '01' is 24x25 and its LR 12x12, but scale 2 asks for a GT of 24x24."


def test_crops_of_raw_records_decode_nothing_whole(monkeypatch):
    make("raw")
    dataset = LMDBPairDataset(options())
    monkeypatch.setattr(codecs, "decode", lambda record: pytest.fail("a whole record was decoded"))
    assert len(items(dataset)) == 20


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_two_loaders_on_one_file_give_in_their_workers_what_basicsr_gives(context):
    make()
    settings = {"batch_size": 2, "num_workers": 1, "drop_last": True, "worker_init_fn": seed_worker}
    first = LMDBPairDataset(options())
    assert first[0]["gt_path"] == "00"  # the parent has the file open when its workers start
    loaders = [DataLoader(dataset, multiprocessing_context=context, **settings)
               for dataset in (first, LMDBPairDataset(options()))]
    wanted = list(DataLoader(basicsr(), multiprocessing_context="fork", **settings))
    for batches in [iter(loader) for loader in loaders]:  # both at once
        found = list(batches)
        assert_equal(found, wanted)
        assert [batch["gt_path"] for batch in found] == [["00", "01"], ["02", "03"]]


def seed_worker(_worker) -> None:
    random.seed(7)


def test_a_workers_pixels_travel_as_bytes():
    make()
    dataset = LMDBPairDataset(options())
    loader = DataLoader(dataset, 5, num_workers=1, multiprocessing_context="fork", worker_init_fn=count_shared_bytes)
    batch = next(iter(loader))
    assert batch["gt"].shape == (5, 3, 16, 16)
    assert int(Path("shared_bytes").read_text()) == 5 * 3 * (16 * 16 + 8 * 8)


def count_shared_bytes(_worker) -> None:
    """Notes how much shared memory the worker asks for."""
    original, total = torch.UntypedStorage._new_shared.__func__, 0

    def counting(cls, size, *, device="cpu"):
        nonlocal total
        total += size
        Path("shared_bytes").write_text(str(total))
        return original(cls, size, device=device)

    torch.UntypedStorage._new_shared = classmethod(counting)


def test_augmentation_reaches_all_eight_positions_equally_often():
    for name, side in (("gt", 24), ("lq", 12)):
        ramp = np.add.outer(np.arange(side) * 5, np.arange(side)).astype(np.uint8)
        cv2.imwrite(f"{name}/00.png", cv2.merge([ramp] * 3))
    make()
    dataset, count = LMDBPairDataset(options(gt_size=24)), {}
    random.seed(0)
    for _ in range(800):
        corners = tuple(dataset[0]["gt"][0, ::23, ::23].flatten().tolist())
        count[corners] = count.get(corners, 0) + 1
    assert len(count) == 8 and min(count.values()) > 70


def test_keys_may_be_chosen_and_named_by_a_template():
    for path in list(Path("lq").iterdir()):
        path.rename(path.with_name(f"LR_{path.stem}.x2.png"))
    for name in ("gt", "lq"):
        (Path(name) / "süd").mkdir()
        for path in list(Path(name).glob("*.png")):
            path.rename(path.parent / "süd" / path.name)
    make()
    Path("some.txt").write_text("s%C3%BCd/03.png (24,24,3)\ns%C3%BCd/01.png (24,24,3)\n")
    dataset = LMDBPairDataset(options(phase="val", filename_tmpl="LR_{}.x2", meta_info_file="some.txt"))
    assert [item["gt_path"] for item in dataset] == ["s%C3%BCd/01", "s%C3%BCd/03"]
    assert [item["lq_path"] for item in dataset] == ["s%C3%BCd/LR_01%2Ex2", "s%C3%BCd/LR_03%2Ex2"]
    for item, name in zip(dataset, ("01", "03"), strict=True):
        assert np.array_equal(item["lq"].mul(255).round().numpy()[::-1].transpose(1, 2, 0),
                              cv2.imdecode(np.fromfile(f"lq/süd/LR_{name}.x2.png", np.uint8), cv2.IMREAD_COLOR))
    Path("some.txt").write_text("none.png (24,24,3)\n")
    assert "some.txt lists 1 keys that gt.lmdb lacks (none)" in refusal(meta_info_file="some.txt")


@pytest.mark.parametrize("changes, words", [
    ({"scale": 0}, "scale must be a whole number of at least 1, not 0."),
    ({"gt_size": 15}, "gt_size must be a positive multiple of scale (2), not 15."),
    ({"gt_size": None}, "gt_size must be a positive multiple of scale (2), not None."),
    ({"gt_size": 26}, "gt.lmdb: '00' is 24x24, smaller than gt_size 26; lower it, or leave the image out."),
    ({"use_rot": None}, "use_rot must be true or false, not None."),
    ({"dataroot_lq": None}, "dataroot_lq must be an LMDB, not None; `basicsr lmdb create FOLDER -o NAME.lmdb "
                            "--lq-scale 2` writes GT's and LR's."),
    ({"dataroot_gt": "gt"}, "dataroot_gt: gt is not an LMDB folder"),
    ({"dataroot_gt": "none.lmdb"}, "dataroot_gt: none.lmdb is not an LMDB folder"),
    ({"scale": 4}, "scale 4 asks for a GT of 48x48"),
    ({"io_backend": {"type": "memcached"}}, "io_backend is {'type': 'memcached'}"),
    ({"filename_tmpl": "x4"}, "filename_tmpl must be a text with {} once"),
    ({"filename_tmpl": "{}x2"}, "do not pair; keys of LR on one side only: 10 (00, 00x2, 01, …)"),
    ({"meta_info_file": "none.txt"}, "meta_info_file: none.txt cannot be read"),
    ({"color": "rgb"}, "color must be y or ~"),
    ({"mean": [0.5, 0.5, 0.5]}, "mean and std must be lists of one number a channel, both or none"),
    ({"mean": [0.5], "std": [0.5]}, "mean and std must be lists of one number a channel, both or none"),
])  # fmt: skip
def test_what_the_options_get_wrong_is_one_sentence(changes, words):
    make()
    assert words in refusal(**changes)


def test_pairs_that_lack_a_partner_are_named():
    os.remove("lq/03.png")
    make()
    assert "5 images in gt.lmdb and 4 in lq.lmdb do not pair" in refusal() and "(03)" in refusal()


def test_a_list_without_sizes_is_refused():
    make_as_basicsr()
    Path("gt.lmdb/meta_info.txt").write_text("00.png\n01.png\n02.png\n03.png\n04.png\n")
    assert "gt.lmdb: meta_info.txt has no size for '00'" in refusal()


@pytest.mark.parametrize("value, words", [
    (None, "lq.lmdb has no key '02'"), (b"P6\n12 12\n255\nshort", "lq.lmdb: the record of '02' cannot be used"),
    (b"nonsense", "lq.lmdb: the record of '02' cannot be used"), (b"P6\n4 4\n255\n" + bytes(48), "does not lie inside"),
], ids=["missing", "short", "nonsense", "small"])  # fmt: skip
def test_a_missing_or_broken_record_is_named_by_file_and_key(value, words):
    make("raw")
    change("lq", "02", value)
    dataset = LMDBPairDataset(options())
    with pytest.raises(UserError) as caught:
        dataset[2]
    assert words in str(caught.value) and "'02'" in str(caught.value)


def test_a_missing_record_is_named_from_a_worker_too():
    make()
    change("lq", "02", None)
    loader = DataLoader(LMDBPairDataset(options()), 5, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UserError, match="lq.lmdb has no key '02'"):
        next(iter(loader))


def test_swinir_trains_from_an_options_file_with_only_the_type_changed():
    make()
    tiny = copy.deepcopy(TINY)
    tiny.update(model_type="SwinIRModel", network_g=SWINIR)
    for block in tiny["datasets"].values():
        block.update(dataroot_gt="gt.lmdb", dataroot_lq="lq.lmdb", io_backend={"type": "lmdb"})
    tiny["datasets"]["train"].update(batch_size_per_gpu=2, num_worker_per_gpu=1)
    tiny["train"]["total_iter"] = 3
    tiny["val"]["val_freq"] = 3
    weights = []
    for name in ("PairedImageDataset", "LMDBPairDataset"):
        opt = copy.deepcopy(tiny)
        opt["name"] = name
        for block in opt["datasets"].values():
            block["type"] = name
        assert main(["train", "-opt", write(opt)]) == 0
        weights.append(torch.load(f"experiments/{name}/models/net_g_latest.pth")["params"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), "the same crops, the same weights"
