"""Keys and values of the tokens generated so far."""
import torch


class KVCache:
    """One block's keys and values at one level, in memory allocated once for the whole sequence.

    Args:
        k, v: (B, H, L, D), the memory; its dtype is the one that attention computes in.
        end: how many tokens it holds already.
    """

    def __init__(self, k: torch.Tensor, v: torch.Tensor, end: int):
        self.k, self.v, self.end = k, v, end

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add k, v (B, H, N, D) and return everything seen so far, as views."""
        start, self.end = self.end, self.end + k.shape[2]
        self.k[:, :, start:self.end] = k
        self.v[:, :, start:self.end] = v
        return self.k[:, :, :self.end], self.v[:, :, :self.end]
