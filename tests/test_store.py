"""Stores: codecs, keys, images in and out, beside BasicSR as it is."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import methodcaller
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from stores import content, fill, flip, make, picture, position_of, problems

from alignvar_arch.data.photos import bicubic_lr
from alignvar_arch.data.store import CODECS, Store, codecs, copying, imaging, index, keys, maker, sources, writer
from alignvar_arch.data.store.verify import verify
from alignvar_arch.errors import UserError

REPOSITORY = str(Path(__file__).parents[1])
SHAPES = [(50, 35), (50, 35, 3), (50, 35, 4), (1, 1), (1, 7, 3)]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("codec", CODECS)
def test_codecs_give_the_same_pixels_again(codec, dtype, flat):
    for shape in SHAPES:
        image = picture(shape, dtype, flat=flat)
        record = codecs.encode(image, codec)
        decoded = codecs.decode(record)
        assert decoded.shape == codecs.shape(record) == shape and decoded.dtype == dtype
        if codec not in codecs.LOSSY:
            assert (decoded == image).all()
        height, width = (shape[0] + 1) // 2, (shape[1] + 1) // 2
        top, left = shape[0] - height, shape[1] - width
        window = codecs.crop(memoryview(record), top, left, height, width)
        assert (window == decoded[top:, left:]).all() and window.flags.writeable and window.flags.owndata
        read = cv2.imdecode(np.frombuffer(record, np.uint8), cv2.IMREAD_COLOR)  # as BasicSR does
        png = cv2.imdecode(cv2.imencode(".png", decoded)[1], cv2.IMREAD_COLOR)
        assert np.abs(read.astype(int) - png).max() <= (dtype == np.uint16)  # 16 bits are rounded or cut


def test_auto_packs_what_is_flat_and_only_that():
    noise, slope = picture((80, 80, 3)), picture((80, 80, 3), flat=True)
    assert codecs.name(codecs.encode(noise, "auto")) == "raw"
    assert codecs.name(codecs.encode(slope, "auto")) == "tiff"
    assert len(codecs.encode(slope, "auto")) < slope.nbytes / 4


@pytest.mark.parametrize("codec", CODECS)
def test_windows_outside_and_records_cut_short_are_refused(codec):
    record = codecs.encode(picture(), codec)
    for window in ((-1, 0, 5, 5), (0, 0, 41, 5), (0, 56, 5, 5), (0, 0, 0, 5)):
        with pytest.raises(ValueError, match="does not lie inside"):
            codecs.crop(record, *window)
    for cut in (record[: len(record) // 2], record[:9], b""):
        with pytest.raises(ValueError):
            codecs.decode(cut)


@pytest.mark.parametrize("name", ["a/b", "Crème brûlée", "v1.2.3", "写真/猫", "a%2Eb", "x\ny", "a b (1),c", "\udcff"])
def test_keys_are_ascii_without_dots_and_reversible(name):
    key = keys.from_path(f"{name}.png")
    assert key.isascii() and key.isprintable() and not set(". \n") & set(key)
    assert keys.to_name(key) == name


def test_lr_equals_basicsr_resize():
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
    for scale in (1, 2, 3, 4):
        difference = np.abs(imaging.bicubic(image, scale).astype(int) - bicubic_lr(image, scale))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # halves may be rounded either way
    assert imaging.bicubic(picture((8, 8), np.uint16), 4).dtype == np.uint16


def test_sub_images_lie_as_basicsr_cuts_them():
    assert imaging.starts(10, 4, 3) == [0, 3, 6] and imaging.starts(11, 4, 3) == [0, 3, 6, 7]
    assert imaging.starts(11, 4, 3, thresh=1) == [0, 3, 6] and imaging.starts(4, 4, 3) == [0]


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec not in codecs.LOSSY])
def test_store_holds_the_sources_pixels(tmp_path, codec):
    names = ["a/one.png", "b/one.png", "Crème/v1.2.png", "写真.png", "z.bmp"]
    images = fill(tmp_path / "in", names)
    for name, extra in (("grey.png", picture((9, 8))), ("alpha.png", picture((9, 8, 4))),
                        ("deep.png", picture((9, 8, 3), np.uint16))):  # fmt: skip
        images[name] = extra
        cv2.imwrite(str(tmp_path / "in" / name), extra)
    made = make(tmp_path / "in", tmp_path / "x.lmdb", codec=codec)
    store = Store(made.paths[0])
    assert len(store) == made.records == len(images) and not made.failed
    for name, image in images.items():
        found = store.image(keys.from_path(name))
        assert found.dtype == image.dtype and np.array_equal(found, image)
    assert not problems(store.path)


def test_pairs_of_sub_images(tmp_path):
    image = fill(tmp_path / "in", ["a.png"], shape=(50, 71, 3))["a.png"]
    made = make(tmp_path / "in", tmp_path / "x.lmdb", crop=24, step=16, scale=4)
    gt, lq = map(Store, made.paths)
    whole = imaging.bicubic(image[:48, :68], 4)
    assert gt.keys == lq.keys and lq.path.name == "x_lq_x4.lmdb" and len(gt) == 3 * 4
    for record in gt.records():
        top, left, height, width = record.box
        assert np.array_equal(gt.image(record.key), image[top : top + height, left : left + width])
        small = whole[top // 4 : (top + height) // 4, left // 4 : (left + width) // 4]
        assert np.array_equal(lq.image(record.key), small)
    assert {record.box[:2] for record in gt.records()} == {(top, left) for top in (0, 16, 24)
                                                           for left in (0, 16, 32, 44)}  # fmt: skip
    assert not problems(gt.path)


def test_lr_that_is_given_and_the_square_in_the_middle(tmp_path):
    gt = fill(tmp_path / "gt", ["a.png"], shape=(41, 43, 3))["a.png"]
    lq = fill(tmp_path / "lq", ["a.png"], shape=(20, 21, 3))["a.png"]
    found = sources.with_lq(sources.find([str(tmp_path / "gt")]), [str(tmp_path / "lq")])
    made = maker.create(found, maker.Recipe(crop=16, centre=True, scale=2), tmp_path / "x.lmdb", bar=False)
    assert np.array_equal(Store(made.paths[0]).image("a"), gt[12:28, 12:28])
    assert np.array_equal(Store(made.paths[1]).image("a"), lq[6:14, 6:14])
    (tmp_path / "lq" / "a.png").rename(tmp_path / "lq" / "b.png")
    with pytest.raises(UserError, match="no partner"):
        sources.with_lq(found, [str(tmp_path / "lq")])


def test_several_roots_and_globs(tmp_path):
    fill(tmp_path, ["s/HR/1.png", "t/HR/1.png", "t/HR/.hidden.png", "t/HR/old.lmdb/2.png"])
    with pytest.raises(UserError, match="--keys common"):
        sources.find([str(tmp_path / "s"), str(tmp_path / "t")])
    found = sources.find([str(tmp_path / "*" / "HR")], "common")
    assert [source.key for source in found] == ["s/HR/1", "t/HR/1"]
    assert [source.key for source in sources.find([str(tmp_path / "s" / "HR" / "1.png")])] == ["1"]
    for place in ("nowhere", "s/*.png"):
        with pytest.raises(UserError, match="there is no"):
            sources.find([str(tmp_path / place)])


def test_content_does_not_depend_on_the_number_of_workers(tmp_path):
    fill(tmp_path / "in", [f"{number}.png" for number in range(12)])
    for workers in (1, 5):
        make(tmp_path / "in", tmp_path / f"{workers}" / "x.lmdb", workers, crop=20, scale=2)
    for name in ("x.lmdb", "x_lq_x2.lmdb"):
        assert content(tmp_path / "1" / name) == content(tmp_path / "5" / name)


def test_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_FIRST_MAP", 1 << 16)
    monkeypatch.setattr(writer, "_COMMIT_BYTES", 100_000)
    images = fill(tmp_path / "in", [f"{number}.png" for number in range(60)])
    made = make(tmp_path / "in", tmp_path / "x.lmdb", codec="raw")
    store = Store(made.paths[0])
    assert (store.path / index.DATA).stat().st_size > 1 << 18
    assert all(np.array_equal(store.image(keys.from_path(name)), image) for name, image in images.items())


@pytest.mark.parametrize("count", [1, 1000])
def test_one_and_a_thousand_tiny_images(tmp_path, count):
    fill(tmp_path, ["one.png"], shape=(3, 4, 3))
    many = [sources.Source(f"{number:04}", tmp_path / "one.png") for number in range(count)]
    made = maker.create(many, maker.Recipe(), tmp_path / "x.lmdb", workers=2, bar=False)
    assert made.records == count and not problems(made.paths[0])


def test_sixty_megapixels(tmp_path):
    side, folder = 7750, tmp_path / "in"
    folder.mkdir()
    with (folder / "large.pgm").open("wb") as file:
        file.write(f"P5\n{side} {side}\n255\n".encode())
        file.truncate(file.tell() + side**2 - 1)
        file.seek(0, os.SEEK_END)
        file.write(b"\xc8")
    made = make(folder, tmp_path / "x.lmdb", codec="raw")
    store = Store(made.paths[0])
    assert store.shape("large") == (side, side)
    assert store.crop("large", side - 2, side - 2, 2, 2).tolist() == [[0, 0], [0, 200]]


def test_unusable_images_are_named_and_the_rest_go_on(tmp_path):
    fill(tmp_path / "in", ["a.png", "b.png", "c.jpg", "d.png"])
    for name, change in (("b.png", lambda data: data[:-60]), ("c.jpg", lambda data: data[:-60])):
        path = tmp_path / "in" / name
        path.write_bytes(change(path.read_bytes()))
    cv2.imwrite(str(tmp_path / "in" / "d.png"), picture((5, 99)))
    made = make(tmp_path / "in", tmp_path / "x.lmdb", crop=32)
    assert [Path(file).name for file, _ in made.failed] == ["b.png", "c.jpg", "d.png"]
    assert "smaller than --crop 32" in made.failed[2][1]
    assert Store(made.paths[0]).index["failed"] == [list(failure) for failure in made.failed]
    assert {keys.of_source(key) for key in Store(made.paths[0]).keys} == {"a"}
    with pytest.raises(UserError, match="none of the 4 images"):
        make(tmp_path / "in", tmp_path / "y.lmdb", crop=999)
    assert not list(tmp_path.glob("*y.lmdb*"))


def test_links_that_lead_nowhere_are_named_and_the_rest_go_on(tmp_path):
    fill(tmp_path / "in", ["a.png"])
    for name in ("b.png", "c.png"):
        (tmp_path / "in" / name).symlink_to("c.png")
    made = make(tmp_path / "in", tmp_path / "x.lmdb")
    assert made.records == 1 and [Path(file).name for file, _ in made.failed] == ["b.png", "c.png"]


def test_one_store_named_twice_is_not_merged_with_itself(tmp_path):
    fill(tmp_path / "in", ["a.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb")
    for prefix in (False, True):
        with pytest.raises(UserError, match="both hold the key a.*name it once"):
            copying.merge([tmp_path / "x.lmdb"] * 2, tmp_path / "y.lmdb", prefix)
    assert not (tmp_path / "y.lmdb").exists()


def test_keys_of_others_that_are_not_ascii_are_kept(tmp_path):
    record = codecs.encode(picture((8, 8, 3)), "png")
    with lmdb.open(str(tmp_path / "x.lmdb"), map_size=1 << 20) as environment, environment.begin(write=True) as put:
        put.put("é".encode(), record)
    (tmp_path / "x.lmdb" / index.META_INFO).write_text("é.png (8,8,3) 1\n", encoding="utf-8")
    copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")
    assert Store(tmp_path / "y.lmdb").read("é") == record and not problems(tmp_path / "y.lmdb")


def test_lmdb_that_basicsr_made(tmp_path):
    images = fill(tmp_path / "in", ["a.png", "b.png", "c.png"])
    path = tmp_path / "x.lmdb"
    make_lmdb_from_imgs(str(tmp_path / "in"), str(path), sorted(images), ["a", "b", "c"])
    store = Store(path)
    assert store.index is None and np.array_equal(store.crop("b", 1, 2, 5, 6), images["b.png"][1:6, 2:8])
    (subject,) = verify(path, bar=False)
    assert not subject.problems and "checksums" in subject.notes[0]
    flip(path / index.DATA, position_of(path, "b"))
    subjects = verify(path, bar=False)
    assert subjects[0].broken() == {"b"}
    copying.repair(subjects)
    assert Store(path).keys == ["a", "c"] and not problems(path)


def test_stores_survive_fork_and_pickling(tmp_path):
    """Under spawn they are tested with the data set's loaders, test_lmdb_dataset.py."""
    fill(tmp_path / "in", ["1.png", "2.png"])
    path = make(tmp_path / "in", tmp_path / "x.lmdb").paths[0]
    stores = [Store(path), Store(path)]
    expected = [store.read("2") for store in stores]  # the environment is open before the children are made
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert list(pool.map(methodcaller("read", "2"), stores)) == expected
    assert pickle.loads(pickle.dumps(stores[0])).read("2") == stores[0].read("2") == expected[0]


