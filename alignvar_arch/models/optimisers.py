"""What the optimiser is given: which parameters decay, and how the rate rises and falls."""
import math

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_DECAYING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def decay_groups(net: nn.Module) -> list[dict]:
    """Return two groups of trainable parameters: the weights of linears and convolutions, which decay, and the rest.

    Biases, norms, embeddings (of positions and classes, the codebook) and attention's scales say where things lie or
    how large they are; pulling them to zero says something about neither.
    """
    decaying = {id(module.weight) for module in net.modules() if isinstance(module, _DECAYING)}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [{"params": [entry for entry in trained if id(entry) in decaying]},
              {"params": [entry for entry in trained if id(entry) not in decaying], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class LinearWarmupCosineLR(LRScheduler):
    """Linear from near zero to the full rate at iteration ``warmup``, then half a cosine to ``eta_min`` at ``total``.

    Iterations count from 1: the rate of iteration ``warmup`` is the full one, that of ``total`` is ``eta_min``, and
    after it the rate stays there.

    Args:
        optimizer: whose rates are set.
        total: the last iteration.
        warmup: iterations of the rise, from 0 to below ``total``.
        eta_min: the last rate.

    Raises:
        ValueError: a warm-up that does not end before the last iteration.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, eta_min: float = 0.0, last_epoch: int = -1):
        if not 0 <= warmup < total:
            raise ValueError(f"warmup must be from 0 to below the {total} iterations, not {warmup}")
        self.total, self.warmup, self.eta_min = total, warmup, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        iteration = self.last_epoch + 1
        if iteration <= self.warmup:
            return [base * iteration / self.warmup for base in self.base_lrs]
        # Without a warm-up the first iteration has the full rate.
        first = max(self.warmup, 1)
        part = min((iteration - first) / max(self.total - first, 1), 1.0)
        return [self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * part)) / 2 for base in self.base_lrs]
