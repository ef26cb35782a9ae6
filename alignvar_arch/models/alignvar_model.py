"""Training and testing AlignVAR: teacher forcing with gated ground-truth tokens, CE + λ·HCC, cached generation."""
import inspect
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

from alignvar_arch import checkpoints
from alignvar_arch.archs.alignvar_arch import BAD, GOOD
from alignvar_arch.archs.tokenizer_arch import Encoded, bicubic
from alignvar_arch.errors import UserError
from alignvar_arch.metrics.tokens import scale_accuracy, scale_cross_entropy
from alignvar_arch.models.base import TokenModel
from alignvar_arch.models.scale_log import ScaleLog


@MODEL_REGISTRY.register()
class AlignVARModel(TokenModel):
    """Trains ``network_g: AlignVAR`` on the token maps of a frozen ``network_tokenizer: AlignVARTokenizer``.

    Options read from ``train``: ``ce_opt`` and ``hcc_opt`` (losses), ``bad_quality_rate`` (share p of samples whose GT
    is replaced by its own degraded picture under the bad label, for guidance; default 0), ``grad_clip`` (largest
    gradient norm, default none). From ``val``: ``guidance`` (default 0), ``top_k`` (default 1, greedy), ``top_p``,
    ``temperature``, ``sample_seed`` (default 0), ``token_metrics`` (default true: cross-entropy and accuracy per scale
    where GT is there), ``tile_overlap``, ``tile_batch``.
    """

    def __init__(self, opt):
        # Before the parent builds losses and optimisers, which need to know the tokenizer.
        self.device = torch.device("cuda" if opt["num_gpu"] != 0 else "cpu")
        self.tokenizer = build_network(opt["network_tokenizer"]).to(self.device).eval().requires_grad_(False)
        self.opt = opt
        self.load_network(self.tokenizer, opt["path"]["pretrain_network_tokenizer"], True,
                          opt["path"].get("param_key_tokenizer", "params_ema"))
        self.scale_log = ScaleLog(self.tokenizer.schedule.sides)
        super().__init__(opt)

    @staticmethod
    def check_options(opt: dict) -> None:
        """Raise UserError where transformer, tokenizer, data and guidance do not fit each other."""
        _check_networks(opt)
        _check_losses(opt)
        _check_guidance(opt)

    def build_losses(self):
        train_opt = self.opt["train"]
        self.cri_ce = build_loss(train_opt["ce_opt"]).to(self.device)
        hcc_opt = train_opt.get("hcc_opt")
        self.cri_hcc = build_loss(hcc_opt).to(self.device) if hcc_opt and hcc_opt.get("loss_weight", 1.0) > 0 else None
        self.bad_quality_rate = train_opt.get("bad_quality_rate", 0.0)
        self.noise = torch.Generator().manual_seed(self.opt["manual_seed"])  # of `sca: random`

    def metadata(self, current_iter):
        return {**super().metadata(current_iter), "bad_quality_rate": str(self.bad_quality_rate)}

    @torch.no_grad()
    def _encode(self, gt: torch.Tensor, lr: torch.Tensor) -> tuple[Encoded, torch.Tensor, torch.Tensor]:
        """Return the tokenised GT, its tokens (B, L) and the teacher-forced input (B, L − 1, C)."""
        encoded = self.tokenizer.encode(self.tokenizer.to_target(gt, lr))
        pyramid = self.tokenizer.quantize
        return encoded, pyramid.flatten(encoded.maps), pyramid.teacher_input(encoded.cumulative)

    def _degrade_some(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return GT, some replaced by their own degraded picture, and the quality labels (B,)."""
        bad = torch.rand(len(self.gt), device=self.device) < self.bad_quality_rate
        gt = torch.where(bad.view(-1, 1, 1, 1), bicubic(self.lq, self.gt.shape[-2:]).clamp(0, 1), self.gt)
        return gt, torch.where(bad, BAD, GOOD)

    def optimize_parameters(self, current_iter):
        gt, quality = self._degrade_some()
        encoded, tokens, teacher = self._encode(gt, self.lq)
        self.optimizer_g.zero_grad()
        guidance = self.get_bare_model(self.net_g).guidance(self.lq, self.noise)
        logits, masks = self.net_g(self.lq, teacher, quality, guidance)

        losses = OrderedDict(l_ce=self.cri_ce(logits, tokens))
        if self.cri_hcc is not None:
            hcc = self.cri_hcc(logits, self.tokenizer.quantize, encoded)
            losses["l_hcc"] = hcc.loss
            self.scale_log.add("train/hcc", hcc.per_scale)
            self.scale_log.add("train/hcc_floor", hcc.floor)
        sum(losses.values()).backward()
        if self.opt["train"].get("grad_clip"):
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), self.opt["train"]["grad_clip"])
        self.optimizer_g.step()
        self.step_ema(current_iter)

        spans = self.tokenizer.schedule.spans
        logits = logits.detach()
        self.scale_log.add("train/cross_entropy", scale_cross_entropy(logits, tokens, spans))
        self.scale_log.add("train/accuracy", scale_accuracy(logits, tokens, spans))
        if masks is not None:
            masks = masks.detach()
            self.scale_log.add("train/mask_mean", torch.stack([masks[:, span].mean() for span in spans]))
            self.scale_log.add("train/mask_spread", torch.stack([masks[:, span].std(correction=0) for span in spans]))
        losses["accuracy"] = (logits.argmax(-1) == tokens).float().mean()
        self.log_dict = self.reduce_loss_dict(losses)

    @torch.no_grad()
    def test(self):
        net, tokenizer, val = self.net_eval, self.tokenizer, self.opt.get("val", {})
        training = net.training
        net.eval()
        seed = val.get("sample_seed", 0)
        draw = torch.Generator(self.device).manual_seed(seed)
        noise = torch.Generator().manual_seed(seed)

        def upscale(lr: torch.Tensor, *gt: torch.Tensor) -> torch.Tensor:
            guidance = net.guidance(lr, noise)
            made = net.generate(lr, tokenizer.quantize, guidance, cfg=val.get("guidance", 0.0),
                                top_k=val.get("top_k", 1), top_p=val.get("top_p", 1.0),
                                temperature=val.get("temperature", 1.0), generator=draw)
            if gt and val.get("token_metrics", True):
                self._add_token_metrics(lr, *gt, guidance)
            return tokenizer.to_image(tokenizer.decode(made.f_hat), lr)

        gt = [self.gt] if hasattr(self, "gt") else []
        self.output = self.run_tiled(upscale, tokenizer.image_side // self.opt["scale"], *gt)
        net.train(training)

    def _add_token_metrics(self, lr: torch.Tensor, gt: torch.Tensor, guidance: torch.Tensor | None) -> None:
        """Log how well the tokens of held-out GT are predicted from their LR, teacher-forced."""
        _, tokens, teacher = self._encode(gt, lr)
        quality = torch.full((len(lr),), GOOD, device=self.device)
        logits = self.net_eval(lr, teacher, quality, guidance).logits
        spans = self.tokenizer.schedule.spans
        self.scale_log.add("val/cross_entropy", len(lr) * scale_cross_entropy(logits, tokens, spans), len(lr))
        self.scale_log.add("val/accuracy", len(lr) * scale_accuracy(logits, tokens, spans), len(lr))


def _arguments(network_opt: dict) -> dict:
    """Return a network's options with the defaults of its constructor filled in."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network_opt["type"])).parameters.values()
    return {**{parameter.name: parameter.default for parameter in parameters}, **network_opt}


def _check_networks(opt: dict) -> None:
    if "network_tokenizer" not in opt:
        raise UserError("network_tokenizer: missing; AlignVARModel needs the tokenizer whose tokens it predicts.")
    types = opt["network_g"]["type"], opt["network_tokenizer"]["type"]
    if types != ("AlignVAR", "AlignVARTokenizer"):
        raise UserError("AlignVARModel needs network_g.type AlignVAR and network_tokenizer.type AlignVARTokenizer, "
                        f"not {types[0]} and {types[1]}.")
    if not opt["path"].get("pretrain_network_tokenizer"):
        raise UserError("path.pretrain_network_tokenizer: missing; train a tokenizer first (options/tokenizer_x4.yml) "
                        "or name the one that ships, alignvar_arch:weights/tokenizer_x4_small.safetensors.")
    transformer, tokenizer = _arguments(opt["network_g"]), _arguments(opt["network_tokenizer"])
    for key in ("codebook_size", "latent_dim", "scales"):
        own, other = (list(x) if isinstance(x, (list, tuple)) else x for x in (transformer[key], tokenizer[key]))
        if own != other:
            raise UserError(f"network_g.{key} is {own} but network_tokenizer.{key} is {other}; the transformer must be "
                            "built for the tokenizer it reads.")
    side = tokenizer["scales"][-1] * 2 ** (len(tokenizer["ch_mult"]) - 1)
    if side % opt["scale"]:
        raise UserError(f"scale: the tokenizer's pictures have {side} pixels a side, not a multiple of {opt['scale']}.")
    gt_size = opt["datasets"].get("train", {}).get("gt_size", side)
    if gt_size != side:
        raise UserError(f"datasets.train.gt_size is {gt_size}, but the tokenizer's scales describe pictures of {side}.")


def _check_losses(opt: dict) -> None:
    if not opt["is_train"]:
        return
    if not opt["train"].get("ce_opt"):
        raise UserError("train.ce_opt: missing; AlignVAR learns from a TokenCrossEntropyLoss.")
    for key in ("ce_opt", "hcc_opt"):
        arguments = dict(opt["train"].get(key) or {"type": "HCCLoss"})
        try:
            LOSS_REGISTRY.get(arguments.pop("type"))(**arguments)
        except ValueError as error:
            raise UserError(f"train.{key}: {error}.") from error


def _check_guidance(opt: dict) -> None:
    cfg = (opt.get("val") or {}).get("guidance", 0)
    if cfg < 0:
        raise UserError(f"val.guidance is {cfg}; it is 0 (off) or positive.")
    if not cfg:
        return
    if opt["is_train"]:
        rate = opt["train"].get("bad_quality_rate", 0.0)
    else:
        path = opt["path"].get("pretrain_network_g")
        rate = float(checkpoints.read(path)[1].get("bad_quality_rate", 0.0)) if path else 0.0
    if rate == 0:
        raise UserError(f"val.guidance is {cfg}, but this model was trained without bad-quality samples "
                        "(train.bad_quality_rate 0), so there is nothing to guide away from; set val.guidance to 0.")
