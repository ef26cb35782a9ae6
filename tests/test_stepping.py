"""One step: the options that change its speed or memory leave its result as it is."""
import copy
import functools
import os
import random
import types
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from basicsr.models import build_model
from conftest import write
from runs import differences, end, folder, options, outcome, said, start, train
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from alignvar_arch.compat.rates import LinearWarmupCosineLR
from alignvar_arch.models.optimisers import decay_groups
from alignvar_arch.options import parse_options


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model_of(kind: str = "alignvar", num_gpu: int = 0, **changes):
    """A model as options build it, with `changes` of `train`, in the same state whatever they are."""
    opt = {**options(kind), "num_gpu": num_gpu}
    opt["train"].update({"warmup_iter": -1, **changes})
    parsed, _ = parse_options(str(Path.cwd()), True, ["-opt", write(opt)])
    return build_model(parsed)


def batch(count: int = 4, seed: int = 0) -> dict:
    gt, lq = runs.small.pictures(count, seed=seed)
    return {"gt": gt, "lq": lq, "place": torch.tensor([[0, place] for place in range(count)])}


def steps(model, count: int = 1) -> list[dict]:
    """Takes steps and returns their figures; what is drawn is the same in each call."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    figures = []
    for iteration in range(1, count + 1):
        model.feed_data(batch(seed=iteration))
        model.update_learning_rate(iteration)
        model.optimize_parameters(iteration)
        figures.append(dict(model.get_current_log()))
    return figures


def gradients(model) -> list[torch.Tensor]:
    """The first step's gradients, by the averages of Adam, which are a tenth of them."""
    return [entry["exp_avg"] * 10 for entry in model.optimizer_g.state_dict()["state"].values()]


def close(one, other, tolerance: float = 1e-6) -> None:
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("parts", [2, 4.0])  # a whole number may be written so
def test_accumulation_equals_the_larger_batch(parts):
    """Also what is drawn for an image: its noise and whether it is degraded follow from its place alone."""
    no_depth = {"network_g.drop_path": 0.0}
    whole, taken = _transformer(no_depth), _transformer(no_depth, accumulate=parts)
    one, other = steps(whole)[0], steps(taken)[0]
    assert one == pytest.approx(other, rel=1e-5)
    close(gradients(whole), gradients(taken))


def test_a_tokenizers_accumulation_counts_each_code_as_the_larger_batch_does():
    start = {"quantise_from": 1, "revive_freq": 2, "grad_clip": None}  # placed in step 2, and moved in step 4
    whole, taken = model_of("tokenizer", **start), model_of("tokenizer", accumulate=2, **start)
    for one, other in zip(steps(whole, 4), steps(taken, 4), strict=True):
        del one["vq_error"], other["vq_error"]  # a ratio, of each part by itself
        assert one == pytest.approx(other, rel=1e-4)
    for label in ("net_g", "net_g_ema"):
        hits = [getattr(model, label).quantize.ema_vocab_hit_SV for model in (whole, taken)]
        assert hits[0].any() and torch.equal(*hits)
    assert torch.equal(whole.hits, taken.hits)


def _transformer(network: dict, **changes):
    opt = options("alignvar")
    for key, value in network.items():
        opt[key.split(".")[0]][key.split(".")[1]] = value
    opt["train"].update({"warmup_iter": -1, "grad_clip": None, **changes})
    parsed, _ = parse_options(str(Path.cwd()), True, ["-opt", write(opt)])
    return build_model(parsed)


def test_clipping_scales_the_gradient_to_the_norm():
    free, clipped = model_of(grad_clip=None), model_of(grad_clip=0.1)
    norm, logged = steps(free)[0]["grad_norm"], steps(clipped)[0]["grad_norm"]
    assert norm == pytest.approx(logged) and norm > 0.1
    close([value * 0.1 / norm for value in gradients(free)], gradients(clipped))


