"""Registry look-ups: a name that is not registered is answered with the nearest ones, and the look-up is silent.

`utils/registry.py:57` prints a line at every fallback to the `_basicsr` suffix and raises a bare KeyError.
"""

import difflib

from basicsr.utils.registry import Registry

from alignvar_arch.errors import UserError


def install() -> None:
    """Goes when BasicSR's `Registry.get` names the nearest entries and stops printing."""
    Registry.get = _get


def nearest(name: str, known, cutoff: float = 0.6) -> str:
    """Returns ' (nearest: …)' with up to three names from `known` that are similar by `cutoff`, or '' without any."""
    by_lower = {str(key).lower(): str(key) for key in known}
    word = str(name).lower()
    found = difflib.get_close_matches(word, list(by_lower), n=3, cutoff=cutoff)
    if not found and len(word) >= 3:
        found = [key for key in by_lower if word in key][:3]
    return f" (nearest: {', '.join(by_lower[key] for key in found)})" if found else ""


def find(registry: Registry, name: str):
    """Returns the registered object or None, by BasicSR's rule: the plain name, else `name_basicsr`."""
    entries = dict(iter(registry))
    return entries.get(name, entries.get(f"{name}_basicsr"))


def _get(self: Registry, name: str, suffix: str = "basicsr"):
    found = self._obj_map.get(name) or self._obj_map.get(f"{name}_{suffix}")
    if found is None:
        raise UserError(f"no {self._name} named {name!r} is registered{nearest(name, self.keys())}; "
                        "`basicsr list` shows all names.")
    return found
