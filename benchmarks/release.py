"""Trains what the release ships and what it is compared with, in pieces: call it until it says that all is done.

    python benchmarks/release.py --photos PHOTOS --minutes 10     # as often as need be
    python benchmarks/release.py --pack alignvar_arch/weights     # then

Each call goes on where one stopped. It works in the current folder, in this order: data (benchmarks/release_data.py),
then the stages that --stages names by their files in options/release. A stage that is cut off by --minutes has saved
its state, and continues to the bit. What is finished is left alone.
"""
import argparse
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import yaml

from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.checkpoints.recognise import recognise

HERE = Path(__file__).parent
OPTIONS = HERE.parent / "options/release"
STAGES = ["tokenizer_x4", "alignvar_x4", "decoder_x4", "swinir_x4", "esrgan_x4"]
DATA = "datasets/release"
SHIPPED = {"decoder_x4": "tokenizer_x4_small.safetensors", "alignvar_x4": "alignvar_x4_small.safetensors"}
SAVED = 143  # the exit code of a run that a SIGTERM has ended, all saved
GRACE = 120  # seconds to finish a step, save, and end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", default=[], help="folders of photographs, for the first call")
    parser.add_argument("--minutes", type=float, help="stop after so many; without it, when all is done")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=sorted(p.stem for p in OPTIONS.glob("*_x4.yml")))
    parser.add_argument("--force_yml", nargs="+", default=[], help="as for basicsr train, for all stages")
    parser.add_argument("--pack", metavar="FOLDER", help="write what ships into this folder, and train nothing")
    args = parser.parse_args()
    if args.pack:
        pack(args.pack)
        return 0
    end = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    if not Path(f"{DATA}_lq.lmdb/meta_info.txt").exists():
        if not args.photos:
            parser.error(f"there is no {DATA}_lq.lmdb here; name the photographs with --photos")
        code = subprocess.run([sys.executable, HERE / "release_data.py", *args.photos, "-o", DATA]).returncode
        if code:
            return code
    for stage in args.stages:
        name = yaml.safe_load((OPTIONS / f"{stage}.yml").read_text())["name"]
        if Path(f"experiments/{name}/models/net_g_latest.pth").exists():
            continue
        left = end - time.monotonic()
        if left <= 0:
            print(f"{stage} is next; call again to go on.")
            return 0
        command = [sys.executable, "-m", "alignvar_arch", "train", "--auto_resume", "-opt", f"{OPTIONS / stage}.yml"]
        if args.force_yml:
            command += ["--force_yml", *args.force_yml]
        code = piece(command, left)
        if code == SAVED:
            print(f"{stage} is saved; call again to go on.")
            return 0
        if code:
            return code
    print("all is done.")
    return 0


def pack(folder: str) -> None:
    """Write the averaged weights of transformer and last tokenizer, fp16, with what they say of themselves."""
    for stage, name in SHIPPED.items():
        run = yaml.safe_load((OPTIONS / f"{stage}.yml").read_text())["name"]
        found = recognise(f"experiments/{run}/models/net_g_latest.pth")
        metadata = {**found.metadata, "recipe": f"options/release/{stage}.yml", "license": "Apache-2.0",
                    "card": "alignvar_arch/weights/README.md"}
        path = Path(folder, name)
        write_safetensors(str(path), found.state, metadata, half=True)
        print(f"{path}: {path.stat().st_size / 2 ** 20:.1f} MiB, sha256 "
              f"{hashlib.sha256(path.read_bytes()).hexdigest()}")


def piece(command: list[str], seconds: float, stdout: IO | None = None) -> int:
    """Run a training for so long, then let it save; return its exit code."""
    with subprocess.Popen(command, stdout=stdout) as run:
        try:
            return run.wait(None if seconds == float("inf") else seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGTERM)
        try:
            return run.wait(GRACE)
        except subprocess.TimeoutExpired:
            run.kill()
            return run.wait()


if __name__ == "__main__":
    sys.exit(main())
