"""Several processes on CPUs: they equal one, FSDP equals DDP, they resume exactly, and say what is wrong."""
import copy
import errno
import fcntl
import importlib
import json
import os
import re
import shutil
import tempfile
import types
from pathlib import Path

import cv2
import numpy as np
import processes
import pytest
import small
import torch
from conftest import TINY, listing, write, write_pairs
from test_models import TOKENIZER, TRANSFORMER
from torch import nn

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.cli.train import _how_to_resume
from alignvar_arch.errors import UserError
from alignvar_arch.models import sharding
from alignvar_arch.models.stepping import Stepper
from alignvar_arch.training import distributed, resuming, shards
from alignvar_arch.training import state as state_module
from alignvar_arch.training.saving import Checkpoints

FSDP = "train:parallel=fsdp"
TWICE = "train:accumulate=2"
WHOLE = "datasets:train:batch_size_per_gpu=4"  # what one process must take to equal two


def _write_options() -> None:
    """Nine ×4 pairs, a tokenizer, and three options files in the current folder: alignvar, tokenizer, sr."""
    draws = np.random.default_rng(0)
    for folder in ("gt", "lq"):
        Path(folder).mkdir()
    for index in range(9):
        gt = cv2.resize(draws.integers(0, 255, (9, 8, 3)).astype(np.uint8), (32, 36), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"gt/{index}.png", gt)
        cv2.imwrite(f"lq/{index}.png", cv2.resize(gt, (8, 9), interpolation=cv2.INTER_AREA))
    torch.manual_seed(0)
    net = small.tokenizer(target="residual")
    net.decoder.conv_out.weight.data.mul_(0.1)
    checkpoints.write_safetensors("tokenizer.safetensors", net.state_dict())
    data = {"type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", "io_backend": {"type": "disk"}}
    shared = {
        "scale": 4, "num_gpu": "auto", "manual_seed": 0,
        "datasets": {"train": {"name": "Train", **data, "gt_size": 16, "use_hflip": True, "use_rot": True,
                               "num_worker_per_gpu": 0, "batch_size_per_gpu": 2},
                     "val": {"name": "Val", **data}},
        "path": {"pretrain_network_g": None, "resume_state": None},
        "val": {"val_freq": 2, "save_img": True, "tile_overlap": 1,
                "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": True},
        "dist_params": {"backend": "auto", "port": 29500},
    }
    train = {"ema_decay": 0.9, "optim_g": {"type": "AdamW", "lr": 1e-3}, "grad_clip": 1.0, "total_iter": 4,
             "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10000]}}
    write({"name": "alignvar", "model_type": "AlignVARModel", **copy.deepcopy(shared),
           "network_g": {**TRANSFORMER, "drop_path": 0.0}, "network_tokenizer": dict(TOKENIZER),
           "path": {**shared["path"], "pretrain_network_tokenizer": "tokenizer.safetensors"},
           "train": {**train, "bad_quality_rate": 0.5, "ce_opt": {"type": "TokenCrossEntropyLoss"},
                     "hcc_opt": {"type": "HCCLoss", "loss_weight": 1.0}}}, "alignvar.yml")
    # eps: the norm after a bias takes its gradient away but for rounding, which Adam would make a step of.
    write({"name": "tokenizer", "model_type": "AlignVARTokenizerModel", **copy.deepcopy(shared),
           "network_g": dict(TOKENIZER),
           "train": {**train, "optim_g": {**train["optim_g"], "eps": 1e-3},
                     "quantise_from": 1, "revive_freq": 2, "pixel_opt": {"type": "L1Loss"},
                     "vq_opt": {"type": "VQLoss"}}}, "tokenizer.yml")
    Path("sr").mkdir()
    write_pairs(Path("sr"), count=7)
    sr = copy.deepcopy(TINY)
    for block in sr["datasets"].values():
        block.update(dataroot_gt="sr/gt", dataroot_lq="sr/lq")
    sr["datasets"]["train"]["batch_size_per_gpu"] = 2
    sr["val"]["save_img"] = True
    sr["logger"]["use_tb_logger"] = True
    write(sr, "sr.yml")


def job(file: str, name: str, *changes: str, flags: tuple[str, ...] = ()) -> list[str]:
    return ["-opt", f"{file}.yml", *flags, "--force_yml", f"name={name}", *changes]


def state(name: str, iteration: int = 4) -> dict:
    return resuming.read(f"experiments/{name}/training_states/{iteration}.state")


def weights(name: str, label: str = "latest") -> dict:
    return checkpoints.read(f"experiments/{name}/models/net_g_{label}.pth")[0]


def same_run(one: str, other: str, exact: bool = False, places: float = 1e-5) -> None:
    """Losses, figures by scale, validations and final weights are the same."""
    seen, found = processes.scalars(one), processes.scalars(other)
    compared = [tag for tag in seen if not tag.startswith("run/")]
    assert {tag for tag in found if not tag.startswith("run/")} == set(compared)
    for tag in compared:
        last = [step for step in found[tag] if step > 0]  # a resumed run has told the rest only
        # A spread is of a process's own tokens, and the mean of two is not the whole batch's.
        near = 1e-4 if "mask_spread" in tag else places
        assert [found[tag][step] for step in last] == pytest.approx(
            [seen[tag][step] for step in last], rel=0 if exact else places, abs=0 if exact else near), tag
    same_weights(weights(one), weights(other), 0 if exact else places)


def same_weights(one: dict, other: dict, places: float = 1e-5) -> None:
    assert one.keys() == other.keys() == {"params", "params_ema"}
    for key, values in one.items():
        torch.testing.assert_close(other[key], values, rtol=0, atol=places)


def skip_and_collect() -> None:
    """In each process: steps of a sharded network, one gradient of which is not finite in one process; pools."""
    torch.distributed.init_process_group("gloo")
    rank, device = torch.distributed.get_rank(), torch.device("cpu")
    found = {}
    for precision in ("fp32", "fp16"):
        net = sharding.agree(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)))
        sharding.shard(net, [net[0]], device)
        optimizer = torch.optim.AdamW(net.parameters(), 0.1, fused=True)
        stepper, found[precision] = Stepper(net, optimizer, device, precision=precision, clip=1.0), []
        for step in range(3):
            before = [sharding.local(entry.detach()).clone() for entry in net.parameters()]
            with stepper.micro_batch(0):
                stepper.backward(net(torch.ones(2, 4)).square().mean())
            if step == 1 and rank == 0:
                net[0].weight.grad.to_local()[0, 0] = torch.inf
            stepper.step()
            found[precision].append(all(torch.equal(old, sharding.local(entry.detach()))
                                        for old, entry in zip(before, net.parameters(), strict=True)))
    model = types.SimpleNamespace(optimizers=[], schedulers=[], opt={"rank": rank}, resume_training=lambda _: None,
                                  queue_ptr=rank, device=device)
    states = [state_module.capture(model)]
    torch.distributed.broadcast_object_list(states)  # as all read one file
    model.queue_ptr = 7
    state_module.restore(model, states[0])
    found["pool"] = model.queue_ptr
    Path(f"skipped_{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def validate_alone() -> None:
    """In each process: a run whose validation is the first one's, which alone learns that it is the best so far."""
    importlib.import_module("runs")  # it registers PoolModel
    assert main(["train", "--launcher", "pytorch", *job("sr", "alone", "model_type=PoolModel", "val:val_freq=2",
                                                        "logger:keep=1", "logger:save_checkpoint_freq=100")]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder where one process and two have trained the same things; the two in one go, their start is what costs."""
    folder = tmp_path_factory.mktemp("runs")
    before = torch.backends.cudnn.benchmark
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ALIGNVAR_LPIPS", raising=False)
        _write_options()
        assert main(["train", *job("alignvar", "one", WHOLE)]) == 0
        assert main(["train", *job("sr", "sr_one", WHOLE)]) == 0
        half, resumed = "train:total_iter=2", ("--auto_resume",)
        processes.train([
            job("alignvar", "ddp"), job("alignvar", "ddp_parts", TWICE),
            job("alignvar", "ddp_again", half), job("alignvar", "ddp_again", flags=resumed),
            job("alignvar", "fsdp", FSDP), job("alignvar", "fsdp_parts", FSDP, TWICE, "train:checkpointing=true"),
            job("alignvar", "fsdp_again", FSDP, half), job("alignvar", "fsdp_again", FSDP, flags=resumed),
            job("tokenizer", "tokenizer_ddp"), job("tokenizer", "tokenizer_fsdp", FSDP), job("sr", "sr_two"),
            "test_distributed:validate_alone", "test_distributed:skip_and_collect",
        ])
    torch.backends.cudnn.benchmark = before
    return folder


@pytest.fixture
def there(runs, monkeypatch):
    """The folder of `runs` as the current one."""
    monkeypatch.chdir(runs)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    return runs


@pytest.fixture
def copied(runs, tmp_path, monkeypatch):
    """A copy of it, in which runs may go on."""
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


@pytest.fixture
def alone(monkeypatch):
    """The environment of the only process that torchrun has started."""
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1),
                        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", processes.free_port())):
        monkeypatch.setenv(name, str(value))


def test_two_processes_train_as_one_does(there):
    same_run("one", "ddp")
    assert state("ddp")["best"]["Val"]["psnr"]["val"] == pytest.approx(state("one")["best"]["Val"]["psnr"]["val"],
                                                                      abs=1e-6)


def test_accumulated_gradients_equal_the_larger_batch_in_two_processes_too(there):
    same_run("ddp", "ddp_parts")


def test_fsdp_trains_as_ddp_does_with_accumulation_and_checkpointing_too(there):
    same_run("ddp", "fsdp")
    same_run("ddp", "fsdp_parts")


def test_a_tokenizer_whose_dead_codes_are_moved_trains_alike_under_ddp_and_fsdp(there):
    log = next(Path("experiments/tokenizer_fsdp").glob("train_*.log")).read_text()
    assert "moved 24 dead codes of 24" in log
    same_run("tokenizer_ddp", "tokenizer_fsdp", places=5e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_resuming_in_two_processes_is_exact(there, kind):
    same_run(kind, f"{kind}_again", exact=True)


def test_the_optimiser_is_in_shares_beside_its_state(there):
    folder = Path("experiments/fsdp/training_states/4.shards")
    assert {file.name for file in folder.iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert state("fsdp")["optimizers"][0]["state"] == {} and state("fsdp")["shards"] is True
    assert len(state("ddp")["optimizers"][0]["state"]) == len(list(transformer_names(folder)))


def transformer_names(folder: Path) -> set[str]:
    """The parameters of which there are shares."""
    return {label.partition("|")[0] for label in shards._Reader(folder).read_metadata().state_dict_metadata}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_sharded_step_is_skipped_by_all_and_each_process_gets_its_own_pool_back(there, rank):
    found = json.loads(Path(f"skipped_{rank}.json").read_text())
    assert found["fp32"] == found["fp16"] == [False, True, False] and found["pool"] == rank


def test_validation_is_shared_by_every_model_and_equals_one_processs(there):
    one, two = (processes.scalars(name)["metrics/Val/psnr"][5] for name in ("sr_one", "sr_two"))
    assert one == pytest.approx(two, abs=1e-5)
    for one, two in (("one", "ddp"), ("sr_one", "sr_two")):
        pictures = [sorted(file.relative_to(f"experiments/{name}") for file in Path("experiments", name).rglob("*.png"))
                    for name in (one, two)]
        assert pictures[0] == pictures[1] and pictures[0]
    figures = [[line for line in Path(f"figures_{rank}.txt").read_text().splitlines() if not line.startswith("alone")]
               for rank in (0, 1)]
    assert figures[0] == figures[1] and any(line.startswith("ddp_again Val psnr 4") for line in figures[0])


def test_all_save_where_the_first_alone_has_found_the_best(there):
    newest = resuming.newest_first("experiments/alone/training_states")[0]
    found = resuming.read(newest)
    assert found["best"]["Val"]["psnr"]["iter"] == found["iter"] and found["saved"][-1] == found["iter"]
    assert weights("alone", newest.stem)["params"]


def test_shares_load_in_one_process_and_the_run_goes_on_as_it_would_have(copied, alone, capsys):
    for file in Path("experiments/fsdp/training_states").glob("4.*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    again = job("alignvar", "fsdp", FSDP, flags=("--auto_resume", "--launcher", "pytorch"))
    assert main(["train", *again]) == 2
    assert re.search(r"would not be exact: world_size was 2 and is 1\. Give", capsys.readouterr().err)
    assert not torch.distributed.is_initialized()
    assert main(["train", "--force_resume", *again, WHOLE]) == 0
    same_weights(weights("ddp", "4"), weights("fsdp", "4"))


def test_shares_load_without_processes_and_a_whole_state_is_shared_among_them(copied, alone):
    for kind in ("ddp", "fsdp"):
        for file in Path(f"experiments/{kind}/training_states").glob("4.*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert main(["train", "--force_resume", *job("alignvar", "fsdp", WHOLE, flags=("--auto_resume",))]) == 0
    assert main(["train", "--force_resume", "--launcher", "pytorch",
                 *job("alignvar", "ddp", WHOLE, FSDP, flags=("--auto_resume",))]) == 0
    for kind in ("ddp", "fsdp"):
        same_weights(weights("one", "4"), weights(kind, "4"))


def test_shares_go_with_their_state(tmp_path):
    path = {"models": str(tmp_path / "models"), "training_states": str(tmp_path / "states")}
    for name in ("2.shards", ".4.shards.part", "9.shards"):
        Path(path["training_states"], name).mkdir(parents=True)
    for name in ("2.state", "9.state"):
        Path(path["training_states"], name).touch()
    kept = Checkpoints(path, 1, [2, 9])
    kept.sweep()
    kept.set_aside(2)
    kept.write_state(4, {"iter": 4})
    assert listing(tmp_path / "states") == ["4.state", "9.shards.aside", "9.state.aside"]


@pytest.mark.parametrize(("settings", "device"), [({}, "cpu"), ({"capturable": True}, "meta")])
def test_the_count_of_steps_goes_where_the_optimiser_wants_it(tmp_path, monkeypatch, settings, device):
    """A parameter that is not on the CPU, for which meta stands; the values are left out, it has none."""
    content = {"weight|step": torch.tensor(3.0), "weight|exp_avg": torch.ones(2, 2)}
    torch.distributed.checkpoint.save(content, storage_writer=shards.FileSystemWriter(tmp_path), no_dist=True)
    monkeypatch.setattr(shards.dcp, "load", lambda content, storage_reader: None)
    net = nn.Linear(2, 2, bias=False, device="meta")
    optimizer = torch.optim.AdamW(net.parameters(), **settings)
    shards.read(tmp_path, net, optimizer)
    state = optimizer.state[net.weight]
    assert state["step"].device.type == device and state["exp_avg"].device.type == "meta"


@pytest.mark.parametrize("damage", ["truncated", "missing", "metadata", "other metadata"])
def test_a_state_whose_shares_are_not_whole_is_passed_over(copied, alone, capsys, damage):
    folder = Path("experiments/fsdp/training_states/4.shards")
    share, metadata = folder / "__1_0.distcp", folder / ".metadata"
    if damage == "truncated":
        share.write_bytes(share.read_bytes()[:-100])
    elif damage == "missing":
        shutil.rmtree(folder)
    elif damage == "metadata":
        metadata.write_bytes(metadata.read_bytes()[:-100])
    else:
        metadata.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    again = job("alignvar", "fsdp", FSDP, flags=("--auto_resume", "--launcher", "pytorch"))
    assert main(["train", *again]) == 2  # of another number of processes; but first it says
    said = capsys.readouterr().err
    assert "passed over: experiments" in said.replace(str(Path.cwd()) + "/", "") and "2.state" in said
    assert not Path("executed").exists()


def test_sigterm_to_the_launcher_leaves_a_run_that_resumes(copied):
    changes = ("train:total_iter=1000", "logger:save_checkpoint_freq=1000", "val:val_freq=1000", FSDP)
    process = processes.launch("-m", "alignvar_arch", "train", "--launcher", "pytorch",
                               *job("alignvar", "stopped", *changes))
    processes.until(lambda: "iter:       1," in "".join(
        file.read_text() for file in Path("experiments").glob("stopped/train_*.log")), process)
    code, said = processes.interrupt(process)
    assert code != 0 and "terminated" in said
    assert said.count("Resume with: torchrun --nproc_per_node=2 -m alignvar_arch train --auto_resume --launcher") == 1
    (left,) = Path("experiments/stopped/training_states").glob("*.state")
    done = int(left.stem)
    assert done % 5 == 0 and shards.beside(left).is_dir()
    processes.train([job("alignvar", "stopped", *changes[1:], f"train:total_iter={done + 1}",
                         flags=("--auto_resume",))])
    assert weights("stopped")["params"]


@pytest.mark.parametrize(("changes", "words"), [
    ({"RANK": None}, ["--launcher pytorch must be started by torchrun", "RANK"]),
    ({"WORLD_SIZE": None}, ["torchrun", "WORLD_SIZE is not set"]),
    ({"MASTER_ADDR": None}, ["torchrun", "MASTER_ADDR is not set"]),
    ({"WORLD_SIZE": "two"}, ["WORLD_SIZE", "'two'", "whole number"]),
    ({"WORLD_SIZE": "0"}, ["0 processes"]),
    ({"RANK": "3", "WORLD_SIZE": "2"}, ["rank 3", "2 processes"]),
    ({"LOCAL_RANK": "-1"}, ["local rank -1"]),
])
def test_a_place_that_makes_no_sense_is_refused(tiny, alone, monkeypatch, capsys, changes, words):
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    _refused(capsys, ["train", "-opt", write(tiny), "--launcher", "pytorch"], *words)


def _refused(capsys, arguments: list[str], *words: str) -> None:
    before = listing(Path.cwd())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error
    for word in words:
        assert word in error
    assert listing(Path.cwd()) == before and not torch.distributed.is_initialized()


def test_a_batch_that_all_processes_together_cannot_fill_is_refused(tiny, alone, monkeypatch, capsys):
    """Rounded up for each process, eleven images would do for six batches of two."""
    monkeypatch.setenv("WORLD_SIZE", "6")
    tiny["datasets"]["train"]["batch_size_per_gpu"] = 2
    _refused(capsys, ["train", "-opt", write(tiny), "--launcher", "pytorch"],
             "batch of 12 is larger than the 11 images")


def test_the_command_that_resumes_names_the_launcher(tmp_path, monkeypatch):
    Path(tmp_path, "2.state").touch()
    opt = {"path": {"training_states": str(tmp_path)}, "dist": True, "world_size": 4}
    for name, value in (("GROUP_WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "one")):
        monkeypatch.setenv(name, value)
    argv = ["-opt", "a b.yml", "--auto_resume", "--local_rank=1", "--launcher"]
    assert _how_to_resume(opt, [*argv, "pytorch"]) == (
        "Resume with: torchrun --nnodes=2 --node_rank=… --master_addr=one --nproc_per_node=2 -m alignvar_arch train "
        "--auto_resume -opt 'a b.yml' --launcher pytorch")
    assert "Resume with: srun --ntasks=4 python -m alignvar_arch train --auto" in _how_to_resume(opt, [*argv, "slurm"])


@pytest.mark.parametrize(("key", "value", "words"), [
    ("backend", "nccl", ["dist_params.backend", "nccl", "auto"]),
    ("backend", "mpi", ["dist_params.backend", "'mpi'", "auto, nccl, gloo"]),
    ("port", 70000, ["dist_params.port", "70000"]),
    ("timeout", 0, ["dist_params.timeout", "0"]),
])
def test_dist_params_that_do_not_fit_are_refused(tiny, alone, capsys, key, value, words):
    tiny["dist_params"] = {key: value}
    _refused(capsys, ["train", "-opt", write(tiny), "--launcher", "pytorch"], *words)


def test_others_that_do_not_come_are_not_waited_for_forever(tiny, alone, monkeypatch, capsys):
    tiny["dist_params"] = {"timeout": 1}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")  # the first is nowhere
    tiny["datasets"]["train"]["batch_size_per_gpu"] = 2
    _refused(capsys, ["train", "-opt", write(tiny), "--launcher", "pytorch"], "process 1 of 2", "within 1 s")
    monkeypatch.setenv("RANK", "0")
    _refused(capsys, ["train", "-opt", write(tiny), "--launcher", "pytorch"], "process 0 of 2", "within 1 s")


def test_more_processes_than_devices_are_refused(monkeypatch):
    place = distributed.Place(0, 4, 0, 4, ("localhost", 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(UserError, match="2 CUDA devices, and 4 processes"):
        distributed.check(None, place, num_gpu=2)
    distributed.check(None, place, num_gpu=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    distributed.check({"backend": "nccl"}, place, num_gpu=2)


def test_the_only_device_that_slurm_shows_a_process_is_its_own(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    for count, device in ((1, 0), (4, 3)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        place = distributed.Place(3, 4, 3, None, ("localhost", 1))
        distributed.check(None, place, num_gpu=count)
        assert place.device == device
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="2 CUDA devices, and 4 processes"):
        distributed.check(None, place, num_gpu=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="1 CUDA devices, and 4 processes"):  # torchrun shows all the same
        distributed.check(None, distributed.Place(3, 4, 3, 4, ("localhost", 1)), num_gpu=1)


def test_processes_of_a_machine_go_one_after_another_also_where_the_file_cannot_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    Path(tempfile.tempdir).mkdir()
    file, real, locked = tmp_path / "opt.yml", fcntl.flock, []

    def as_over_nfs(lock, how):
        if fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        locked.append(lock.name)
        real(lock, how)

    monkeypatch.setattr(fcntl, "flock", as_over_nfs)
    file.touch()
    with distributed.in_turn(str(file), several=True):
        with open(locked[0], "a", encoding="utf-8") as other, pytest.raises(BlockingIOError):
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with distributed.in_turn(str(file), several=True):  # given back
        pass
    assert locked[0] == locked[1] and Path(locked[0]).parent == Path(tempfile.tempdir)


def test_slurm_says_where_a_process_is(monkeypatch, tmp_path):
    for name, value in (("SLURM_PROCID", "5"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "1"),
                        ("SLURM_NODELIST", "node[03-04]")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no scontrol here"):
        distributed.find("slurm", None)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[03-04]" ] && echo node03 && echo node04\n')
    scontrol.chmod(0o755)
    assert distributed.find("slurm", None) == distributed.Place(5, 8, 1, None, ("node03", 29500))
    assert distributed.find("slurm", {"port": 456}).master == ("node03", 456)
    monkeypatch.setenv("MASTER_PORT", "123")
    assert distributed.find("slurm", {"port": None}).master == ("node03", 123)
    assert distributed.find("slurm", {"port": 456}).master == ("node03", 123)  # the job's own, not the file's
    monkeypatch.setenv("SLURM_NODELIST", "alone")
    assert distributed.find("slurm", None).master == ("alone", 123)
    monkeypatch.delenv("SLURM_NTASKS")
    with pytest.raises(UserError, match="must be started by srun: SLURM_NTASKS"):
        distributed.find("slurm", None)


@pytest.mark.parametrize(("file", "value", "words"), [
    ("alignvar", "fsdp", ["train.parallel", "torchrun"]),
    ("alignvar", "zero", ["train.parallel", "'zero'", "ddp, fsdp"]),
    ("sr", "fsdp", ["train.parallel", "unknown"]),
])
def test_fsdp_needs_processes_and_a_model_that_knows_it(there, capsys, file, value, words):
    _refused(capsys, ["train", *job(file, "never"), f"train:parallel={value}"], *words)