# BasicSR as it is, without this package: only the module that torchvision has dropped is put in its place.
UNMODIFIED = """
import sys, types
sys.modules["torchvision.transforms.functional_tensor"] = module = types.ModuleType("functional_tensor")
module.rgb_to_grayscale = None
import cv2, numpy as np
from basicsr.data.paired_image_dataset import PairedImageDataset
gt, lq, folder = sys.argv[1:]
found = PairedImageDataset(dict(dataroot_gt=gt, dataroot_lq=lq, io_backend=dict(type="lmdb"), scale=2, phase="val"))
assert len(found) == 3
assert "alignvar_arch" not in sys.modules
for item in found:
    image = cv2.imread(f"{folder}/{item['gt_path']}.png".replace("%C3%A9", "é"))[..., ::-1]
    assert np.array_equal((item["gt"].numpy().transpose(1, 2, 0) * 255).round(), image), item["gt_path"]
    assert item["lq"].shape[1:] == (20, 30) and item["lq_path"] == item["gt_path"]
"""


def test_unmodified_basicsr_reads_it(tmp_path):
    fill(tmp_path / "in", ["a/one.png", "été.png"])
    cv2.imwrite(str(tmp_path / "in" / "flat.png"), picture(flat=True))
    made = make(tmp_path / "in", tmp_path / "x.lmdb", scale=2)
    ended = subprocess.run([sys.executable, "-c", UNMODIFIED, *made.paths, tmp_path / "in"], cwd=tmp_path, text=True,
                           capture_output=True, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    assert ended.returncode == 0, ended.stderr


# Prints the most anonymous memory, in bytes above that at the start, while a store is made and verified.
MEMORY = """
import sys, threading, time
from pathlib import Path
import alignvar_arch
from alignvar_arch.data.store import maker, sources, verify, writer
writer._COMMIT_BYTES = 1 << 20
def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
def most(work):
    ended, found, start = threading.Event(), [0], anonymous()
    def watch():
        while not ended.wait(0.002):
            found.append(anonymous() - start)
    thread = threading.Thread(target=watch); thread.start(); work(); ended.set(); thread.join()
    return max(found)
for count in 100, 1000:
    output, found = Path(f"{count}.lmdb"), [sources.Source(f"{number}", Path("one.png")) for number in range(count)]
    print(most(lambda: maker.create(found, maker.Recipe(scale=2), output, workers=2, bar=False)),
          most(lambda: verify.verify(output, workers=2, bar=False)))
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    fill(tmp_path, ["one.png"], shape=(120, 120, 3))  # 1000 of them are 43 MB
    ended = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, check=True,
                           env={**os.environ, "PYTHONPATH": REPOSITORY})  # fmt: skip
    few, many = ([int(value) / 2**20 for value in line.split()] for line in ended.stdout.splitlines())
    print("MiB, create and verify:", few, many)
    assert all(after < before + 12 for before, after in zip(few, many, strict=True)), (few, many)
