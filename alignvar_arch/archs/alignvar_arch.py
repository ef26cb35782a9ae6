"""AlignVAR: the transformer that predicts an HR picture's token maps, scale after scale, from its LR.

Shapes: B batch, h×w the LR's size, P = S² prefix tokens, L tokens of all scales, C width, V codebook size.
"""
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.utils.checkpoint import checkpoint

from alignvar_arch.archs.layers.kv_cache import KVCache
from alignvar_arch.archs.layers.linear import Linear
from alignvar_arch.archs.layers.rope import rope_table
from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.archs.tokenizer_arch import PAPER_SCALES
from alignvar_arch.archs.transformer.block import Block, HeadNorm
from alignvar_arch.archs.transformer.condition import ConditionEncoder
from alignvar_arch.archs.transformer.sampling import choose, expect, guide
from alignvar_arch.archs.transformer.structure import MaskGenerator, laplacian_map, structure_maps

GOOD, BAD = 0, 1  # rows of the quality embedding


class Prediction(NamedTuple):
    """What a teacher-forced pass gives.

    Attributes:
        logits: (B, L, V).
        masks: SCA's m, (B, L, 1) in (0, 1); None with ``sca: off``.
    """

    logits: torch.Tensor
    masks: torch.Tensor | None


class Generation(NamedTuple):
    """What ``generate`` gives.

    Attributes:
        cumulative: the latents f̂ (B, C, S, S) after each scale.
        maps: the chosen token maps, int64 (B, s, s) each; with the expected codes, what is nearest to them; of forced
            scales, what would have been chosen.
    """

    cumulative: list[torch.Tensor]
    maps: list[torch.Tensor]

    @property
    def f_hat(self) -> torch.Tensor:
        """The latent (B, C, S, S), for the tokenizer's decoder."""
        return self.cumulative[-1]


