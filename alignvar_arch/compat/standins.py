"""Stand-ins for modules that BasicSR 1.4.2 imports and that newer releases have dropped."""

import importlib
import re
import sys
import types


def install() -> None:
    """Puts a stand-in into `sys.modules` for each module that is really absent."""
    _stand_in("torchvision.transforms.functional_tensor", _functional_tensor)
    _stand_in("scipy.ndimage.filters", _scipy_filters)
    _stand_in("distutils.version", _distutils_version)


def _stand_in(name: str, make) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        parent_name, _, child = name.rpartition(".")
        try:
            parent = importlib.import_module(parent_name)
        except ModuleNotFoundError:
            parent = sys.modules[parent_name] = types.ModuleType(parent_name)
            parent.__path__ = []
        module = types.ModuleType(name, "Stand-in by alignvar_arch.compat.")
        vars(module).update(make())
        sys.modules[name] = module
        setattr(parent, child, module)


def _functional_tensor() -> dict:
    """torchvision 0.17 dropped the module; `data/degradations.py` imports it. Goes when BasicSR stops importing it."""
    from torchvision.transforms.functional import rgb_to_grayscale

    return {"rgb_to_grayscale": rgb_to_grayscale}


def _scipy_filters() -> dict:
    """scipy 2.0 drops the old name; `metrics/niqe.py` and `data/data_util.py` use it. Goes when BasicSR renames it."""
    from scipy import ndimage

    return {"convolve": ndimage.convolve, "gaussian_filter": ndimage.gaussian_filter}


def _distutils_version() -> dict:
    """Python 3.12 dropped distutils, and setuptools may be absent; `archs/arch_util.py` compares two versions with it.

    Goes when BasicSR stops importing distutils.
    """

    class LooseVersion:
        """Orders version strings by their numbers, which is all that BasicSR asks of it."""

        def __init__(self, text: str):
            self.numbers = tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0]))

        def __ge__(self, other: "LooseVersion") -> bool:
            return self.numbers >= other.numbers

    return {"LooseVersion": LooseVersion}
