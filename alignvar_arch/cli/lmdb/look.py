"""`basicsr lmdb info` and `stats`."""

import json
from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import add_workers, open_store
from alignvar_arch.data.store import summary


def info(argv: list[str]) -> int:
    """Prints what the lists say about a store."""
    args = _parser("info", "What a store holds and what it was made from.").parse_args(argv)
    fields = summary.info(open_store(args.path))
    if args.json:
        print(json.dumps(fields, indent=1))
        return 0
    for name, value in fields.items():
        if name == "sizes":
            value = ", ".join(f"{count} of {width}x{height}" for width, height, count in value)
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name:15} {'unknown' if value is None else value}")
    return 0


def stats(argv: list[str]) -> int:
    """Prints figures over all pixels of a store."""
    parser = _parser("stats", "Mean and standard deviation of R, G and B over all pixels, in [0, 1], and the sizes.")
    add_workers(parser)
    args = parser.parse_args(argv)
    found = summary.stats(open_store(args.path), args.workers)
    sizes = sorted(found.sizes.items())
    if args.json:
        print(json.dumps({**found._asdict(), "sizes": [[*size, count] for size, count in sizes]}, indent=1))
        return 0
    print(f"images {found.images}")
    for name in ("mean", "std"):
        print(f"{name:6} " + "  ".join(f"{value:.6f}" for value in getattr(found, name)))
    for (width, height), count in sizes:
        print(f"{count:6} x {width}x{height}")
    return 0


def _parser(command: str, description: str) -> options.Parser:
    parser = options.Parser(prog=f"basicsr lmdb {command}", allow_abbrev=False, description=description)
    parser.add_argument("path", type=Path, metavar="NAME.lmdb")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser
