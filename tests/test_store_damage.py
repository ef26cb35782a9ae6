"""Stores that are damaged: what verify finds, and what repair leaves."""

import os
from pathlib import Path

import lmdb
import pytest
from stores import fill, flip, make, picture, position_of, problems

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import Store, codecs, copying, index, pages
from alignvar_arch.data.store.verify import verify
from alignvar_arch.errors import UserError


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


def test_missing_and_broken_keys_are_one_sentence_with_file_and_key(pair):
    store = Store(pair[0])
    flip(pair[0] / index.DATA, position_of(pair[0], "2") - len(store.read("2")) // 2)
    for use in (store.image, store.shape, lambda key: store.crop(key, 0, 0, 2, 2)):
        with pytest.raises(UserError, match="x.lmdb has no key 'none'"):
            use("none")
        with pytest.raises(UserError, match="x.lmdb.*'2'"):
            use("2")


@pytest.mark.parametrize("line", [b'{"kez":1}\n', b"{\xff}\n"])
def test_merging_tells_a_damaged_list(tmp_path, line):
    fill(tmp_path / "in", ["a.png"])
    make(tmp_path / "in", tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb" / index.RECORDS).write_bytes(line)
    with pytest.raises(UserError, match="x.lmdb: line 1 of records.jsonl is damaged; see"):
        copying.merge([tmp_path / "x.lmdb"], tmp_path / "y.lmdb")
