"""The tokenizer's adversary: when it takes part, what it learns from, that it resumes to the bit, what is refused."""
import copy
import functools
import random
import re
import signal
from pathlib import Path

import processes
import pytest
import torch
import torch.nn.functional as F
from basicsr.archs import build_network
from basicsr.models import build_model
from conftest import listing, write
from runs import Kill, differences, end, folder, losses, options, outcome, said, small, start, train

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.models.adversary import Adversary
from alignvar_arch.options import parse_options

FIGURES = {"l_gan", "l_d_real", "l_d_fake", "out_d_real", "out_d_fake"}
# Without spectral norms, which come nearer to the true ones with every pass, however small its batch.
PLAIN = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 2}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


def contested(**changes) -> dict:
    """Options that train a tiny tokenizer against a tiny discriminator, with `changes` of `train`."""
    opt = options("tokenizer")
    opt["network_g"].update(target="image", ch_mult=[1, 1, 1], guide_blocks=0)
    opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    opt["path"]["pretrain_network_d"] = None
    opt["train"].update({"optim_d": {"type": "Adam", "lr": 1e-3}, "gan_from": 3,
                         "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}, **changes})
    return opt


def model_of(opt: dict):
    return build_model(parse_options(str(Path.cwd()), True, ["-opt", write(opt)])[0])


def step(model, iteration: int) -> dict:
    """Takes a step and returns its figures; what it draws is the same, whatever was built before."""
    torch.manual_seed(iteration)
    gt, lq = small.pictures(4, seed=iteration)
    model.feed_data({"gt": gt, "lq": lq, "place": torch.tensor([[0, place] for place in range(4)])})
    model.update_learning_rate(iteration, model.opt["train"]["warmup_iter"])
    model.optimize_parameters(iteration)
    return dict(model.get_current_log())


def state(net) -> dict:
    return copy.deepcopy(net.state_dict())


def same(one, other) -> bool:
    return not differences(dict(one), dict(other))


@pytest.mark.parametrize("changes", [{"gan_from": 3}, {}], ids=["given", "default"])
def test_both_networks_meet_from_the_given_iteration_on_and_not_before(changes, recwarn):
    opt = contested(warmup_iter=-1, quantise_from=2)
    del opt["train"]["gan_from"]
    opt["train"].update(changes)
    model = model_of(opt)
    fresh = state(model.net_d)
    for iteration in (1, 2):
        assert not FIGURES & set(step(model, iteration)) and same(model.net_d.state_dict(), fresh)
    assert set(step(model, 3)) >= FIGURES
    assert all(not torch.equal(value, fresh[name]) for name, value in model.net_d.state_dict().items())
    assert not [entry for entry in recwarn if "lr_scheduler" in str(entry.message)]


def test_a_tokenizer_without_an_adversary_trains_as_with_one_that_has_not_begun():
    opt = contested(gan_from=3)
    alone = copy.deepcopy(opt)
    del alone["network_d"]
    for key in ("gan_opt", "optim_d", "gan_from"):
        del alone["train"][key]
    figures = [[step(model, iteration) for iteration in (1, 2, 3)] for model in map(model_of, (opt, alone))]
    assert figures[0][:2] == figures[1][:2]
    assert figures[0][2]["grad_norm"] != figures[1][2]["grad_norm"] and figures[0][2]["l_pix"] == figures[1][2]["l_pix"]


def test_each_network_hears_of_its_own_losses_alone():
    """The gradients of one step are those of the sum for the tokenizer, and of BasicSR's two for the discriminator."""
    model = model_of(contested(gan_from=1, quantise_from=0, grad_clip=None, warmup_iter=-1, scale_dropout=0))
    step(model, 1)  # the codebook is placed
    net, judge, seen = copy.deepcopy(model.net_g), build_network(model.opt["network_d"]), {}
    judge.load_state_dict(model.net_d.state_dict())
    for name, stepper in (("g", model.stepper), ("d", model.adversary.stepper)):
        stepper.step = functools.partial(_keep_gradients, seen, name, getattr(model, f"net_{name}"))
    figures = step(model, 3)
    gt, lr = small.pictures(4, seed=3)
    made, encoded = net(gt, lr)
    gan = model.adversary.loss(judge(made), True)
    (model.cri_pix(made, gt) + model.cri_vq(encoded) + gan).backward()
    judge.zero_grad()
    real, fake = (F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, label))
                  for verdict, label in ((judge(gt), 1.0), (judge(made.detach()), 0.0)))
    (real + fake).backward()
    for name, value in (("l_gan", gan), ("l_d_real", real), ("l_d_fake", fake)):
        assert figures[name] == pytest.approx(float(value.detach()), rel=1e-4)
    for name, twin in (("g", net), ("d", judge)):
        for one, entry in zip(seen[name], twin.parameters(), strict=True):
            torch.testing.assert_close(one, entry.grad, rtol=1e-3, atol=1e-5)


