"""What the training loop takes from BasicSR, mended: the folder of an older run is archived whatever the clock says."""

import itertools
import os

from basicsr.utils import misc

from alignvar_arch.compat import patch


def install() -> None:
    """Goes when BasicSR counts archives."""
    patch.everywhere(misc.mkdir_and_rename, _mkdir_and_rename)


def _mkdir_and_rename(path: str) -> None:
    """Makes a folder; an older one keeps its content under a name with the time, and with a number where that is taken.

    BasicSR's name has seconds only (misc.py:31), so that the third run within one ends in OSError.
    """
    if os.path.exists(path):
        archive = base = f"{path}_archived_{misc.get_time_str()}"
        for number in itertools.count(2):
            if not os.path.exists(archive):
                break
            archive = f"{base}_{number}"
        print(f"Path already exists. Rename it to {archive}", flush=True)
        os.rename(path, archive)
    os.makedirs(path, exist_ok=True)
