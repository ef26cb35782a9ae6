"""Several processes: how they find each other, and what they must agree on.

Options read from `dist_params`: `backend` (`auto`, the default: nccl on GPUs, gloo on CPUs; or one of the two), `port`
(of the first process, under slurm, where MASTER_PORT does not say it; default 29500) and `timeout` (seconds that a
process waits for the others when a run starts, default 300).
"""

import atexit
import contextlib
import datetime
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from alignvar_arch.errors import UserError

BACKENDS = ("auto", "nccl", "gloo")
_JOINING = 300  # seconds
# What a process waits for another within the run: rank 0 may be validating one of BasicSR's models for all.
_WAITING = datetime.timedelta(hours=2)
_PORT = 29500
_STARTERS = {"pytorch": "torchrun", "slurm": "srun"}


@dataclass(frozen=True)
class Place:
    """A process's place among all.

    Attributes:
        rank: from 0 to below `world`.
        world: number of processes.
        local: rank among the processes of its machine.
        beside: processes of its machine, or None where the launcher does not say.
        master: host and port of the first process.
    """

    rank: int
    world: int
    local: int
    beside: int | None
    master: tuple[str, int]

    @property
    def device(self) -> int:
        """The number of its GPU; where slurm gives each process one, it sees no other."""
        return 0 if torch.cuda.device_count() == 1 else self.local


