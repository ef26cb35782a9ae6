"""`basicsr lmdb tokens`."""

import shlex
import sys
from pathlib import Path

import torch

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import open_store, positive, resolved, resumable
from alignvar_arch.data.store import token_maker
from alignvar_arch.errors import UserError


def tokens(argv: list[str]) -> int:
    """Makes a token cache; returns 0.

    Raises:
        UserError: see store.token_maker.create.
    """
    args = _parser().parse_args(argv)
    cuda = torch.cuda.is_available() if args.device == "auto" else args.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use cpu.")
    gt, output = open_store(args.path), resolved(args.output)
    lq = open_store(args.pair) if args.pair else None
    with resumable("repeat the command to go on where it stopped."):
        done = token_maker.create(gt, lq, args.tokenizer, output, batch=args.batch, device="cuda" if cuda else "cpu",
                                  command=shlex.join(["basicsr", "lmdb", "tokens", *argv]))  # fmt: skip
    if done:
        print(f"{output}: went on behind {done} of {len(gt)} crops of an interrupted run", file=sys.stderr)
    print(f"{output}: token maps of {len(gt)} crops")
    return 0


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr lmdb tokens", allow_abbrev=False, description="Encodes every crop of a store "
                            "into token maps, for training on fixed crops. Interrupted, the same command goes on where "
                            "it stopped.")  # fmt: skip
    parser.add_argument("path", type=Path, metavar="NAME.lmdb", help="GT crops of the tokenizer's picture side")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="a tokenizer's weights, with metadata")
    parser.add_argument("-o", dest="output", required=True, type=Path, metavar="NAME_tokens.lmdb", help="the cache")
    parser.add_argument("--pair", type=Path, metavar="LQ.lmdb",
                        help="their LR, for a residual target (the store that the index names)")  # fmt: skip
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="crops at once (8)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the tokenizer runs")
    return parser
