"""Places where BasicSR's image models call CUDA whatever the device.

`RealESRNetModel` and `RealESRGANModel` put their degradation tools and their training pool on CUDA by name.
"""

import functools

import torch
from basicsr.models import realesrgan_model, realesrnet_model


def install() -> None:
    """Goes when BasicSR writes `.to(self.device)` there."""
    for module, name in ((realesrnet_model, "RealESRNetModel"), (realesrgan_model, "RealESRGANModel")):
        module.DiffJPEG = _on_available_device(module.DiffJPEG)
        module.USMSharp = _on_available_device(module.USMSharp)
        model = getattr(module, name)
        model._dequeue_and_enqueue = _pool_on_own_device(model._dequeue_and_enqueue)


def _on_available_device(cls):
    class OnAvailableDevice(cls):
        def cuda(self, device=None):
            return super().cuda(device) if torch.cuda.is_available() else self

    OnAvailableDevice.__name__ = OnAvailableDevice.__qualname__ = cls.__name__
    return OnAvailableDevice


def _pool_on_own_device(exchange):
    @functools.wraps(exchange)
    def wrapper(self):
        if not hasattr(self, "queue_lr"):
            batch = self.lq.shape[0]
            if self.queue_size % batch:
                raise ValueError(f"queue_size {self.queue_size} is not a multiple of the batch size {batch}")
            self.queue_lr = self.lq.new_zeros(self.queue_size, *self.lq.shape[1:])
            self.queue_gt = self.gt.new_zeros(self.queue_size, *self.gt.shape[1:])
            self.queue_ptr = 0
        return exchange(self)

    return wrapper
