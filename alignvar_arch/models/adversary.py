"""A discriminator beside the tokenizer: what the generator's step hears of it, and its own step."""
from collections import OrderedDict

import torch
from basicsr.losses.gan_loss import GANLoss
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alignvar_arch.errors import UserError
from alignvar_arch.models.checks import check_range
from alignvar_arch.models.stepping import Stepper


class Adversary:
    """Takes the steps of a discriminator, and tells how well a reconstruction passes for GT.

    The losses are those of BasicSR's SRGANModel and RealESRGANModel: each picture is judged by itself. ESRGANModel
    compares with the batch's mean verdict, which micro-batches do not know.

    Args:
        net: the discriminator, wrapped for several processes or not.
        loss: BasicSR's GANLoss.
        stepper: of ``net`` and its optimiser.
        first: the first iteration that it takes part in.

    Attributes:
        skipped: steps skipped since it was made; 0-dim once there was a step.
    """

    def __init__(self, net: nn.Module, loss: GANLoss, stepper: Stepper, first: int):
        self.net, self.loss, self.stepper, self.first = net, loss, stepper, first
        self.skipped: torch.Tensor | int = 0
        self._made: list[torch.Tensor] = []

    def judge(self, made: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss (0-dim) of reconstructions (B, 3, H, W), which its own step will see again."""
        self._made.append(made.detach())
        # Nothing of a frozen network is exchanged, so that data-parallel bookkeeping would wait for gradients in vain.
        net = self.net.module if isinstance(self.net, DistributedDataParallel) else self.net
        self.net.requires_grad_(False)
        with self.stepper.autocast():
            verdict = net(made)
        return self.loss(verdict.float(), True, is_disc=False)

    def step(self, gt: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Take one step on GT (B, 3, H, W) and on what was judged since the last one, in the same micro-batches.

        Returns:
            BasicSR's ``l_d_real``, ``out_d_real``, ``l_d_fake`` and ``out_d_fake``, 0-dim means over the batch.
        """
        figures: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.net.requires_grad_(True)
        parts = zip(gt.chunk(len(self._made)), self._made, strict=True)
        for number, pair in enumerate(parts):
            with self.stepper.micro_batch(number):
                # One pass backward each: a second pass forward may change buffers that the first still needs.
                for name, pictures, real in zip(("real", "fake"), pair, (True, False), strict=True):
                    with self.stepper.autocast():
                        verdict = self.net(pictures)
                    loss = self.loss(verdict.float(), real, is_disc=True)
                    self.stepper.backward(loss)
                    for label, value in ((f"l_d_{name}", loss), (f"out_d_{name}", verdict.float().mean())):
                        figures[label] = figures.get(label, 0) + value.detach() / len(self._made)
        self.stepper.step()
        self.skipped = self.skipped + (self.stepper.in_a_row > 0)
        self._made.clear()
        return figures

    def rest(self) -> None:
        """Take a step without gradients: it changes nothing, and torch does not warn of a schedule without steps."""
        self.stepper.optimizer.step()


def check_options(opt: dict, side: int) -> None:
    """Raise UserError where the options name a part of an adversary without the rest, or one that cannot judge.

    Args:
        opt: complete options of a training.
        side: of the pictures, in pixels.
    """
    train = opt["train"]
    given = {"network_d": opt.get("network_d"), "train.gan_opt": train.get("gan_opt"),
             "train.optim_d": train.get("optim_d")}
    missing = [key for key, value in given.items() if not value]
    if len(missing) == len(given):
        if "gan_from" in train:
            raise UserError("train.gan_from: there is no adversary to begin with; give network_d, train.gan_opt and "
                            "train.optim_d, or leave it out.")
        return
    if missing:
        raise UserError(f"{missing[0]}: missing; an adversary needs {', '.join(given)}, all three or none.")
    if not issubclass(LOSS_REGISTRY.get(train["gan_opt"]["type"]), GANLoss):
        raise UserError(f"train.gan_opt.type: is {train['gan_opt']['type']}, but must be GANLoss.")
    check_range(opt, "train.gan_from", 1, train["total_iter"], whole=True)
    if train.get("parallel") == "fsdp":
        raise UserError("train.parallel: fsdp shares one network among processes and knows of no network_d beside it; "
                        "set ddp, or leave out network_d, train.gan_opt and train.optim_d.")
    problem = _cannot_judge(opt["network_d"], side)
    if problem:
        raise UserError(f"network_d: {opt['network_d']['type']} cannot judge pictures of {side} pixels a side "
                        f"({problem}).")


def first_iteration(train: dict) -> int:
    """Return the first iteration with the adversary: by default, the first with codes from a codebook."""
    return train.get("gan_from", train.get("quantise_from", 0) + 1)


def _cannot_judge(network_opt: dict, side: int) -> str | None:
    """Return why a pass through a discriminator fails, which a run would find out in iteration ``gan_from`` only.

    It is tried without memory; a network that does not work so is not found fault with.
    """
    try:
        with torch.device("meta"):
            net = ARCH_REGISTRY.get(network_opt["type"])(**{k: v for k, v in network_opt.items() if k != "type"})
    except Exception:  # it was built before, where it has memory
        return None
    try:
        net(torch.empty(2, 3, side, side, device="meta"))
    except NotImplementedError:
        return None
    except (AssertionError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
    return None
