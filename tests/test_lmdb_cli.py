"""`basicsr lmdb …`: what it prints, its exit codes, and what it leaves when it is interrupted."""

import json
import os
import signal

import cv2
import numpy as np
import pytest
from stores import fill, flip, picture, position_of

from alignvar_arch.cli.main import main
from alignvar_arch.data.store import Store, codecs, index, writer


@pytest.fixture
def images(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """A current folder with three images in in/."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "in", ["a/x.png", "b/x.png", "é.1.png"], shape=(80, 100, 3))


def basicsr(capsys, *arguments) -> tuple[int, str]:
    """Runs `basicsr lmdb …` and returns its exit code with all that it printed."""
    code = main(["lmdb", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out + err


def test_from_folder_to_folder(images, capsys, tmp_path):
    assert basicsr(capsys, "create", "in", "-o", "x.lmdb", "--lq-scale", 4)[0] == 0
    code, text = basicsr(capsys, "verify", "x.lmdb")
    assert code == 0 and text.count("3 records, all well") == 2
    assert basicsr(capsys, "extract", "x.lmdb", "-o", "out")[0] == 0
    for name, image in images.items():
        assert np.array_equal(cv2.imdecode(np.fromfile(tmp_path / "out" / name, np.uint8), -1), image)
    code, text = basicsr(capsys, "extract", "x.lmdb", "-o", "out")
    assert code == 2 and "not empty" in text


def test_info_and_stats(images, capsys):
    basicsr(capsys, "create", "in", "-o", "x.lmdb", "--codec", "png", "--crop", 40, "--lq-scale", 2)
    found = json.loads(basicsr(capsys, "info", "x.lmdb", "--json")[1])
    assert (found["images"], found["codec"], found["pair"], found["scale"]) == (18, "png", "x_lq_x2.lmdb", 2)
    assert found["sizes"] == [[40, 40, 18]] and found["command"].startswith("basicsr lmdb create in -o x.lmdb")
    assert "made from       in" in basicsr(capsys, "info", "x.lmdb")[1]
    pixels = np.concatenate([Store("x.lmdb").image(key).reshape(-1, 3) for key in Store("x.lmdb").keys])[:, ::-1] / 255
    found = json.loads(basicsr(capsys, "stats", "x.lmdb", "--json")[1])
    assert np.allclose(found["mean"], pixels.mean(0)) and np.allclose(found["std"], pixels.std(0))
    assert "18 x 40x40" in basicsr(capsys, "stats", "x.lmdb")[1]


def test_broken_image_is_named_and_the_exit_code_is_1(images, capsys, tmp_path):
    (tmp_path / "in" / "a" / "x.png").write_bytes(b"")
    code, text = basicsr(capsys, "create", "in", "-o", "x.lmdb")
    assert code == 1 and "in/a/x.png: the file is empty or damaged." in text and "1 of 3 images" in text
    assert len(Store("x.lmdb")) == 2


def test_verify_and_repair(images, capsys, tmp_path):
    basicsr(capsys, "create", "in", "-o", "x.lmdb", "--lq-scale", 2)
    flip(tmp_path / "x.lmdb" / index.DATA, position_of(tmp_path / "x.lmdb", "b/x"))
    code, text = basicsr(capsys, "verify", "x.lmdb")
    assert code == 1 and "x.lmdb: b/x: its bytes are not as they were written" in text
    code, text = basicsr(capsys, "verify", "x.lmdb", "--repair")
    assert code == 1 and "dropped b/x" in text
    assert basicsr(capsys, "verify", "x.lmdb")[0] == 0 and Store("x_lq_x2.lmdb").keys == ["%C3%A9%2E1", "a/x"]
    os.rename("x.lmdb", ".x.lmdb.part")  # as a kill between the two names of a repair leaves it
    (tmp_path / ".x.lmdb.part" / writer.PLAN).write_text(json.dumps({"repair of": "x.lmdb"}))
    assert basicsr(capsys, "verify", "x.lmdb", "--repair")[0] == 0


def test_merge(images, capsys):
    for name in "xy":
        basicsr(capsys, "create", "in", "-o", f"{name}.lmdb", "--lq-scale", 2)
    code, text = basicsr(capsys, "merge", "x.lmdb", "y.lmdb", "-o", "z.lmdb")
    assert code == 2 and "--prefix" in text and not os.path.exists("z.lmdb")
    assert basicsr(capsys, "merge", "x.lmdb", "y.lmdb", "-o", "z.lmdb", "--prefix")[0] == 0
    assert basicsr(capsys, "verify", "z.lmdb")[0] == 0
    for suffix in ("", "_lq_x2"):
        merged, first = Store(f"z{suffix}.lmdb"), Store(f"x{suffix}.lmdb")
        assert len(merged) == 6 and all(merged.read(f"x/{key}") == first.read(key) for key in first.keys)


def test_an_empty_lmdb_has_no_statistics_and_goes_nowhere_below_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    store.finish({})
    store.publish()
    assert basicsr(capsys, "stats", "x.lmdb") == (2, "basicsr: x.lmdb holds no images, so there is nothing to count.\n")
    code, text = basicsr(capsys, "extract", "x.lmdb", "-o", "x.lmdb/data.mdb/out")
    assert code == 2 and "cannot be written (Not a directory)" in text


def test_keys_that_would_leave_the_folder_are_not_extracted(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = writer.StoreWriter(tmp_path / "x.lmdb", {})
    content = codecs.encode(picture())
    for key in ("%2E%2E/a", "%2Fb", "c/%2E%2E/d", "fine", "f%69ne"):
        store.put(index.Record(key, (40, 60, 3), "uint8", len(content), index.digest(content), ""), content)
    store.finish({})
    store.publish()
    code, text = basicsr(capsys, "extract", "x.lmdb", "-o", "out")
    assert code == 1 and text.count("would leave the folder") == 3 and text.count("another key") == 1
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["fine.png"]


@pytest.mark.parametrize("there", [False, True])
def test_interrupted_extract_leaves_nothing(images, capsys, monkeypatch, there):
    basicsr(capsys, "create", "in", "-o", "x.lmdb")
    if there:
        os.mkdir("out")
    before, imencode = sorted(os.listdir()), cv2.imencode
    signals = iter([signal.SIGINT])  # one: a second would interrupt the wait for the threads

    def interrupting(*arguments):
        for number in signals:
            signal.raise_signal(number)
        return imencode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imencode", interrupting)
        assert basicsr(capsys, "extract", "x.lmdb", "-o", "out")[0] == 130
    assert sorted(os.listdir()) == before and not (there and os.listdir("out"))
    assert basicsr(capsys, "extract", "x.lmdb", "-o", "out") == (0, "out: 3 of 3 records\n")
    assert not [name for name in os.listdir() if name.startswith(".")] and len(os.listdir("out")) == 3


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_create_says_how_it_goes_on(images, capsys, monkeypatch, tmp_path, number, code):
    monkeypatch.setattr(writer, "_COMMIT_BYTES", 1)
    encode, calls = codecs.encode, []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(number)
        return encode(*arguments)

    monkeypatch.setattr(codecs, "encode", interrupting)
    found, text = basicsr(capsys, "create", "in", "-o", "x.lmdb", "--workers", 1)
    assert found == code and "repeat the command" in text
    assert [path.name for path in tmp_path.glob("*x.lmdb*")] == [".x.lmdb.part"]
    found, text = basicsr(capsys, "create", "in", "-o", "x.lmdb", "--workers", 1)
    assert found == 0 and len(Store("x.lmdb")) == 3


@pytest.mark.parametrize("arguments, words", [
    (["create", "in", "-o", "x"], "must end in .lmdb"),
    (["create", "in", "-o", "x.lmdb", "--step", "8"], "need --crop"),
    (["create", "in", "-o", "x.lmdb", "--crop", "10", "--lq-scale", "4"], "no multiple of --lq-scale"),
    (["create", "in", "-o", "x.lmdb", "--crop", "0"], "at least 1"),
    (["create", "in", "-o", "x.lmdb", "--lq", "in"], "needs --lq-scale"),
    (["create", "in", "-o", "x.lmdb", "--codec", "gif"], "invalid choice"),
    (["create", "in", "-o", "x.lmdb", "--workers", "0"], "at least 1"),
    (["create", "nowhere", "-o", "x.lmdb"], "there is no nowhere"),
    (["create", ".", "-o", "x.lmdb", "--keys", "absolute"], "invalid choice"),
    (["create", "in", "-o", "in/a/x.png/x.lmdb"], "cannot be written"),
    (["verify", "x.lmdb"], "not an LMDB folder"),
    (["info", "in"], "not an LMDB folder"),
    (["merge", "x.lmdb", "-o", "y.lmdb"], "not an LMDB folder"),
    (["creat", "in"], "create"),
    (["create", "in", "-o", f"{'l' * 250}.lmdb"], "name too long"),
    (["create", "", "-o", "x.lmdb"], "empty name"),
])  # fmt: skip
def test_mistakes_are_one_sentence(images, capsys, tmp_path, arguments, words):
    before = sorted(tmp_path.rglob("*"))
    code, text = basicsr(capsys, *arguments)
    assert code == 2 and words in text and text.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
