"""The training benchmark compares like with like: both steps learn the same; ways to attend agree, or say why not."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from alignvar_arch.archs.scales import ScaleSchedule

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import training_steps
    return training_steps


def test_the_plain_step_gives_the_same_loss_and_gradients(steps):
    cpu = torch.device("cpu")
    batch = steps.encode(steps.make_tokenizer(cpu, tiny=True), 2)
    step = steps.Step(steps.make_network(2, cpu, tiny=True), batch)
    with torch.no_grad():
        for parameter in step.net.parameters():  # no part may be idle
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = step("plain", update=False), step.gradients()
    ours = step("ours", update=False), step.gradients()
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in ours[1].values())


def test_ways_to_attend_agree_and_one_that_cannot_says_why(steps):
    import attention
    found = attention.compare(ScaleSchedule((1, 2, 3)), 1, 2, torch.device("cpu"), torch.float32, rounds=1)
    for name in ("by scale", "dense mask"):
        assert found[name]["difference"] < 1e-5 and found[name]["both"] > 0
    assert "failed" in found["FlexAttention"]  # it has no backward on a CPU
    assert "failed" not in attention.table(found) and "FlexAttention" in attention.table(found)


def test_figures_are_printed_and_written(steps, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "peak_memory", lambda way, *_: {"plain": 2.0, "ours": 1.0}[way])  # has a process each
    monkeypatch.setattr(sys, "argv", ["training.py", "--tiny", "--quick", "--depth", "1", "--json",
                                      str(tmp_path / "out.json")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runpy.run_path(str(FOLDER / "training.py"), run_name="__main__")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["memory_gib"] == {"plain": 2.0, "ours": 1.0} and len(result["seconds"]["ours"]) == 3
    figures = result["images_per_second"]
    assert result["speedup"]["train"] == pytest.approx(figures["ours"] / figures["plain"])
    assert "times the images/s" in capsys.readouterr().out
