"""Pictures in files, folders and globs, and the names of what is made of them."""
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alignvar_arch.errors import UserError
from alignvar_arch.inference.images import FORMATS


class Job(NamedTuple):
    """A picture's file, and the file to be made of it."""

    source: Path
    target: Path


def find(places: list[str], output: Path, *, recursive: bool, suffix: str, kind: str,
         failed: Callable[[str], None]) -> list[Job]:
    """Lists what is to be done, in the order of the names in each place.

    In folders, files without a picture's suffix and hidden ones are passed over, and the output folder too; what a glob
    finds there as well, so that the same command can be given again.

    Args:
        places: files, folders or globs (`**` means any depth).
        output: the folder of the results; sub-folders of a folder among the places are kept in it. Or, where the only
            place is a file, the name of the result, which then tells its format.
        recursive: whether folders are taken with their sub-folders.
        suffix: what a result's name has behind the source's, before the dot.
        kind: the results' format, png, jpg, webp, tiff or bmp, or same.
        failed: gets a sentence for every folder that cannot be read and every file whose format is not plain.

    Raises:
        UserError: a place is missing, the output folder is among the places, a result would replace another or a
            source, or one name is given for several results.
    """
    if output.suffix.lower() in FORMATS and not output.is_dir():
        return [_named(places, output, kind)]
    jobs: dict[Path, Job] = {}
    for place in places:
        for root in _expanded(place, output):
            if root.is_dir() and os.path.realpath(root) == os.path.realpath(output):
                raise UserError(f"-o: {output} is also a folder of pictures to be upscaled; name another.")
            for path in _pictures(root, recursive, output, failed) if root.is_dir() else [root]:
                ending = path.suffix if kind == "same" else f".{kind}"
                if ending.lower() not in FORMATS:
                    failed(f"cannot upscale {path}: its name tells no format ({', '.join(FORMATS)}); choose --format.")
                    continue
                name = path.relative_to(root if root.is_dir() else root.parent)
                job = Job(path, output / name.with_name(f"{path.stem}{suffix}{ending}"))
                other = jobs.setdefault(job.target, job)
                if os.path.realpath(other.source) != os.path.realpath(path):
                    raise UserError(f"{other.source} and {path} would both become {job.target}; rename one, or upscale "
                                    "them into two folders.")
    sources = {os.path.realpath(job.source) for job in jobs.values()}
    for job in jobs.values():
        if os.path.realpath(job.target) in sources:
            raise UserError(f"{job.target} is itself a picture to be upscaled; name another folder with -o, or another "
                            "--suffix.")
    return list(jobs.values())


def _named(places: list[str], output: Path, kind: str) -> Job:
    sources = [path for place in places for path in _expanded(place, output)]
    if len(sources) > 1 or sources[0].is_dir():
        raise UserError(f"-o: {output} is one picture's name, and more than one may be made; name a folder.")
    if kind != "same" and FORMATS[output.suffix.lower()] != FORMATS[f".{kind}"]:
        raise UserError(f"-o: {output} is not of --format {kind}; leave --format out.")
    if os.path.realpath(sources[0]) == os.path.realpath(output):
        raise UserError(f"-o: {output} is itself the picture to be upscaled; name another.")
    return Job(sources[0], output)


def _expanded(place: str, output: Path) -> list[Path]:
    if not place:
        raise UserError("one of the inputs is empty; name pictures, folders or a glob.")
    path = Path(os.path.expanduser(place))
    if os.path.lexists(path):
        return [path]
    start = path
    while glob.has_magic(str(start)):
        start = start.parent
    inside = _within(output, start) and os.path.realpath(output) != os.path.realpath(start)
    found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    found = [match for match in found if (match.is_dir() or match.suffix.lower() in FORMATS)
             and not (inside and _within(match, output))]
    if not found:
        raise UserError(f"there is no {place}; name pictures, folders or a glob.")
    return found


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _pictures(folder: Path, recursive: bool, output: Path, failed: Callable[[str], None]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        failed(f"cannot read the folder {error.filename}: {error.strerror}.")

    seen = {os.path.realpath(output)}
    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in FORMATS and not name.startswith("."):
                yield Path(root, name)
