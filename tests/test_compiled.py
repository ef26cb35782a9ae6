"""`--compile`: the same picture from compiled code, and from the networks as they are where compiling fails."""
import os
import subprocess
import sys

import numpy as np
import pytest
import small
import torch
from PIL import Image

from alignvar_arch import Upscaler
from alignvar_arch.archs.layers.conv import SpatialAttention
from alignvar_arch.cli import main
from alignvar_arch.inference import compiled
from alignvar_arch.inference.compiled import Compiled, Recorded

SCALES = (1, 3)  # few, since each is compiled
NOISE = np.random.default_rng(0).integers(0, 255, (7, 3, 3)).astype(np.uint8)


def networks(depth: int = 3, **tokenizer):
    # Rates of stochastic depth differ from block to block, and must not make compiled code differ.
    net = small.transformer(scales=SCALES, depth=depth, drop_path=0.3, condition_blocks=1, local_condition=True)
    return net, small.tokenizer(scales=SCALES, **tokenizer)


def check(net, tokenizer, seeds, atol: float = 1e-5) -> None:
    failures = []
    fast = Compiled(net, tokenizer, failures.append)
    for seed in seeds:
        lr = small.pictures(1, 12, seed)[1]
        plain, made = (net.generate(lr, tokenizer.quantize, net.structure(lr), steps=steps) for steps in (None, fast))
        assert all(torch.equal(*pair) for pair in zip(plain.maps, made.maps, strict=True))
        expected = [net.generate(lr, tokenizer.quantize, net.structure(lr), steps=steps, choice="expected").f_hat
                    for steps in (None, fast)]
        torch.testing.assert_close(*expected, atol=atol, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(fast.decode(made.f_hat, lr), tokenizer.decode(plain.f_hat, lr), atol=atol,
                                       rtol=0)
    assert not failures


@pytest.mark.parametrize("target", ["image", "residual"])
def test_compiled_code_equals_the_networks(compiler, target):
    """The real thing, but of few graphs: each takes seconds."""
    torch.compiler.reset()
    check(*networks(depth=1, target=target), seeds=[0])


@pytest.mark.parametrize("target", ["image", "residual"])
def test_there_is_a_graph_a_scale_whatever_the_depth(monkeypatch, target):
    """Without the compiler's last stage, which takes nearly all of the time."""
    torch.compiler.reset()
    graphs, real = [], torch.compile

    def counting(function, **how):
        def backend(module, inputs):
            graphs.append(function.__qualname__)
            return lookup_backend("aot_eager")(module, inputs)

        assert how == {"fullgraph": True, "dynamic": False}
        return real(function, backend=backend, **how)

    from torch._dynamo.backends.registry import lookup_backend
    monkeypatch.setattr(torch, "compile", counting)
    check(*networks(target=target), seeds=[0, 1], atol=1e-4)  # torch's own GroupNorm, of fewer digits
    # One a scale, and one for the last block beside the LR's tokens; the decoder's is one.
    assert sorted(graphs) == ["AlignVARTokenizer.decode"] + ["Block.forward"] * 3


def test_a_whole_picture_with_batches_filled_up(monkeypatch):
    """What is asked of the compiler is always of one size; a stand-in for it runs what it is given."""
    rows = set()

    def recording(function, **_):
        def run(*given, **named):
            if "cache" in named:
                rows.add(len(given[1]))
            return function(*given, **named)

        return run

    monkeypatch.setattr(torch, "compile", recording)
    expected = Upscaler(*networks())(NOISE)
    upscaler = Upscaler(*networks(), compile=True, batch=2)
    assert upscaler.tiles(*NOISE.shape[:2]) % 2
    assert np.abs(upscaler(NOISE).astype(int) - expected).max() <= 1 and rows == {2}


def test_recorded_steps_are_played_again_on_their_own_tensors(monkeypatch):
    """A stand-in for CUDA graphs, which computes with nothing but the tensors that it was recorded with."""
    class Graph:
        def __init__(self, run):
            self.run, self.logits = run, run()

        def replay(self):
            self.logits.copy_(self.run())

    def record(recorded, step, x):
        *tables, head_table = recorded.tables
        graph = Graph(lambda: step(x, tables, head_table, recorded.memory))
        return graph, x, graph.logits

    monkeypatch.setattr(Recorded, "_record", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    net, tokenizer = networks()
    fast = Compiled(net, tokenizer, pytest.fail)
    fast._recorded = Recorded(net.memory(net.pos_start, 2), 2)
    monkeypatch.setattr(fast, "memory", lambda x, rows: fast._recorded.memory)
    for seed, guidance in ((0, 0.0), (1, 0.0), (2, 6.0), (3, 0.0)):  # two pictures, or one with two branches
        lr = small.pictures(1 if guidance else 2, 12, seed)[1]
        plain, made = (net.generate(lr, tokenizer.quantize, net.structure(lr), guidance, steps=steps)
                       for steps in (None, fast))
        assert all(torch.equal(*pair) for pair in zip(plain.maps, made.maps, strict=True))
    assert len(fast._recorded.graphs) == len(SCALES)


@pytest.mark.parametrize("target", ["image", "residual"])
def test_decoding_is_compiled_for_few_sizes_only(monkeypatch, target):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: asked.append(1) or function(*given))
    monkeypatch.setattr(compiled, "SIZES", 2)
    monkeypatch.setattr(SpatialAttention, "window", 6)
    net, tokenizer = networks(target=target)
    fast = Compiled(net, tokenizer, pytest.fail)
    with torch.no_grad():
        for side in (7, 3, 4, 5, 4):  # too large, new, new, too many, known
            f_hat, lr = torch.randn(1, 4, 3, side), torch.rand(1, 3, 3, side)
            assert torch.equal(fast.decode(f_hat, lr), tokenizer.decode(f_hat, lr))
    assert len(asked) == 3


@pytest.mark.parametrize("at", ["once", "decoding"])
def test_where_compiling_fails_one_sentence_says_so_and_the_picture_is_the_same(monkeypatch, at):
    def broken(function, **_):
        def fail(*given, **named):
            if at == "once" or function.__qualname__.endswith("decode"):
                raise RuntimeError("no compiler here.\nA long explanation.")
            return function(*given, **named)

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    expected = Upscaler(*networks())(NOISE)
    upscaler = Upscaler(*networks(), compile=True)
    with pytest.warns(UserWarning) as told:
        made = [upscaler(NOISE) for _ in range(2)]
    assert [str(one.message) for one in told] == [
        "compiling failed (RuntimeError: no compiler here); going on without."]
    assert all(np.abs(one.astype(int) - expected).max() <= 1 for one in made)


def test_memory_that_runs_out_is_not_a_failure_of_compiling(monkeypatch):
    def exhausted(function, **_):
        def fail(*given, **named):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return fail

    monkeypatch.setattr(torch, "compile", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(*networks(), pytest.fail).decode(torch.zeros(1, 4, 3, 3), torch.zeros(1, 3, 3, 3))


def test_the_command_goes_on_without_a_compiler(tmp_path, monkeypatch):
    """The real thing: torch with a compiler that does not work."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(NOISE).save("a.png")
    command = ["upscale", "a.png", "--device", "cpu", "-o"]
    assert main([*command, "plain"]) == 0
    environment = {**os.environ, "CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-m", "alignvar_arch", *command, "out", "--compile"], env=environment,
                          text=True, capture_output=True)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "compil" in line]
    assert done.returncode == 0 and len(said) == 1 and said[0].endswith("going on without."), done.stderr
    assert "Traceback" not in done.stderr
    plain, made = (np.asarray(Image.open(f"{folder}/a_x4.png")).astype(int) for folder in ("plain", "out"))
    assert np.abs(made - plain).max() <= 1


def test_the_flag_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["upscale", "-h"])
    assert "--compile" in capsys.readouterr().out
