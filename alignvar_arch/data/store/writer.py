"""StoreWriter: one store being written, under a temporary name until it is whole.

`.NAME.lmdb.part` beside the final name holds data.mdb, records.jsonl (flushed before each commit, hence never behind
data.mdb) and plan.json, which says what is being made. After a kill, or a power cut, a writer with the same plan goes
on behind the last commit.
"""

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

import lmdb

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import index
from alignvar_arch.errors import UserError

PLAN, LOCK = "plan.json", "lock"
_FIRST_MAP = 1 << 26
_COMMIT_BYTES = 1 << 26  # what a kill costs at most, and what waits in memory


class StoreWriter:
    """Fills a store; close it in any case, `finish` and `publish` it when everything is in it.

    Args:
        path: the final folder, ending in .lmdb.
        plan: JSON-able; what is made, of what. A temporary folder with the same plan is resumed.

    Attributes:
        count: records that are committed or wait to be.
        resumed: whether a temporary folder was found.

    Raises:
        UserError: another process is writing it, the temporary folder is of another plan, or the disk does not let us.
    """

    def __init__(self, path: Path, plan: dict):
        self.path = path
        self.part = part_of(path)
        self._env = self._lines = self._lock = None
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = self.count = 0
        with self.writing():
            self.part.mkdir(parents=True, exist_ok=True)
            self._lock = (self.part / LOCK).open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.close()
                raise UserError(f"{path} is being written by another process; wait for it.") from error
            try:
                self._open(plan)
            except BaseException:
                self.close()
                raise

    def put(self, record: index.Record, content: bytes) -> None:
        """Adds a record; it is safe after the next commit.

        Raises:
            UserError: see commit.
        """
        with self.writing():
            self._lines.write(record.to_line())
        self._pending.append((record.key.encode(), content))  # not all that others made are ASCII
        self._pending_bytes += len(content)
        self.count += 1

    @property
    def full(self) -> bool:
        """Whether it is time to commit: at the end of a source, so that none is committed by half."""
        return self._pending_bytes >= _COMMIT_BYTES

    def commit(self) -> None:
        """Writes what waits, all of it or nothing, and waits until the disk has it.

        Raises:
            UserError: the disk is full or does not let us.
        """
        with self.writing():
            self._lines.flush()
            os.fsync(self._lines.fileno())
            while not self._fits():
                self._env.set_mapsize(2 * self._env.info()["map_size"] + self._pending_bytes)
        self._pending, self._pending_bytes = [], 0

    def rollback(self, count: int) -> index.Record | None:
        """Forgets every record behind the first `count`, as far as they got: in data.mdb, or in the list only.

        Returns:
            The last record that stays; None where none does.
        """
        last, end = None, 0
        with self.writing():
            with (self.part / index.RECORDS).open("rb") as file, self._env.begin(write=True) as transaction:
                for number, line in enumerate(file):
                    if number < count:
                        last, end = line, end + len(line)
                    elif line.endswith(b"\n"):  # what was cut short had not been committed
                        transaction.delete(index.Record.from_line(line.decode("ascii")).key.encode())
            self._lines.truncate(end)
            self._lines.seek(end)
        self.count = count
        return index.Record.from_line(last.decode("ascii")) if last else None

    def finish(self, fields: dict) -> None:
        """Commits, and writes meta_info.txt and index.json; then only the name is missing.

        Args:
            fields: for index.json.
        """
        self.commit()
        with self.writing():
            total = 0
            with (self.part / index.RECORDS).open(encoding="ascii") as lines, \
                    (self.part / index.META_INFO).open("w", encoding="utf-8") as meta_info:  # fmt: skip
                for line in lines:
                    record = index.Record.from_line(line)
                    total += record.bytes
                    meta_info.write(record.meta_line())
                meta_info.flush()
                os.fsync(meta_info.fileno())  # a store with a name has its list, power cut or not
            index.write_index(self.part, {**fields, "records": self.count, "bytes": total})

    def publish(self) -> None:
        """Gives the store its name, which must be free, and ends the writing."""
        with self.writing():
            publish(self.path)
        self.close()

    def close(self) -> None:
        """Leaves the temporary folder as it is, to be resumed; what was not committed is lost."""
        for resource in (self._env, self._lines, self._lock):
            if resource is not None:
                with contextlib.suppress(OSError):  # a full disk, of which commit has told
                    resource.close()

    @contextlib.contextmanager
    def writing(self):
        """Turns what a disk can do to a writer into the user's sentence."""
        try:
            yield
        except (OSError, lmdb.Error) as error:
            raise UserError(f"{self.path} cannot be written ({error}): make room or choose another place; the same "
                            "command then goes on where it stopped.") from error  # fmt: skip

    def _open(self, plan):
        found = read_plan(self.path)
        if found is not None and found != plan:
            raise UserError(f"{self.part} is what an interrupted command has left, made from other sources or with "
                            f"other flags ({_difference(found, plan)}); repeat that command, or remove the folder."
                            )  # fmt: skip
        self.resumed = found is not None
        if not self.resumed:
            for name in (index.DATA, index.RECORDS, index.META_INFO):
                (self.part / name).unlink(missing_ok=True)
            _write_plan(self.part, plan)
        (self.part / index.INDEX).unlink(missing_ok=True)  # it says that the store is whole
        data = self.part / index.DATA
        if data.exists():
            lmdb_backend.check(str(self.part))
        # forgetting needs room too, and lmdb's map of a file that is there has none to spare
        room = _FIRST_MAP + (data.stat().st_size if data.exists() else 0)
        # nobody else opens it, for we have the lock
        self._env = lmdb.open(str(self.part), map_size=room, lock=False, readahead=False)
        self._lines = (self.part / index.RECORDS).open("a", encoding="ascii")
        self.count = self._env.stat()["entries"]

    def _fits(self):
        try:
            with self._env.begin(write=True) as transaction:
                for key, content in self._pending:
                    transaction.put(key, content)
        except lmdb.MapFullError:
            return False
        return True


