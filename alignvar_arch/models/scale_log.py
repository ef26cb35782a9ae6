"""Figures that come one a scale: gathered over many steps, told to TensorBoard, shown as one table."""
import functools

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info

from alignvar_arch.training.distributed import gathered

Sums = dict[str, tuple[torch.Tensor, int]]


class ScaleLog:
    """Means of per-scale figures, (K,) each, kept on their device until they are told.

    Every process gathers its own; all that is told is of all of them, and every process must call `tell`, `report` and
    `state_dict`.

    Attributes:
        sides: of the scales' token maps.
        recent: sums since TensorBoard was last told, with the number of observations; this process's.
        told: those since the last table that TensorBoard knows; in the first process, of all.
    """

    def __init__(self, sides: tuple[int, ...]):
        self.sides = sides
        self.recent: Sums = {}
        self.told: Sums = {}

    def add(self, name: str, values: torch.Tensor, count: int = 1) -> None:
        """Add the sum of ``count`` observations of figure ``name``, (K,)."""
        self.recent = _sum(self.recent, {name: (values.detach().float(), count)})

    def state_dict(self) -> dict[str, Sums]:
        """Return what all processes have gathered, on the CPU."""
        return {"recent": _of_all(self.recent), "told": self.told}

    def load_state_dict(self, state: dict[str, Sums], device: torch.device) -> None:
        """Put back what ``state_dict`` gave, in the first process: it is of all."""
        mine = state if get_dist_info()[0] == 0 else {}
        self.recent = {name: (total.to(device), seen) for name, (total, seen) in mine.get("recent", {}).items()}
        self.told = dict(mine.get("told", {}))

    def tell(self, tb_logger, step: int | str, data_name: str = "") -> None:
        """Send the means since the last time to TensorBoard.

        Figures named ``val/…`` belong to the data set ``data_name``.
        """
        recent, self.recent = _named(_of_all(self.recent), data_name), {}
        if get_dist_info()[0] == 0:
            self.told = _sum(self.told, recent)
        if tb_logger:
            for name, row in _means(recent).items():
                for k, value in enumerate(row):
                    tb_logger.add_scalar(f"{name}/scale_{k + 1}", value, step)

    def report(self, data_name: str, tb_logger, step: int | str) -> None:
        """Do as ``tell``, and log the means since the last table as another one, a column a scale."""
        self.tell(tb_logger, step, data_name)
        rows, self.told = _means(self.told), {}
        if not rows:
            return
        width = max(map(len, rows))
        lines = ["By scale", " " * (width + 2) + "".join(f"{f'{s}x{s}':>9}" for s in self.sides)]
        lines += [f"  {name:<{width}}" + "".join(f"{value:9.4f}" for value in row) for name, row in rows.items()]
        get_root_logger().info("\n".join(lines))


def _sum(one: Sums, other: Sums) -> Sums:
    found = dict(one)
    for name, (total, seen) in other.items():
        so_far, count = found.get(name, (0, 0))
        found[name] = (so_far + total, count + seen)
    return found


def _of_all(own: Sums) -> Sums:
    """Return the sums over all processes, on the CPU."""
    shares = gathered({name: (total.cpu(), seen) for name, (total, seen) in own.items()})
    return functools.reduce(_sum, shares, {})


def _named(sums: Sums, data_name: str) -> Sums:
    return {name.replace("val/", f"{data_name}/"): entry for name, entry in sums.items()}


def _means(sums: Sums) -> dict[str, list[float]]:
    return {name: (total / seen).tolist() for name, (total, seen) in sums.items()}
