"""Stores made from stores: without their broken records, or several in one. Records are copied as they are."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import codecs, index, keys, maker, writer
from alignvar_arch.data.store.reader import Store
from alignvar_arch.data.store.verify import Subject
from alignvar_arch.data.store.writer import StoreWriter
from alignvar_arch.errors import UserError
from alignvar_arch.version import __version__

_UNKNOWN = {"version": __version__, "command": "", "made_from": [], "codec": None, "scale": None, "role": None,
            "gt": None, "lq": None, "failed": []}  # fmt: skip
_REPAIR = "repair of"  # in a plan


def repair(subjects: list[Subject]) -> list[Path]:
    """Replaces stores by copies without the records that something is wrong with, and with lists made anew.

    A pair loses a record on both sides. The old stores stay, as NAME.broken.lmdb. When interrupted, the stores are as
    before, or the next repair ends it.

    Args:
        subjects: what `verify` has returned.

    Returns:
        Where the old stores are now; none where nothing was wrong.

    Raises:
        UserError: a store's records cannot be read at all, none would be left, or the disk is full.
    """
    for subject in subjects:
        if not subject.readable:
            raise UserError(f"{subject.path} cannot be repaired ({subject.problems[-1].text}).")
    bad = set().union(*(subject.broken() for subject in subjects))
    wanted = [subject for subject in subjects if bad or subject.problems]
    old = [_broken(subject.path) for subject in wanted]
    for path in filter(os.path.lexists, old):
        raise UserError(f"{path} is there from an earlier repair; remove it first.")
    pair = dict(zip(("gt", "lq"), (subject.path.name for subject in subjects), strict=False)) if subjects[1:] else {}
    for subject in wanted:
        role = {**pair, "role": "gt" if subject is subjects[0] else "lq"} if pair else {}
        fields = {**_UNKNOWN, **role, **(subject.fields or {})}
        records = (found for entry in subject.entries() if entry.key not in bad
                   for found in [_copied(subject.path, entry.key, entry.record)])  # fmt: skip
        with contextlib.closing(_filled(subject.path, {_REPAIR: subject.path.name}, records, 0)) as store:
            if not store.count:
                writer.discard(subject.path)
                raise UserError(f"{subject.path}: no whole record is left; make it again.")
            store.finish(fields)
    for subject, path in zip(wanted, old, strict=True):
        os.rename(subject.path, path)
    for subject in wanted[::-1]:
        writer.publish(subject.path)
    return old


def finish_repair(path: Path, pair: Path | None = None) -> None:
    """Ends a repair that a kill has left between the renaming of the first old store and that of the last new one.

    Args:
        path: a store.
        pair: the other of its pair; None means the one that an index names.
    """
    pair = pair or _named_partner(path)
    new = [store for store in (path, pair) if store is not None and _REPAIR in (writer.read_plan(store) or {})
           and writer.is_finished(store)]  # fmt: skip
    if all(store.exists() for store in new):  # none was renamed
        return
    for store in filter(Path.exists, new):
        os.rename(store, _broken(store))
    for store in new:
        writer.publish(store)


def _broken(path: Path) -> Path:
    return path.with_name(f"{path.stem}.broken.lmdb")


def _named_partner(path: Path) -> Path | None:
    for folder in (writer.part_of(path), path):
        try:
            fields = index.read_index(folder) or {}
        except (OSError, ValueError):
            continue
        name = fields.get("gt" if fields.get("role") == "lq" else "lq")
        if name:
            return path.parent / name
    return None


def merge(paths: list[Path], output: Path, prefix: bool = False, command: str = "") -> list[tuple[Path, int]]:
    """Copies the records of several stores into one, and those of their LR stores into one beside it.

    Args:
        paths: the stores; where each is a GT whose LR store lies beside it, these are merged too.
        output: the new store, ending in .lmdb.
        prefix: begin every key with the name of the store that it comes from.
        command: what index.json says about the command.

    Returns:
        The new stores with their numbers of records, GT first.

    Raises:
        UserError: a store cannot be read, a record is damaged, keys are equal, scales differ, some have LR and some
            have none, or the disk is full. The same call goes on where an interrupted one stopped.
    """
    stores = [Store(path) for path in paths]
    prefixes = [keys.from_name(store.path.stem) + "/" if prefix else "" for store in stores]
    lq = [_lq_of(store) for store in stores]
    scales = {store.index["scale"] for store, other in zip(stores, lq, strict=True) if other}
    if len(scales) > 1 or (scales and not all(lq)):
        raise UserError("the stores cannot be merged: "
                        + (f"their scales are {', '.join(map(str, sorted(scales)))}" if len(scales) > 1 else
                           "some have an LR store beside them, others have none") + ".")  # fmt: skip
    jobs = [(output, stores, "gt" if scales else None)]
    if scales:
        jobs.insert(0, (maker.lq_path(output, *scales), lq, "lq"))
    outputs = [path for path, _, _ in jobs]
    plans = [{"merge of": [str(part.path.absolute()) for part in parts], "prefixes": prefixes,
              "sources": [part.path.joinpath(index.DATA).stat().st_mtime_ns for part in parts]}
             for _, parts, _ in jobs]  # fmt: skip
    if writer.was_finished(outputs, plans):
        return [(path, index.read_index(path)["records"]) for path in outputs[::-1]]
    for path in outputs:
        writer.check_free(path)
    with ExitStack() as stack:
        writers = []
        for (path, parts, role), plan in zip(jobs, plans, strict=True):
            _check_keys(parts, prefixes)
            store = stack.enter_context(contextlib.closing(_filled(path, plan, _joined(parts, prefixes), None)))
            fields = {**_UNKNOWN, "command": command, "made_from": [str(part.path) for part in parts], "role": role,
                      "codec": _common(parts, "codec"), "lossless": _common(parts, "lossless"),
                      "scale": next(iter(scales), None), "gt": jobs[-1][0].name,
                      "lq": jobs[0][0].name if scales else None}  # fmt: skip
            store.finish(fields)
            writers.append(store)
        for store in writers:
            store.publish()
        return [(store.path, store.count) for store in writers[::-1]]


def _filled(path: Path, plan: dict, records: Iterator[tuple[index.Record, bytes]], first: int | None) -> StoreWriter:
    """A writer with every record committed; `first` records are taken to be there (None: those that are)."""
    store = StoreWriter(path, plan)
    try:
        done = store.count if first is None else first
        store.rollback(done)
        for number, (record, content) in enumerate(records):
            if number < done:
                continue
            store.put(record, content)
            if store.full:
                store.commit()
        store.commit()
    except BaseException:
        store.close()
        raise
    return store


def _joined(stores: list[Store], prefixes: list[str]) -> Iterator[tuple[index.Record, bytes]]:
    for store, prefix in zip(stores, prefixes, strict=True):
        listed = store.records() if store.index else ((key, None) for key, _ in store.meta_info())
        for record in listed:
            key, record = (record.key, record) if isinstance(record, index.Record) else record
            found, content = _copied(store.path, key, record)
            keys.check(prefix + key)
            yield found._replace(key=prefix + key), content


def _copied(path: Path, key: str, record: index.Record | None) -> tuple[index.Record, bytes]:
    """A record's bytes, and its index line: checked against them, or made from them where there is none."""
    content = lmdb_backend.read(str(path), key)
    if content is None:
        raise UserError(f"{path} has no key {key!r}; run `basicsr lmdb verify --repair {path}` first.")
    checksum = index.digest(content)
    if record is None:
        try:
            image = codecs.decode(content)
        except ValueError as error:
            raise UserError(f"{path}: the record of {key!r} cannot be used: {error}.") from error
        record = index.Record(key, image.shape, str(image.dtype), len(content), checksum, "")
    elif checksum != record.sha256:
        raise UserError(f"{path}: the record of {key!r} is damaged; run `basicsr lmdb verify --repair {path}` first.")
    return record, content


def _check_keys(stores: list[Store], prefixes: list[str]) -> None:
    """Refuses stores that hold one key twice."""
    if any(prefixes) and len(set(prefixes)) == len(prefixes):
        return
    seen: dict[str, Path] = {}
    for store, prefix in zip(stores, prefixes, strict=True):
        for key in store.keys:
            if prefix + key in seen:
                raise UserError(f"{seen[prefix + key]} and {store.path} both hold the key {key}; give --prefix to "
                                "begin every key with its store's name, rename a store, or name it once.")  # fmt: skip
            seen[prefix + key] = store.path


def _lq_of(store: Store) -> Store | None:
    name = store.index.get("lq") if store.index and store.index.get("role") == "gt" else None
    path = store.path.parent / name if name else None
    return Store(path) if path and path.exists() else None


def _common(stores, name):
    found = {(store.index or {}).get(name) for store in stores}
    return found.pop() if len(found) == 1 else None
