"""The plain training step: AlignVAR's weights trained the way the public VAR implementations train theirs.

It is what ``training.py`` compares the engine with; a test holds its loss and gradients to the engine's. One attention
over prefix and tokens with a dense L×L float mask, AdaLN on all of them, rotation by complex numbers, every block
computed again in the backward pass, and predicted tokens drawn through top-k, a full sort and a draw, as VARSR does in
its step. The fused AdamW, the losses, the condition encoder and the head on tokens alone are the engine's: nothing is
slow on purpose.

Shapes: B batch, N = P + L prefix and tokens, C width.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from plain import _likeliest, _norm, _rotate
from torch.utils.checkpoint import checkpoint

from alignvar_arch.archs import AlignVAR
from alignvar_arch.archs.transformer.block import LARGEST_LOG_SCALE, Attention, Block


def dense_mask(net: AlignVAR) -> torch.Tensor:
    """Return what is added to the weights, (1, 1, N, N) float32: 0 where the key's level is no later, else −inf."""
    level = F.pad(net.levels, (net.prefix, 0))
    return torch.zeros(1, 1, len(level), len(level), device=level.device).masked_fill_(
        level[:, None] < level[None], -torch.inf)


def _attention(layer: Attention, x: torch.Tensor, turns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    qkv = F.linear(x, layer.mat_qkv.weight, torch.cat([layer.q_bias, layer.zero_k_bias, layer.v_bias]))
    q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=layer.heads).unbind()
    scale = layer.scale_mul_1H11.clamp(max=LARGEST_LOG_SCALE).exp()
    q, k = _rotate(F.normalize(q, dim=-1).mul(scale), turns), _rotate(F.normalize(k, dim=-1), turns)
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask, scale=1.0)
    return layer.proj(out.transpose(1, 2).reshape(x.shape))


def _block(block: Block, x: torch.Tensor, condition: torch.Tensor, turns: torch.Tensor,
           mask: torch.Tensor) -> torch.Tensor:
    gamma1, gamma2, scale1, scale2, shift1, shift2 = block.ada_lin(condition).unflatten(-1, (1, 6, -1)).unbind(2)
    h = _attention(block.attn, _norm(x).mul(scale1.add(1)).add_(shift1), turns, mask)
    x = x + block.drop_path(h.mul_(gamma1))
    return x + block.drop_path(block.ffn(_norm(x).mul(scale2.add(1)).add_(shift2)).mul_(gamma2))


def forward(net: AlignVAR, lr: torch.Tensor, teacher: torch.Tensor, quality: torch.Tensor,
            structure: torch.Tensor | None, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (B, L, V) that ``net(lr, teacher, quality, structure)`` gives, and the tokens drawn of them."""
    condition = net.class_emb(quality)
    tokens = torch.cat([condition[:, None], net.word_embed(teacher)], dim=1)
    if structure is not None:
        tokens = (1 + net.mask_generator(tokens, structure)) * tokens
    x = torch.cat([net.con_embedding(lr).to(tokens.dtype), tokens], dim=1)
    place = F.pad(net.pos_start, (0, 0, 0, tokens.shape[1] - 1))  # the tokens of later scales have none
    x = x + place + net.lvl_embed(F.pad(net.levels, (net.prefix, 0)))
    turns = torch.complex(*net.rope.float())
    for block in net.blocks:
        x = checkpoint(_block, block, x, condition, turns, mask, use_reentrant=False)
    scale, shift = net.head_nm.ada_lin(condition)[:, None].chunk(2, dim=-1)
    logits = net.head(_norm(x[:, net.prefix:]).mul(scale.add(1)).add_(shift))
    with torch.no_grad():
        drawn = _likeliest(logits.detach().float().clone())
    return logits, drawn.view(len(lr), -1)
