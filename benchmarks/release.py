"""Trains what the release ships and what it is compared with, in pieces: call it until it says that all is done.

    python benchmarks/release.py --photos PHOTOS --minutes 10     # as often as need be
    python benchmarks/release.py --pack alignvar_arch/weights     # then

with $ALIGNVAR_LPIPS set: perceptual losses are part of the recipe. Each call goes on where one stopped. It works in
the current folder, in this order: data (benchmarks/release_data.py), then the stages that --stages names by their files
in options/release. A stage that is cut off by --minutes or a signal has saved its state, and continues to the bit. What
is finished is left alone.
"""
import argparse
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import common
import yaml

from alignvar_arch.archs.lpips import lpips_weights_missing
from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.errors import Terminated, UserError
from alignvar_arch.inference.pairing import same_codes
from alignvar_arch.options.reader import force

HERE = Path(__file__).parent
OPTIONS = HERE.parent / "options/release"
STAGES = ["tokenizer_x4", "alignvar_x4", "decoder_x4", "swinir_x4", "esrgan_x4"]
DATA = "datasets/release"
SHIPPED = {"decoder_x4": "tokenizer_x4_small.safetensors", "alignvar_x4": "alignvar_x4_small.safetensors"}
NETWORKS = {"decoder_x4": "AlignVARTokenizer", "alignvar_x4": "AlignVAR"}
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
    waiting = {}
    for stage in args.stages:
        opt = yaml.safe_load((OPTIONS / f"{stage}.yml").read_text())
        force(opt, args.force_yml)
        if not Path(f"experiments/{opt['name']}/models/net_g_latest.pth").exists():
            waiting[stage] = opt
    check_lpips(waiting)
    if not Path(f"{DATA}_lq.lmdb/meta_info.txt").exists():
        if not args.photos:
            parser.error(f"there is no {DATA}_lq.lmdb here; name the photographs with --photos")
        code = piece([sys.executable, str(HERE / "release_data.py"), *args.photos, "-o", DATA])
        if code:
            return code
    for stage in waiting:
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


def check_lpips(stages: dict[str, dict]) -> None:
    """Raise UserError where one of these options has a perceptual loss, and its weights are not at hand."""
    for stage, opt in stages.items():
        train = opt["train"] if isinstance(opt["train"], dict) else {}  # which the training itself refuses
        for loss in (train.get("lpips_opt"), train.get("perceptual_opt")):
            if isinstance(loss, dict) and str(loss.get("type")).startswith("LPIPS"):
                missing = lpips_weights_missing(loss.get("weights"))
                if missing:
                    raise UserError(f"{stage} learns by LPIPS. {missing}")


def pack(folder: str) -> None:
    """Write the averaged weights of transformer and last tokenizer, fp16, with what they say of themselves.

    Raises:
        UserError: one of them is not trained, or they do not belong together; nothing has been written then.
    """
    trained = {}
    for stage in SHIPPED:
        run = yaml.safe_load((OPTIONS / f"{stage}.yml").read_text())["name"]
        trained[stage] = found = recognise(f"experiments/{run}/models/net_g_latest.pth")
        if found.network != NETWORKS[stage]:
            raise UserError(f"{found.path} holds {found.label}, and no {NETWORKS[stage]}; train {stage} anew.")
    if not same_codes(trained["alignvar_x4"].metadata, trained["decoder_x4"].state["quantize.embedding.weight"]):
        raise UserError("the transformer was trained on other codes than the decoder's; train both from one tokenizer.")
    for stage, name in SHIPPED.items():
        found = trained[stage]
        metadata = {**found.metadata, "recipe": f"options/release/{stage}.yml", "license": "Apache-2.0",
                    "card": "alignvar_arch/weights/README.md"}
        path = Path(folder, name)
        write_safetensors(str(path), found.state, metadata, half=True)
        print(f"{path}: {path.stat().st_size / 2 ** 20:.1f} MiB, sha256 "
              f"{hashlib.sha256(path.read_bytes()).hexdigest()}")


def piece(command: list[str], seconds: float = float("inf"), stdout: IO | None = None) -> int:
    """Run a command for so long, then let it save; return its exit code.

    A signal to this process ends the command in the same way, and is raised when it has ended. The command has a
    session of its own, so that a signal to the whole group comes to it once, from here: a second one would not let it
    save.
    """
    with terminable():
        run = subprocess.Popen(command, stdout=stdout, start_new_session=True)
        try:
            return run.wait(None if seconds == float("inf") else seconds)
        except subprocess.TimeoutExpired:
            code = end(run)
            return SAVED if code == -signal.SIGTERM else code  # it was still importing: nothing to save
        except (KeyboardInterrupt, Terminated):
            end(run)
            raise


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM, and a closed terminal's SIGHUP where it is not ignored, raise Terminated meanwhile."""
    def stop(_number, _frame):
        raise Terminated

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(run: subprocess.Popen) -> int:
    """Let a command save and end, or kill it if that takes too long or another signal comes; return its exit code."""
    run.send_signal(signal.SIGTERM)
    try:
        return run.wait(GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, Terminated):
        run.kill()
        return run.wait()


if __name__ == "__main__":
    common.run(main)
