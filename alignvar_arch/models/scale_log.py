"""Figures that come one a scale: gathered over many steps, shown as one table."""
import torch
from basicsr.utils import get_root_logger


class ScaleLog:
    """Running means of per-scale figures, (K,) each, kept on their device until they are shown."""

    def __init__(self, sides: tuple[int, ...]):
        self.sides = sides
        self.sums: dict[str, tuple[torch.Tensor, int]] = {}

    def add(self, name: str, values: torch.Tensor, count: int = 1) -> None:
        """Add the sum of ``count`` observations of figure ``name``, (K,)."""
        total, seen = self.sums.get(name, (0, 0))
        self.sums[name] = (total + values.detach().float(), seen + count)

    def state_dict(self) -> dict[str, tuple[torch.Tensor, int]]:
        """Return what is gathered, on the CPU."""
        return {name: (total.cpu(), seen) for name, (total, seen) in self.sums.items()}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Put back what ``state_dict`` gave."""
        self.sums = {name: (total.to(device), seen) for name, (total, seen) in state.items()}

    def report(self, data_name: str, tb_logger, step: int | str) -> None:
        """Log the means since the last report as a table, a column a scale, and send them to TensorBoard.

        Figures named ``val/…`` belong to the data set ``data_name``.
        """
        if not self.sums:
            return
        rows = {name.replace("val/", f"{data_name}/"): (total / seen).tolist()
                for name, (total, seen) in self.sums.items()}
        self.sums = {}
        width = max(map(len, rows))
        lines = ["By scale", " " * (width + 2) + "".join(f"{f'{s}x{s}':>9}" for s in self.sides)]
        lines += [f"  {name:<{width}}" + "".join(f"{value:9.4f}" for value in row) for name, row in rows.items()]
        get_root_logger().info("\n".join(lines))
        if tb_logger:
            for name, row in rows.items():
                for k, value in enumerate(row):
                    tb_logger.add_scalar(f"{name}/scale_{k + 1}", value, step)
