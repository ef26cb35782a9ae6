"""What is wrong with a store, or with a pair of them, found without trusting any of its files.

In memory: a few images a worker, and what is wrong; nothing that grows with the number of records.
"""

import os
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import codecs, index, pages
from alignvar_arch.data.store.parallel import ahead, pool
from alignvar_arch.errors import UserError
from alignvar_arch.hashing import sha256


class Problem(NamedTuple):
    """Something wrong: of a record, whose key it has, or of the store (key None)."""

    key: str | None
    text: str


class Entry(NamedTuple):
    """What the lists say about a record: its key, and its index line where there is an index."""

    key: str
    record: index.Record | None
    shape: tuple[int, ...] | None


class Subject:
    """A store under examination.

    Attributes:
        path: the folder.
        fields: of index.json; None where it is missing or damaged.
        problems: what was found so far.
        notes: what could not be checked, and why.
        checked: records looked at.
        readable: whether records can be read at all.
    """

    def __init__(self, path: Path):
        self.path = path
        self.fields = None
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.checked = 0
        self.readable = self._check_files()

    @property
    def has_records(self) -> bool:
        """Whether the index has lines about records."""
        return (self.path / index.RECORDS).exists()

    def broken(self) -> set[str]:
        """The keys of records that something is wrong with."""
        return {problem.key for problem in self.problems if problem.key is not None}

    def say(self, text: str, key: str | None = None) -> None:
        """Notes a problem."""
        self.problems.append(Problem(key, text))

    def entries(self, silent: bool = True) -> Iterator[Entry]:
        """Yields what the lists name, each line once; reports damaged or contradicting lines unless silent."""
        say = (lambda text: None) if silent else self.say
        if not self.has_records:
            for number, line in enumerate(self._lines(index.META_INFO), 1):
                entry = _from_meta_line(line)
                if entry is None:
                    say(f"line {number} of {index.META_INFO} is damaged")
                else:
                    yield entry
            return
        there = (self.path / index.META_INFO).exists()
        lists = zip_longest(self._lines(index.RECORDS), self._lines(index.META_INFO) if there else ())
        for number, (line, meta_line) in enumerate(lists, 1):
            try:
                record = index.Record.from_line(line or "")
            except ValueError:
                say(f"line {number} of {index.RECORDS} is {'damaged' if line else 'missing'}")
                continue
            if there and record.meta_line() != meta_line:
                say(f"line {number} of {index.META_INFO} is {(meta_line or '').strip()!r} and should be "
                    f"{record.meta_line().strip()!r}")  # fmt: skip
            yield Entry(record.key, record, record.shape)

    def listed(self) -> int:
        """How many records the lists name."""
        return sum(1 for _ in self._lines(index.RECORDS if self.has_records else index.META_INFO))

    def read(self, key: str, use):
        """Applies a function to a record as it lies in the map; returns None where there is none."""
        with lmdb_backend.open_shared(str(self.path)).begin(buffers=True) as transaction:
            record = transaction.get(key.encode())
            return None if record is None else use(record)

    def _lines(self, name) -> Iterator[str]:
        with (self.path / name).open(encoding="utf-8", errors="replace") as file:
            yield from file

    def _check_files(self) -> bool:
        data = self.path / index.DATA
        try:
            lmdb_backend.check(str(self.path))
        except UserError as error:
            if not data.exists():
                raise
            self.say(str(error))
            return False
        if damage := pages.damage(data):
            self.say(f"{index.DATA} is damaged beyond reading its records: {damage}; make it again")
            return False
        if not (self.path / index.META_INFO).exists():
            self.say(f"{index.META_INFO}, which lists the records for BasicSR, is missing")
            if not self.has_records:
                return False
        self._check_index()
        lmdb_backend.open_shared(str(self.path))  # here, for threads must not do so at once
        return True

    def _check_index(self):
        try:
            self.fields = index.read_index(self.path)
        except ValueError as error:
            self.say(str(error))
            return
        if self.fields is None:
            if self.has_records:
                self.say(f"{index.INDEX} is missing")
            else:
                self.notes.append(f"no {index.INDEX}, so nobody knows its records' checksums and sources: "
                                  "what decodes to the listed size is taken for whole")  # fmt: skip
            return
        for name, written in self.fields["sha256_of"].items():
            path = self.path / name
            if not path.exists():
                if name != index.META_INFO:
                    self.say(f"{name} is missing")
            elif sha256(path) != written:
                self.say(f"{name} is not as it was written")


