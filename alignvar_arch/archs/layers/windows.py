"""Overlapping windows of large maps, and the weights that blend what is made of them."""
import torch


def cover(length: int, side: int, overlap: int) -> list[int]:
    """Return where windows begin along a length: as few as cover it, spread evenly.

    Args:
        length: at least ``side``.
        side: of a window.
        overlap: least overlap of neighbours, from 0 to below ``side``.
    """
    if length == side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def blending(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return Gaussian weights (height, width), highest in the middle, with σ a quarter of each side."""
    rows, columns = ((torch.arange(side, device=device) + 0.5) / side - 0.5 for side in (height, width))
    return torch.exp(-8 * rows.square())[:, None] * torch.exp(-8 * columns.square())
