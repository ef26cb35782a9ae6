"""The data of a training: exact counts, fresh crops, the same batches whatever reads them, and never a hang."""
import functools
import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from basicsr.models.sr_model import SRModel
from conftest import write
from runs import end, losses, options, outcome, said, start, train

from alignvar_arch.errors import UserError
from alignvar_arch.options import parse_options
from alignvar_arch.options.datasets import Builder
from alignvar_arch.training.feed import Feed
from alignvar_arch.training.sampling import Order


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def feed(opt: dict, **changes) -> Feed:
    opt["datasets"]["train"].update(changes)
    parsed, _ = parse_options(str(Path.cwd()), True, ["-opt", write(opt)])
    return Feed(parsed, Builder(parsed)(parsed["datasets"]["train"]))


@pytest.mark.parametrize("enlarge", [1, 3, 0.5])
def test_iterations_are_counted_exactly_and_follow_from_their_number(enlarge):
    order = Order(images=22, batch=4, seed=3, enlarge=enlarge)
    batches = list(order.batches(0, 60))
    assert len(batches) == 60 and all(len(batch) == 4 for batch in batches)
    for done in (1, 5, 17, 59, 60):
        assert list(order.batches(done, 60)) == batches[done:]
    epochs = [[place.index for batch in batches for place in batch if place.epoch == epoch] for epoch in (0, 1)]
    assert epochs[0] != epochs[1] and max(map(epochs[0].count, epochs[0])) <= max(enlarge, 1)
    assert [order.epoch(iteration) for iteration in range(61)] == [0] + [batch[0].epoch for batch in batches]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batch_of_one_process(world):
    whole = list(Order(images=22, batch=6, seed=3).batches(0, 9))
    parts = [list(Order(images=22, batch=6 // world, seed=3, rank=rank, world=world).batches(0, 9))
             for rank in range(world)]
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(place for part in parts for place in part[number])


def test_the_run_has_as_many_iterations_as_it_was_asked_for():
    opt = options("sr", count=22)
    opt["train"]["total_iter"] = 60
    opt["val"]["val_freq"] = opt["logger"]["save_checkpoint_freq"] = 60
    assert end(start(train, opt)) == 0
    assert sorted(map(int, losses())) == list(range(1, 61)) and outcome("sr")["state"]["iter"] == 60


def test_batches_are_the_same_whatever_reads_them_and_fresh_in_every_epoch():
    opt, found = options("sr"), []
    for changes in ({"num_worker_per_gpu": 0}, {"num_worker_per_gpu": 1}, {"num_worker_per_gpu": 3},
                    {"num_worker_per_gpu": 0, "prefetch_mode": "cpu", "num_prefetch_queue": 2}):
        source = feed(opt, **changes)
        torch.manual_seed(len(found))  # nothing of the process's own randomness matters
        before = torch.get_rng_state()
        found.append(list(source.batches(0, 6)))
        assert torch.equal(before, torch.get_rng_state())
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one["gt_path"] == two["gt_path"] and torch.equal(one["gt"], two["gt"])
    crops: dict[str, list[torch.Tensor]] = {}
    for batch in found[0]:
        for path, gt in zip(batch["gt_path"], batch["gt"], strict=True):
            crops.setdefault(path, []).append(gt)
    again = [values for values in crops.values() if len(values) > 1]
    assert again and not all(torch.equal(values[0], other) for values in again for other in values[1:])


@pytest.mark.parametrize(("workers", "mode"), [(0, None), (2, None), (0, "cpu")])
def test_an_unreadable_image_is_named_counted_and_replaced(workers, mode, caplog):
    opt = options("sr")
    opt["datasets"]["train"].update(num_worker_per_gpu=workers, prefetch_mode=mode, bad_images=1)
    source = feed(opt)
    whole = list(source.batches(0, 6))
    Path("gt/03.png").write_bytes(b"no image")
    caplog.set_level("WARNING", "basicsr")
    replaced = list(source.batches(0, 6))
    assert len(source.bad_images) == 1 and "gt/03.png" in next(iter(source.bad_images))
    for one, other in zip(whole, replaced, strict=True):
        for number, path in enumerate(one["gt_path"]):
            if "03.png" in path:
                assert other["gt_path"][number].endswith("04.png")
            else:
                assert torch.equal(one["gt"][number], other["gt"][number])
    Path("gt/04.png").unlink()
    with pytest.raises(UserError, match="bad_images allows 1"):
        list(source.batches(0, 6))


def test_no_image_readable_is_a_sentence():
    source = feed(options("sr"), bad_images=100)
    for path in Path("gt").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="in a row cannot be used"):
        list(source.batches(0, 6))


def _kill_readers(at: int) -> None:
    step, calls = SRModel.optimize_parameters, itertools.count(1)

    def optimize_parameters(self, iteration):
        if next(calls) == at:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        step(self, iteration)

    SRModel.optimize_parameters = optimize_parameters


@pytest.mark.parametrize("mode", [None, "cpu"])
def test_killed_readers_are_a_sentence_and_the_run_can_be_resumed(mode):
    opt = options("sr")
    opt["train"]["total_iter"] = 20
    opt["datasets"]["train"].update(num_worker_per_gpu=2, prefetch_mode=mode)
    assert end(start(functools.partial(train, before=functools.partial(_kill_readers, 4)), opt)) == 2
    last = said().strip().splitlines()[-1]
    assert "a process that reads images was killed" in last and "--auto_resume" in last and "Traceback" not in said()
    assert end(start(train, opt, "--auto_resume")) == 0 and outcome("sr")["state"]["iter"] == 20
