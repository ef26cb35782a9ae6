"""PhotoDataset and its LMDB pair: what is written, what is refused, and what a crash or a race leaves behind."""

import multiprocessing
import os
import resource
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.utils.matlab_functions import imresize
from PIL import Image

from alignvar_arch.data import PhotoDataset, photo_dataset
from alignvar_arch.data.lmdb_store import MANIFEST, LmdbWriter, check_lmdb, lmdb_paths
from alignvar_arch.data.photos import EMBEDDED, find_photos, read_photo
from alignvar_arch.errors import UserError

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options(**changes):
    return {"photos": "mine", "dataroot": "datasets/mine_x4", "scale": 4, "phase": "train", "gt_size": 16,
            "sub_image_size": 32, "sub_image_step": 16, "use_hflip": False, "use_rot": False, **changes}


def save_photo(path, seed=0, size=(50, 46), mode="RGB"):
    """A smooth random picture: noise alone would make LR all alike."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    array = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    Image.fromarray(array, mode).save(path)


def records(path):
    """Every key and PNG of an LMDB."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return {key.decode(): bytes(value) for key, value in txn.cursor()}


def files(folder):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_embedded_photographs_train_and_validate():
    train = PhotoDataset(options(photos="scikit-image/train", dataroot="datasets/train", gt_size=128,
                                 sub_image_size=256, sub_image_step=128))
    item = train[0]
    assert len(train) == 63
    assert item["lq"].shape == (3, 32, 32) and item["gt"].shape == (3, 128, 128)
    assert 0 <= item["gt"].min() and item["gt"].max() <= 1
    val = PhotoDataset({"photos": "scikit-image/val", "dataroot": "datasets/val", "scale": 4, "phase": "val"})
    assert len(val) == 1 and val[0]["gt"].shape == (3, 256, 256) and val[0]["lq"].shape == (3, 64, 64)


def test_held_out_photograph_is_not_trained_on():
    train, val = (find_photos(name) for name in EMBEDDED)
    assert not {photo.name for photo in train} & {photo.name for photo in val}
    assert not {photo.describe()["sha256"] for photo in train} & {photo.describe()["sha256"] for photo in val}
    # nor is it a second view of one, as motorcycle_left is of motorcycle_right
    small = {photo.name: cv2.resize(read_photo(photo), (16, 16), interpolation=cv2.INTER_AREA).astype(float).ravel()
             for photo in train + val}
    likeness = {name: np.corrcoef(small[val[0].name], pixels)[0, 1] for name, pixels in small.items()}
    assert np.corrcoef(small["motorcycle_left.png"], small["motorcycle_right.png"])[0, 1] > 0.8
    assert max(value for name, value in likeness.items() if name != val[0].name) < 0.6


def test_same_photographs_give_the_same_bytes():
    for seed, name in enumerate(("b.png", "a.png")):
        save_photo(f"mine/{name}", seed)
    PhotoDataset(options(dataroot="one/x"))
    PhotoDataset(options(dataroot="two/x"))
    assert files("one") == files("two")
    assert files("one")["x_gt.lmdb/meta_info.txt"].splitlines()[0] == b"0000_a_s0000.png (32,32,3) 1"


def test_lr_is_the_resized_gt_away_from_borders():
    save_photo("mine/a.png", size=(97, 91))
    PhotoDataset(options(sub_image_size=48, sub_image_step=24))
    lq, gt = (records(path) for path in lmdb_paths("datasets/mine_x4"))
    assert lq.keys() == gt.keys() and len(gt) == 9
    worst = 0
    for key, png in gt.items():
        resized = imresize(decode(png).astype(np.float32) / 255, 1 / 4).clip(0, 1) * 255
        difference = np.abs(resized.round() - decode(lq[key]))
        worst = max(worst, difference.max())
        assert difference[2:-2, 2:-2].max() <= 1  # rounding; further than two pixels in, the border has no say
    assert worst > 1  # the border has: LR comes from the whole photograph


def test_whole_photographs_are_cropped_to_a_multiple_of_scale():
    save_photo("mine/a.png", size=(50, 47), mode="RGBA")
    dataset = PhotoDataset(options(sub_image_size=None, sub_image_step=None, phase="val"))
    item = dataset[0]
    assert item["gt"].shape == (3, 44, 48) and item["lq"].shape == (3, 11, 12)
    rgb = np.asarray(Image.open("mine/a.png"))[:44, :48, :3].transpose(2, 0, 1)  # alpha is dropped, not blended
    assert np.array_equal((item["gt"].numpy() * 255).round(), rgb)


