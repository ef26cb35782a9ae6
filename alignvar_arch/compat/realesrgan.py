"""RealESRGANDataset: crops as large as `gt_size`.

`__getitem__` cuts, or pads by reflection, every photograph to 400 pixels, a number in its code that no option reaches
(realesrgan_dataset.py:102, with a TODO), so that the model's own crop of 512 finds nothing to cut from.
"""

import functools
import types

from basicsr.data.realesrgan_dataset import RealESRGANDataset

_SIDE = 400


def install() -> None:
    """Goes when BasicSR makes `crop_pad_size` an option."""
    RealESRGANDataset.__getitem__ = _at_least_gt_size(RealESRGANDataset.__getitem__)


def _at_least_gt_size(get):
    @functools.cache
    def cutting(side: int):
        """The method with another number in the place of 400; what it does is in one piece, with no seam to use."""
        numbers = tuple(side if number == _SIDE else number for number in get.__code__.co_consts)
        return types.FunctionType(get.__code__.replace(co_consts=numbers), get.__globals__)

    @functools.wraps(get)
    def wrapper(self, index):
        return cutting(max(_SIDE, self.opt.get("gt_size", _SIDE)))(self, index)

    return wrapper