class Steps(Protocol):
    """What computes the steps of ``generate``: the network itself, or something that does the same faster."""

    def memory(self, x: torch.Tensor, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]: ...

    def predict(self, k: int, x: torch.Tensor, tables: list[torch.Tensor], head_table: torch.Tensor,
                memory: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor: ...


@ARCH_REGISTRY.register()
class AlignVAR(nn.Module):
    """Next-scale prediction conditioned on the LR (paper "Task", "SCA"); the defaults are the paper's 1056.5 M.

    The sequence is P LR tokens, one quality token that predicts the 1×1 scale, then the tokens of scales 1 … K−1, each
    embedded from the cumulative latent of the scales before it. Prefix and quality token are level 0, scale k is level
    k; a token sees its own and lower levels. With ``sca: off`` and VARSR's condition widths this is VARSR without its
    refiner. Attribute names are those of the public VAR and VARSR checkpoints.

    Args:
        depth: blocks.
        embed_dim: C.
        num_heads: heads; C / heads must be a multiple of 4.
        mlp_ratio: hidden width of the feed-forward over C.
        codebook_size: V of the tokenizer.
        latent_dim: width of the tokenizer's codes.
        scales: the tokenizer's scale schedule.
        condition_widths: widths of the condition encoder; each after the first halves the size.
        condition_blocks: residual blocks at the condition encoder's end. Ours; 0 is VARSR's.
        local_condition: add to every token what the prefix holds at its place, averaged over it, so that attention
            need not learn first where to look. Ours; False is VARSR's.
        sca: ``laplacian`` (the paper), ``random`` (its ablation: structure from noise) or ``off`` (exactly ungated).
        drop_path: highest stochastic-depth rate, reached linearly in the last block; None is 0.1·depth/24.

    Attributes:
        checkpointing: in training a block's activations are computed again in the backward pass instead of kept; False
            until it is set.

    Raises:
        ValueError: heads that do not divide the width, no blocks, a ``drop_path`` out of range, an unknown ``sca``, an
            impossible schedule.
    """

    def __init__(self, *, depth: int = 24, embed_dim: int = 1536, num_heads: int = 24, mlp_ratio: int = 4,
                 codebook_size: int = 4096, latent_dim: int = 32, scales: tuple[int, ...] = PAPER_SCALES,
                 condition_widths: tuple[int, ...] = (32, 128, 256, 512, 1024), condition_blocks: int = 0,
                 local_condition: bool = False, sca: str = "laplacian", drop_path: float | None = None):
        super().__init__()
        if embed_dim % num_heads or embed_dim // num_heads % 4:
            raise ValueError(f"embed_dim / num_heads must be a multiple of 4, not {embed_dim} / {num_heads}")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        if drop_path is not None and not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be from 0 to below 1, not {drop_path}")
        # YAML reads a bare `off` as False.
        sca = "off" if sca is False else sca
        if sca not in ("laplacian", "random", "off"):
            raise ValueError(f"sca must be laplacian, random or off, not {sca!r}")
        self.sca = sca
        self.checkpointing = False
        self.schedule = ScaleSchedule(scales)
        self.codebook_size, self.latent_dim = codebook_size, latent_dim
        self.prefix = self.schedule.lengths[-1]
        self.con_embedding = ConditionEncoder(tuple(condition_widths), embed_dim, self.schedule.latent_side,
                                              condition_blocks)
        self.con_local = nn.Linear(embed_dim, embed_dim) if local_condition else None
        self.class_emb = nn.Embedding(2, embed_dim)
        self.pos_start = nn.Parameter(torch.empty(1, self.prefix + 1, embed_dim))
        self.word_embed = nn.Linear(latent_dim, embed_dim)
        self.lvl_embed = nn.Embedding(len(self.schedule), embed_dim)
        self.mask_generator = None if sca == "off" else MaskGenerator(embed_dim)
        most = 0.1 * depth / 24 if drop_path is None else drop_path
        self.blocks = nn.ModuleList([Block(embed_dim, num_heads, mlp_ratio, most * i / max(depth - 1, 1))
                                     for i in range(depth)])
        self.head_nm = HeadNorm(embed_dim)
        self.head = Linear(embed_dim, codebook_size)
        self.make_tables()
        self._initialise(depth)

    def make_tables(self) -> None:
        """Make the buffers that no checkpoint holds; again where the network was built on the meta device."""
        sides, head_dim = self.schedule.sides, self.blocks[0].attn.head_dim
        self.register_buffer("rope", rope_table((sides[-1], *sides), head_dim), persistent=False)
        levels = [k for k, length in enumerate(self.schedule.lengths) for _ in range(length)]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)

    def _initialise(self, depth: int) -> None:
        """Start as pre-norm transformers do: N(0, 0.02), residual outputs smaller with depth, AdaLN as the identity."""
        for name, module in self.named_modules():
            if name.startswith("mask_generator"):
                continue  # has its own
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
        if self.con_local is not None:  # as large as what it is made of
            nn.init.trunc_normal_(self.con_local.weight, std=self.con_local.in_features ** -0.5)
        nn.init.trunc_normal_(self.pos_start, std=0.02)
        for block in self.blocks:
            for linear in (block.attn.proj, block.ffn.fc2):
                nn.init.trunc_normal_(linear.weight, std=0.02 / (2 * depth) ** 0.5)
            nn.init.ones_(block.ada_lin[1].bias[:2 * self.head.in_features])  # gamma1, gamma2

    @torch.no_grad()
    def start_from_codes(self, codes: torch.Tensor, generator: torch.Generator | None = None) -> None:
        """Let a fresh head see a codebook (V, latent_dim) as it lies: logits fall with the squared distance of a code.

        The head's input, turned at random into the codes' space, says where; so what is learnt about one code holds for
        its neighbours from the first step on, where a head of independent rows has to learn each by itself.
        """
        spread = codes.std()
        turn = torch.empty(self.latent_dim, self.head.in_features)
        nn.init.orthogonal_(turn, generator=generator)
        sharp = 1 / (2 * spread) ** 2  # begins near the uniform distribution
        self.head.weight.copy_(sharp * codes @ (spread * turn.to(codes)))
        self.head.bias.copy_(-sharp / 2 * codes.square().sum(1))

    def structure(self, lr: torch.Tensor, generator: torch.Generator | None = None,
                  sca: str | None = None) -> torch.Tensor | None:
        """Return SCA's s̄ of all scales, (B, L, 1) in [0, 1], made once an image; None with ``sca: off``.

        ``generator`` (on the CPU) draws the noise of ``sca: random``, whatever device the LR is on. ``sca`` is another
        source than the one trained with, for diagnosis.
        """
        sca = sca or self.sca
        if sca == "off":
            return None
        if sca == "random":
            source = torch.rand(lr.shape[0], 1, *lr.shape[-2:], generator=generator).to(lr.device)
        else:
            source = laplacian_map(lr)
        return structure_maps(source, self.schedule)

    def _gate(self, embedded: torch.Tensor, structure: torch.Tensor | None,
              span: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (1 + m)·e and m for the tokens of ``span``."""
        if structure is None:
            return embedded, None
        mask = self.mask_generator(embedded, structure[:, span])
        return (1 + mask) * embedded, mask

    def _local(self, prefix: torch.Tensor) -> torch.Tensor | None:
        """Return what the encoded LR (B, P, C) adds to the tokens of all scales, (B, L, C), or None."""
        if self.con_local is None:
            return None
        side = self.schedule.latent_side
        grid = self.con_local(prefix).transpose(1, 2).unflatten(2, (side, side))
        return torch.cat([F.interpolate(grid, size=(own, own), mode="area").flatten(2) for own in self.schedule.sides],
                         dim=2).transpose(1, 2)

    def _start(self, prefix: torch.Tensor, local: torch.Tensor | None, condition: torch.Tensor,
               structure: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the tokens of level 0, (B, P + 1, C), from the encoded LR, and the quality token's mask."""
        quality, mask = self._gate(condition[:, None], structure, self.schedule.spans[0])
        if local is not None:
            quality = quality + local[:, self.schedule.spans[0]]
        start = torch.cat([prefix.to(quality.dtype), quality], dim=1)
        return start + self.pos_start + self.lvl_embed.weight[0], mask

    def forward(self, lr: torch.Tensor, teacher: torch.Tensor, quality: torch.Tensor,
                structure: torch.Tensor | None = None) -> Prediction:
        """Teacher forcing: predict every scale from the ground truth of the scales before it, in one pass.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            teacher: (B, L − 1, latent_dim), ``ResidualPyramid.teacher_input`` of the ground truth.
            quality: int64 (B,), 0 good, 1 bad.
            structure: ``self.structure(lr)``.
        """
        condition = self.class_emb(quality)
        prefix = self.con_embedding(lr)
        local = self._local(prefix)
        start, mask0 = self._start(prefix, local, condition, structure)
        rest, mask = self._gate(self.word_embed(teacher), structure, slice(1, None))
        if local is not None:
            rest = rest + local[:, 1:]
        x = torch.cat([start, rest + self.lvl_embed(self.levels[1:])], dim=1)
        ends = [self.prefix + span.stop for span in self.schedule.spans]
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            # Nothing reads what the last block makes of the LR's tokens.
            wanted = self.schedule.tokens if i == len(self.blocks) - 1 else None
            inputs = x, block.modulation(condition), self.rope, ends, None, wanted
            x = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
        logits = self.head(self.head_nm(x, self.head_nm.modulation(condition)))
        return Prediction(logits, None if mask is None else torch.cat([mask0, mask], dim=1))

    @torch.no_grad()
    def generate(self, lr: torch.Tensor, pyramid: ResidualPyramid, structure: torch.Tensor | None = None,
                 guidance: float = 0.0, top_k: int = 1, top_p: float = 1.0, temperature: float = 1.0,
                 generator: torch.Generator | None = None,
                 forced: list[torch.Tensor] | None = None, steps: Steps | None = None,
                 choice: str = "sample") -> Generation:
        """Predict all token maps of an LR in K cached steps.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            pyramid: the tokenizer's ``quantize``.
            structure: ``self.structure(lr)``.
            guidance: strength of guidance away from the bad quality label; 0 runs the good branch alone.
            top_k, top_p, temperature, generator: see ``sampling.choose``; the default is greedy.
            forced: cumulative latents (B, C, S, S) after the first ``len(forced)`` scales, taken instead of what the
                chosen codes give (for tests and diagnosis).
            steps: what computes them; None is the network as it is.
            choice: ``sample`` chooses as the arguments above say; ``expected`` takes the expected code itself
                (``sampling.expect``), and of those arguments reads the temperature alone.
        """
        steps = steps or self
        branches, batch = 2 if guidance > 0 else 1, len(lr)
        # What the quality label decides, worked out once a label.
        condition = self.class_emb.weight[[GOOD, BAD][:branches]]
        *tables, head_table = [part.modulation(condition).repeat_interleave(batch, dim=1)
                               for part in (*self.blocks, self.head_nm)]
        prefix = self.con_embedding(lr)
        local = self._local(prefix)
        x, _ = self._start(*(None if part is None else part.repeat(branches, 1, 1) for part in (prefix, local)),
                           condition.repeat_interleave(batch, dim=0),
                           None if structure is None else structure.repeat(branches, 1, 1))
        memory = steps.memory(x, branches * batch)
        f_hat, cumulative, maps = pyramid.empty(batch), [], []
        for k, (span, side) in enumerate(zip(self.schedule.spans, self.schedule.sides, strict=True)):
            if k > 0:
                embedded = self.word_embed(pyramid.next_input(k, f_hat).to(x.dtype))
                embedded = self._gate(embedded, structure, span)[0] + self.lvl_embed.weight[k]
                if local is not None:
                    embedded = embedded + local[:, span]
                x = embedded.repeat(branches, 1, 1)
            logits = steps.predict(k, x, tables, head_table, memory)
            if branches == 2:
                logits = guide(*logits.chunk(2), guidance, k, self.schedule.last)
            if choice == "expected":
                codes = expect(logits, pyramid.embedding.weight, temperature).mT.unflatten(2, (side, side))
                maps.append(pyramid.nearest(codes))
            else:
                maps.append(choose(logits, top_k, top_p, temperature, generator).view(batch, side, side))
                codes = pyramid.lookup(maps[-1])
            # What is forced comes after the draw, so that later scales draw the same numbers.
            f_hat = forced[k] if forced is not None and k < len(forced) else f_hat + pyramid.step(k, codes)
            cumulative.append(f_hat)
        return Generation(cumulative, maps)

    def memory(self, x: torch.Tensor, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return room for keys and values of a whole sequence, (rows, heads, P + L, C / heads) each, for every block.

        Of the dtype and on the device of ``x``; what stands in it is arbitrary.
        """
        attn, length = self.blocks[0].attn, self.rope.shape[1]
        shape = rows, attn.heads, length, attn.head_dim
        return [(x.new_empty(shape), x.new_empty(shape)) for _ in self.blocks]

    def predict(self, k: int, x: torch.Tensor, tables: list[torch.Tensor], head_table: torch.Tensor,
                memory: list[tuple[torch.Tensor, torch.Tensor]], run: Callable = Block.__call__) -> torch.Tensor:
        """Return the logits (B, s², V), fp32, of scale ``k`` from the tokens of its level.

        Args:
            k: the scale.
            x: (B, N, C), everything that is new at this level; the LR's tokens as well where ``k`` is 0.
            tables, head_table: ``modulation`` of the blocks and of the head's norm.
            memory: keys and values of the levels before, as ``memory`` gave it; this level's are added.
            run: runs a block, which is its first argument.
        """
        length, end = self.schedule.lengths[k], self.prefix + self.schedule.spans[k].stop
        start = end - x.shape[1]
        for i, (block, table, (keys, values)) in enumerate(zip(self.blocks, tables, memory, strict=True)):
            # Nothing reads what the last block makes of the LR's tokens.
            wanted = length if i == len(self.blocks) - 1 and length < x.shape[1] else None
            x = run(block, x, table, self.rope[:, start:end], cache=KVCache(keys, values, start), wanted=wanted)
        return self.head(self.head_nm(x[:, -length:], head_table)).float()
