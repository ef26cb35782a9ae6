"""`basicsr lmdb create`."""

import os
import shlex
import sys
from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import add_workers, resolved, resumable
from alignvar_arch.data.store import codecs, maker, presets, sources
from alignvar_arch.errors import UserError


def create(argv: list[str]) -> int:
    """Makes a store; returns 0, or 1 if some images could not be used.

    Raises:
        UserError: see store.sources.find and store.maker.create.
    """
    args = _parser().parse_args(argv)
    if args.preset:
        return _create_preset(args, argv)
    if args.any_count:
        raise UserError("--any-count is for --preset, which knows a count; leave it out.")
    if args.lq and args.lq_scale is None:
        raise UserError("--lq needs --lq-scale, the factor between GT and LR.")
    recipe = maker.Recipe(codec=args.codec, crop=args.crop, step=args.step, thresh=args.thresh, centre=args.centre,
                          scale=args.lq_scale)  # fmt: skip
    found = sources.find(args.sources, args.keys)
    if args.lq:
        found = sources.with_lq(found, args.lq, args.keys)
    return make(found, recipe, args, [*args.sources, *(args.lq or ())], argv)


def _create_preset(args, argv: list[str]) -> int:
    if args.lq or args.keys != sources.KEYS[0]:
        raise UserError(f"--preset {args.preset} finds LR and keys by itself; leave --lq and --keys out.")
    fields = presets.get(args.preset).recipe
    if args.crop is not None or args.centre:
        fields["step"] = None  # it belongs to the preset's own crop
    given = {"crop": args.crop, "step": args.step, "centre": args.centre or None, "scale": args.lq_scale}
    fields.update({name: value for name, value in given.items() if value is not None})
    recipe = maker.Recipe(codec=args.codec, thresh=args.thresh, **fields)
    found = presets.find(args.preset, args.sources, args.any_count)
    return make(found, recipe, args, [f"preset {args.preset}", *args.sources], argv)


def make(found: list[sources.Source], recipe: maker.Recipe, args, made_from: list[str], argv: list[str]) -> int:
    """Runs the maker and says what it did.

    Args:
        found: the images.
        recipe: what to do with them.
        args: parsed, with `output` and `workers`.
        made_from: what index.json says about the sources.
        argv: the command's arguments, for index.json.
    """
    with resumable("repeat the command to go on where it stopped."):
        made = maker.create(found, recipe, resolved(args.output), made_from=made_from,
                            command=shlex.join(["basicsr", "lmdb", "create", *argv]), workers=args.workers)  # fmt: skip
    for file, reason in made.failed:
        print(f"basicsr: {file}: {reason}.", file=sys.stderr)
    if made.resumed:
        print(f"{made.paths[0]}: went on behind {made.resumed} of {len(found)} images of an interrupted run")
    for path in made.paths:
        size = os.stat(path / "data.mdb").st_size / 2**20
        print(f"{path}: {made.records} records of {len(found) - len(made.failed)} images, {size:.1f} MiB")
    if made.failed:
        print(f"basicsr: {len(made.failed)} of {len(found)} images could not be used; the others are in.",
              file=sys.stderr)  # fmt: skip
    return 1 if made.failed else 0


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr lmdb create", allow_abbrev=False, description="Makes a store of images, and "
                            "with --lq-scale another of their LR beside it. Interrupted, the same command goes on "
                            "where it stopped.")  # fmt: skip
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders with their sub-folders, images, globs")
    parser.add_argument("-o", dest="output", required=True, type=Path, metavar="NAME.lmdb", help="the GT store")
    parser.add_argument("--preset", metavar="NAME", help=f"SOURCE is an unpacked {', '.join(presets.PRESETS)}: what is "
                        "taken, LR and sub-images are as in datasets/README.md, unless other flags say otherwise")
    parser.add_argument("--any-count", action="store_true", help="take a preset's images, however many are there")
    parser.add_argument("--codec", choices=codecs.CODECS, default=codecs.DEFAULT,
                        help=f"how records are stored; all but {', '.join(codecs.LOSSY)} are lossless "
                        f"({codecs.DEFAULT})")  # fmt: skip
    parser.add_argument("--crop", type=int, metavar="N", help="cut square sub-images of this side")
    parser.add_argument("--step", type=int, metavar="N", help="distance between sub-images (that of --crop)")
    parser.add_argument("--thresh", type=int, default=0, metavar="N",
                        help="no last sub-image at the edge for this many pixels or fewer (0)")  # fmt: skip
    parser.add_argument("--centre", action="store_true", help="take only the sub-image in the middle")
    parser.add_argument("--lq-scale", type=int, metavar="N",
                        help="make NAME_lq_xN.lmdb too: LR by MATLAB's bicubic, GT cut to a multiple")  # fmt: skip
    parser.add_argument("--lq", nargs="+", metavar="SOURCE", help="take LR from here, by equal names, and make none")
    parser.add_argument("--keys", choices=sources.KEYS, default="relative",
                        help="keys are paths in the named folder, or in all sources' common one (relative)"
                        )  # fmt: skip
    add_workers(parser)
    return parser
