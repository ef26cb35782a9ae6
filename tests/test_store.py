"""Stores: codecs, keys, images in and out, interruptions, damage. Images are small and made here, seeded."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import Process, get_context
from operator import methodcaller
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.photos import bicubic_lr
from alignvar_arch.data.store import CODECS, Store, codecs, copying, imaging, index, keys, maker, pages, sources, writer
from alignvar_arch.data.store.verify import verify
from alignvar_arch.errors import UserError

REPOSITORY = str(Path(__file__).parents[1])
SHAPES = [(50, 35), (50, 35, 3), (50, 35, 4), (1, 1), (1, 7, 3)]


def picture(shape=(40, 60, 3), dtype=np.uint8, seed=0, flat=False) -> np.ndarray:
    """Noise, or a slope that every codec shrinks."""
    if flat:
        return np.add.outer(np.arange(shape[0]), np.zeros(shape[1:], int)).astype(dtype)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def fill(folder: Path, names, **arguments) -> dict[str, np.ndarray]:
    """Writes an image of its own under each name and returns them by name."""
    images = {name: picture(seed=number, **arguments) for number, name in enumerate(names)}
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, image)[1])
    return images


def make(folder: Path, output: Path, workers=2, **recipe) -> maker.Made:
    return maker.create(sources.find([str(folder)]), maker.Recipe(**recipe), output, workers=workers, bar=False)


def content(path: Path) -> dict:
    """Every key with its record, and the lists: what must be the same however a store came about."""
    store = Store(path)
    return {**{key: store.read(key) for key in store.keys},
            **{name: (path / name).read_bytes() for name in (index.RECORDS, index.META_INFO)}}  # fmt: skip


def problems(*paths) -> list[str]:
    return [text for subject in verify(*paths, workers=2, bar=False) for _, text in subject.problems]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 8]))


def position_of(path: Path, key: str) -> int:
    """Where the middle of a record lies in data.mdb."""
    record = Store(path).read(key)
    return (path / index.DATA).read_bytes().index(record) + len(record) // 2


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


def in_a_fork(work) -> Process:
    """Starts a process that has everything imported: what a new one costs is seconds."""
    process = get_context("fork").Process(target=work)
    process.start()
    return process


def test_killed_create_leaves_no_final_name_and_resumes_to_the_same_content(tmp_path):
    fill(tmp_path / "in", [f"{number:02}.png" for number in range(40)])
    (tmp_path / "in" / "00b.png").write_bytes(b"no image")
    output = tmp_path / "out" / "x.lmdb"

    def slowly():
        """Commits after every image, so that there is time to be killed in the middle."""
        writer._COMMIT_BYTES, encode = 1, codecs.encode
        codecs.encode = lambda *arguments: (time.sleep(0.02), encode(*arguments))[1]
        make(tmp_path / "in", output, crop=20, scale=2)

    process = in_a_fork(slowly)
    records = writer.part_of(output) / index.RECORDS
    deadline = time.monotonic() + 60
    while not (records.exists() and records.read_bytes().count(b"\n") >= 60):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert all(path.name.startswith(".") for path in output.parent.iterdir())
    with pytest.raises(UserError, match="codec: auto there, png here"):
        make(tmp_path / "in", output, crop=20, scale=2, codec="png")
    made = make(tmp_path / "in", output, crop=20, scale=2)
    assert 0 < made.resumed < 41 and len(made.failed) == 1
    make(tmp_path / "in", tmp_path / "other" / "x.lmdb", crop=20, scale=2)
    for name in ("x.lmdb", "x_lq_x2.lmdb"):
        assert content(output.with_name(name)) == content(tmp_path / "other" / name)
    assert not problems(output) and len(list(output.parent.iterdir())) == 2


@pytest.mark.parametrize("published", [0, 1])
def test_kill_between_the_two_names(tmp_path, monkeypatch, published):
    fill(tmp_path / "in", ["a.png"])
    publish, done = writer.StoreWriter.publish, []

    def stop(store):
        if len(done) == published:
            raise KeyboardInterrupt
        done.append(publish(store))

    monkeypatch.setattr(writer.StoreWriter, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "in", tmp_path / "x.lmdb", scale=2)
    monkeypatch.undo()
    assert make(tmp_path / "in", tmp_path / "x.lmdb", scale=2).records == 1
    assert not problems(tmp_path / "x.lmdb")


@pytest.mark.parametrize("published", [0, 1])
def test_merge_killed_between_the_two_names(tmp_path, monkeypatch, published):
    fill(tmp_path / "in", ["a.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb", scale=2)
    with monkeypatch.context() as patch:
        stop_at(patch, published)
        with pytest.raises(KeyboardInterrupt):
            copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")
    assert copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")[0] == (tmp_path / "y.lmdb", 1)
    assert not problems(tmp_path / "y.lmdb") and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("renamed", range(1, 4))
@pytest.mark.parametrize("given", ["x.lmdb", "x_lq_x2.lmdb"])
def test_repair_killed_between_its_names_is_ended(tmp_path, monkeypatch, renamed, given):
    fill(tmp_path / "in", ["a.png", "b.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb", scale=2)
    flip(tmp_path / "x.lmdb" / index.DATA, position_of(tmp_path / "x.lmdb", "a") + 100)
    with monkeypatch.context() as patch:
        stop_at(patch, renamed)
        with pytest.raises(KeyboardInterrupt):
            copying.repair(verify(tmp_path / "x.lmdb", bar=False))
    copying.finish_repair(tmp_path / given)
    assert sorted(path.name for path in tmp_path.glob("*x*.lmdb")) == [
        "x.broken.lmdb", "x.lmdb", "x_lq_x2.broken.lmdb", "x_lq_x2.lmdb"]  # fmt: skip
    assert not problems(tmp_path / given) and Store(tmp_path / given).keys == ["b"] and not list(tmp_path.glob(".*"))


def stop_at(patch, count):
    """Lets `count` folders be renamed; the next one is a kill."""
    rename, done = os.rename, []

    def stop(old, new):
        if os.path.isdir(old):
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(old)
        rename(old, new)

    patch.setattr(os, "rename", stop)


def test_resuming_takes_back_that_a_store_is_whole(tmp_path):
    """A repair that was done but for the names, begun again and killed, must not look done."""
    path = tmp_path / "x.lmdb"
    for _ in range(2):
        with closing(writer.StoreWriter(path, {"repair of": "x.lmdb"})) as store:
            assert not writer.is_finished(path)
            store.finish({})
    assert writer.is_finished(path)


def test_one_store_named_twice_is_not_merged_with_itself(tmp_path):
    fill(tmp_path / "in", ["a.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb")
    for prefix in (False, True):
        with pytest.raises(UserError, match="both hold the key a.*name it once"):
            copying.merge([tmp_path / "x.lmdb"] * 2, tmp_path / "y.lmdb", prefix)
    assert not (tmp_path / "y.lmdb").exists()


@pytest.mark.parametrize("line", [b'{"kez":1}\n', b"{\xff}\n"])
def test_merging_tells_a_damaged_list(tmp_path, line):
    fill(tmp_path / "in", ["a.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb" / index.RECORDS).write_bytes(line)
    with pytest.raises(UserError, match="x.lmdb: line 1 of records.jsonl is damaged; see"):
        copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")


def test_keys_of_others_that_are_not_ascii_are_kept(tmp_path):
    record = codecs.encode(picture((8, 8, 3)), "png")
    with lmdb.open(str(tmp_path / "x.lmdb"), map_size=1 << 20) as environment, environment.begin(write=True) as put:
        put.put("é".encode(), record)
    (tmp_path / "x.lmdb" / index.META_INFO).write_text("é.png (8,8,3) 1\n", encoding="utf-8")
    copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")
    assert Store(tmp_path / "y.lmdb").read("é") == record and not problems(tmp_path / "y.lmdb")


def test_records_of_an_uncommitted_source_are_forgotten(tmp_path):
    """LR is committed before GT: what it has in excess must go, also if the source has gone."""
    with_index = index.Record("a", (1, 1), "uint8", 1, "", "a.png")
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    for key in "abc":
        store.put(with_index._replace(key=key), b"x")
    store.commit()
    store._lines.write('{"key":"cut sho')
    store.close()
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    assert store.resumed and store.count == 3 and store.rollback(1).key == "a"
    store.finish({})
    store.publish()
    assert Store(tmp_path / "x.lmdb").keys == ["a"] and lmdb_backend.read(str(tmp_path / "x.lmdb"), "b") is None


def test_forgetting_finds_room_in_a_map_that_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_FIRST_MAP", 1 << 18)
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    for number in range(300):
        store.put(index.Record(f"{number:03}", (1, 1), "uint8", 1, "", "a.png"), bytes(20_000))
    store.commit()
    store.close()
    for count in (100, 0):
        store = writer.StoreWriter(tmp_path / "x.lmdb", {})
        store.rollback(count)
        store.close()
        assert store.count == count


def test_one_file_under_two_keys_is_resumed_where_it_was(tmp_path, monkeypatch):
    """Folders that are named may overlap."""
    fill(tmp_path / "in", [f"s/{number}.png" for number in range(3)])
    found = sources.find([str(tmp_path / "in"), str(tmp_path / "in" / "s")])
    assert len(found) == 6 and len({source.path for source in found}) == 3
    monkeypatch.setattr(writer, "_COMMIT_BYTES", 1)
    monkeypatch.setattr(writer.StoreWriter, "finish", lambda *_: 1 / 0)
    recipe = maker.Recipe(crop=20)
    with pytest.raises(ZeroDivisionError):
        maker.create(found, recipe, tmp_path / "x.lmdb", bar=False)
    monkeypatch.undo()
    made = maker.create(found, recipe, tmp_path / "x.lmdb", bar=False)
    assert made.resumed == 6 and made.records == 36 and not problems(made.paths[0])


def test_two_processes_do_not_write_one_store(tmp_path):
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    with pytest.raises(UserError, match="another process"):
        writer.StoreWriter(tmp_path / "x.lmdb", {})
    store.close()


def test_full_disk_is_one_sentence_and_resumable(tmp_path):
    fill(tmp_path / "in", [f"{number:02}.png" for number in range(60)])

    def in_little_room():
        writer._COMMIT_BYTES = 20_000
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in 10_000, 300_000:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
            with pytest.raises(UserError, match="make room"):
                make(tmp_path / "in", tmp_path / "x.lmdb", codec="raw")

    process = in_a_fork(in_little_room)
    process.join()
    assert process.exitcode == 0 and not (tmp_path / "x.lmdb").exists()
    made = make(tmp_path / "in", tmp_path / "x.lmdb", codec="raw")
    assert made.records == 60 and made.resumed > 10 and not problems(made.paths[0])


@pytest.fixture
def pair(tmp_path) -> list[Path]:
    """A GT and an LR store of six images."""
    fill(tmp_path / "in", [f"{number}.png" for number in range(6)], shape=(80, 100, 3))
    return make(tmp_path / "in", tmp_path / "x.lmdb", scale=2).paths


def test_bit_flips_in_records_are_found_and_repaired_on_both_sides(pair):
    gt, lq = pair
    flip(gt / index.DATA, position_of(gt, "2"))
    flip(lq / index.DATA, position_of(lq, "4"))
    subjects = verify(gt, workers=2, bar=False)
    assert [subject.broken() for subject in subjects] == [{"2"}, {"4"}]
    before = {key: Store(gt).read(key) for key in "0135"}
    assert [path.name for path in copying.repair(subjects)] == ["x.broken.lmdb", "x_lq_x2.broken.lmdb"]
    assert not problems(gt) and Store(gt).keys == Store(lq).keys == list("0135")
    assert before == {key: Store(gt).read(key) for key in "0135"}
    with pytest.raises(UserError, match="does not|broken.lmdb is there"):
        flip(gt / index.DATA, position_of(gt, "1"))
        copying.repair(verify(gt, workers=2, bar=False))


@pytest.mark.parametrize("name", [index.INDEX, index.RECORDS, index.META_INFO])
def test_every_byte_of_the_lists_is_guarded_and_lists_are_mended(pair, name):
    path = pair[1] / name
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 25)):
        flip(path, position)
        assert problems(pair[1]), position
        path.write_bytes(whole)
    path.unlink()
    if name == index.RECORDS:
        assert problems(pair[1])
        return
    subjects = verify(*pair, workers=2, bar=False)
    assert any("missing" in text for subject in subjects for _, text in subject.problems)
    copying.repair(subjects)
    assert not problems(pair[0]) and len(Store(pair[1])) == 6


def test_truncation_is_found_before_lmdb_maps_the_file(pair):
    data = pair[0] / index.DATA
    for size in (data.stat().st_size - 4096, 4096, 0):
        os.truncate(data, size)
        assert any(word in problems(pair[0])[0] for word in ("truncated", "no LMDB"))
        with pytest.raises(UserError, match="truncated|no LMDB"):
            Store(pair[0])
    with pytest.raises(UserError, match="cannot be repaired"):
        copying.repair(verify(pair[0], workers=2, bar=False))
    with pytest.raises(UserError, match="not an LMDB"):
        verify(pair[0].parent / "none.lmdb")


def test_damaged_pages_are_found_without_reading_outside_the_map(pair):
    """LMDB follows a flipped page number or length out of its map, which ends the process."""
    data = pair[0] / index.DATA
    whole = bytearray(data.read_bytes())
    assert pages.damage(data) is None
    root = int.from_bytes(whole[4096 + 128 : 4096 + 136], "little")
    assert root == int.from_bytes(whole[root * 4096 : root * 4096 + 8], "little")
    for position in (40, root * 4096, root * 4096 + 10, root * 4096 + 12, root * 4096 + 17, 4096 + 129, 4096 + 120):
        flip(data, position)
        assert problems(pair[0]), position
        data.write_bytes(whole)
    assert not problems(pair[0])


def test_missing_unlisted_and_unpaired_records_are_found(pair):
    gt, lq = pair
    for path, key, value in ((gt, b"1", None), (lq, b"new", b"x"), (gt, b"3", codecs.encode(picture()[:38]))):
        lmdb_backend.close_all()
        with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
            transaction.put(key, value) if value else transaction.delete(key)
    found = {(key, text) for subject in verify(gt, workers=2, bar=False) for key, text in subject.problems}
    assert {("1", "it is missing"), ("new", "no list names it")} <= found
    assert any(key == "3" and "does not fit scale 2" in text for key, text in found)
    copying.repair(verify(gt, workers=2, bar=False))
    assert not problems(gt) and Store(gt).keys == Store(lq).keys == list("0245")


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


def test_missing_and_broken_keys_are_one_sentence_with_file_and_key(pair):
    store = Store(pair[0])
    flip(pair[0] / index.DATA, position_of(pair[0], "2") - len(store.read("2")) // 2)
    for use in (store.image, store.shape, lambda key: store.crop(key, 0, 0, 2, 2)):
        with pytest.raises(UserError, match="x.lmdb has no key 'none'"):
            use("none")
        with pytest.raises(UserError, match="x.lmdb.*'2'"):
            use("2")


def test_stores_survive_fork_and_pickling(pair):
    """Under spawn they are tested with the data set's loaders, test_lmdb_dataset.py."""
    stores = [Store(pair[0]), Store(pair[0])]
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
