"""Whole training runs of tiny models, in processes of their own that may be killed."""
import contextlib
import copy
import functools
import io
import os
import random
import signal
import sys
import time
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.context import Process
from pathlib import Path

import cv2
import numpy as np
import small
import torch
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from conftest import TINY, write

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.training.progress import Progress

TIMEOUT = 180  # seconds that no run here takes; the tests must not hang
TOKENIZER = small.tokenizer_options(target="residual")
TRANSFORMER = {**small.TRANSFORMER, "condition_blocks": 1, "local_condition": True, "sca": "random", "drop_path": 0.1}
KINDS = ("alignvar", "tokenizer", "sr", "esrgan", "pool")


@MODEL_REGISTRY.register()
class PoolModel(SRModel):
    """As RealESRNetModel: draws from every global generator in the training process, and batches pass a pool."""

    queue_size = 8

    def feed_data(self, data):
        super().feed_data(data)
        if self.is_train:
            self.lq = self.lq + 0.01 * (torch.randn_like(self.lq) + random.random() + float(np.random.rand()))
            RealESRNetModel._dequeue_and_enqueue(self)

    def nondist_validation(self, *arguments):
        self.is_train = False
        super().nondist_validation(*arguments)
        self.is_train = True


def options(kind: str, count: int = 11) -> dict:
    """Options that train for six iterations on `count` ×4 pairs (×2 for BasicSR's models) in the current folder.

    Everything that a resumed run must find again is there: average, warm-up, draws, best metrics, rotation.
    """
    ours = kind in ("alignvar", "tokenizer")
    opt = copy.deepcopy(TINY)
    opt.update(name=kind, scale=4 if ours else 2)
    _pairs(count, opt["scale"])
    opt["train"].update(total_iter=6, ema_decay=0.9, warmup_iter=3)
    opt["val"].update(val_freq=3, pbar=False)
    opt["logger"].update(save_checkpoint_freq=2, keep=1, use_tb_logger=False)
    if ours:
        opt["train"].update(optim_g={"type": "AdamW", "lr": 1e-3}, grad_clip=1.0)
        opt["path"] = {"pretrain_network_g": None, "resume_state": None}
    if kind == "tokenizer":
        opt.update(model_type="AlignVARTokenizerModel", network_g=copy.deepcopy(TOKENIZER))
        opt["train"].update(vq_opt={"type": "VQLoss"}, quantise_from=1, revive_freq=2, revive_until=5,
                            scale_dropout=0.5)
    elif kind == "alignvar":
        net = small.tokenizer(target="residual")
        checkpoints.write_safetensors("tokenizer.safetensors", net.state_dict())
        opt.update(model_type="AlignVARModel", network_g=copy.deepcopy(TRANSFORMER),
                   network_tokenizer=copy.deepcopy(TOKENIZER))
        opt["path"]["pretrain_network_tokenizer"] = "tokenizer.safetensors"
        del opt["train"]["pixel_opt"]
        opt["train"].update(ce_opt={"type": "TokenCrossEntropyLoss"}, hcc_opt={"type": "HCCLoss", "loss_weight": 1.0},
                            bad_quality_rate=0.5, head_from_codes=True)
    elif kind == "esrgan":
        opt.update(model_type="ESRGANModel", network_d={"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4})
        opt["train"].update(optim_d={"type": "Adam", "lr": 1e-4}, net_d_iters=1, net_d_init_iters=0,
                            gan_opt={"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0,
                                     "fake_label_val": 0.0, "loss_weight": 0.1})
        opt["path"].update(pretrain_network_d=None)
    elif kind == "pool":
        opt.update(model_type="PoolModel")
    return opt


def _pairs(count: int, scale: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("gt", "lq"):
        Path(name).mkdir(exist_ok=True)
    for index in range(count):
        gt = cv2.resize(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8), (24, 24), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"gt/{index:02}.png", gt)
        cv2.imwrite(f"lq/{index:02}.png", cv2.resize(gt, (24 // scale,) * 2, interpolation=cv2.INTER_AREA))


@functools.cache
def _context():
    """Forks from a process that has everything imported and has computed nothing: after a backward pass, or with
    OpenMP's threads running, torch does not survive a fork."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["runs"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # Python before 3.13 does not hand it on
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def start(work, *arguments, output: str = "output.txt") -> Process:
    """Starts `work(*arguments)` in a process of its own; what it says goes to the file `output`."""
    process = _context().Process(target=_work, args=(work, arguments, output))
    process.start()
    return process


def end(process: Process) -> int:
    """Waits for the process and returns its exit code; one that hangs is killed and an error."""
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"it hangs: {said()[-2000:]}")
    return process.exitcode


def said(output: str = "output.txt") -> str:
    """What a process has said."""
    return Path(output).read_text(encoding="utf-8")


def wait_for(condition, process: Process) -> None:
    """Waits until `condition()`, while the process lives."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, said()[-2000:]
        time.sleep(0.005)


def _work(work, arguments, output) -> None:
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # of loaders' workers, as in any other process
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb", 0), write_through=True) for number in (1, 2))
    sys.exit(work(*arguments))


def train(opt: dict, *flags: str, before=None) -> int:
    """Runs `basicsr train`, every logged figure going to `losses.txt` too, bit for bit; for `start`.

    Args:
        opt: the options.
        flags: of the command line.
        before: called first; to make the run go wrong.
    """
    say = Progress.say

    def record(self, epoch, rates, figures, skipped):
        with open("losses.txt", "a") as file:
            values = [float(value).hex() for value in (*rates, *figures.values())]
            file.write(f"{self._iteration} {' '.join(values)}\n")
        say(self, epoch, rates, figures, skipped)

    Progress.say = record
    if before is not None:
        before()
    return main(["train", "-opt", write(opt), *flags])


def losses() -> dict[str, set[str]]:
    """The logged figures by iteration; more than one line for an iteration that a killed run has repeated."""
    found: dict[str, set[str]] = {}
    for line in Path("losses.txt").read_text().splitlines():
        iteration, figures = line.split(" ", 1)
        found.setdefault(iteration, set()).add(figures)
    return found


def outcome(name: str) -> dict:
    """Everything that a run has left: its newest state, the files' names, the last weights."""
    folder = Path("experiments", name)
    states = sorted(folder.glob("training_states/*.state"), key=lambda path: int(path.stem))
    return {"state": torch.load(states[-1], weights_only=False),
            "names": sorted(path.name for path in folder.glob("*/*.*") if path.suffix in (".pth", ".state")),
            "weights": {path.name: torch.load(path, weights_only=True) for path in folder.glob("models/*_latest.pth")}}


def differences(one, other, path: str = "") -> list[str]:
    """Where two nested structures differ, to the last bit; NaN equals NaN."""
    if type(one) is not type(other):
        return [f"{path}: {type(one)} {type(other)}"]
    if isinstance(one, dict):
        return [text for key in {**one, **other}
                for text in (differences(one[key], other[key], f"{path}.{key}") if key in one and key in other
                             else [f"{path}.{key}: missing"])]
    if isinstance(one, (list, tuple)):
        return ([f"{path}: {len(one)} {len(other)}"] if len(one) != len(other) else
                [text for number, pair in enumerate(zip(one, other, strict=True))
                 for text in differences(*pair, f"{path}.{number}")])
    if torch.is_tensor(one):
        same = one.dtype == other.dtype and one.shape == other.shape and bool(
            torch.eq(one, other).logical_or(torch.isnan(one) & torch.isnan(other)).all())
    else:
        same = one == other or one != one and other != other
    return [] if same else [f"{path}: {one!s:.60} {other!s:.60}"]


class Kill:
    """Kills this very process at the `at`-th thing that a run does; without `at` counts them into `points.txt`.

    Things are batches, steps, validations, files half written, synced, renamed and removed.
    """

    def __init__(self, at: int | None = None):
        self.at, self.count = at, 0

    def __call__(self) -> None:
        for place, name in ((SRModel, "feed_data"), (SRModel, "validation"), (os, "fsync"), (os, "replace"),
                            (os, "rename"), (os, "unlink"), (torch.optim.Optimizer, "zero_grad")):
            setattr(place, name, self._counted(getattr(place, name)))
        torch.save = self._half_written(torch.save)

    def _counted(self, function):
        @functools.wraps(function)
        def wrapper(*arguments, **named):
            self._point()
            return function(*arguments, **named)

        return wrapper

    def _half_written(self, save):
        def wrapper(content, file):
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[:len(whole.getvalue()) // 2])
            file.flush()
            self._point()
            file.write(whole.getvalue()[len(whole.getvalue()) // 2:])

        return wrapper

    def _point(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.at is None:
            Path("points.txt").write_text(str(self.count))


@contextlib.contextmanager
def folder(name: str):
    """A current folder below the current one."""
    Path(name).mkdir()
    with contextlib.chdir(name) if hasattr(contextlib, "chdir") else _chdir(name):
        yield


@contextlib.contextmanager
def _chdir(name: str):
    before = os.getcwd()
    os.chdir(name)
    try:
        yield
    finally:
        os.chdir(before)
