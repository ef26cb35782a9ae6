"""What both AlignVAR models add to SRModel: EMA with buffers, checkpoints with metadata, pictures of any size."""
import inspect
import json
import math
import os

import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.registry import ARCH_REGISTRY

from alignvar_arch import checkpoints
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.errors import UserError
from alignvar_arch.models.scale_log import ScaleLog


class TokenModel(SRModel):
    """An SRModel whose network sees square pictures of one size; validation tiles whatever it is given.

    Options read from ``val``: ``tile_overlap`` (LR pixels, default a quarter of a tile), ``tile_batch`` (tiles at once,
    default 8) and ``decode_tile`` (side of the tiles of decoding, latent pixels, default none: the picture at once).
    """

    scale_log: ScaleLog

    def init_training_settings(self):
        train_opt, load_path = self.opt["train"], self.opt["path"].get("pretrain_network_g")
        self.net_g.train()
        self.ema_decay = train_opt.get("ema_decay", 0)
        # Resuming loads weights too, but its average is as old as its iteration says.
        self.iteration = 0
        self.from_scratch = load_path is None or bool(self.opt["path"].get("resume_state"))
        if self.ema_decay > 0:
            get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            self.net_g_ema = build_network(self.opt["network_g"]).to(self.device).eval()
            self.model_ema(0)  # also what the file lacks, and starts fresh, starts as it does there
            if load_path is not None and "params_ema" in checkpoints.read(load_path)[0]:
                self.load_network(self.net_g_ema, load_path, self.opt["path"].get("strict_load_g", True), "params_ema")
        self.build_losses()
        self.setup_optimizers()
        self.setup_schedulers()

    def build_losses(self) -> None:
        """Set up the losses that the options name."""
        raise NotImplementedError(f"{type(self).__name__} must build its losses")

    def feed_data(self, data):
        self.__dict__.pop("gt", None)  # a test set without GT must not meet the last batch's
        super().feed_data(data)

    def optimise(self, loss: torch.Tensor, current_iter: int) -> None:
        """Take one step down ``loss``, with the options' clipping and averaging."""
        self.iteration = current_iter
        self.optimizer_g.zero_grad()
        loss.backward()
        if self.opt["train"].get("grad_clip"):
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), self.opt["train"]["grad_clip"])
        self.optimizer_g.step()
        if self.ema_decay > 0:
            # The first steps from scratch count less in the average, so that the start is soon forgotten.
            warm = current_iter / (current_iter + 9) if self.from_scratch else 1.0
            self.model_ema(min(self.ema_decay, warm))

    @torch.no_grad()
    def model_ema(self, decay=0.999):
        """Move the averaged parameters towards the trained ones; buffers are copied."""
        net, ema = self.get_bare_model(self.net_g), self.net_g_ema
        torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        for own, trained in zip(ema.buffers(), net.buffers(), strict=True):
            own.copy_(trained)

    def make_picture(self, net: torch.nn.Module) -> torch.Tensor:
        """Return the pictures (B, 3, H, W) in [0, 1] that ``net`` makes of the current data."""
        raise NotImplementedError(f"{type(self).__name__} must say what it makes of a picture")

    @torch.no_grad()
    def test(self):
        """Make a picture with the averaged network where there is one."""
        net = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        training = net.training
        net.eval()
        self.output = self.make_picture(net)
        net.train(training)

    def tiling(self) -> dict:
        """Return how the options want pictures cut: arguments of ``inference.picture``'s functions."""
        val = self.opt.get("val") or {}
        return {"scale": self.opt["scale"], "overlap": val.get("tile_overlap"), "batch": val.get("tile_batch", 8),
                "decode_tile": val.get("decode_tile")}

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.scale_log.report(dataloader.dataset.opt["name"], tb_logger, current_iter)

    def metadata(self) -> dict[str, str]:
        """What a checkpoint says of itself: the network's options, the scale, the iteration."""
        return {"network": json.dumps(self.opt["network_g"]), "scale": str(self.opt["scale"]),
                "iter": str(self.iteration)}

    @master_only
    def save_network(self, net, net_label, current_iter, param_key="params"):
        """Write BasicSR's ``{params, params_ema}`` with ``metadata`` beside them, whole or not at all."""
        nets, keys = (x if isinstance(x, list) else [x] for x in (net, param_key))
        content = {key: {name: value.cpu() for name, value in self.get_bare_model(network).state_dict().items()}
                   for key, network in zip(keys, nets, strict=True)}
        content["metadata"] = self.metadata()
        name = "latest" if current_iter == -1 else current_iter
        path = os.path.join(self.opt["path"]["models"], f"{net_label}_{name}.pth")
        checkpoints.write_pth(path, content)


