"""Figures that come one a scale: gathered over many steps, shown as one table."""
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info

from alignvar_arch.training.distributed import gathered


class ScaleLog:
    """Running means of per-scale figures, (K,) each, kept on their device until they are shown.

    Every process gathers its own; ``state_dict`` and ``report`` are of all of them, and every process must call both.
    """

    def __init__(self, sides: tuple[int, ...]):
        self.sides = sides
        self.sums: dict[str, tuple[torch.Tensor, int]] = {}

    def add(self, name: str, values: torch.Tensor, count: int = 1) -> None:
        """Add the sum of ``count`` observations of figure ``name``, (K,)."""
        total, seen = self.sums.get(name, (0, 0))
        self.sums[name] = (total + values.detach().float(), seen + count)

    def state_dict(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Return what all processes have gathered, on the CPU."""
        sums: dict[str, tuple[torch.Tensor, int]] = {}
        for own in gathered({name: (total.cpu(), seen) for name, (total, seen) in self.sums.items()}):
            for name, (total, seen) in own.items():
                so_far, count = sums.get(name, (0, 0))
                sums[name] = (so_far + total, count + seen)
        return sums

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Put back what ``state_dict`` gave, in the first process: it is of all."""
        mine = state if get_dist_info()[0] == 0 else {}
        self.sums = {name: (total.to(device), seen) for name, (total, seen) in mine.items()}

    def report(self, data_name: str, tb_logger, step: int | str) -> None:
        """Log the means since the last report as a table, a column a scale, and send them to TensorBoard.

        Figures named ``val/…`` belong to the data set ``data_name``.
        """
        sums, self.sums = self.state_dict(), {}
        if not sums:
            return
        rows = {name.replace("val/", f"{data_name}/"): (total / seen).tolist() for name, (total, seen) in sums.items()}
        width = max(map(len, rows))
        lines = ["By scale", " " * (width + 2) + "".join(f"{f'{s}x{s}':>9}" for s in self.sides)]
        lines += [f"  {name:<{width}}" + "".join(f"{value:9.4f}" for value in row) for name, row in rows.items()]
        get_root_logger().info("\n".join(lines))
        if tb_logger:
            for name, row in rows.items():
                for k, value in enumerate(row):
                    tb_logger.add_scalar(f"{name}/scale_{k + 1}", value, step)
