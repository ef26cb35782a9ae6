"""Starting real processes that train together, and reading what their runs have left."""

import faulthandler
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 300  # seconds that anything may take


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(*command: str, count: int = 2) -> subprocess.Popen:
    """Starts `count` processes under torchrun, in the current folder, with one thread each."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    starter = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--master_addr=127.0.0.1",
               f"--master_port={free_port()}", *command]
    return subprocess.Popen(starter, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for the end; returns the exit code and all that was said. Nothing is left running."""
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        said, _ = process.communicate(timeout=60)
        raise AssertionError(f"more than {LIMIT} s:\n{said}") from None
    return process.returncode, said


def train(jobs: list[list[str] | str], count: int = 2) -> str:
    """Trains one job (arguments of `basicsr train`) after another in the same processes, which spares their starts.

    A job may also be a function, as `module:function`.

    Every process writes what it takes for the validations' results to `figures_RANK.txt`.
    """
    code, said = ended(launch(__file__, json.dumps([(free_port(), job) for job in jobs]), count=count))
    if code and "has failed to listen" in said:  # somebody has been given the port meanwhile
        code, said = ended(launch(__file__, json.dumps([(free_port(), job) for job in jobs]), count=count))
    assert code == 0, said
    return said


def until(happened, process: subprocess.Popen) -> None:
    """Waits until `happened()` while the process lives."""
    end = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None and time.monotonic() < end, ended(process)[1]
        time.sleep(0.05)


def interrupt(process: subprocess.Popen) -> tuple[int, str]:
    """Sends SIGTERM to the launcher, as a scheduler does, and waits for the end."""
    process.send_signal(signal.SIGTERM)
    return ended(process)


def scalars(name: str) -> dict[str, dict[int, float]]:
    """What a run has told TensorBoard: by tag and iteration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"tb_logger/{name}", size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def _work() -> None:
    from alignvar_arch.cli import main  # before BasicSR, which it mends
    from alignvar_arch.training import distributed
    from basicsr.models.base_model import BaseModel  # isort: skip

    update, rank = BaseModel._update_best_metric_result, os.environ["RANK"]

    def noting(self, data_name, metric, value, iteration):
        update(self, data_name, metric, value, iteration)
        with open(f"figures_{rank}.txt", "a", encoding="utf-8") as file:
            file.write(f"{self.opt['name']} {data_name} {metric} {iteration} {value!r} {self.best_metric_results}\n")

    BaseModel._update_best_metric_result = noting
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]  # which is for one meeting
    faulthandler.dump_traceback_later(LIMIT - 10, exit=True)
    code = 0
    for port, job in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(port)
        if isinstance(job, str):
            module, _, function = job.partition(":")
            getattr(importlib.import_module(module), function)()
            continue
        code = main(["train", "--launcher", "pytorch", *job])
        if code:
            break
    distributed.leave(code)


if __name__ == "__main__":
    _work()
