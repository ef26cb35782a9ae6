"""Folders are read in the order of their names, so that the same seed sees the same images on every file system.

`paired_paths_from_folder` and `paths_from_folder` take what `os.scandir` gives, in whatever order the disk has it.
"""

import functools

from basicsr.utils import misc

from alignvar_arch.compat import patch


def install() -> None:
    """Goes when BasicSR sorts what `scandir` finds."""
    patch.everywhere(misc.scandir, _sorted(misc.scandir))


def _sorted(scandir):
    @functools.wraps(scandir)
    def wrapper(*arguments, **named):
        return iter(sorted(scandir(*arguments, **named)))

    return wrapper
