"""`basicsr lmdb verify`."""

from pathlib import Path

from alignvar_arch import options
from alignvar_arch.cli.lmdb.flags import add_workers, resolved
from alignvar_arch.data.store import copying
from alignvar_arch.data.store import verify as examination
from alignvar_arch.data.store.verify import Subject


def verify(argv: list[str]) -> int:
    """Verifies; returns 0, or 1 if anything is wrong, also if it has been repaired.

    Raises:
        UserError: there is no LMDB, or it cannot be repaired.
    """
    args = _parser().parse_args(argv)
    path = resolved(args.path)
    pair = resolved(args.pair) if args.pair else None
    if args.repair:
        copying.finish_repair(path, pair)
    subjects = examination.verify(path, pair, workers=args.workers)
    for subject in subjects:
        _print(subject)
    if not any(subject.problems for subject in subjects):
        return 0
    if not args.repair:
        if all(subject.readable for subject in subjects):
            print("--repair drops the records that are named here, and makes the lists anew")
        return 1
    bad = sorted(set().union(*(subject.broken() for subject in subjects)))
    old = copying.repair(subjects)
    for key in bad:
        print(f"dropped {key}")
    print(f"repaired: {len(bad)} records dropped; as it was: {', '.join(map(str, old))}, to be removed by you")
    return 1


def _print(subject: Subject) -> None:
    for key, text in subject.problems:
        print(f"{subject.path}: {f'{key}: ' if key else ''}{text}")
    for note in subject.notes:
        print(f"{subject.path}: not checked: {note}")
    wrong = len(subject.problems)
    print(f"{subject.path}: {subject.checked} records, " + (f"{wrong} things wrong" if wrong else "all well"))


def _parser() -> options.Parser:
    parser = options.Parser(prog="basicsr lmdb verify", allow_abbrev=False, description="Decodes every record, "
                            "compares checksums, sizes and lists, and the pairs of GT and LR.")  # fmt: skip
    parser.add_argument("path", type=Path, metavar="NAME.lmdb", help="a store, or an LMDB that BasicSR made")
    parser.add_argument("--pair", type=Path, metavar="LQ.lmdb", help="its LR (the store that its index names)")
    parser.add_argument("--repair", action="store_true", help="drop what is broken, from both of a pair; the old "
                        "stores stay as NAME.broken.lmdb")  # fmt: skip
    add_workers(parser)
    return parser
