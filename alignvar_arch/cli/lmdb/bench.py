"""`basicsr lmdb bench`."""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

from basicsr.utils import get_root_logger

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import positive, resolved
from alignvar_arch.cli.pipeline import close_logger
from alignvar_arch.errors import UserError
from alignvar_arch.speed import bench as measurement
from alignvar_arch.speed import report, training


def bench(argv: list[str]) -> int:
    """Measures a store, prints the tables and returns 0.

    Raises:
        UserError: see speed.bench.run; or a file cannot be written.
    """
    args = _parser().parse_args(argv)
    for flag, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise UserError(f"{flag}: {path} cannot be written; name a file in a folder that is there.")
    logging.getLogger("basicsr").addHandler(logging.NullHandler())
    get_root_logger(log_level=logging.WARNING)
    try:
        opt = None if args.opt is None else training.read(str(args.opt))
        with tempfile.TemporaryDirectory(prefix="basicsr-bench-") as folder:
            found = measurement.run(
                resolved(args.path), Path(folder), pair=resolved(args.pair) if args.pair else None, opt=opt,
                workers=sorted(set(args.workers)), limit=args.limit, batch=args.batch, gt_size=args.gt_size,
                seconds=args.seconds, rounds=args.rounds, say=lambda line: print(f"… {line}", file=sys.stderr),
            )  # fmt: skip
    finally:
        close_logger()
    print(report.text(found))
    try:
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if args.plot is not None:
            from alignvar_arch.speed import plot  # matplotlib takes a second to import

            plot.draw(found, args.plot)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written ({error.strerror}).") from error
    return 0


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr lmdb bench", allow_abbrev=False, description="Measures a store against a "
                            "folder of PNGs and an LMDB of BasicSR's, which it makes of the store's records in a "
                            "temporary folder ($TMPDIR).")  # fmt: skip
    parser.add_argument("path", type=Path, metavar="NAME.lmdb", help="GT's store, or a folder of photographs, of which "
                        "it makes sub-images of 320x320 and their LR first")  # fmt: skip
    parser.add_argument("--pair", type=Path, metavar="LQ.lmdb", help="its LR (the store that its index names)")
    parser.add_argument("--opt", type=Path, metavar="FILE", help="options of a training: its step is measured too, and "
                        "whether the loader keeps up")  # fmt: skip
    parser.add_argument("--workers", type=_workers, nargs="+", default=[0, 2], metavar="N", help="of loaders (0 2)")
    parser.add_argument("--limit", type=positive, default=256, metavar="N", help="pairs at most, evenly chosen (256)")
    parser.add_argument("--batch", type=positive, default=16, metavar="N", help="of loaders (16)")
    parser.add_argument("--gt-size", type=positive, metavar="N", help="side of crops (192, or what fits)")
    parser.add_argument("--seconds", type=_seconds, default=1.0, metavar="S", help="a measurement (1)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="of what is compared, in turn (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them")
    return parser


def _workers(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"is {value}, but must be at least 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {value}, but must be more than 0")
    return value
