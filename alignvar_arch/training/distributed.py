"""Several processes: how they find each other, and what they must agree on."""

import torch
import torch.distributed as dist


def agreed(asked: int | None) -> int | None:
    """The signal that any rank has been sent, or None; every rank must call it."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    number = torch.tensor(asked or 0, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number) or None