def find(launcher: str, params: dict | None, local_rank: int | None = None) -> Place:
    """Returns the place that the launcher's environment gives to this process.

    Args:
        launcher: `pytorch` (torchrun) or `slurm` (srun).
        params: `dist_params` of the options.
        local_rank: of the command line, where the old launcher passes it there.

    Raises:
        UserError: the environment is not the launcher's, or makes no sense.
    """
    environment = os.environ
    if launcher == "pytorch":
        rank, world = (_number(environment, name, launcher) for name in ("RANK", "WORLD_SIZE"))
        if local_rank is None or "LOCAL_RANK" in environment:
            local_rank = _number(environment, "LOCAL_RANK", launcher)
        beside = _number(environment, "LOCAL_WORLD_SIZE", launcher, local_rank + 1)
        master = _word(environment, "MASTER_ADDR", launcher), _number(environment, "MASTER_PORT", launcher)
    else:
        rank, world, local_rank = (_number(environment, name, launcher)
                                   for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
        beside = None
        # The environment's is the job's own; the file's would be the same for two jobs on one machine.
        port = _number(environment, "MASTER_PORT", launcher, (params or {}).get("port") or _PORT)
        master = environment.get("MASTER_ADDR") or _first_host(_word(environment, "SLURM_NODELIST", launcher)), port
    if world < 1 or not 0 <= rank < world or not 0 <= local_rank < world:
        raise UserError(f"--launcher {launcher}: rank {rank}, local rank {local_rank} and {world} processes in all do "
                        f"not fit each other; start it with {_STARTERS[launcher]} and leave its variables alone.")
    return Place(rank, world, local_rank, beside, master)


def _word(environment: Mapping[str, str], name: str, launcher: str) -> str:
    if not environment.get(name):
        raise UserError(f"--launcher {launcher} must be started by {_STARTERS[launcher]}: {name} is not set.")
    return environment[name]


def _number(environment: Mapping[str, str], name: str, launcher: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    word = _word(environment, name, launcher)
    try:
        return int(word)
    except ValueError as error:
        raise UserError(f"--launcher {launcher}: {name} is {word!r}, but must be a whole number.") from error


def _first_host(nodes: str) -> str:
    """The first machine of slurm's list, which may be written short, as in `node[01-04,07]`."""
    if not set(nodes) & set("[],"):
        return nodes
    if shutil.which("scontrol") is None:
        raise UserError("--launcher slurm: there is no scontrol here to say which machine is the first of "
                        f"{nodes}; set MASTER_ADDR to it.")
    asked = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    names = asked.stdout.split()
    if asked.returncode or not names:
        raise UserError(f"--launcher slurm: `scontrol show hostnames {nodes}` fails ({asked.stderr.strip()}); set "
                        "MASTER_ADDR to the first machine.")
    return names[0]


def check(params: dict | None, place: Place, num_gpu: int) -> None:
    """Raises UserError where `dist_params` or the place does not fit the devices; nothing is started.

    Args:
        params: `dist_params` of the options.
        place: of this process.
        num_gpu: of the options; 0 for CPUs.
    """
    params = params or {}
    backend, count = params.get("backend") or "auto", torch.cuda.device_count()
    if backend not in BACKENDS:
        raise UserError(f"dist_params.backend: is {backend!r}, but must be one of {', '.join(BACKENDS)}.")
    for key, most in (("port", 65535), ("timeout", 86400)):
        value = params.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= most):
            raise UserError(f"dist_params.{key}: is {value!r}, but must be a whole number from 1 to {most}.")
    if not num_gpu and backend == "nccl":
        reason = "num_gpu is 0" if count else "this machine has no CUDA device"
        raise UserError(f"dist_params.backend: nccl works between GPUs only, and {reason}; use auto.")
    wanted = max(place.beside or 0, place.local + 1)
    given_one = place.beside is None and count == 1
    if num_gpu and wanted > count and not given_one:
        raise UserError(f"this machine has {count} CUDA devices, and {wanted} processes were started on it; start one "
                        "a device, or set num_gpu to 0.")
    available = dist.is_nccl_available() if _backend(params, num_gpu) == "nccl" else dist.is_gloo_available()
    if not available:
        raise UserError(f"dist_params.backend: this torch has no {_backend(params, num_gpu)}.")


def _backend(params: dict | None, num_gpu: int) -> str:
    backend = (params or {}).get("backend") or "auto"
    return ("nccl" if num_gpu else "gloo") if backend == "auto" else backend


def start(opt: dict, place: Place) -> None:
    """Joins the other processes; those on GPUs take one each. In place of BasicSR's `init_dist`.

    A seed that the options leave to chance is the first process's from here on.

    Args:
        opt: complete and valid options.
        place: of this process.

    Raises:
        UserError: the others do not come in time.
    """
    if opt["num_gpu"]:
        torch.cuda.set_device(place.device)
    host, port = place.master
    # What libraries ask for the place of their process; slurm does not set it.
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world), LOCAL_RANK=str(place.local),
                      MASTER_ADDR=host, MASTER_PORT=str(port))
    seconds = (opt.get("dist_params") or {}).get("timeout") or _JOINING
    try:
        # Found before the group is made, whose timeout is for the whole run.
        store, rank, world = next(dist.rendezvous("env://", timeout=datetime.timedelta(seconds=seconds)))
        store.set_timeout(datetime.timedelta(seconds=seconds))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{number}" for number in range(world)])
        dist.init_process_group(_backend(opt.get("dist_params"), opt["num_gpu"]), store=store, rank=rank,
                                world_size=world, timeout=_WAITING)
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"process {place.rank} of {place.world} did not find the others at {host}:{port} within "
                        f"{seconds} s ({_first_line(error)}); see that all are started, that the address is the first "
                        "machine's and that nothing else has the port.") from error
    opt["manual_seed"] = gathered(opt["manual_seed"])[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def stop(together: bool = True) -> None:
    """Leaves the other processes: when all have come to their end, or not `together`, after an error."""
    if dist.is_available() and dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Ends the process as `sys.exit` does, but without taking the interpreter apart.

    gloo's threads let go of Python's objects late, and one that wants the interpreter while it is being taken apart
    aborts the process, whose work is done and saved (torch 2.14, about one end in twenty on a busy machine).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def in_turn(file: str, several: bool) -> Iterator[None]:
    """Where there are `several` processes, those of a machine go through the block one after another.

    What the first one makes there, the others then find.

    Args:
        file: of which all know; it names the lock, and nothing is done to it.
        several: whether there are others.
    """
    if not several:
        yield
        return
    # Not the file itself: over NFS only what may be written to can be locked, and all machines would be in one queue.
    name = hashlib.sha256(os.path.realpath(file).encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"alignvar-{os.getuid()}-{name}.lock").open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def gathered(value) -> list:
    """Returns what each process has, in the order of their ranks; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def collected(value) -> list:
    """Returns in the first process what each has, by rank, and elsewhere an empty list; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def check_same(values: dict) -> None:
    """Refuses to go on where the processes do not have the same `values`; every process must call it.

    Raises:
        UserError: on every process alike.
    """
    first, *others = gathered(values)
    for rank, other in enumerate(others, 1):
        for key in sorted({*first, *other}):
            if first.get(key) != other.get(key):
                raise UserError(f"the processes do not agree: {key} is {first.get(key)!r} on rank 0 and "
                                f"{other.get(key)!r} on rank {rank}; give all the same options and files.")


def agreed(asked: int | None) -> int | None:
    """The signal that any rank has been sent, or None; every rank must call it."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    number = torch.tensor(asked or 0, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number) or None
