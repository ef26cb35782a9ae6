"""Other BasicSR extensions: whatever an installed package names in its entry-point group `basicsr.plugins`."""

from dataclasses import dataclass
from importlib import metadata

GROUP = "basicsr.plugins"


@dataclass(frozen=True)
class Plugin:
    """One entry point: its name, what it imports, and why that failed ('' where it did not)."""

    name: str
    value: str
    error: str


def load() -> list[Plugin]:
    """Imports every plugin once, so that it registers what it brings; one that fails is reported, not raised."""
    found = []
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # a plugin is other people's code and may fail in any way
            found.append(Plugin(entry.name, entry.value, f"{type(error).__name__}: {' '.join(str(error).split())}"))
        else:
            found.append(Plugin(entry.name, entry.value, ""))
    return found
