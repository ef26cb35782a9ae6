"""wandb by option: a stand-in for it, which is not installed here, sees the run that it is told of."""
import importlib.machinery
import sys
import types
from pathlib import Path

import pytest
from conftest import listing, write

from alignvar_arch.cli import main


@pytest.fixture
def wandb(monkeypatch) -> list[dict]:
    """What `wandb.init` is given, by call."""
    module, calls = types.ModuleType("wandb"), []
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.util = types.SimpleNamespace(generate_id=lambda: f"id{len(calls)}")

    def init(**given):
        calls.append(given)
        module.run = types.SimpleNamespace(id=given["id"])

    module.init, module.run = init, None
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def watched(tiny: dict, **block) -> dict:
    tiny["logger"].update(use_tb_logger=True, wandb={"project": "sr", **block})
    return tiny


def test_a_resumed_run_goes_on_in_its_own_run_and_a_new_one_in_a_new_one(tiny, wandb):
    tiny["train"]["total_iter"] = 2
    assert main(["train", "-opt", write(watched(tiny))]) == 0
    tiny["train"]["total_iter"] = 3
    assert main(["train", "-opt", write(tiny), "--auto_resume"]) == 0
    assert main(["train", "-opt", write(tiny)]) == 0  # archives the first
    assert [(call["id"], call["resume"]) for call in wandb] == [("id0", "never"), ("id0", "allow"), ("id2", "never")]
    assert all(call["project"] == "sr" and call["name"] == "tiny" and call["sync_tensorboard"] for call in wandb)
    assert Path("experiments/tiny/wandb_id.txt").read_text() == "id2"


def test_the_run_that_the_options_name_is_taken(tiny, wandb):
    tiny["train"]["total_iter"] = 1
    assert main(["train", "-opt", write(watched(tiny, resume_id="mine"))]) == 0
    assert [(call["id"], call["resume"]) for call in wandb] == [("mine", "allow")]


@pytest.mark.parametrize(("logger", "words"), [
    ({"wandb": {"project": "sr"}}, ["logger.wandb", "not installed", "pip install wandb"]),
    ({"wandb": {"project": "sr"}, "use_tb_logger": False}, ["logger.wandb", "logger.use_tb_logger", "true"]),
    ({"wandb": {"project": 7}}, ["logger.wandb.project", "7", "a word"]),
])
def test_what_wandb_lacks_is_said_before_an_older_run_is_archived(tiny, monkeypatch, capsys, logger, words):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec:
                        None if name == "wandb" else find(name))
    tiny["train"]["total_iter"] = 1
    Path("experiments/tiny").mkdir(parents=True)
    tiny["logger"].update(use_tb_logger=True)
    tiny["logger"].update(logger)
    path = write(tiny)
    before = listing(Path.cwd())
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert listing(Path.cwd()) == before
