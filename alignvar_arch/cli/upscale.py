"""`basicsr upscale`: pictures of any size and format, in files, folders and globs, by a factor of four."""

import argparse
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from alignvar_arch import options
from alignvar_arch.archs.transformer.sampling import CHOICES
from alignvar_arch.cli.lmdb.flags import positive, resumable
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.inference import images
from alignvar_arch.inference.colour import COLOURS
from alignvar_arch.inference.finding import Job, find
from alignvar_arch.inference.memory import free, is_exhausted
from alignvar_arch.inference.upscaler import PRECISIONS, Upscaler
from alignvar_arch.output import check_file, new_file


class Failures:
    """Names what failed, on stderr, and counts it."""

    def __init__(self):
        self.count = 0

    def __call__(self, sentence: object) -> None:
        self.count += 1
        tqdm.write(f"basicsr: {sentence}", file=sys.stderr)


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Upscales; returns 0, or 1 if some pictures could not be read, upscaled or written.

    Raises:
        UserError: the model, a flag or a place is wrong; nothing has been done then.
    """
    args = _parser().parse_args(argv)
    if "/" in args.suffix:
        raise UserError(f"--suffix: {args.suffix!r} has a slash, which no name can have.")
    # What Pillow warns of is either harmless or an error that follows, and then named.
    warnings.filterwarnings("ignore", module="PIL")
    failed = Failures()
    upscaler = Upscaler.from_file(args.model, args.tokenizer, device=args.device, precision=args.precision,
                                  guidance=args.guidance, choice=args.choice, top_k=args.top_k, top_p=args.top_p,
                                  temperature=args.temperature, seed=args.seed, batch=args.batch, tile=args.tile,
                                  colour=args.colour, compile=args.compile, say=_say)  # fmt: skip
    jobs = find(args.inputs, args.output, recursive=args.recursive, failed=failed, kind=args.format,
                suffix=args.suffix)  # fmt: skip
    if not jobs and not failed.count:
        raise UserError(f"there are no pictures in {', '.join(args.inputs)} ({', '.join(images.FORMATS)}); "
                        "--recursive looks into sub-folders too.")
    waiting = [job for job in jobs if args.overwrite or not os.path.exists(job.target)]
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} results are in {args.output} already and stay; --overwrite "
              "makes them anew")  # fmt: skip
    with resumable("The same command does what is missing."):
        _upscale(upscaler, waiting, failed)
    if failed.count:
        print(f"basicsr: {failed.count} failed; the others are done.", file=sys.stderr)
    return 1 if failed.count else 0


def _upscale(upscaler: Upscaler, jobs: list[Job], failed: Failures) -> None:
    sizes = {}
    for job in jobs:
        try:
            sizes[job] = images.size(job.source)
        except UserError as error:
            failed(error)
    if not sizes:
        return
    tiles = {job: upscaler.tiles(*size) for job, size in sizes.items()}
    total = sum(tiles.values())
    needed = max(upscaler.memory(*size) for size in sizes.values())  # besides the weights, which are loaded already
    print(f"{len(sizes)} pictures, {total} tiles, {upscaler.at_once(total)} at once; the largest needs about "
          f"{_amount(needed)} more, {_amount(free(upscaler.device))} are free on {upscaler.device}")
    # Each tile counts twice, predicted and decoded, so that the bar is not full before a picture is decoded.
    with tqdm(total=2 * total, unit="step", disable=None) as bar:
        for number, (job, (height, width)) in enumerate(sizes.items(), 1):
            bar.set_description(f"{number}/{len(sizes)} {job.source.name}")
            begun = bar.n
            try:
                _upscale_one(upscaler, job, height, width, bar)
            except UserError as error:
                failed(error)
                bar.total -= 2 * tiles[job] - (bar.n - begun)
            bar.set_postfix_str("")


def _upscale_one(upscaler: Upscaler, job: Job, height: int, width: int, bar: tqdm) -> None:
    """Upscales one picture.

    Raises:
        UserError: it cannot be read, is too large for its format or for memory, or cannot be written.
    """
    kind = images.FORMATS[job.target.suffix.lower()]
    problem = images.too_large(kind, height * upscaler.scale, width * upscaler.scale)
    if problem:
        raise UserError(f"cannot write {job.target}: {problem}; choose --format png.")
    needed, left = upscaler.memory(height, width), free(upscaler.device)
    if needed > left:
        raise UserError(f"cannot upscale {job.source}: {width}x{height} needs about {_amount(needed)} of memory, and "
                        f"{_amount(left)} are free; cut it.")
    # The file itself is opened last: what kills this process while it computes leaves nothing.
    check_file(job.target)
    begun, tiles = bar.n, upscaler.tiles(height, width)

    def count(done: int) -> None:
        bar.update(done)
        if bar.n == begun + tiles:
            bar.set_postfix_str("decoding")

    try:
        picture = images.read(job.source)
        pixels = upscaler(picture.pixels, count, _say_less)
        content = images.encode(images.Picture(pixels, picture.icc), kind)
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise UserError(f"cannot upscale {job.source}: there is not enough memory for {width}x{height}.") from error
    with new_file(job.target) as file:
        file.write(content)
    bar.update(tiles)
    bar.write(f"{job.target}: {pixels.shape[1]}x{pixels.shape[0]}")


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _say_less(less: str) -> None:
    _say(f"memory ran out; going on with {less}")


def _say(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr upscale", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, globs")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER",
                        help="where the results go; for one picture also a FILE.png")
    parser.add_argument("--recursive", action="store_true", help="take sub-folders too, and keep them in the results")
    parser.add_argument("--format", choices=["same", "png", "jpg", "webp", "tiff", "bmp"], default="same",
                        help="of the results (same); jpg, webp and bmp have 8 bits, and in jpg white shows through")
    parser.add_argument("--suffix", default="_x4", help="behind the names of the results (_x4)")
    parser.add_argument("--overwrite", action="store_true", help="make results that are there already anew")
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="FILE", help="a transformer, .safetensors or .pth (the one that ships)")
    model.add_argument("--tokenizer", metavar="FILE", help="the tokenizer it was trained on (the one that ships)")
    model.add_argument("--guidance", type=float, default=0.0, metavar="X",
                       help="away from bad quality, for models trained to (0, none)")  # fmt: skip
    model.add_argument("--choice", choices=CHOICES, default="expected",
                       help="tokens: the expected code, or a sample by the next three (expected)")
    model.add_argument("--top_k", type=int, default=1, metavar="N", help="codes to choose among; 0 is all (1, greedy)")
    model.add_argument("--top_p", type=float, default=1.0, metavar="X", help="share of the likeliest codes (1)")
    model.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of the choice (1)")
    model.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (0)")
    model.add_argument("--colour", choices=COLOURS, default="off", help="give results the pictures' colours (off)")
    work = parser.add_argument_group("work")
    work.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    work.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the computation (fp32)")
    work.add_argument("--batch", type=_auto, metavar="auto|N",
                      help="most tiles at once (auto: what fits into memory; one with --compile)")
    work.add_argument("--compile", action="store_true",
                      help="compile the networks first, which takes minutes; for GPUs, on a CPU it hardly pays")
    work.add_argument("--tile", type=_auto, metavar="auto|N",
                      help="side in pixels of the pieces that results are decoded in (auto: what fits into memory)")
    return parser


def _auto(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.lstrip("+-").isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r}, but must be auto or a number")
    return positive(text)