def test_own_folder_with_unicode_and_equal_names():
    save_photo("mine/日本/été.png", 0)
    save_photo("mine/a/été.jpg", 1)
    save_photo("mine/b/été.jpg", 2, mode="L")
    Path("mine/notes.txt").write_text("no photograph")
    dataset = PhotoDataset(options())
    assert len(dataset) == 3 * 4
    assert {tuple(dataset[index]["lq"].shape) for index in range(len(dataset))} == {(3, 4, 4)}
    assert all(path["gt_path"].isascii() and "." not in path["gt_path"] for path in dataset.paths)


def test_later_use_reads_what_is_there():
    save_photo("mine/a.png")
    PhotoDataset(options())
    before = files("datasets")
    PhotoDataset(options(gt_size=32, use_hflip=True))  # neither changes what is stored
    assert files("datasets") == before


@pytest.mark.parametrize(("changes", "words"), [
    ({"sub_image_size": 16}, "sub_image_size is 32 there, 16 in the options"),
    ({"sub_image_step": 32}, "sub_image_step is 16 there, 32 in the options"),
    ({"scale": 2}, "scale is 4 there, 2 in the options"),
    ({"photos": "other"}, "1 photographs more, for example a.png"),
])
def test_changed_settings_are_refused(changes, words):
    save_photo("mine/a.png")
    save_photo("other/z.png", 1)
    PhotoDataset(options())
    before = files("datasets")
    with pytest.raises(UserError, match=words) as error:
        PhotoDataset(options(**changes))
    assert "move it away or choose another dataroot" in str(error.value)
    assert files("datasets") == before


def test_changed_photograph_is_refused():
    save_photo("mine/a.png")
    PhotoDataset(options())
    save_photo("mine/a.png", seed=1, size=(60, 60))
    with pytest.raises(UserError, match="the photograph a.png has changed"):
        PhotoDataset(options())


def test_foreign_folder_is_refused_and_untouched():
    save_photo("mine/a.png")
    path = Path("datasets/mine_x4_gt.lmdb")
    path.mkdir(parents=True)
    (path / "data.mdb").write_bytes(b"years of work")
    with pytest.raises(UserError, match="PhotoDataset did not make it"):
        PhotoDataset(options())
    assert files("datasets") == {"mine_x4_gt.lmdb/data.mdb": b"years of work"}


def test_truncated_database_is_refused():
    save_photo("mine/a.png")
    PhotoDataset(options())
    data = lmdb_paths("datasets/mine_x4")[0] / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])  # reading it would end the process with SIGBUS
    with pytest.raises(UserError, match="damaged"):
        PhotoDataset.check_options(options())


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_database_changed_in_place_is_refused(name):
    save_photo("mine/a.png")
    PhotoDataset(options())
    path = lmdb_paths("datasets/mine_x4")[1] / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes(9))
    with pytest.raises(UserError, match="mine_x4_gt.lmdb is damaged"):
        PhotoDataset.check_options(options())


def test_database_damaged_after_it_was_checked_is_named():
    save_photo("mine/a.png")
    dataset = PhotoDataset(options())
    data = lmdb_paths("datasets/mine_x4")[0] / "data.mdb"
    content = data.read_bytes()
    data.write_bytes(content[:8192] + bytes(len(content) - 8192))  # the two pages that opening reads stay
    with pytest.raises(UserError, match="datasets/mine_x4_lq.lmdb is damaged"):
        dataset[0]


def test_lost_half_is_written_again():
    save_photo("mine/a.png")
    PhotoDataset(options())
    before = files("datasets")
    for path in lmdb_paths("datasets/mine_x4")[1].iterdir():
        path.unlink()
    lmdb_paths("datasets/mine_x4")[1].rmdir()
    PhotoDataset(options())
    assert files("datasets") == before


@pytest.mark.parametrize(("content", "words"), [
    (b"no picture at all", "cannot be read as an image"),
    (None, "cannot be read as an image"),
])
def test_corrupt_photograph_is_named(content, words):
    save_photo("mine/a.png")
    save_photo("mine/sub/b.jpg", 1, size=(200, 200))
    broken = Path("mine/sub/b.jpg")
    broken.write_bytes(broken.read_bytes()[:1000] if content is None else content)
    for use in (PhotoDataset.check_options, PhotoDataset):
        with pytest.raises(UserError, match=words) as error:
            use(options())
        assert "mine/sub/b.jpg" in str(error.value) and "0x" not in str(error.value)
        assert not Path("datasets").exists()


