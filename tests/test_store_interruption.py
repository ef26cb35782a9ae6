"""Stores whose making, merging or repair is killed, stopped or out of room, and goes on."""

import os
import resource
import signal
import time
from contextlib import closing
from multiprocessing import Process, get_context

import pytest
from stores import content, fill, flip, make, position_of, problems

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import Store, codecs, copying, index, maker, sources, writer
from alignvar_arch.data.store.verify import verify
from alignvar_arch.errors import UserError


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
