"""Importing the package against importing torch and basicsr, in fresh processes, alternating.

    python benchmarks/import_time.py [--repeat 5]

The base line needs the two stand-in modules without which BasicSR 1.4.2 does not import on today's stack.
"""
import argparse
import statistics
import subprocess
import sys
import time

BASE = ("import sys, types, torch; from torchvision.transforms import functional as f; "
        "m = types.ModuleType('torchvision.transforms.functional_tensor'); m.rgb_to_grayscale = f.rgb_to_grayscale; "
        "sys.modules[m.__name__] = m; import basicsr")
OURS = "import alignvar_arch"


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    seconds(OURS), seconds(BASE)  # fill the page cache
    runs = [(seconds(BASE), seconds(OURS)) for _ in range(args.repeat)]
    base, ours = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"torch + basicsr {base:.2f} s, alignvar_arch {ours:.2f} s, ratio {ours / base:.2f} "
          f"(medians of {args.repeat})")


if __name__ == "__main__":
    main()
