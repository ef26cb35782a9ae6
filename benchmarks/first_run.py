"""Time and peak memory of the README's first command after install: train alignvar_x4.yml in an empty folder.

    python benchmarks/first_run.py [options/alignvar_x4.yml]
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = Path(__file__).parent.parent / "options/alignvar_x4.yml"
    parser.add_argument("options", nargs="?", type=Path, default=shipped)
    options = parser.parse_args().options.resolve()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "alignvar_arch", "train", "-opt", str(options)], cwd=folder,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        minutes = (time.perf_counter() - start) / 60
        # The largest process of the run; the loader's worker shares most of its memory with it.
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2 ** 20
        if done.returncode:
            sys.exit(done.stdout[-2000:])
        print("\n".join(line for line in done.stdout.splitlines() if "# " in line or "Validation" in line))
        print(f"{options.name}: {minutes:.1f} minutes, largest process {memory:.2f} GiB, exit {done.returncode}")


if __name__ == "__main__":
    main()