def arguments(network_opt: dict) -> dict:
    """Return a network's options with the defaults of its constructor filled in."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network_opt["type"])).parameters.values()
    given = {**{parameter.name: parameter.default for parameter in parameters}, **network_opt}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def check_geometry(opt: dict, tokenizer_key: str) -> None:
    """Raise UserError where scale, crops and tiles do not fit the pictures that the tokenizer's scales describe."""
    tokenizer, scale = arguments(opt[tokenizer_key]), opt.get("scale")
    side = tokenizer["scales"][-1] * 2 ** (len(tokenizer["ch_mult"]) - 1)
    if not scale or side % scale:
        raise UserError(f"scale: is {scale}, but {tokenizer_key} describes pictures of {side} pixels a side, which "
                        "must be a multiple of it.")
    gt_size = opt["datasets"].get("train", {}).get("gt_size", side)
    if gt_size != side:
        raise UserError(f"datasets.train.gt_size: is {gt_size}, but the scales of {tokenizer_key} describe pictures of "
                        f"{side}.")
    check_range(opt, "val.tile_overlap", 0, side // scale - 1, whole=True)
    check_range(opt, "val.tile_batch", 1, whole=True)
    if (opt.get("val") or {}).get("decode_tile") is not None:  # null decodes the picture at once
        check_range(opt, "val.decode_tile", 1, whole=True)
    if (opt.get("train") or {}).get("grad_clip") is not None:  # null is no clipping
        check_range(opt, "train.grad_clip", 0)
    if not opt["is_train"] and not opt["path"].get("pretrain_network_g"):
        raise UserError("path.pretrain_network_g: missing; a test needs trained weights.")


def check_range(opt: dict, path: str, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise UserError where an option, if given, is not a number from ``low`` to ``high``."""
    block, key = path.split(".")
    if key not in (opt.get(block) or {}):
        return
    value = opt[block][key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        kind = "whole number" if whole else "number"
        upper = "up" if high == math.inf else f"to {high}"
        raise UserError(f"{path}: is {value!r}, but must be a {kind} from {low} {upper}.")


def check_same_network(opt: dict, key: str) -> dict[str, str]:
    """Raise UserError where weights say that they belong to other settings than ``opt[key]``, shapes aside.

    Returns:
        The metadata of the weights.
    """
    path, given = opt["path"][f"pretrain_{key}"], arguments(opt[key])
    found = recognise(path, network=opt[key]["type"])
    if found.kind == "varsr-tokenizer" and "network" not in found.metadata and given["phi_on_last"]:
        raise UserError(f"{key}.phi_on_last: is true, but {path} has its tokenizer where VARSR has it, which goes "
                        "without phi on the last scale; set false, or, where the file is VAR's, convert it with "
                        "`basicsr convert --phi_on_last yes`.")
    # VAR gives a network of other settings its beginning; sizes have been compared by then.
    if found.kind == "var" or "network" not in found.metadata:
        return found.metadata
    stored = arguments(json.loads(found.metadata["network"]))
    # SCA may be new to weights of VARSR, which have none; stochastic depth is a matter of training, and in no weight.
    free = {"drop_path"} | ({"sca"} if found.kind == "varsr" else set())
    for name in given:
        if name not in free and name in stored and stored[name] != given[name]:
            raise UserError(f"{key}.{name}: is {given[name]!r}, but {path} was trained with {stored[name]!r}; use the "
                            "weights' own setting.")
    return found.metadata
