"""Training and testing AlignVAR: teacher forcing with gated ground-truth tokens, CE + λ·HCC, cached generation."""
import random
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY

from alignvar_arch.archs.alignvar_arch import BAD, GOOD
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.archs.tokenizer_arch import Encoded, bicubic
from alignvar_arch.compat.networks import param_key
from alignvar_arch.errors import UserError
from alignvar_arch.inference.colour import COLOURS
from alignvar_arch.inference.pairing import NOT_GUIDED, why_unguided
from alignvar_arch.inference.picture import picture, seeds, structure
from alignvar_arch.inference.tiles import Tiling, cut
from alignvar_arch.losses import HCCLoss, TokenCrossEntropyLoss
from alignvar_arch.metrics.tokens import scale_accuracy, scale_cross_entropy
from alignvar_arch.models import pairing
from alignvar_arch.models.base import TokenModel
from alignvar_arch.models.cached_tokens import CachedTokens
from alignvar_arch.models.cached_tokens import check_options as check_cache
from alignvar_arch.models.checks import check_geometry, check_range, check_same_network, chosen
from alignvar_arch.models.sampling import check_sampling, sampling
from alignvar_arch.models.scale_log import ScaleLog


@MODEL_REGISTRY.register()
class AlignVARModel(TokenModel):
    """Trains ``network_g: AlignVAR`` on the token maps of a frozen ``network_tokenizer: AlignVARTokenizer``.

    The tokenizer encodes in fp32 whatever ``precision`` says: in bf16 some 3 % of the tokens would be others than those
    that a cache holds and that validation predicts.

    Options read from ``train``: ``ce_opt`` and ``hcc_opt`` (losses), ``bad_quality_rate`` (share p of samples whose GT
    is replaced by its own degraded picture under the bad label, for guidance; default 0), ``checkpointing`` (blocks
    are computed again in the backward pass, to save memory; default false), ``head_from_codes`` (a head from scratch
    begins with the codebook's geometry, ``AlignVAR.start_from_codes``; default false), ``token_cache`` (an LMDB of the
    fixed crops' token maps, by `basicsr lmdb tokens`, which spares encoding them; default none). From ``val``:
    ``guidance`` (default 0), ``choice`` (``sample``, or ``expected``: the expected code itself; default
    sample), ``top_k`` (default 1, greedy), ``top_p``, ``temperature``, ``sample_seed`` (default 0),
    ``token_metrics`` (default true: cross-entropy and accuracy per scale where GT is there), ``colour`` (``off``,
    ``wavelet`` or ``adain``: colours taken from the LR; default off), ``tile_overlap``, ``tile_batch``,
    ``decode_tile``.
    """

    def __init__(self, opt):
        # Before the parent builds losses and optimisers.
        self.opt = opt
        self.device = torch.device("cuda" if opt["num_gpu"] != 0 else "cpu")
        self.tokenizer = build_network(opt["network_tokenizer"]).to(self.device).eval().requires_grad_(False)
        self.load_network(self.tokenizer, opt["path"]["pretrain_network_tokenizer"],
                          opt["path"].get("strict_load_tokenizer", True),
                          param_key(opt["path"], "network_tokenizer"))
        self.scale_log = ScaleLog(self.tokenizer.schedule.sides)
        super().__init__(opt)

    @staticmethod
    def check_options(opt: dict) -> None:
        """Raise UserError where transformer, tokenizer, data, losses and sampling do not fit each other."""
        _check_networks(opt)
        check_geometry(opt, "network_tokenizer")
        check_same_network(opt, "network_tokenizer")
        if opt["path"].get("pretrain_network_g"):
            pairing.check_codes(opt, "network_g", "network_tokenizer")
        if opt["is_train"]:
            _check_losses(opt["train"])
            check_range(opt, "train.bad_quality_rate", 0, 1)
            if not isinstance(opt["train"].get("head_from_codes", False), bool):
                raise UserError(f"train.head_from_codes: is {opt['train']['head_from_codes']!r}, but must be true or "
                                "false.")
            check_cache(opt)
        check_sampling(opt, "val")
        check_range(opt, "val.sample_seed", 0, whole=True)
        check_range(opt, "val.guidance", 0)
        colour = (opt.get("val") or {}).get("colour") or "off"  # YAML reads a bare `off` as False
        if colour not in COLOURS:
            raise UserError(f"val.colour: is {colour!r}, but must be one of {', '.join(COLOURS)}.")
        if (opt.get("val") or {}).get("guidance"):
            _check_guidance(opt)

    def build_losses(self):
        train_opt = self.opt["train"]
        self.cri_ce = build_loss(train_opt["ce_opt"]).to(self.device)
        self.cri_hcc = build_loss(train_opt["hcc_opt"]).to(self.device) if train_opt.get("hcc_opt") else None
        self.bad_quality_rate = train_opt.get("bad_quality_rate", 0.0)
        self.cached = CachedTokens(self.opt, self.tokenizer) if train_opt.get("token_cache") else None

    def metadata(self):
        return {**super().metadata(), "bad_quality_rate": str(self.bad_quality_rate),
                "codebook": codebook_hash(self.tokenizer.quantize.embedding.weight)}

    def init_training_settings(self):
        net = self.get_bare_model(self.net_g)
        net.checkpointing = self.opt["train"].get("checkpointing", False)
        if self.opt["train"].get("head_from_codes", False) and not self.opt["path"].get("pretrain_network_g"):
            net.start_from_codes(self.tokenizer.quantize.embedding.weight,
                                 torch.Generator().manual_seed(self.opt["manual_seed"]))
        super().init_training_settings()

    def sharded_parts(self):
        # A block's modulation is worked out before the block is called.
        return [part for block in self.net_g.blocks for part in (block.ada_lin, block)]

    def compiled_parts(self):
        return list(self.get_bare_model(self.net_g).blocks)

    def feed_data(self, data):
        super().feed_data(data)
        self.keys = data.get("gt_path")

    def _encode(self, gt: torch.Tensor, lr: torch.Tensor) -> tuple[Encoded, torch.Tensor, torch.Tensor]:
        """Return the tokenised GT, its tokens (B, L) and the teacher-forced input (B, L − 1, C)."""
        with torch.inference_mode():
            return self._with_teacher(self.tokenizer.encode(self.tokenizer.to_target(gt, lr)))

    def _look_up(self, keys: list[str]) -> tuple[Encoded, torch.Tensor, torch.Tensor]:
        """Return what ``_encode`` does, but for the latent, from the cached token maps of crops."""
        with torch.inference_mode():
            maps = self.cached(keys, self.device)
            cumulative = self.tokenizer.quantize.accumulate(maps)
            unknown = torch.full_like(cumulative[-1], torch.nan)  # the latent; who used it all the same would notice
            return self._with_teacher(Encoded(unknown, maps, cumulative))

    def _with_teacher(self, encoded: Encoded) -> tuple[Encoded, torch.Tensor, torch.Tensor]:
        pyramid = self.tokenizer.quantize
        tokens, teacher = pyramid.flatten(encoded.maps), pyramid.teacher_input(encoded.cumulative)
        with torch.inference_mode(False):  # copies: what inference mode has made cannot be kept for a backward pass
            return (Encoded(encoded.latent.clone(), encoded.maps, [f_hat.clone() for f_hat in encoded.cumulative]),
                    tokens.clone(), teacher.clone())

    def _degrade_some(self, gt: torch.Tensor, lr: torch.Tensor,
                      seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return GT, some replaced by their own degraded picture, and the quality labels (B,)."""
        drawn = [random.Random(seed).random() < self.bad_quality_rate for seed in seeds]
        bad = torch.tensor(drawn).to(self.device, non_blocking=True)
        if any(drawn):  # not of the tensor: that would wait for the GPU
            gt = torch.where(bad.view(-1, 1, 1, 1), bicubic(lr, gt.shape[-2:]).clamp(0, 1), gt)
        return gt, torch.where(bad, BAD, GOOD)

    def _hcc(self, logits: torch.Tensor, encoded: Encoded) -> torch.Tensor | None:
        """Return the weighted HCC and log it by scale; with λ = 0 it is only logged, and None is returned."""
        with torch.set_grad_enabled(self.cri_hcc.loss_weight > 0):
            hcc = self.cri_hcc(logits, self.tokenizer.quantize, encoded)
        self.scale_log.add("train/hcc", hcc.per_scale)
        self.scale_log.add("train/hcc_floor", hcc.floor)
        return hcc.loss if self.cri_hcc.loss_weight > 0 else None

    def losses(self, part):
        net, seeds = self.get_bare_model(self.net_g), self.sample_seeds(part)
        gt, quality = self._degrade_some(self.gt[part], self.lq[part], seeds)
        lr = self.lq[part]
        if self.cached is not None:
            encoded, tokens, teacher = self._look_up(self.keys[part])
        else:
            encoded, tokens, teacher = self._encode(gt, lr)
        maps = structure(net, lr, seeds)
        with self.stepper.autocast():
            logits, masks = self.net_g(lr, teacher, quality, maps)
        losses = OrderedDict(l_ce=self.cri_ce(logits, tokens))
        hcc = self._hcc(logits, encoded) if self.cri_hcc is not None else None
        if hcc is not None:
            losses["l_hcc"] = hcc
        losses["accuracy"] = self._log_by_scale(logits.detach(), tokens, masks)
        return losses

    def _log_by_scale(self, logits: torch.Tensor, tokens: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        """Gather figures by scale; return the accuracy over all tokens."""
        spans = self.tokenizer.schedule.spans
        accuracy = scale_accuracy(logits, tokens, spans)
        self.scale_log.add("train/cross_entropy", scale_cross_entropy(logits, tokens, spans))
        self.scale_log.add("train/accuracy", accuracy)
        if masks is not None:
            masks = masks.detach().float()
            self.scale_log.add("train/mask_mean", torch.stack([masks[:, span].mean() for span in spans]))
            self.scale_log.add("train/mask_spread", torch.stack([masks[:, span].std(correction=0) for span in spans]))
        lengths = self.tokenizer.schedule.lengths
        return sum(value * length for value, length in zip(accuracy, lengths, strict=True)) / sum(lengths)

    def make_picture(self, net):
        val = self.opt.get("val") or {}
        seed = val.get("sample_seed", 0)
        if hasattr(self, "gt") and val.get("token_metrics", True):
            self._add_token_metrics(net, seed)
        return picture(net, self.tokenizer, self.lq, guidance=val.get("guidance", 0.0), seed=seed,
                       colour=val.get("colour") or "off", **sampling(val), **self.tiling())

    def _add_token_metrics(self, net: torch.nn.Module, seed: int) -> None:
        """Log how well the tokens of held-out GT are predicted from their LR, teacher-forced, tile by tile."""
        how, spans = self.tiling(), self.tokenizer.schedule.spans
        tiling = Tiling.of(self.tokenizer, how["scale"], how["overlap"], how["batch"])
        for places, (lr, gt) in cut(self.lq, self.gt, tiling=tiling, scale=how["scale"]):
            _, tokens, teacher = self._encode(gt, lr)
            quality = torch.full((len(lr),), GOOD, device=self.device)
            logits = net(lr, teacher, quality, structure(net, lr, seeds(seed, places))).logits
            self.scale_log.add("val/cross_entropy", len(lr) * scale_cross_entropy(logits, tokens, spans), len(lr))
            self.scale_log.add("val/accuracy", len(lr) * scale_accuracy(logits, tokens, spans), len(lr))


def _check_networks(opt: dict) -> None:
    if not isinstance(opt.get("network_tokenizer"), dict):
        raise UserError("network_tokenizer: missing; AlignVARModel needs the tokenizer whose tokens it predicts.")
    types = opt["network_g"]["type"], opt["network_tokenizer"]["type"]
    if types != ("AlignVAR", "AlignVARTokenizer"):
        raise UserError("AlignVARModel needs network_g.type AlignVAR and network_tokenizer.type AlignVARTokenizer, "
                        f"not {types[0]} and {types[1]}.")
    if not opt["path"].get("pretrain_network_tokenizer"):
        raise UserError("path.pretrain_network_tokenizer: missing; train a tokenizer first (options/tokenizer_x4.yml) "
                        "or name the one that ships, alignvar_arch:weights/tokenizer_x4_small.safetensors.")
    pairing.check_sizes(opt, "network_g", "network_tokenizer")


def _check_losses(train: dict) -> None:
    if not train.get("ce_opt"):
        raise UserError("train.ce_opt: missing; AlignVAR learns from a TokenCrossEntropyLoss.")
    for key in ("pixel_opt", "perceptual_opt"):
        if train.get(key):
            raise UserError(f"train.{key}: AlignVAR learns from tokens; it has ce_opt and hcc_opt instead.")
    for key, kind in (("ce_opt", TokenCrossEntropyLoss), ("hcc_opt", HCCLoss)):
        if not train.get(key):
            continue
        arguments_ = dict(train[key])
        loss = LOSS_REGISTRY.get(arguments_.pop("type"))
        if not issubclass(loss, kind):
            raise UserError(f"train.{key}.type: is {loss.__name__}, but must be {kind.__name__}.")
        try:
            loss(**arguments_)
        except ValueError as error:
            raise UserError(f"train.{key}: {error}.") from error


def _check_guidance(opt: dict) -> None:
    if opt["is_train"]:
        problem = None if opt["train"].get("bad_quality_rate", 0.0) else NOT_GUIDED
    else:
        problem = why_unguided(chosen(opt, "network_g"))
    if problem:
        raise UserError(f"val.guidance: {problem}; set val.guidance to 0.")
