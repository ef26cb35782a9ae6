"""`basicsr lmdb bench`: what is measured is the real thing, and the figures are there; how good is not tested."""
import copy
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY, write

from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data import LMDBPairDataset
from alignvar_arch.data.store import Store, maker, sources
from alignvar_arch.errors import UserError
from alignvar_arch.speed import reading, report, stages, training
from alignvar_arch.speed.material import select, spread

QUICK = ["--seconds", "0.01", "--rounds", "1", "--batch", "2"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    """gt.lmdb and gt_lq_x2.lmdb in the current folder: seven pairs for scale 2, of 24x24 and 32x28."""
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        size = (24, 24) if number % 2 else (32, 28)
        image = cv2.resize(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"photographs/{number}.png", image)
    maker.create(sources.find(["photographs"]), maker.Recipe(scale=2), Path("gt.lmdb"), workers=1, bar=False)
    yield tmp_path / "gt.lmdb"
    lmdb_backend.close_all()


@pytest.fixture
def material(store, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    found = select(store, None, folder, 5, None)
    found.write_pngs()
    return found


def finite(value) -> bool:
    if isinstance(value, dict):
        return all(finite(one) for one in value.values())
    if isinstance(value, list):
        return all(finite(one) for one in value)
    return not isinstance(value, float) or (np.isfinite(value) and value > 0)


def test_the_command_writes_its_figures_a_plot_and_tables(capsys):
    assert main(["lmdb", "bench", "gt.lmdb", "--workers", "0", "1", "--json", "b.json", "--plot", "b.png", *QUICK]) == 0
    found = json.loads(Path("b.json").read_text())
    assert finite({name: found[name] for name in ("speedup", "size_ratio", "create", "loaders", "codecs")})
    assert found["speedup"]["loader"] == min(found["speedup"]["loader_by_workers"].values())
    assert set(found["speedup"]["loader_by_workers"]) == {"0", "1"} and found["speedup"]["create"] > 0
    assert set(found["codecs"]) == {"auto", "raw", "png", "webp", "jpeg"}
    assert set(found["stages"]["store"]) == {"read", "decode", "crop", "augment", "collate"}
    assert found["material"]["records"] == 7 and found["material"]["gt_size"] == 24
    assert cv2.imread("b.png").shape[0] > 500
    out = capsys.readouterr().out
    assert f"speedup.loader {found['speedup']['loader']:.2f}" in out and "PNG folder, BasicSR" in out
    assert not list(Path().glob("basicsr-bench-*")) and sorted(path.name for path in Path().iterdir()) == [
        "b.json", "b.png", "gt.lmdb", "gt_lq_x2.lmdb", "photographs"]  # fmt: skip


def test_a_folder_of_photographs_is_made_into_a_store_first(capsys):
    image = np.random.default_rng(0).integers(0, 256, (320, 640, 3), np.uint8)
    Path("large").mkdir()
    cv2.imwrite("large/one.png", image)
    assert main(["lmdb", "bench", "large", "--workers", "0", *QUICK]) == 0
    assert "2 of 2 pairs of" in capsys.readouterr().out


def test_the_training_step_is_measured_and_loaders_are_held_against_it(capsys):
    opt = copy.deepcopy(TINY)
    opt["datasets"]["train"].update(type="LMDBPairDataset", dataroot_gt="gt.lmdb", dataroot_lq="gt_lq_x2.lmdb",
                                    io_backend={"type": "lmdb"}, batch_size_per_gpu=2)
    del opt["datasets"]["val"], opt["val"]
    arguments = ["lmdb", "bench", "gt.lmdb", "--opt", write(opt), "--workers", "0", "--json", "b.json", *QUICK]
    assert main(arguments) == 0
    found = json.loads(Path("b.json").read_text())["training"]
    assert finite(found) and found["batch"] == 2
    assert found["images_per_s"] == pytest.approx(2000 / found["step_ms"])
    assert "Training of tiny" in capsys.readouterr().out
    assert not Path("experiments").exists(), "measuring is no training"


def test_the_selection_is_even_and_its_pngs_are_its_records(material):
    assert material.keys == ["0", "1", "2", "4", "5"] and material.scale == 2 and material.gt_size == 24
    for name, store in (("gt", material.gt), ("lq", material.lq)):
        for key, path in zip(material.keys, material.pngs(name), strict=True):
            assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), store.image(key))
    assert [pair["gt_path"] for pair in LMDBPairDataset(material.of_store())] == material.keys
    assert spread(["a", "b"], 9) == ["a", "b"]


