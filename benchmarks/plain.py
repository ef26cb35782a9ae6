"""The plain loop: AlignVAR's weights run the way the public VAR implementations run theirs.

It is what the fast path is compared with, in tests for its figures and in `inference.py` for its time. Cache by
concatenation, keys kept in fp32, AdaLN anew at every scale, always two branches, rotation by complex numbers, logits of
the whole prefix, a full sort and a draw for the likeliest code, a decoder in NCHW with attention by two products and a
softmax.
Linears, convolutions and the transformer's attention are torch's own, as theirs are: nothing is slow on purpose.
"""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.alignvar_arch import BAD, GOOD, Generation
from alignvar_arch.archs.layers.conv import ResidualBlock, SpatialAttention
from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.archs.transformer.block import LARGEST_LOG_SCALE, Attention, Block


def _rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turns).flatten(-2).to(x.dtype)


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _attention(layer: Attention, x: torch.Tensor, turns: torch.Tensor, cache: dict[str, torch.Tensor]) -> torch.Tensor:
    qkv = F.linear(x, layer.mat_qkv.weight, torch.cat([layer.q_bias, layer.zero_k_bias, layer.v_bias]))
    q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=layer.heads).unbind()
    scale = layer.scale_mul_1H11.clamp(max=LARGEST_LOG_SCALE).exp()
    q, k = _rotate(F.normalize(q, dim=-1).mul(scale), turns), _rotate(F.normalize(k, dim=-1), turns).float()
    if cache:
        k, v = torch.cat([cache["k"], k], dim=2), torch.cat([cache["v"], v], dim=2)
    cache["k"], cache["v"] = k, v
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, scale=1.0)
    return _linear(layer.proj, out.transpose(1, 2).reshape(x.shape))


def _norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _block(block: Block, x: torch.Tensor, condition: torch.Tensor, turns: torch.Tensor,
           cache: dict[str, torch.Tensor]) -> torch.Tensor:
    gamma1, gamma2, scale1, scale2, shift1, shift2 = block.ada_lin(condition).unflatten(-1, (1, 6, -1)).unbind(2)
    x = x + _attention(block.attn, _norm(x).mul(scale1.add(1)).add_(shift1), turns, cache).mul_(gamma1)
    h = _linear(block.ffn.fc1, _norm(x).mul(scale2.add(1)).add_(shift2))
    return x + _linear(block.ffn.fc2, F.gelu(h, approximate="tanh")).mul_(gamma2)


def _likeliest(logits: torch.Tensor, top_p: float = 0.75) -> torch.Tensor:
    """Choose as VARSR does, top 1 of 1: through top-k, a full sort for top-p, and a draw; the logits are destroyed."""
    logits.masked_fill_(logits < logits.topk(1, dim=-1).values, -torch.inf)
    ordered, order = logits.sort(dim=-1)
    least = ordered.softmax(dim=-1).cumsum_(dim=-1) <= 1 - top_p
    least[..., -1:] = False
    logits.masked_fill_(least.scatter(-1, order, least), -torch.inf)
    return torch.multinomial(logits.softmax(dim=-1).flatten(0, 1), 1)


def steps(net: AlignVAR, lr: torch.Tensor, pyramid: ResidualPyramid, structure: torch.Tensor | None,
          guidance: float) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield the guided logits (B, s², V), the token map (B, s, s) and f̂ (B, C, S, S) of scale after scale, greedily."""
    batch, last = len(lr), net.schedule.last
    condition = net.class_emb(torch.tensor([GOOD, BAD], device=lr.device).repeat_interleave(batch))
    structure = None if structure is None else structure.repeat(2, 1, 1)

    def gated(tokens: torch.Tensor, k: int) -> torch.Tensor:
        if structure is None:
            return tokens
        return (1 + net.mask_generator(tokens, structure[:, net.schedule.spans[k]])) * tokens

    prefix = net.con_embedding(lr).to(condition.dtype).repeat(2, 1, 1)
    x = torch.cat([prefix, gated(condition[:, None], 0)], dim=1) + net.pos_start + net.lvl_embed.weight[0]
    turns = torch.complex(*net.rope.float())
    caches = [{} for _ in net.blocks]
    f_hat, seen = pyramid.empty(batch), 0
    for k, (side, length) in enumerate(zip(net.schedule.sides, net.schedule.lengths, strict=True)):
        if k > 0:
            tokens = net.word_embed(pyramid.next_input(k, f_hat).to(condition.dtype))
            x = gated(tokens.repeat(2, 1, 1), k) + net.lvl_embed.weight[k]
        here = turns[seen:seen + x.shape[1]]
        seen += x.shape[1]
        for block, cache in zip(net.blocks, caches, strict=True):
            x = _block(block, x, condition, here, cache)
        scale, shift = net.head_nm.ada_lin(condition)[:, None].chunk(2, dim=-1)
        good, bad = _linear(net.head, _norm(x).mul(scale.add(1)).add_(shift)).float().chunk(2)
        t = guidance * k / last
        logits = ((1 + t) * good - t * bad)[:, -length:]
        chosen = _likeliest(logits.clone()).view(batch, side, side)
        f_hat = f_hat + pyramid.step(k, pyramid.lookup(chosen))
        yield logits, chosen, f_hat


@torch.no_grad()
def generate(net: AlignVAR, lr: torch.Tensor, pyramid: ResidualPyramid, structure: torch.Tensor | None = None,
             guidance: float = 0.0) -> Generation:
    """Do what ``AlignVAR.generate`` does with the same arguments."""
    _, maps, f_hats = zip(*steps(net, lr, pyramid, structure, guidance), strict=True)
    return Generation(list(f_hats), list(maps))


def _residual(block: ResidualBlock, x: torch.Tensor) -> torch.Tensor:
    h = block.conv1(F.silu(block.norm1(x), inplace=True))
    return block.nin_shortcut(x) + block.conv2(F.silu(block.norm2(h), inplace=True))


def _spatial(layer: SpatialAttention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)
    weights = torch.bmm(q.transpose(1, 2), k).mul_(q.shape[1] ** -0.5).softmax(dim=2)
    return x + layer.proj_out(torch.bmm(v, weights.transpose(1, 2)).view(x.shape))


_RUN = {ResidualBlock: _residual, SpatialAttention: _spatial}


def _parts(decoder: nn.Module) -> Iterator[nn.Module]:
    yield from decoder.mid.values()
    for level in reversed(decoder.up):
        for i, block in enumerate(level["block"]):
            yield block
            yield from level["attn"][i:i + 1]
        if "upsample" in level:
            yield level["upsample"].conv


@torch.no_grad()
def decode(tokenizer: AlignVARTokenizer, f_hat: torch.Tensor) -> torch.Tensor:
    """Do what ``AlignVARTokenizer.decode`` does for an image target."""
    decoder = tokenizer.decoder
    x = decoder.conv_in(tokenizer.post_quant_conv(f_hat.to(tokenizer.post_quant_conv.weight.dtype)))
    for part in _parts(decoder):
        if type(part) in _RUN:
            x = _RUN[type(part)](part, x)
        else:
            x = part(F.interpolate(x, scale_factor=2, mode="nearest"))
    return decoder.conv_out(F.silu(decoder.norm_out(x), inplace=True)).clamp_(-1, 1)