def _keep_gradients(seen: dict, name: str, net) -> None:
    seen[name] = [entry.grad for entry in net.parameters()]
    net.zero_grad()


def test_accumulation_equals_the_larger_batch():
    figures, weights = [], []
    for parts in (1, 2):
        opt = contested(gan_from=1, quantise_from=0, warmup_iter=-1, grad_clip=None, accumulate=parts)
        opt["network_d"] = PLAIN
        for key in ("optim_g", "optim_d"):
            opt["train"][key]["eps"] = 1e-3  # a gradient that is rounding alone makes no step
        model = model_of(opt)
        figures.append([step(model, iteration) for iteration in (1, 2)])
        weights.append(list(model.net_d.parameters()))
    for one, other in zip(*figures, strict=True):
        del one["vq_error"], other["vq_error"]  # a ratio, of each part by itself
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Adam", "slow"])
def test_a_discriminators_step_that_is_not_finite_is_skipped_and_counted(kind):
    opt = contested(gan_from=1, warmup_iter=-1)
    if kind == "slow":  # an optimiser that cannot skip by itself
        opt["train"]["optim_d"]["foreach"] = True
    model = model_of(opt)
    step(model, 1)
    names = [name for name, _ in model.net_d.named_parameters()]
    before, generator = state(model.net_d), state(model.net_g)
    averages = copy.deepcopy(model.optimizer_d.state_dict()["state"])
    handle = next(model.net_d.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    assert model.skipped_in_a_row() == model.skipped_in_all() == 0
    step(model, 2)
    step(model, 3)
    assert all(torch.equal(before[name], model.net_d.state_dict()[name]) for name in names)
    assert not differences(averages, model.optimizer_d.state_dict()["state"])
    assert not same(generator, model.net_g.state_dict()) and int(model.stepper.in_a_row) == 0
    assert model.skipped_in_a_row() == model.skipped_in_all() == 2
    resumed = model_of(opt)
    resumed.load_training_state(model.training_state())
    assert resumed.skipped_in_a_row() == 2
    handle.remove()
    step(model, 4)
    assert not torch.equal(before[names[0]], model.net_d.state_dict()[names[0]])
    assert (model.skipped_in_a_row(), model.skipped_in_all()) == (0, 2)


def test_a_run_goes_back_where_the_discriminator_diverges(monkeypatch):
    """With the discriminator that was saved, and both optimisers slower."""
    opt, calls, step_d = contested(gan_from=1, warmup_iter=-1, nonfinite={"limit": 2}), iter(range(100)), Adversary.step

    def sees_nothing_twice(self, gt):
        return step_d(self, gt * (torch.nan if next(calls) in (2, 3) else 1))

    monkeypatch.setattr(Adversary, "step", sees_nothing_twice)
    assert main(["train", "-opt", write(opt)]) == 0
    assert "Going back to iteration 2, " in next(Path("experiments/tokenizer").glob("train_*.log")).read_text()
    found = outcome("tokenizer")
    assert [entry["param_groups"][0]["lr"] for entry in found["state"]["optimizers"]] == [5e-4, 5e-4]
    # steps 1, 2 and, after going back, 3 to 6
    assert {float(entry["step"]) for entry in found["state"]["optimizers"][1]["state"].values()} == {6.0}
    assert all(value.isfinite().all() for value in found["weights"]["net_d_latest.pth"]["params"].values())


@pytest.mark.parametrize(("precision", "network"), [
    ("bf16", {"target": "residual", "ch_mult": [1], "guide_blocks": 2}), ("fp16", {}),
])
def test_it_trains_in_the_tokenizers_precision(precision, network):
    opt = contested(gan_from=1, precision=precision, warmup_iter=-1)
    opt["network_g"].update(network)
    model = model_of(opt)
    fresh, seen = state(model.net_d), []
    model.net_d.register_forward_hook(lambda _net, _given, made: seen.append(made.dtype))
    figures = [step(model, iteration) for iteration in (1, 2, 3)][-1]
    assert set(seen) == {model.stepper.dtype} and all(value == value for value in figures.values())
    assert not same(fresh, model.net_d.state_dict()) and model.skipped_in_all() == 0


def test_schedules_and_warm_up_are_of_both_optimisers():
    opt = contested(warmup_iter=2, scheduler={"type": "MultiStepLR", "milestones": [3], "gamma": 0.5})
    model = model_of(opt)
    rates = []
    for iteration in (1, 2, 3, 4):
        step(model, iteration)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in model.optimizers])
    assert len(model.optimizers) == 2 and rates == [pytest.approx([1e-3 * part] * 2) for part in (0.5, 1, 1, 0.5)]