def test_what_is_compared_reads_the_same_pixels(material):
    material.write_basicsr_lmdb()
    material.write_store("raw")
    readers = [reading.of_pngs(material), reading.of_basicsr_lmdb(material),
               reading.of_store(material.gt, material.keys),
               reading.of_store(Store(material.folder / "raw.lmdb"), [path.stem for path in material.pngs()])]
    for reader in readers:
        for number, key in enumerate(material.keys):
            assert np.array_equal(reader.whole(number), material.gt.image(key))
            assert np.array_equal(reader.crop(number, 3, 2, 20), material.gt.image(key)[3:23, 2:22])
        found = reading.passes(reader, len(material.keys))
        assert found["first"]["mb_per_s"] > 0 and found["second"]["images_per_s"] > 0


def test_stages_taken_apart_make_the_data_sets_items(material):
    data, watch = LMDBPairDataset(material.of_store()), stages.Stopwatch()
    for number in range(5):
        items = []
        for make in (data.__getitem__, lambda n: stages.StoreStages(material).pair(n, watch),
                     lambda n: stages.PngStages(material).pair(n, watch)):
            random.seed(number)
            items.append(make(number))
        for name in ("lq", "gt"):
            assert all(torch.equal(items[0][name], item[name]) for item in items[1:])
    assert all(watch.seconds[stage] > 0 for stage in ("read", "decode", "crop", "augment"))


@pytest.mark.parametrize("enough, words", [
    (None, "0: 100, 2: 500; the loader is the bottleneck, with any number of workers measured; "),
    (2, "the loader is no bottleneck with 2 workers or more; without, every step waits 40 ms"),
])  # fmt: skip
def test_the_verdict_is_in_words(enough, words):
    step = {"name": "swin", "device": "CPU", "step_ms": 10.0, "batch": 4, "images_per_s": 400.0,
            "loaders": {"PairedImageDataset": {"images_per_s": {0: 100.0, 2: 500.0}, "enough_workers": enough}}}
    assert words in report._training(step)


def test_the_fewest_workers_that_suffice_are_found(material, monkeypatch):
    opt = {"name": "x", "scale": 2, "num_gpu": 0, "datasets": {"train": {
        "name": "Train", "type": "PairedImageDataset", "batch_size_per_gpu": 4, "gt_size": 16}}}  # fmt: skip
    monkeypatch.setattr(training, "_step", lambda opt: 0.02)  # 200 images/s
    monkeypatch.setattr(training.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(training.loaders, "rate", lambda one, workers, batch, seconds:
                        (90.0 * workers or 1e4) * (1 if one["type"] == "PairedImageDataset" else 0.1))
    found = training.measure(opt, material, [0, 2, 3], 1.0)["loaders"]
    assert found["PairedImageDataset"]["enough_workers"] == 3
    assert found["LMDBPairDataset on the store"]["enough_workers"] is None
    with pytest.raises(UserError, match="--opt: its scale is 4, but the store's is 2."):
        training.measure({**opt, "scale": 4}, material, [0], 1.0)


@pytest.mark.parametrize("arguments, words", [
    (["none.lmdb"], "none.lmdb"),
    (["gt_lq_x2.lmdb"], "gt_lq_x2.lmdb names no LR store of its own; name it with --pair."),
    (["gt_lq_x2.lmdb", "--pair", "gt.lmdb"], "has larger images than gt_lq_x2.lmdb"),
    (["gt.lmdb", "--gt-size", "26"], "smaller than gt_size 26"),
    (["gt.lmdb", "--gt-size", "15"], "gt_size must be a positive multiple of scale (2), not 15."),
    (["gt.lmdb", "--workers", "-1"], "must be at least 0"),
    (["gt.lmdb", "--seconds", "0"], "must be more than 0"),
    (["gt.lmdb", "--json", "none/b.json"], "--json: none/b.json cannot be written"),
    (["gt.lmdb", "--opt", "none.yml"], "none.yml"),
])  # fmt: skip
def test_mistakes_are_one_sentence(arguments, words, capsys):
    assert main(["lmdb", "bench", *arguments]) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
