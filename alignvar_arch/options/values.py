"""What a single value of an options file must be."""

import math

from alignvar_arch.errors import UserError


def is_number(value) -> bool:
    """Whether `value` is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# (what it must be, test); where the code rounds, numbers may be written 5e5, as BasicSR's files do
WHOLE = ("a whole number of at least 1", lambda v: is_number(v) and v >= 1 and float(v).is_integer())
INTEGER = ("a whole number of at least 1, without a dot", lambda v: _is_integer(v) and v >= 1)
COUNT = ("a whole number of at least 0, without a dot", lambda v: _is_integer(v) and v >= 0)
KEEP = ("a whole number of at least 1, or ~ for all", lambda v: v is None or (_is_integer(v) and v >= 1))
SEED = ("a whole number from 0 to below 2^31", lambda v: v is None or (_is_integer(v) and 0 <= v < 2**31))
WARMUP = ("a whole number, -1 for none", lambda v: is_number(v) and v >= -1 and float(v).is_integer())
POSITIVE = ("a number above 0", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = ("a number of at least 0", lambda v: is_number(v) and v >= 0)
DECAY = ("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)
NUMBERS = ("a list of numbers", lambda v: isinstance(v, list) and all(map(is_number, v)))
FLAG = ("true or false", lambda v: isinstance(v, bool))
WORD = ("a word", lambda v: v is None or isinstance(v, str))
WORDS = ("a list of words", lambda v: v is None or (isinstance(v, list) and all(isinstance(x, str) for x in v)))


def check_types(block: dict, path: str, types: dict) -> None:
    """Raises UserError for a value of `block` that is not what `types` (one of the above, by key) asks for."""
    for key, (wanted, test) in types.items():
        if key in block and not test(block[key]):
            raise UserError(f"{join(path, key)}: is {block[key]!r}, but must be {wanted}.")


def check_finite(value, path: str = "") -> None:
    """Raises UserError for a nan or an infinity anywhere in `value`; no option means something by one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: is {value!r}, but must be a finite number.")
    if isinstance(value, (dict, list)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            check_finite(entry, join(path, key))


def join(path: str, key) -> str:
    """Returns the dotted path of `key` in the block at `path`."""
    return f"{path}.{key}" if path else str(key)
