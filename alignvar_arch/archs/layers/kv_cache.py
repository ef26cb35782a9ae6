"""Keys and values of the tokens generated so far."""
import torch


class KVCache:
    """One block's keys and values, allocated once for the whole sequence, in the compute dtype.

    Args:
        batch, heads, length, head_dim: the final shape (B, H, L, D).
        like: a tensor whose device and dtype the cache takes.
    """

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: torch.Tensor):
        self.k = like.new_empty(batch, heads, length, head_dim)
        self.v = like.new_empty(batch, heads, length, head_dim)
        self.end = 0

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add k, v (B, H, N, D) and return everything seen so far, as views."""
        start, self.end = self.end, self.end + k.shape[2]
        self.k[:, :, start:self.end] = k
        self.v[:, :, start:self.end] = v
        return self.k[:, :, :self.end], self.v[:, :, :self.end]
