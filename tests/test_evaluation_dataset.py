"""EvaluationDataset: benchmarks as people hand them around, and what is wrong with them in one sentence."""
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.matlab_functions import imresize
from conftest import write_pairs

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data import EvaluationDataset
from alignvar_arch.data.store import CODECS, maker, sources
from alignvar_arch.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Four pairs for scale 2 in gt/ and lq/ of the current folder."""
    write_pairs(tmp_path, count=4)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    lmdb_backend.close_all()


def options(gt="gt", lq="lq", **changes) -> dict:
    return {"name": "set", "type": "EvaluationDataset", "phase": "test", "scale": 2, "dataroot_gt": gt,
            "dataroot_lq": lq, **changes}


def dataset(*roots, **changes) -> EvaluationDataset:
    opt = options(*roots, **changes)
    EvaluationDataset.check_options(opt)
    return EvaluationDataset(opt)


def refusal(*roots, **changes) -> str:
    """The sentence of a data set that its options alone show to be wrong."""
    with pytest.raises(UserError) as caught:
        EvaluationDataset.check_options(options(*roots, **changes))
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def make_lmdb(folder: str, lmdb: str, *names: str) -> None:
    """An LMDB as BasicSR makes it; without names, of the whole folder."""
    names = names or sorted(path.name for path in Path(folder).iterdir())
    make_lmdb_from_imgs(folder, lmdb, names, [name.split(".")[0] for name in names], map_size=1 << 20)


def rename(folder: str, ending: str) -> None:
    for path in Path(folder).iterdir():
        path.rename(path.with_name(path.stem + ending + path.suffix))


def test_pairs_are_those_of_basicsr(folder):
    # a GT with a rest beyond scale times its LR
    cv2.imwrite("gt/01.png", np.random.default_rng(1).integers(0, 255, (25, 24, 3), np.uint8))
    found = dataset()
    expected = PairedImageDataset({"phase": "test", "scale": 2, "dataroot_gt": "gt", "dataroot_lq": "lq",
                                   "io_backend": {"type": "disk"}})
    items = sorted((expected[index] for index in range(4)), key=lambda item: item["gt_path"])
    assert len(found) == 4
    for item, wanted in zip(found, items, strict=True):
        assert item.keys() == wanted.keys()
        assert (item["lq_path"], item["gt_path"]) == (wanted["lq_path"], wanted["gt_path"])
        assert torch.equal(item["lq"], wanted["lq"]) and torch.equal(item["gt"], wanted["gt"])


def test_lr_is_matlabs_bicubic_of_the_cut_gt_in_8_bits():
    gt = np.random.default_rng(0).integers(0, 256, (27, 34, 3), np.uint8)
    for path in Path("gt").iterdir():
        path.unlink()
    cv2.imwrite("gt/a.png", gt)
    item = dataset("gt", None, scale=4)[0]
    rgb = gt[:24, :32, ::-1].astype(np.float32) / 255
    wanted = np.round(np.clip(imresize(rgb.copy(), 1 / 4), 0, 1) * 255)
    assert item["gt"].shape == (3, 24, 32) and item["lq"].shape == (3, 6, 8)
    assert item["lq_path"] == item["gt_path"] == "gt/a.png"
    assert np.array_equal(item["gt"].numpy().transpose(1, 2, 0), rgb)
    assert np.array_equal(np.round(item["lq"].numpy().transpose(1, 2, 0) * 255), wanted)
    assert torch.equal(torch.round(item["lq"] * 255) / 255, item["lq"])


def test_an_lmdb_gives_what_its_folder_gives():
    for name in ("gt", "lq"):
        make_lmdb(name, f"{name}.lmdb")
    for lmdb, plain in zip(dataset("gt.lmdb", "lq.lmdb/"), dataset(), strict=True):
        assert torch.equal(lmdb["lq"], plain["lq"]) and torch.equal(lmdb["gt"], plain["gt"])
        assert Path(lmdb["lq_path"]).stem == Path(plain["lq_path"]).stem
    assert torch.equal(dataset("gt.lmdb", "lq")[3]["lq"], dataset()[3]["lq"])
    assert torch.equal(dataset("gt.lmdb", None)[2]["lq"], dataset("gt", None)[2]["lq"])


@pytest.mark.parametrize(("gt", "lq"), [("_HR", "_LR4"), ("", "x4"), ("_HR", ""), ("_SRF_4_HR", "_SRF_4_LR"),
                                        ("_gt", "_LRx2"), ("_HR", "_LR_x2")])
def test_names_pair_without_their_endings(gt, lq):
    wanted = [item["lq"] for item in dataset()]
    rename("gt", gt)
    rename("lq", lq)
    found = list(dataset())
    assert [Path(item["gt_path"]).name for item in found] == [f"{index:02}{gt}.png" for index in range(4)]
    assert all(torch.equal(item["lq"], image) for item, image in zip(found, wanted, strict=True))


def test_equal_names_pair_also_where_endings_would_make_them_alike():
    for name in ("gt", "lq"):
        for old, new in (("00", "a_x2"), ("01", "a_x3"), ("02", "a")):
            Path(f"{name}/{old}.png").rename(f"{name}/{new}.png")
    assert [Path(item["gt_path"]).stem for item in dataset()] == ["03", "a", "a_x2", "a_x3"]
    Path("lq/a.png").rename("lq/a_LR.png")
    assert "a, a_LR" in refusal()


def test_only_images_of_the_folder_itself_are_taken_by_name():
    Path("gt/SOURCES.tsv").write_text("x")
    Path("gt/.hidden.png").write_text("x")
    Path("gt/sub.png").mkdir()
    shutil.copy("gt/00.png", "gt/sub.png/deep.png")
    cv2.imwrite("gt/00a.JPG", np.zeros((8, 8, 3), np.uint8))
    assert [Path(item["gt_path"]).name for item in dataset("gt", None)] == [
        "00.png", "00a.JPG", "01.png", "02.png", "03.png"]


@pytest.mark.parametrize("kind", ["grey", "grey 16", "colour 16", "alpha", "alpha 16"])
def test_every_png_becomes_8_bit_colour(kind):
    colour = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    if "grey" in kind:
        colour = np.repeat(colour[..., :1], 3, axis=2)
    stored = colour[..., 0] if "grey" in kind else colour
    if "alpha" in kind:
        stored = np.dstack([stored, np.full((24, 24), 7, np.uint8)])
    cv2.imwrite("gt/00.png", stored.astype(np.uint16) * 256 + 9 if "16" in kind else stored)
    assert np.array_equal(dataset()[0]["gt"].numpy().transpose(1, 2, 0)[..., ::-1] * 255, colour)


def test_a_cameras_picture_stands_upright_and_is_checked_when_it_is_read():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.zeros((24, 12, 3), np.uint8)).save("gt/00.jpg", exif=exif)
    Path("gt/00.png").unlink()
    cv2.imwrite("lq/00.png", np.zeros((6, 12, 3), np.uint8))
    assert dataset()[0]["gt"].shape == (3, 12, 24)
    cv2.imwrite("lq/00.png", np.zeros((12, 6, 3), np.uint8))
    with pytest.raises(UserError, match="00.jpg is 24x12 and its LR lq/00.png 6x12"):
        dataset()[0]


@pytest.mark.parametrize("damage", [b"", b"no image", "cut short"])
@pytest.mark.parametrize("kind", ["gt", "lq"])
def test_an_unreadable_image_is_named_when_it_is_fetched_and_not_before(damage, kind):
    path = Path(kind, "02.png")
    path.write_bytes(path.read_bytes()[:-60] if damage == "cut short" else damage)
    found = dataset()
    with pytest.raises(UserError, match=f"cannot read the image {kind}/02.png"):
        found[2]
    assert found[1]["gt"].shape == found[3]["gt"].shape == (3, 24, 24)
    path.unlink()
    path.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=f"cannot read the image {kind}/02.png"):
        dataset()[2]


def test_an_lmdb_that_lists_what_it_has_not_names_it():
    make_lmdb("gt", "gt.lmdb", "00.png")
    with open("gt.lmdb/meta_info.txt", "a") as file:
        file.write("99.png (24,24,3) 1\n")
    found = dataset("gt.lmdb", None)
    assert found[0]["gt"].shape == (3, 24, 24)
    with pytest.raises(UserError, match="gt.lmdb has no key '99'"):
        found[1]


@pytest.mark.parametrize(("size", "fits"), [((24, 25), True), ((25, 25), True), ((26, 24), False), ((23, 24), False)])
def test_a_gt_may_exceed_scale_times_its_lr_by_less_than_scale(size, fits):
    cv2.imwrite("gt/01.png", np.zeros((*size, 3), np.uint8))
    if fits:
        assert dataset()[1]["gt"].shape == (3, 24, 24)
        return
    words = f"gt/01.png is {size[1]}x{size[0]} and its LR lq/01.png 12x12, but scale 2 asks for a GT of 24x24"
    assert words in refusal()
    with pytest.raises(UserError, match=words):
        EvaluationDataset(options())[1]


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_smallest_gt_to_make_an_lr_from_is_twice_the_scale(scale):
    cv2.imwrite("gt/00.png", np.full((2 * scale, 2 * scale, 3), 200, np.uint8))
    item = EvaluationDataset(options("gt", None, scale=scale))[0]
    assert torch.equal(item["lq"], torch.full((3, 2, 2), 200 / 255))
    cv2.imwrite("gt/00.png", np.zeros((2 * scale + 1, 2 * scale - 1, 3), np.uint8))
    assert f"gt/00.png is {2 * scale - 1}x{2 * scale + 1}" in refusal("gt", None, scale=scale)


def test_names_without_a_partner_are_counted_and_the_first_named():
    Path("lq/01.png").unlink()
    assert all(words in refusal() for words in ("gt holds 4 images and lq 3", "of the same name: 1 (01)"))
    rename("lq", "b")
    assert "of the same name: 7 (00, 00b, 01, …)" in refusal()


@pytest.mark.parametrize(
    ("roots", "changes", "words"),
    [
        (("gt", "lq"), {"phase": "train"}, ["cannot be trained on", "PhotoDataset"]),
        (("gt", "lq"), {"io_backend": {"type": "disk"}, "prefetch_mode": None}, ["no option io_backend"]),
        (("gt", "lq"), {"scale": 0}, ["scale", "0"]),
        (("gt", "lq"), {"scale": True}, ["scale", "True"]),
        ((None, "lq"), {}, ["dataroot_gt", "None"]),
        (("nowhere", "lq"), {}, ["dataroot_gt", "no folder nowhere"]),
        (("gt", "nowhere"), {}, ["dataroot_lq", "no folder nowhere"]),
        (("gt", 5), {}, ["dataroot_lq", "5"]),
        (("gt/00.png", None), {}, ["dataroot_gt", "no folder gt/00.png"]),
        (("void", None), {}, ["dataroot_gt", "void holds no images"]),
        (("void.lmdb", None), {}, ["dataroot_gt", "void.lmdb", "data.mdb"]),
        (("cut.lmdb", None), {}, ["dataroot_gt", "cut.lmdb", "truncated"]),
        (("bare.lmdb", None), {}, ["dataroot_gt", "bare.lmdb", "meta_info.txt"]),
        (("twice", None), {}, ["dataroot_gt", "twice/a.jpg", "a.png", "rename"]),
        (("twice", "twice"), {}, ["dataroot_gt", "twice/a.jpg"]),
    ],
)
def test_what_cannot_be_tested_on_is_one_sentence(roots, changes, words):
    Path("void").mkdir()
    Path("void/readme.txt").write_text("x")
    Path("void.lmdb").mkdir()
    Path("twice").mkdir()
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(f"twice/{name}", np.zeros((8, 8, 3), np.uint8))
    for name in ("cut", "bare"):
        make_lmdb("gt", f"{name}.lmdb")
    data = Path("cut.lmdb/data.mdb")
    data.write_bytes(data.read_bytes()[:9000])
    Path("bare.lmdb/meta_info.txt").unlink()
    message = refusal(*roots, **changes)
    assert all(word in message for word in words), message


def test_the_papers_pairs_and_the_classic_sets_are_read(shared):
    data = shared / "data"
    real = dataset(str(data / "realsr10/HR"), str(data / "realsr10/LR"), scale=4)
    assert len(real) == 10 and real[0]["gt"].shape == (3, 512, 512)
    set14 = dataset(str(data / "set14"), None, scale=4)
    for item in set14:
        assert item["gt"].shape == (3, *(4 * side for side in item["lq"].shape[1:])), item["gt_path"]


@pytest.mark.parametrize("codec", CODECS)
def test_stores_of_every_codec_give_the_folders_pixels(codec):
    flat = np.full((24, 24, 3), (9, 80, 200), np.uint8)  # jpeg keeps it; auto stores it otherwise than the rest
    flat[:, 12:] = 60
    for name, image in {"colour": flat, "grey": flat[..., 0], "deep": flat.astype(np.uint16) * 257,
                        "alpha": np.dstack([flat, flat[..., 0]])}.items():  # fmt: skip
        cv2.imwrite(f"gt/{name}.png", image)
    maker.create(sources.find(["gt"]), maker.Recipe(codec=codec, scale=2), Path("hr.lmdb"), bar=False)
    most = 3 / 255 if codec == "jpeg" else 0
    for roots in (("hr.lmdb", None), ("hr.lmdb", "hr_lq_x2.lmdb")):
        for item, plain in zip(dataset(*roots), dataset("gt", None), strict=True):
            if codec == "jpeg" and item["gt_path"][-2:].isdigit():  # too rich for a bound
                continue
            assert Path(item["gt_path"]).name == Path(plain["gt_path"]).stem
            assert (item["gt"] - plain["gt"]).abs().max() <= most + 1e-7
            assert (item["lq"] - plain["lq"]).abs().max() <= most + 1.01 / 255  # a tie may be rounded otherwise


def test_keys_with_folders_and_escapes_keep_names_apart():
    for name in ("a/x", "b/x", "Crème v1.2/x", "a/%2F", "plain"):
        Path("deep", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"deep/{name}.png", np.full((8, 8, 3), len(name), np.uint8))
    maker.create(sources.find(["deep"]), maker.Recipe(scale=2), Path("deep.lmdb"), bar=False)
    items = list(dataset("deep.lmdb", "deep_lq_x2.lmdb"))
    names = [Path(item["lq_path"]).name for item in items]
    assert names == ["Cr%C3%A8me%20v1%2E2%2Fx", "a%2F%252F", "a%2Fx", "b%2Fx", "plain"]
    assert [round(item["gt"].max().item() * 255) for item in items] == [len("Crème v1.2/x"), 5, 3, 3, 5]


def test_a_file_below_a_folder_that_is_named_like_an_lmdb_is_read():
    shutil.copytree("gt", "x.lmdb/inner")
    assert torch.equal(dataset("x.lmdb/inner", None)[1]["gt"], dataset("gt", None)[1]["gt"])
