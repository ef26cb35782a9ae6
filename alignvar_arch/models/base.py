"""What both AlignVAR models add to SRModel: EMA with buffers, checkpoints with metadata, pictures of any size."""
import json
import os
from collections.abc import Callable

import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from alignvar_arch.inference.tiles import tiled
from alignvar_arch.models.scale_log import ScaleLog


class TokenModel(SRModel):
    """An SRModel whose network sees square pictures of one size; validation tiles whatever it is given.

    Options read from ``val``: ``tile_overlap`` (LR pixels, default 8) and ``tile_batch`` (tiles at once, default 8).
    """

    scale_log: ScaleLog

    def init_training_settings(self):
        train_opt = self.opt["train"]
        self.net_g.train()
        self.ema_decay = train_opt.get("ema_decay", 0)
        if self.ema_decay > 0:
            get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            self.net_g_ema = build_network(self.opt["network_g"]).to(self.device).eval()
            load_path = self.opt["path"].get("pretrain_network_g")
            if load_path is not None:
                self.load_network(self.net_g_ema, load_path, self.opt["path"].get("strict_load_g", True), "params_ema")
            else:
                self.model_ema(0)
        self.build_losses()
        self.setup_optimizers()
        self.setup_schedulers()

    def build_losses(self) -> None:
        """Set up the losses that the options name."""
        raise NotImplementedError(f"{type(self).__name__} must build its losses")

    def step_ema(self, current_iter: int) -> None:
        """Average with ``ema_decay``, less in the first steps, so that the start is soon forgotten."""
        if self.ema_decay > 0:
            self.model_ema(min(self.ema_decay, current_iter / (current_iter + 9)))

    @torch.no_grad()
    def model_ema(self, decay=0.999):
        """Move the averaged parameters towards the trained ones; buffers are copied."""
        net, ema = self.get_bare_model(self.net_g), self.net_g_ema
        torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        for own, trained in zip(ema.buffers(), net.buffers(), strict=True):
            own.copy_(trained)

    @property
    def net_eval(self) -> torch.nn.Module:
        """The network to validate and test with: the averaged one where there is one."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)

    def run_tiled(self, function: Callable[..., torch.Tensor], tile: int, *others: torch.Tensor) -> torch.Tensor:
        """Apply ``function`` to the current LR and ``others``, tiles of ``tile`` LR pixels: (1, 3, H, W) in [0, 1]."""
        val = self.opt.get("val", {})
        return tiled(function, self.lq, *others, scale=self.opt["scale"], tile=tile,
                     overlap=val.get("tile_overlap", 8), batch=val.get("tile_batch", 8)).clamp(0, 1)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.scale_log.report(f"Since the last validation ({dataloader.dataset.opt['name']})", tb_logger, current_iter)

    def metadata(self, current_iter: int) -> dict[str, str]:
        """What a checkpoint says of itself: the network's options, the iteration."""
        return {"network": json.dumps(self.opt["network_g"]), "scale": str(self.opt["scale"]),
                "iter": str(current_iter)}

    @master_only
    def save_network(self, net, net_label, current_iter, param_key="params"):
        """Write BasicSR's ``{params, params_ema}`` with ``metadata`` beside them, whole or not at all."""
        nets, keys = (x if isinstance(x, list) else [x] for x in (net, param_key))
        content = {key: {name: value.cpu() for name, value in self.get_bare_model(network).state_dict().items()}
                   for key, network in zip(keys, nets, strict=True)}
        content["metadata"] = self.metadata(current_iter)
        name = "latest" if current_iter == -1 else current_iter
        path = os.path.join(self.opt["path"]["models"], f"{net_label}_{name}.pth")
        torch.save(content, path + ".tmp")
        os.replace(path + ".tmp", path)
