"""Replacing a function where BasicSR's modules look it up: `from … import name` has left copies in several."""

import sys


def everywhere(old, new) -> None:
    """Binds `new` to every name of every loaded BasicSR module that holds `old`."""
    for module_name, module in list(sys.modules.items()):
        if module_name == "basicsr" or module_name.startswith("basicsr."):
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)
