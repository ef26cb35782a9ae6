"""What ``training.py`` measures: one batch with its tokens, the two ways to learn from it, a way's peak memory."""
import multiprocessing
from typing import NamedTuple

import common  # noqa: F401 - before basicsr, which does not import without it
import plain_training
import torch
from decode import status

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.tokenizer_arch import Encoded
from alignvar_arch.losses import HCCLoss, TokenCrossEntropyLoss
from alignvar_arch.metrics.tokens import scale_accuracy, scale_cross_entropy

TINY = {"codebook_size": 24, "latent_dim": 4, "scales": (1, 2, 3, 4)}
WAYS = ("plain", "ours")


class Batch(NamedTuple):
    """What both ways are given. Tensors are on one device; ``tokenizer`` is frozen.

    Attributes:
        lr: (B, 3, h, w) in [0, 1].
        tokens: int64 (B, L).
        teacher: (B, L − 1, latent_dim).
        encoded: the tokenised GT, for HCC.
        tokenizer: whose codes these are.
    """

    lr: torch.Tensor
    tokens: torch.Tensor
    teacher: torch.Tensor
    encoded: Encoded
    tokenizer: AlignVARTokenizer


def make_tokenizer(device: torch.device, tiny: bool) -> AlignVARTokenizer:
    """Return the paper's tokenizer with random weights, frozen; its codes spread so that no loss is nearly zero."""
    torch.manual_seed(0)
    tokenizer = AlignVARTokenizer(**TINY, ch=32, ch_mult=(1, 1), num_res_blocks=1) if tiny else AlignVARTokenizer()
    torch.nn.init.normal_(tokenizer.quantize.embedding.weight, std=0.3)
    return tokenizer.eval().requires_grad_(False).to(device)


@torch.no_grad()
def encode(tokenizer: AlignVARTokenizer, size: int) -> Batch:
    """Tokenise ``size`` pictures of noise, as a training step does with its GT."""
    side = tokenizer.schedule.latent_side * tokenizer.factor
    drawn = torch.Generator().manual_seed(1)
    lr = torch.rand(size, 3, side // 4, side // 4, generator=drawn).to(tokenizer.quantize.embedding.weight.device)
    gt = torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1)
    encoded = tokenizer.encode(tokenizer.to_target(gt, lr))
    pyramid = tokenizer.quantize
    return Batch(lr, pyramid.flatten(encoded.maps), pyramid.teacher_input(encoded.cumulative), encoded, tokenizer)


def make_network(depth: int, device: torch.device, tiny: bool) -> AlignVAR:
    """Return AlignVAR of this depth, C = 64·depth, the paper's in all else; no stochastic depth, which is chance."""
    torch.manual_seed(0)
    sizes = {**TINY, "condition_widths": (8, 16)} if tiny else {}
    return AlignVAR(depth=depth, embed_dim=64 * depth, num_heads=depth, drop_path=0.0, **sizes).train().to(device)


class Step:
    """Forward, backward and AdamW of one network on one batch, in the way it is told.

    Args:
        net: AlignVAR in training mode.
        batch: what it learns from.
        half: bf16 autocast, the losses in fp32.
    """

    def __init__(self, net: AlignVAR, batch: Batch, half: bool = False):
        self.net, self.batch, self.half = net, batch, half
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=5e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        self.quality = torch.zeros(len(batch.lr), dtype=torch.long, device=batch.lr.device)
        self.cross_entropy = TokenCrossEntropyLoss()
        self.hcc = HCCLoss(loss_weight=1.0, target="quantised")
        self.mask = None

    def loss(self, way: str) -> torch.Tensor:
        """Return CE + HCC; our way counts what a training step logs as well, the plain one draws tokens."""
        net, batch = self.net, self.batch
        inputs = batch.lr, batch.teacher, self.quality, net.structure(batch.lr)
        with torch.autocast(batch.lr.device.type, torch.bfloat16, enabled=self.half):
            if way == "plain":
                if self.mask is None:  # references keep it in the network
                    self.mask = plain_training.dense_mask(net)
                logits = plain_training.forward(net, *inputs, self.mask)[0]
            else:
                logits = net(*inputs).logits
        loss = self.cross_entropy(logits, batch.tokens) + self.hcc(logits, batch.tokenizer.quantize, batch.encoded).loss
        if way != "plain":
            with torch.no_grad():
                self.logged = [figure(logits, batch.tokens, net.schedule.spans)
                               for figure in (scale_cross_entropy, scale_accuracy)]
        return loss

    def __call__(self, way: str, update: bool = True) -> float:
        """Take one step and return its loss; without ``update`` only gradients are made."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(way)
        loss.backward()
        if update:
            self.optimizer.step()
        return float(loss.detach())  # waits for a GPU

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of every parameter."""
        return {name: parameter.grad for name, parameter in self.net.named_parameters()}


def _step_alone(way: str, depth: int, tiny: bool, batch: Batch) -> float:
    """Build a network, take a step with AdamW's moments in place, and return the peak in GiB."""
    before = status("VmRSS")
    step = Step(make_network(depth, batch.lr.device, tiny), batch)
    for parameter in step.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step.optimizer.step()  # makes the moments without the time of a whole step
    step(way)
    return (status("VmHWM") - before) / 1024


def peak_memory(way: str, depth: int, tiny: bool, batch: Batch) -> float:
    """Return the most memory that weights, gradients, moments and activations take on a CPU, in GiB.

    A process of its own, whose peak is the kernel's (VmHWM, Linux) less what it held before.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_step_alone, (way, depth, tiny, batch))