def png_header(width, height):
    """A PNG that promises a size and holds nothing."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")),
              (b"IEND", b""))
    packed = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bomb_is_named():
    save_photo("mine/a.png")
    Path("mine/bomb.png").write_bytes(png_header(60000, 60000))
    with pytest.raises(UserError, match=r"mine/bomb.png cannot be read as an image \(Image size"):
        PhotoDataset.check_options(options())


def test_link_that_leads_nowhere_is_named():
    save_photo("mine/a.png")
    Path("mine/gone.png").symlink_to("/nowhere/b.png")
    with pytest.raises(UserError, match="mine/gone.png is a link that leads nowhere"):
        PhotoDataset.check_options(options())


def test_links_in_a_circle_are_followed_once():
    save_photo("mine/a.png")
    Path("mine/again").symlink_to(".")
    assert [photo.name for photo in find_photos("mine")] == ["a.png"]


def test_file_name_that_is_not_utf8():
    save_photo("mine/a.png")
    shutil.copy("mine/a.png", os.fsencode("mine/") + b"\xff\xfe.png")
    dataset = PhotoDataset(options())
    before = files("datasets")
    assert len(dataset) == len(PhotoDataset(options())) == 2 * 4 and dataset[4]["gt"].shape == (3, 16, 16)
    assert files("datasets") == before


def test_too_small_photograph_is_named():
    save_photo("mine/a.png")
    save_photo("mine/tiny.png", 1, size=(40, 31))
    with pytest.raises(UserError, match=r"mine/tiny.png is 40x31, too small to cut 32x32"):
        PhotoDataset(options())
    with pytest.raises(UserError, match=r"too small to cut 32x32 from: take it away\.$"):
        PhotoDataset.check_options(options(sub_image_size=None, sub_image_step=None))


@pytest.mark.parametrize(("suffix", "channels"), [
    ("png", ()), ("png", (3,)), ("png", (4,)), ("tif", ()), ("tif", (3,)), ("tif", (4,)), ("ppm", (3,)),
])
def test_deep_colour_is_refused(suffix, channels):
    Path("mine").mkdir()
    for kind in (np.uint8, np.uint16):
        cv2.imwrite(f"mine/{kind.__name__}.{suffix}", np.full((64, 64, *channels), 200, kind))
    with pytest.raises(UserError, match="mine/uint16.* has more than 8 bits"):
        PhotoDataset.check_options(options())
    Path(f"mine/uint16.{suffix}").unlink()
    PhotoDataset.check_options(options())


@pytest.mark.parametrize(("changes", "words"), [
    ({"dataroot": "mine/x4"}, "dataroot mine/x4 lies inside mine"),
    ({"dataroot": "mine/new/x4"}, "lies inside"),
    ({"dataroot": "link/x4"}, "lies inside"),
    ({"dataroot": ".."}, "has no name"),
    ({"dataroot": "./"}, "has no name"),
    ({"dataroot": "file/x4"}, "file is no folder"),
    ({"dataroot": "file/new/x4"}, "file is no folder"),
])
def test_wrong_place_is_refused(changes, words):
    save_photo("mine/a.png")
    Path("link").symlink_to("mine")
    Path("file").write_text("no folder")
    with pytest.raises(UserError, match=words):
        PhotoDataset.check_options(options(**changes))


@pytest.mark.parametrize("dataroot", ["datasets/mine_x4/", "./datasets//mine_x4", "~/datasets/mine_x4"])
def test_dataroot_and_photos_as_people_write_them(dataroot, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_photo("mine/a.png")
    PhotoDataset(options(dataroot=dataroot, photos="~/mine/"))
    assert sorted(os.listdir("datasets")) == ["mine_x4_gt.lmdb", "mine_x4_lq.lmdb"]


def test_crop_larger_than_a_whole_photograph_is_refused():
    save_photo("mine/a.png")
    whole = options(sub_image_size=None, sub_image_step=None)
    with pytest.raises(UserError, match=r"mine/a.png is 50x46, too small to cut 48x48 .* choose a smaller gt_size"):
        PhotoDataset({**whole, "gt_size": 48})
    assert not Path("datasets").exists()
    PhotoDataset(whole)
    with pytest.raises(UserError, match="gt_size 48 is larger than 0000_a"):
        PhotoDataset({**whole, "gt_size": 48})


@pytest.mark.parametrize(("changes", "words"), [
    ({"photos": None}, "needs photos"),
    ({"photos": "nowhere"}, "no folder nowhere"),
    ({"photos": "empty"}, "holds no photographs"),
    ({"dataroot": ""}, "needs dataroot"),
    ({"scale": 0}, "scale must be"),
    ({"sub_image_size": 30}, "sub_image_size must be a positive multiple of scale"),
    ({"sub_image_size": "32"}, "sub_image_size must be"),
    ({"sub_image_step": -16}, "sub_image_step must be"),
    ({"sub_image_size": None}, "needs a sub_image_size"),
    ({"gt_size": 18}, "gt_size must be"),
    ({"gt_size": None}, "gt_size must be"),
    ({"gt_size": 64}, "gt_size 64 is larger than sub_image_size 32"),
])
def test_wrong_options_are_refused_before_anything_is_made(changes, words):
    save_photo("mine/a.png")
    Path("empty").mkdir()
    with pytest.raises(UserError, match=words):
        PhotoDataset.check_options(options(**changes))
    assert not Path("datasets").exists()


def test_database_larger_than_the_first_map(monkeypatch):
    monkeypatch.setattr("alignvar_arch.data.lmdb_store.FIRST_MAP_SIZE", 1 << 14)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with LmdbWriter("big.lmdb", {}) as writer:
        for index in range(8):
            writer.put(f"{index}", noise)
    assert len(records("big.lmdb")) == 8
    assert all(np.array_equal(decode(png), noise) for png in records("big.lmdb").values())


def test_error_in_mid_write_leaves_nothing():
    with pytest.raises(RuntimeError, match="disk on fire"), LmdbWriter("some/x.lmdb", {}) as writer:
        writer.put("a", np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError("disk on fire")
    assert not Path("some").exists()
    Path("some").mkdir()
    with pytest.raises(KeyboardInterrupt), LmdbWriter("some/new/x.lmdb", {}):
        raise KeyboardInterrupt
    assert list(Path("some").iterdir()) == []  # what was there stays


@pytest.mark.parametrize("limit", [0, 40000])
def test_full_disk_leaves_nothing(limit):
    """A limit on the size of files is as good as a full disk: at once, or in the middle."""
    for index in range(8):
        save_photo(f"mine/{index}.png", index, size=(64, 64))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(UserError, match=r"datasets/mine_x4_\w\w.lmdb cannot be written"):
            PhotoDataset(options())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not Path("datasets").exists()


def test_second_writer_finishing_first_wins(monkeypatch):
    """The other process does all its work between our look and our last record."""
    save_photo("mine/a.png")
    original, calls = photo_dataset.cut_pairs, []

    def cut_pairs(*args):
        calls.append(args)
        if len(calls) == 1:
            photo_dataset.prepare(options())
            calls.append(records(lmdb_paths("datasets/mine_x4")[1]))
        return original(*args)

    monkeypatch.setattr(photo_dataset, "cut_pairs", cut_pairs)
    dataset = PhotoDataset(options())
    assert records(lmdb_paths("datasets/mine_x4")[1]) == calls[-1] and len(dataset) == len(calls[-1])
    assert sorted(path.name for path in Path("datasets").iterdir()) == ["mine_x4_gt.lmdb", "mine_x4_lq.lmdb"]


def test_second_writer_with_other_settings_is_seen():
    with pytest.raises(UserError, match="scale is 2 there, 4"), LmdbWriter("x.lmdb", {"scale": 4}) as writer:
        writer.put("a", np.zeros((8, 8, 3), np.uint8))
        with LmdbWriter("x.lmdb", {"scale": 2}) as other:
            other.put("b", np.zeros((8, 8, 3), np.uint8))
    assert records("x.lmdb").keys() == {"b"}


def _write_at_once(barrier, failed):
    try:
        with LmdbWriter("x.lmdb", {"scale": 4}) as writer:
            for index in range(20):
                writer.put(f"{index:02d}", np.full((8, 8, 3), index, np.uint8))
            barrier.wait(30)
    except BaseException:
        failed.set()
        raise


def test_processes_writing_at_once_leave_one_whole_copy():
    barrier, failed = FORK.Barrier(3), FORK.Event()
    workers = [FORK.Process(target=_write_at_once, args=(barrier, failed)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0] and not failed.is_set()
    assert [path.name for path in Path().iterdir()] == ["x.lmdb"]
    assert len(records("x.lmdb")) == 20 and check_lmdb("x.lmdb", {"scale": 4})


def _write_until_killed(writing):
    with LmdbWriter("x.lmdb", {"scale": 4}) as writer:
        writer.put("a", np.zeros((8, 8, 3), np.uint8))
        (writer.part / MANIFEST).write_text("{}")
        writing.set()
        time.sleep(60)


def test_killed_writer_leaves_no_final_name():
    writing = FORK.Event()
    worker = FORK.Process(target=_write_until_killed, args=(writing,))
    worker.start()
    assert writing.wait(30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    assert not Path("x.lmdb").exists() and not check_lmdb("x.lmdb", {"scale": 4})
    with LmdbWriter("x.lmdb", {"scale": 4}) as writer:  # and is not in the way of the next one
        writer.put("b", np.zeros((8, 8, 3), np.uint8))
    assert records("x.lmdb").keys() == {"b"}
