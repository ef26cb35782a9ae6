"""`basicsr diagnose`: what AlignVAR claims, made visible for given images, as PNG and JSON."""

import argparse
import os
import sys

from basicsr.utils import get_root_logger

from alignvar_arch import options
from alignvar_arch.cli.pipeline import close_logger
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.output import check_free, new_folder


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Diagnoses; returns 0, or 1 if some images could not be used.

    Raises:
        UserError: for whatever is wrong with flags, options or the output folder; nothing has been made by then.
    """
    args = _parser().parse_args(argv)
    if not 0 < args.plant <= 100:
        raise UserError(f"--plant: is {args.plant:g}, but must be above 0 and at most 100 %.")
    if args.limit < 1:
        raise UserError(f"--limit: is {args.limit}, but must be at least 1.")
    if len(set(args.opt)) < len(args.opt):
        raise UserError("-opt: one file is named twice; name every model once.")
    # Here, because matplotlib takes a second that other commands need not wait for.
    from alignvar_arch.diagnose import report, subjects
    from alignvar_arch.diagnose.tiles import Tiles
    from alignvar_arch.options.datasets import Builder

    check_free(args.output)
    opts = {file: _validated(args, file) for file in args.opt}
    close_logger()
    get_root_logger().setLevel("WARNING")
    try:
        tokenizer, found = subjects.build(opts)
        first = opts[args.opt[0]]
        tiles = Tiles(Builder(first).datasets.values(), first["scale"], tokenizer.image_side // first["scale"],
                      args.limit)
        with new_folder(args.output) as folder:
            report.write(tiles, tokenizer, found, args.plant, folder)
    finally:
        close_logger()
    print(f"{args.output}: begin with diagnose.md")
    if tiles.failed:
        print(f"basicsr: {len(tiles.failed)} of {len(tiles)} images could not be used; the others are done.",
              file=sys.stderr)  # fmt: skip
    return 1 if tiles.failed else 0


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr diagnose", description=__doc__, allow_abbrev=False)
    parser.add_argument("-opt", required=True, nargs="+", metavar="FILE",
                        help="test options of AlignVARModel; the first file's test sets are used")  # fmt: skip
    parser.add_argument("-o", dest="output", default="diagnose", metavar="FOLDER", help="new folder (diagnose)")
    parser.add_argument("--limit", type=int, default=8, metavar="N", help="images of each test set (8)")
    parser.add_argument("--plant", type=float, default=10.0, metavar="PERCENT",
                        help="tokens of a scale to exchange for codebook neighbours (10)")  # fmt: skip
    parser.add_argument("--sets", nargs="+", action="extend", metavar="NAME=HR[,LR]",
                        help="diagnose on these folders or LMDBs; without LR it is made, bicubic")  # fmt: skip
    parser.add_argument("--force_yml", nargs="+", metavar="KEY:KEY=VALUE", help="replace values in every file")
    return parser


def _validated(args: argparse.Namespace, file: str) -> dict:
    single = argparse.Namespace(opt=file, force_yml=args.force_yml, sets=args.sets, weights=None, auto_resume=False,
                                launcher="none", debug=False)
    return options.validated(single, os.getcwd(), is_train=False)[0]
