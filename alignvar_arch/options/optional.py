"""`optional: true`: a benchmark file may list data sets that are not on this machine."""

import os

from alignvar_arch.errors import UserError


def drop_absent(opt: dict) -> list[str]:
    """Takes the data sets with `optional: true` whose dataroot is absent out of `opt`, and the key out of the others.

    Args:
        opt: options whose structure has not been checked yet.

    Returns:
        A sentence for each set that is left out.

    Raises:
        UserError: `optional` is no flag, or none of the sets is there.
    """
    blocks = opt.get("datasets")
    if not isinstance(blocks, dict):
        return []
    absent = {}
    for phase, block in blocks.items():
        # what one trains on is not optional; there it is an unknown key like any other
        if not isinstance(block, dict) or "optional" not in block or phase.startswith("train"):
            continue
        optional = block.pop("optional")
        if not isinstance(optional, bool):
            raise UserError(f"datasets.{phase}.optional: is {optional!r}, but must be true or false.")
        roots = [value for key, value in block.items() if key.startswith("dataroot") and isinstance(value, str)]
        missing = [root for root in roots if not os.path.exists(os.path.expanduser(root))]
        if optional and missing:
            absent[phase] = missing[0]
    if absent and len(absent) == len(blocks):
        raise UserError(f"datasets: none of the {len(absent)} sets is here ({', '.join(absent.values())}); make "
                        "them with `basicsr lmdb create --preset` (datasets/README.md), or name others by --sets.")
    return [f"the data set {blocks.pop(phase).get('name', phase)} is left out: there is no {root}."
            for phase, root in absent.items()]
