"""The transformer block: pre-norm, AdaLN, cosine attention with rotary positions. Attribute names are VAR's.

Shapes: B batch, N tokens, C width, H heads, D = C / H. In generation a block sees one level after another with a cache.
``wanted`` is the number of tokens, from the end, whose output will be read: the last block does no more than that.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torchvision.ops import StochasticDepth

from alignvar_arch.archs.layers.attention import attend, attend_block_causal
from alignvar_arch.archs.layers.kv_cache import KVCache
from alignvar_arch.archs.layers.linear import Linear, linear
from alignvar_arch.archs.layers.rope import rotate

LARGEST_LOG_SCALE = 4.605170185988092  # ln 100


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    """LayerNorm without affine, eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Attention(nn.Module):
    """Cosine self-attention: q and k normalised, q scaled per head by exp(min(s, ln 100)), then rotated."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), 4.0).log())
        self.mat_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("zero_k_bias", torch.zeros(dim))
        self.proj = Linear(dim, dim)

    def queries_keys_values(self, x: torch.Tensor, rope: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what attends: q and k normalised, scaled and rotated, and v, (B, H, N, D) each."""
        qkv = linear(x, self.mat_qkv.weight, torch.cat([self.q_bias, self.zero_k_bias, self.v_bias]))
        qk, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.heads).split([2, 1])
        # Whatever the weights' dtype: exp(s) reaches 100, and half a per cent of it would be half a logit.
        scale = self.scale_mul_1H11.float().clamp(max=LARGEST_LOG_SCALE).exp()
        length = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        q, k = rotate(qk * (torch.stack([scale, torch.ones_like(scale)]) / length), rope).to(v.dtype)
        return q, k, v[0]

    def forward(self, x: torch.Tensor, rope: torch.Tensor, ends: Sequence[int] | None = None,
                cache: KVCache | None = None, wanted: int | None = None) -> torch.Tensor:
        """x (B, N, C), rope (2, N, D/2) → (B, N, C): a whole sequence with ``ends``, or the next level with a cache."""
        q, k, v = self.queries_keys_values(x, rope)
        if wanted is not None:
            q = q[:, :, -wanted:]
        if cache is None:
            out = attend_block_causal(q, k, v, ends, scale=1.0)
        else:
            out = attend(q, *cache.append(k, v), scale=1.0)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Linear → tanh-GELU → linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x += gamma1·attn(LN(x)·(1 + scale1) + shift1); x += gamma2·ffn(LN(x)·(1 + scale2) + shift2)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.attn = Attention(dim, heads)
        self.ffn = FeedForward(dim, mlp_ratio * dim)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def modulation(self, condition: torch.Tensor) -> torch.Tensor:
        """Return gamma1, gamma2, 1 + scale1, 1 + scale2, shift1, shift2 as (6, B, 1, C) of a condition (B, C)."""
        rows = rearrange(self.ada_lin(condition), "b (six c) -> six b 1 c", six=6)
        return torch.cat([rows[:2], 1 + rows[2:4], rows[4:]])

    def forward(self, x: torch.Tensor, modulation: torch.Tensor, rope: torch.Tensor,
                ends: Sequence[int] | None = None, cache: KVCache | None = None,
                wanted: int | None = None) -> torch.Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        h = self.attn(torch.addcmul(shift1, layer_norm(x), scale1), rope, ends, cache, wanted)
        x = torch.addcmul(x if wanted is None else x[:, -wanted:], gamma1, self._dropped(h))
        h = self.ffn(torch.addcmul(shift2, layer_norm(x), scale2))
        return torch.addcmul(x, gamma2, self._dropped(h))

    def _dropped(self, h: torch.Tensor) -> torch.Tensor:
        # Not even its rate is looked at outside training: it differs from block to block, and compiled code, which is
        # the same for all blocks, would be compiled anew for each.
        return self.drop_path(h) if self.training else h


class HeadNorm(nn.Module):
    """LN(x)·(1 + scale) + shift before the head; rows of the linear are scale, shift."""

    def __init__(self, dim: int):
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def modulation(self, condition: torch.Tensor) -> torch.Tensor:
        """Return 1 + scale and shift as (2, B, 1, C) of a condition (B, C)."""
        rows = rearrange(self.ada_lin(condition), "b (two c) -> two b 1 c", two=2)
        return torch.cat([1 + rows[:1], rows[1:]])

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        scale, shift = modulation
        return torch.addcmul(shift, layer_norm(x), scale)