def verify(path: Path, pair: Path | None = None, *, workers: int | None = None, bar: bool = True) -> list[Subject]:
    """Examines a store, and the other of its pair.

    Args:
        path: the store; with `pair`, the GT.
        pair: the LR store; None means the one that index.json names, if it lies beside.
        workers: threads; None means one a core.
        bar: whether to show a bar on a terminal.

    Returns:
        The stores with what is wrong with them; GT before LR.

    Raises:
        UserError: there is no LMDB.
    """
    subjects = [Subject(path)]
    if pair is None and subjects[0].fields:
        pair = _partner(subjects[0])
    if pair is not None:
        subjects.append(Subject(pair))
        if subjects[0].fields and subjects[0].fields.get("role") == "lq":
            subjects.reverse()
    count = workers or os.cpu_count()
    with pool(count) as executor:
        for subject in subjects:
            if subject.readable:
                _check_records(subject, executor, count, bar)
    if len(subjects) == 2 and all(subject.readable for subject in subjects):
        _check_pairs(*subjects)
    return subjects


def _check_records(subject: Subject, executor, workers: int, bar: bool):
    tasks = (partial(_check_record, subject, entry) for entry in subject.entries(silent=False))
    missing = 0
    with tqdm(total=subject.listed(), unit="image", desc=subject.path.name, disable=None if bar else True) as progress:
        for key, texts in ahead(executor, tasks, 2 * workers):
            subject.problems.extend(Problem(key, text) for text in texts)
            missing += texts == [_MISSING]
            subject.checked += 1
            progress.update()
    with lmdb_backend.open_shared(str(subject.path)).begin() as transaction:
        there = transaction.stat()["entries"]
        if there != subject.checked - missing:
            named = {entry.key for entry in subject.entries()}  # only now, for it costs memory
            for key in transaction.cursor().iternext(values=False):
                if key.decode(errors="replace") not in named:
                    subject.say("no list names it", key.decode(errors="replace"))


_MISSING = "it is missing"


def _check_record(subject: Subject, entry: Entry) -> tuple[str, list[str]]:
    """What is wrong with one record."""

    def check(content):
        wrong = []
        if entry.record and len(content) != entry.record.bytes:
            wrong.append(f"it has {len(content)} bytes and should have {entry.record.bytes}")
        elif entry.record and index.digest(content) != entry.record.sha256:
            wrong.append("its bytes are not as they were written")
        try:
            image = codecs.decode(content)
        except ValueError as error:
            return [*wrong, str(error)]
        wanted, found = entry.shape, image.shape
        if entry.record is None:  # meta_info.txt says 1 channel where there is none
            found = (*found, 1)[:3]
        if found != wanted or (entry.record and str(image.dtype) != entry.record.dtype):
            wrong.append(f"it is {image.dtype} {image.shape} and should be {wanted}")
        return wrong

    try:
        wrong = subject.read(entry.key, check)
    except (UserError, lmdb_backend.lmdb.Error) as error:
        wrong = [f"it cannot be read ({error})"]
    return entry.key, [_MISSING] if wrong is None else wrong


def _check_pairs(gt: Subject, lq: Subject):
    scale = (gt.fields or {}).get("scale")
    exact = scale is not None
    for entry in gt.entries():
        shapes = [_shape(subject, entry.key) for subject in (gt, lq)]
        if shapes[1] is None:
            gt.say(f"{lq.path.name} has no record of this key", entry.key)
        elif all(shapes):
            (height, width), (rows, columns) = shapes[0][:2], shapes[1][:2]
            scale = scale or max(1, round(height / rows))
            rest = height - scale * rows, width - scale * columns
            # without an index GT may be whole, as BasicSR's validation allows
            if any(rest) if exact else not all(0 <= value < scale for value in rest):
                gt.say(f"it is {width}x{height} and its LR {columns}x{rows}, which does not fit scale {scale}",
                       entry.key)  # fmt: skip
    for entry in lq.entries():
        if _shape(gt, entry.key) is None:
            lq.say(f"{gt.path.name} has no record of this key", entry.key)


def _shape(subject: Subject, key: str):
    """The size in a record's header; () where it is damaged, which has been reported, None where it is missing."""

    def shape(content):
        try:
            return codecs.shape(content)
        except ValueError:
            return ()

    return subject.read(key, shape)


def _partner(subject: Subject) -> Path | None:
    fields = subject.fields
    name = fields.get("gt" if fields.get("role") == "lq" else "lq")
    if name is None:
        return None
    if not (subject.path.parent / name).exists():
        subject.notes.append(f"{name}, the other of its pair, is not beside it: pairs were not checked")
        return None
    return subject.path.parent / name


def _from_meta_line(line: str) -> Entry | None:
    key, _, rest = line.partition(".")
    try:
        shape = tuple(int(value) for value in rest.split(" ")[1].strip("()").split(","))
    except (IndexError, ValueError):
        return None
    return Entry(key, None, shape) if key and len(shape) == 3 else None
