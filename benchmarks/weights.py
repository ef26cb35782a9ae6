"""Memory of converting and of loading weights of the paper's size, over the file's size; random weights, VARSR's form.

    python benchmarks/weights.py [--depth 24] [--folder DIR]

Writes twice the file (8.6 GB at depth 24) into a folder that is removed afterwards. Each step is a process of its own;
its peak is the kernel's (VmHWM, Linux), with whatever the imports take, and without. Mapped pages of the file count.
"""
import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import torch
from safetensors import safe_open

import alignvar_arch
from alignvar_arch.archs import AlignVAR
from alignvar_arch.cli import main as basicsr

LIMIT = 1.2  # of the file's size


def peak() -> float:
    """Return the most memory that this process has held, in GiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2 ** 20


def make(path: str, depth: int) -> None:
    """Write VARSR's transformer of this depth with random weights."""
    with torch.device("meta"):
        state = AlignVAR(depth=depth, embed_dim=64 * depth, num_heads=depth, sca="off",
                         condition_widths=(32, 128, 256, 512, 1536)).state_dict()
    weights = {name: torch.randn(value.shape).mul_(0.02) for name, value in state.items()}
    torch.save({"iter": 0, "trainer": {"var_wo_ddp": weights}}, path)


def load(path: str) -> None:
    """Load a file and read every weight of the network."""
    network = alignvar_arch.load(path)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, sum "
          f"{sum(float(p.detach().sum()) for p in network.parameters()):.1f}")


def open_lazily(path: str) -> None:
    """Open a file and take one tensor."""
    with safe_open(path, framework="pt") as file:
        print(f"{len(list(file.keys()))} tensors, {file.get_tensor('pos_start').shape[1]} prefix positions")


def step(name: str, *arguments: str) -> None:
    """Do one step in this process, and print its time and memory."""
    before, start = peak(), time.perf_counter()
    {"make": lambda path, depth: make(path, int(depth)), "load": load, "open": open_lazily,
     "convert": lambda path, output, *flags: basicsr(["convert", path, "-o", output, *flags])}[name](*arguments)
    print(f"PEAK {peak():.4f} {peak() - before:.4f} {time.perf_counter() - start:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile; default the system's")
    parser.add_argument("--step", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(*args.step)
        return
    print(common.machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, output = f"{folder}/VARSR.pth", f"{folder}/varsr.safetensors"
        measure("made", "make", source, str(args.depth))
        size = Path(source).stat().st_size / 2 ** 30
        print(f"the file: {size:.2f} GiB")
        for label, *arguments in (("convert", "convert", source, output), ("load .pth", "load", source),
                                  ("load .safetensors", "load", output), ("open .safetensors", "open", output),
                                  ("convert --half", "convert", source, output, "--half")):
            whole, own, seconds = measure(label, *arguments)
            print(f"{label:18} peak {whole:.2f} GiB, {whole / size:.2f} of the file; without imports {own:.2f} GiB, "
                  f"{own / size:.2f}; {seconds:.1f} s{'' if own <= LIMIT * size else '  TOO MUCH'}")


def measure(label: str, *arguments: str) -> tuple[float, float, float]:
    """Run one step as a process; return its peak in GiB, with and without imports, and its seconds."""
    done = subprocess.run([sys.executable, __file__, "--step", *arguments], capture_output=True, text=True)
    found = re.search(r"PEAK (\S+) (\S+) (\S+)", done.stdout)
    if done.returncode or not found:
        sys.exit(f"{label} failed: {done.stderr[-2000:]}")
    whole, own, seconds = map(float, found.groups())
    return whole, own, seconds


if __name__ == "__main__":
    main()