@pytest.mark.parametrize("kind", ["alignvar", "tokenizer"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_single(kind, precision):
    # The gradients of a head from codes are beyond fp16's first loss scale, which skips steps until it is lowered.
    changes = {"head_from_codes": False} if kind == "alignvar" else {}
    exact, rough = (steps(model_of(kind, precision=own, **changes), 4) for own in ("fp32", precision))
    for one, other in zip(exact, rough, strict=True):
        for name in one:
            if name.startswith("l_") and name != "l_vq":  # a choice of codes may turn out otherwise
                assert other[name] == pytest.approx(one[name], rel=0.02)


def test_half_precision_learns_the_very_tokens_of_single():
    """The latent, of which they are chosen, and with it what a cache holds and what validation predicts."""
    latents = []
    for precision in ("fp32", "bf16"):
        model = model_of(precision=precision)
        encode = model.tokenizer.encode
        model.tokenizer.encode = lambda target, encode=encode: latents.append(encode(target)) or latents[-1]
        steps(model)
    one, other = latents
    assert torch.equal(one.latent, other.latent)
    assert all(torch.equal(*maps) for maps in zip(one.maps, other.maps, strict=True))


def test_a_scale_that_overflows_is_lowered_and_no_step_is_counted_against_the_run():
    model = model_of(precision="fp16")
    model.stepper.scaler._init_scale = 2.0 ** 40
    before = copy.deepcopy(model.net_g.state_dict())
    steps(model)
    assert model.skipped_in_a_row() == 0 and not differences(dict(before), dict(model.net_g.state_dict()))
    assert model.stepper.scaler.get_scale() < 2.0 ** 40


@pytest.mark.parametrize("other", [{"fused": False, "foreach": True}, {"fused": False, "foreach": False},
                                   {"foreach": True}])
def test_fused_and_other_optimisers_agree(other):
    one = model_of(optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1})
    two = model_of(optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1, **other})
    steps(one, 3), steps(two, 3)
    close(one.net_g.parameters(), two.net_g.parameters(), 1e-5)


def test_linears_and_convolutions_decay_and_nothing_else():
    net = model_of().net_g
    decaying = {id(entry) for entry in decay_groups(net)[0]["params"]}
    names = {name for name, value in net.named_parameters() if id(value) in decaying}
    others = {name for name, _ in net.named_parameters()} - names
    assert names and all(name.endswith("weight") for name in names)
    assert not any("norm" in name or "embed" in name.rsplit(".", 2)[-2] and "word_embed" not in name for name in names)
    assert all(value.ndim >= 2 for value in decay_groups(net)[0]["params"])
    assert {"weight_decay": 0.0}.items() <= decay_groups(net)[1].items() and any("bias" in name for name in others)
    assert sum(len(group["params"]) for group in decay_groups(net)) == len(list(net.parameters()))


