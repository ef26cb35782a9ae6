"""One optimiser step: precision, micro-batches, clipping, and no step at all where a gradient is not finite."""
import contextlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_FP16_SCALE = 2.0 ** 14  # torch's 2^16 overflows in the first steps of most networks, which only costs steps


class Stepper:
    """Takes the steps of one optimiser.

    A step whose gradients are not finite is skipped: weights and the optimiser's averages stay as they are. In fp16
    that belongs to finding the loss's scale, and counts only once the scale has fallen below 1.

    Args:
        net: the network, wrapped for several processes or not.
        optimizer: of its parameters.
        device: where they are.
        precision: of the network's own computation, ``fp32``, or autocast to ``bf16`` or ``fp16``.
        parts: micro-batches whose gradients add up to one step.
        clip: largest norm of the gradient, or None.

    Attributes:
        norm: of the last gradient, before it was clipped; 0-dim.
        in_a_row: how many of the last steps were skipped; 0-dim, on ``device``.
    """

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, *,
                 precision: str = "fp32", parts: int = 1, clip: float | None = None):
        self.net, self.optimizer, self.device = net, optimizer, device
        self.dtype, self.parts, self.clip = PRECISIONS[precision], parts, clip
        self.scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_FP16_SCALE,
                                           enabled=self.dtype == torch.float16)
        self.norm = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), dtype=torch.long, device=device)

    def autocast(self) -> torch.autocast:
        """Return the context that the network computes in; losses belong outside of it."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    @contextlib.contextmanager
    def micro_batch(self, number: int):
        """Gather the gradients of micro-batch ``number`` (from 0); the processes exchange them in the last one."""
        last = number == self.parts - 1
        if isinstance(self.net, DistributedDataParallel) and not last:
            with self.net.no_sync():
                yield
            return
        if hasattr(self.net, "set_requires_gradient_sync"):  # FSDP
            self.net.set_requires_gradient_sync(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a micro-batch's loss, a mean over its images."""
        self.scaler.scale(loss / self.parts).backward()

    def step(self) -> None:
        """Clip what ``backward`` has gathered and take the step, or skip it."""
        self.scaler.unscale_(self.optimizer) if self.scaler.is_enabled() else None
        parameters = [entry for group in self.optimizer.param_groups for entry in group["params"]
                      if entry.grad is not None]
        norm = nn.utils.get_total_norm([entry.grad for entry in parameters])
        self.norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        finite = self.norm.isfinite()
        counts = torch.ones_like(self.in_a_row)
        if self.scaler.is_enabled():  # 1 times the scale is the scale, without waiting for it
            counts *= self.scaler.scale(torch.ones((), device=self.device)) < 1
        self.in_a_row = torch.where(finite, 0, self.in_a_row + counts)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False) and not isinstance(norm, DTensor):
            # Fused optimisers skip on their device, as they do for GradScaler: nobody waits for the answer.
            self.optimizer.found_inf = (~finite).float()
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        """Return what a resumed run needs beside the optimiser."""
        return {"scaler": self.scaler.state_dict(), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state: dict) -> None:
        """Put back what ``state_dict`` gave."""
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.in_a_row.fill_(state["in_a_row"])