def part_of(path: Path) -> Path:
    """The temporary folder of a store."""
    return path.parent / f".{path.name}.part"


def read_plan(path: Path) -> dict | None:
    """The plan of the store's temporary folder; None where there is nothing to resume.

    Raises:
        UserError: the disk does not let us look.
    """
    try:
        return json.loads((part_of(path) / PLAN).read_text(encoding="ascii"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UserError(f"-o: {path} cannot be written ({error.strerror}); choose another name or place.") from error


def is_finished(path: Path) -> bool:
    """Whether the store's temporary folder only lacks its name."""
    return read_plan(path) is not None and (part_of(path) / index.INDEX).exists()


def publish(path: Path) -> None:
    """Renames a finished temporary folder."""
    os.rename(part_of(path), path)
    for name in (PLAN, LOCK):
        (path / name).unlink(missing_ok=True)


def was_finished(paths: list[Path], plans: list[dict]) -> bool:
    """Whether an interrupted run had only to give names, to the last path last; gives those that are missing."""
    if not is_finished(paths[-1]) or read_plan(paths[-1]) != plans[-1]:
        return False
    for path in paths:
        if is_finished(path):
            check_free(path)
            publish(path)
    return True


def discard(path: Path) -> None:
    """Removes a temporary folder."""
    shutil.rmtree(part_of(path))


def check_free(path: Path) -> None:
    """Raises UserError where a store cannot get this name."""
    if path.suffix != ".lmdb" or path.name == ".lmdb":
        raise UserError(f"-o: {path} must end in .lmdb, as BasicSR asks of an LMDB.")
    if os.path.lexists(path):
        raise UserError(f"-o: {path} exists already and is never replaced; remove it or choose another name.")


def _write_plan(part, plan):
    temporary = part / f"{PLAN}.part"
    temporary.write_text(json.dumps(plan), encoding="ascii")
    temporary.rename(part / PLAN)


def _difference(found, wanted):
    name = next(name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name))
    return f"{name}: {found.get(name)} there, {wanted.get(name)} here"