def test_checkpointing_equals_none():
    """With stochastic depth: what was drawn is drawn again."""
    plain, again = model_of(), model_of(checkpointing=True)
    for one, other in zip(steps(plain, 2), steps(again, 2), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    close(plain.net_g.parameters(), again.net_g.parameters())


def test_an_average_in_main_memory_waits_for_its_copies_and_is_moved_for_validation(monkeypatch):
    """A GPU that is none: the network is on the CPU, and only what is asked of the device is looked at."""
    model, events = model_of(ema_offload=True), []
    lerp, move = torch._foreach_lerp_, model.net_g_ema.to
    stream = types.SimpleNamespace(synchronize=lambda: events.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda *given: events.append("averaged") or lerp(*given))
    monkeypatch.setattr(model.net_g_ema, "to", lambda device: events.append(str(device)) or move("cpu"))
    model.device = torch.device("cuda")
    model.model_ema(0.5)
    with model.whole():
        events.append("validated")
    assert events == ["waited", "averaged", "cuda", "validated", "cpu"]


def test_main_memory_for_an_average_that_there_is_not_changes_nothing():
    model = model_of(ema_decay=0, ema_offload=True)
    with model.whole():
        model.feed_data(batch())
        model.test()
    assert not hasattr(model, "net_g_ema") and model.output.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a CPU both are in main memory")
def test_an_average_in_main_memory_equals_one_beside_the_network():
    one, two = (model_of(num_gpu=1, **changes) for changes in ({}, {"ema_offload": True}))
    assert next(one.net_g_ema.parameters()).is_cuda and not next(two.net_g_ema.parameters()).is_cuda
    steps(one, 3), steps(two, 3)
    close(one.net_g_ema.cpu().state_dict().values(), two.net_g_ema.state_dict().values(), 1e-5)
    trained = one.net_g.cpu().parameters()
    assert not all(torch.equal(a, b) for a, b in zip(trained, one.net_g_ema.parameters(), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(fused):
    model = model_of(optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1, "fused": fused})
    steps(model, 2)
    before = copy.deepcopy((dict(model.net_g.state_dict()), model.optimizer_g.state_dict()))
    for count in (1, 2):
        model.feed_data({**batch(), "lq": batch()["lq"] * float("nan")})
        model.optimize_parameters(3)
        assert model.skipped_in_a_row() == count
        assert not differences(before, (dict(model.net_g.state_dict()), model.optimizer_g.state_dict()))
    steps(model)
    assert model.skipped_in_a_row() == 0 and differences(before[0], dict(model.net_g.state_dict()))


class _Waits(TorchDispatchMode):
    """Gathers the operations whose result the CPU has to wait for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        masks = name == "index" and any(x is not None and x.dtype == torch.bool for x in arguments[1])
        if name in ("_local_scalar_dense", "nonzero", "bincount", "equal", "masked_select", "unique") or masks:
            self.found.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["alignvar", "tokenizer"])
def test_a_step_waits_for_nothing(kind, precision):
    changes = {"revive_freq": 0} if kind == "tokenizer" else {}
    model = model_of(kind, accumulate=2, precision=precision, **changes)
    steps(model, 3)  # the tokenizer's codebook is placed
    model.feed_data(batch())
    with _Waits() as waits:
        model.update_learning_rate(4)
        model.optimize_parameters(4)
    assert waits.found == []


def rates(scheduler: dict, total: int, warmup: int = -1) -> list[float]:
    model = model_of("sr", total_iter=total, scheduler=scheduler)
    found = []
    for iteration in range(1, total + 1):
        model.update_learning_rate(iteration, warmup)
        found.append(model.get_current_learning_rate()[0] / 2e-4)
        model.optimizer_g.step()
    return found


def test_rates_end_where_they_should():
    found = rates({"type": "LinearWarmupCosineLR", "warmup": 4, "eta_min": 2e-6}, 12)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1]) and found[-1] == pytest.approx(0.01)
    assert sorted(found[3:], reverse=True) == found[3:] and found[7] == pytest.approx((1 + 0.01) / 2)
    found = rates({"type": "LinearWarmupCosineLR", "warmup": 0}, 5)
    assert found[0] == 1 and found[-1] == pytest.approx(0)
    found = rates({"type": "MultiStepLR", "milestones": [6], "gamma": 0.5}, 9, warmup=4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.5])
    with pytest.raises(ValueError):
        LinearWarmupCosineLR(torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-3), 5, warmup=6)


def test_compiled_equals_eager():
    small = {"network_g.depth": 1}
    eager, compiled = _transformer(small), _transformer(small, compile=True)
    for model in (eager, compiled):
        model.get_bare_model(model.net_g).eval()  # stochastic depth is drawn by the compiled code itself
    counters.clear()
    one = steps(eager)[0]
    assert not counters["stats"]["unique_graphs"]
    other = steps(compiled)[0]
    assert counters["stats"]["unique_graphs"] and counters["inductor"]
    assert one == pytest.approx(other, rel=1e-4)
    close(gradients(eager), gradients(compiled), 1e-5)


def _no_compiler() -> None:
    os.environ.update(PATH="/nowhere", CXX="/nowhere/c++", CC="/nowhere/cc")


def test_without_a_compiler_the_run_says_so_and_goes_on():
    opt = options("alignvar")
    with folder("eager"):
        options("alignvar")
        assert end(start(train, opt)) == 0
        expected = outcome("alignvar")
    opt["train"]["compile"] = True
    assert end(start(functools.partial(train, before=_no_compiler), opt)) == 0
    assert said().count("train.compile: goes on without") == 1 and "Traceback" not in said()
    found = outcome("alignvar")
    assert not differences(expected["weights"], found["weights"])