def test_a_run_killed_anywhere_and_resumed_equals_one_never_killed():
    """To the last bit, before and after the adversary has begun; its files rotate with the others."""
    rng = random.Random(0)
    with folder("whole"):
        opt = contested()
        assert end(start(functools.partial(train, before=Kill()), opt)) == 0, said()[-3000:]
        points = int(Path("points.txt").read_text())
        expected = {**outcome("tokenizer"), "losses": losses()}
    # The newest and the best, of validations in iterations 3 and 6.
    kept = {name for name in expected["names"] if name.startswith("net_d")}
    assert kept == {name.replace("net_g", "net_d") for name in expected["names"] if name.startswith("net_g")}
    assert {"net_d_6.pth", "net_d_latest.pth"} <= kept and "net_d_2.pth" not in kept
    assert len(expected["state"]["optimizers"]) == len(expected["state"]["schedulers"]) == 2
    with folder("killed"):
        contested()
        codes = []
        for part in range(3):
            at = rng.randint(part * points // 6 + 1, (part + 1) * points // 6)
            codes.append(end(start(functools.partial(train, before=Kill(at)), opt, "--auto_resume")))
        assert set(codes) <= {-signal.SIGKILL, 0} and codes.count(-signal.SIGKILL) >= 2, codes
        assert end(start(train, opt, "--auto_resume")) == 0, said()[-3000:]
        assert not list(Path("experiments/tokenizer").rglob(".*"))
        found = {**outcome("tokenizer"), "losses": losses()}
        assert not [line for line in found["losses"].values() if len(line) > 1] and not differences(expected, found)


def test_a_checkpoint_without_its_discriminator_is_passed_over_and_weights_say_whose_they_are(capsys):
    opt = contested()
    opt["logger"].update(save_checkpoint_freq=2, keep=None)
    assert main(["train", "-opt", write(opt)]) == 0
    models = Path("experiments/tokenizer/models")
    assert "UNetDiscriminatorSN" in checkpoints.read(str(models / "net_d_6.pth"))[1]["network"]
    assert "AlignVARTokenizer" in checkpoints.read(str(models / "net_g_6.pth"))[1]["network"]
    (models / "net_d_6.pth").unlink()
    opt["train"]["total_iter"] = 8
    capsys.readouterr()
    assert main(["train", "-opt", write(opt), "--auto_resume"]) == 0
    error = capsys.readouterr().err
    assert "net_d_6.pth is missing" in error and "Traceback" not in error


def test_two_processes_train_as_one_does_and_resume_exactly():
    opt = contested(gan_from=1, quantise_from=3, total_iter=4, warmup_iter=-1)  # each process places its own codes
    opt["logger"].update(keep=None)
    for key in ("optim_g", "optim_d"):
        opt["train"][key]["eps"] = 1e-3  # a gradient that is rounding alone makes no step
    plain = {**copy.deepcopy(opt), "name": "plain", "network_d": PLAIN}
    assert main(["train", "-opt", write({**opt, "name": "one"}, "one.yml")]) == 0
    assert main(["train", "-opt", write(plain, "plain.yml")]) == 0
    share, before = "datasets:train:batch_size_per_gpu=2", "experiments/two/training_states/2.state"
    processes.train([["-opt", "one.yml", "--force_yml", "name=two", share],
                     ["-opt", "one.yml", "--force_yml", "name=again", share, f"path:resume_state={before}"],
                     ["-opt", "plain.yml", "--force_yml", "name=parts", share, "train:accumulate=2"]])

    def weights(run: str, label: str, iteration: int) -> dict:
        return checkpoints.read(f"experiments/{run}/models/net_{label}_{iteration}.pth")[0]["params"]

    for label in ("g", "d"):
        assert same(weights("two", label, 4), weights("again", label, 4))
        for run, other in (("one", "two"), ("plain", "parts")):
            found = weights(other, label, 2)
            for name, value in weights(run, label, 2).items():
                torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_a_dry_run_counts_the_discriminator_and_writes_nothing(capsys):
    opt = contested(total_iter=50)
    command = ["train", "-opt", write(opt), "--dry-run"]
    before = listing(Path.cwd())
    assert main(command) == 0
    told, net = capsys.readouterr().out, model_of(opt)
    assert listing(Path.cwd()) == before
    counts = {name: sum(entry.numel() for entry in getattr(net, name).parameters()) for name in ("net_g", "net_d")}
    for name, count in counts.items():
        assert re.search(rf"{name} +{count:,} parameters", told)
    # Adam's two averages of both, so that the discriminator has taken a step; MiB with one decimal
    optimiser = float(re.search(r"optimiser +([0-9.]+) MiB", told)[1])
    assert optimiser == pytest.approx(2 * sum(counts.values()) * 4 / 2**20, abs=0.06)


def _refused(capsys, opt: dict, *words: str) -> None:
    command = ["train", "-opt", write(opt)]
    before = listing(Path.cwd())
    assert main(command) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert listing(Path.cwd()) == before


@pytest.mark.parametrize(("removed", "word"), [
    (["network_d"], "network_d: missing"), (["gan_opt"], "train.gan_opt: missing"),
    (["optim_d"], "train.optim_d: missing"), (["network_d", "gan_opt"], "network_d: missing"),
    (["gan_opt", "optim_d"], "train.gan_opt: missing"), (["network_d", "gan_opt", "optim_d"], "train.gan_from: there"),
])
def test_a_part_of_an_adversary_is_refused(capsys, removed, word):
    opt = contested()
    for key in removed:
        del (opt if key == "network_d" else opt["train"])[key]
    _refused(capsys, opt, word)


@pytest.mark.parametrize(("block", "changes", "words"), [
    ("train", {"gan_from": 0}, ["train.gan_from", "from 1 to 6"]),
    ("train", {"gan_from": 7}, ["train.gan_from", "from 1 to 6"]),
    ("train", {"gan_from": 1.5}, ["train.gan_from", "whole number"]),
    ("train", {"gan_opt": {"type": "L1Loss"}}, ["train.gan_opt.type", "L1Loss", "GANLoss"]),
    ("network_d", {"num_feat": 4, "features": 4}, ["network_d.features"]),
    ("network_d", {"num_in_ch": 4}, ["network_d: UNetDiscriminatorSN cannot judge", "16 pixels"]),
    ("path", {"pretrain_network_d": "absent.pth"}, ["path.pretrain_network_d", "absent.pth"]),
])
def test_what_does_not_fit_is_refused(capsys, block, changes, words):
    opt = contested()
    opt[block].update(changes)
    _refused(capsys, opt, *words)


def test_fsdp_is_refused(capsys, monkeypatch):
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1),
                        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", 29501)):
        monkeypatch.setenv(name, str(value))
    command = ["train", "-opt", write(contested(parallel="fsdp")), "--launcher", "pytorch"]
    before = listing(Path.cwd())
    assert main(command) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "train.parallel: fsdp" in error and "network_d" in error
    assert listing(Path.cwd()) == before
