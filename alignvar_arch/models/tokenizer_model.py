"""Training the tokenizer: reconstruction, perceptual distance where its weights are at hand, vector quantisation."""
import random
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY

from alignvar_arch.archs.lpips import lpips_weights_missing
from alignvar_arch.archs.tokenizer.codebook import count_hits, fold_hits, revive
from alignvar_arch.errors import UserError
from alignvar_arch.inference.picture import reconstruction
from alignvar_arch.models import adversary
from alignvar_arch.models.adversary import Adversary
from alignvar_arch.models.base import TokenModel
from alignvar_arch.models.checks import check_geometry, check_range, check_same_network
from alignvar_arch.models.scale_log import ScaleLog
from alignvar_arch.models.sharding import Unsharded
from alignvar_arch.models.stepping import Stepper
from alignvar_arch.training import rng


@MODEL_REGISTRY.register()
class AlignVARTokenizerModel(TokenModel):
    """Trains ``network_g: AlignVARTokenizer``; validation reconstructs GT, the ceiling of what AlignVAR can reach.

    Options read from ``train``: ``pixel_opt``, ``vq_opt``, ``lpips_opt`` (losses), ``quantise_from`` (iterations that
    decode the latent itself before the codebook is placed, default 0; from scratch only), ``revive_freq`` (iterations
    between revivals of dead codes, default 50, 0 never), ``revive_until`` (last iteration that revives, default 80 % of
    total_iter), ``scale_dropout`` (share of samples decoded from their first scales only, none to all but one, so that
    the decoder makes the best of what coarse tokens say; default 0).
    With ``network_d`` (a discriminator of BasicSR's), also ``gan_opt`` (GANLoss), ``optim_d`` and ``gan_from`` (first
    iteration that the discriminator trains in and the tokenizer hears of it, default quantise_from + 1). Its precision
    and micro-batches are those of the tokenizer; ``grad_clip`` is the tokenizer's alone.
    """

    reads_gt = True  # its picture is a reconstruction, and whoever shows it beside others must say so
    adversary: Adversary | None = None

    def __init__(self, opt):
        super().__init__(opt)
        self.scale_log = ScaleLog(self.get_bare_model(self.net_g).schedule.sides)
        self.hits = 0  # (K, V) since the last validation
        # Weights that were given bring a codebook that is placed already; when resuming, the state says it.
        self.placed = not opt["path"].get("resume_state") and opt["path"].get("pretrain_network_g") is not None

    @staticmethod
    def check_options(opt: dict) -> None:
        """Raise UserError where the options cannot train or test a tokenizer."""
        check_tokenizer(opt, losses=("pixel_opt", "vq_opt"))

    @staticmethod
    def depends_on(train: dict) -> dict[str, object]:
        """Return what a run's course depends on that is no option itself: it follows from ``total_iter``, or from which
        files are at hand."""
        every = train.get("revive_freq", 50)
        last = every * int(_revive_until(train) // every) if every else 0
        return {"the last iteration that revives codes": last, **perceptual_loss(train)}

    def build_losses(self):
        train_opt = self.opt["train"]
        self.cri_pix = build_loss(train_opt["pixel_opt"]).to(self.device)
        if train_opt.get("vq_opt"):  # the third stage has none
            self.cri_vq = build_loss(train_opt["vq_opt"]).to(self.device)
        self.cri_lpips = None
        missing = _lpips_missing(train_opt)
        if missing:
            get_root_logger().warning(f"Training goes on without the perceptual loss. {missing}")
        elif train_opt.get("lpips_opt"):
            self.cri_lpips = build_loss(train_opt["lpips_opt"]).to(self.device)

    def setup_optimizers(self):
        super().setup_optimizers()
        if self.opt.get("network_d"):
            self._build_adversary()

    def _build_adversary(self) -> None:
        train_opt, paths = self.opt["train"], self.opt["path"]
        # Under BasicSR's names, by which its optimisers, files and figures are found.
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        if paths.get("pretrain_network_d"):
            self.load_network(self.net_d, paths["pretrain_network_d"], paths.get("strict_load_d", True),
                              paths.get("param_key_d", "params"))
        self.net_d.train()
        settings = dict(train_opt["optim_d"])
        if not settings.get("foreach"):
            settings.setdefault("fused", True)
        self.optimizer_d = self.get_optimizer(settings.pop("type"), self.net_d.parameters(), **settings)
        self.optimizers.append(self.optimizer_d)
        stepper = Stepper(self.net_d, self.optimizer_d, self.device, parts=train_opt.get("accumulate", 1),
                          precision=train_opt.get("precision", "fp32"))
        self.adversary = Adversary(self.net_d, build_loss(train_opt["gan_opt"]).to(self.device), stepper,
                                   adversary.first_iteration(train_opt))

    def compiled_parts(self):
        net = self.get_bare_model(self.net_g)
        return [net.encoder, net.decoder]

    def _tend_codebook(self, current_iter: int) -> bool:
        """Place the codebook when its time has come, revive dead codes later; return whether to quantise."""
        train_opt, net = self.opt["train"], self.get_bare_model(self.net_g)
        every = train_opt.get("revive_freq", 50)
        # Codes placed on an untrained encoder's latents pull them to zero, so the first iterations go without. When
        # they are over no code has been hit, so that all move onto real latents: the codebook's initialisation.
        start = 0 if self.placed else train_opt.get("quantise_from", 0)
        until = _revive_until(train_opt)
        place = current_iter == start + 1 and not self.placed
        if place or (every and start < current_iter <= until and current_iter % every == 0):
            with torch.no_grad(), Unsharded(net, net.quantize.embedding, "weight"):
                moved = revive(net.quantize, net.encode_latent(net.to_target(self.gt, self.lq)))
            if moved:
                get_root_logger().info(
                    f"Iteration {current_iter}: moved {moved} dead codes of {net.quantize.codebook_size}.")
        return current_iter > start

    def optimize_parameters(self, current_iter):
        self.quantise = self._tend_codebook(current_iter)
        self.batch_hits = torch.zeros_like(self.get_bare_model(self.net_g).quantize.ema_vocab_hit_SV)
        self.contested = self.adversary is not None and current_iter >= self.adversary.first
        super().optimize_parameters(current_iter)
        if self.contested:
            self.log_dict.update(self.adversary.step(self.gt))
        elif self.adversary is not None:
            self.adversary.rest()

    def losses(self, part):
        gt, lr = self.gt[part], self.lq[part]
        with self.stepper.autocast():
            made, encoded = self.net_g(gt, lr, self.quantise, self._draw_kept(part) if self.quantise else None)
        losses = OrderedDict(l_pix=self.cri_pix(made, gt))
        # Times zero, not left out: data-parallel training wants every parameter in the graph.
        losses["l_vq"] = self.cri_vq(encoded) * float(self.quantise)
        if self.cri_lpips is not None:
            losses["l_lpips"] = self.cri_lpips(made, gt, self.loss_seed())
        if self.contested:
            losses["l_gan"] = self.adversary.judge(made)
        with torch.no_grad():
            if self.quantise:
                self.batch_hits += count_hits(self.get_bare_model(self.net_g).quantize, encoded.maps)
            latent = encoded.latent
            losses["vq_error"] = (encoded.cumulative[-1] - latent).square().mean() / latent.var()
        return losses

    def loss_seed(self) -> int:
        """Return what a loss's own draws follow from: the same for all parts of a batch and all processes."""
        return rng.sample_seed(self.opt["manual_seed"], self.iteration)

    def _draw_kept(self, part: slice) -> torch.Tensor | None:
        """Return from how many scales to decode each picture (B,), or None where all are always kept."""
        rate, scales = self.opt["train"].get("scale_dropout", 0.0), len(self.get_bare_model(self.net_g).schedule)
        if not rate:
            return None
        draws = [random.Random(seed) for seed in self.sample_seeds(part)]
        return torch.tensor([draw.randrange(scales) if draw.random() < rate else scales for draw in draws],
                            device=self.device)

    def batch_figures(self):
        # Once a step, not once a part: running hits fade with every batch that is folded into them.
        hits = self.batch_hits
        if self.quantise:
            hits = fold_hits(self.get_bare_model(self.net_g).quantize, hits)
        self.hits = self.hits + hits
        return {"codes_hit": (hits.sum(0) > 0).float().mean()}

    def skipped_in_a_row(self):
        own = super().skipped_in_a_row()
        return own if self.adversary is None else max(own, int(self.adversary.stepper.in_a_row))

    def skipped_in_all(self):
        own = super().skipped_in_all()
        return own if self.adversary is None else max(own, int(self.adversary.skipped))

    def save(self, epoch, current_iter):
        if self.adversary is not None:
            self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)

    def training_state(self):
        own = {} if self.adversary is None else {"stepper_d": self.adversary.stepper.state_dict()}
        return {**super().training_state(), **own, "placed": self.placed,
                "hits": self.hits.cpu() if torch.is_tensor(self.hits) else self.hits}

    def load_training_state(self, state):
        super().load_training_state(state)
        if self.adversary is not None and "stepper_d" in state:
            self.adversary.stepper.load_state_dict(state["stepper_d"])
        self.placed = state.get("placed", self.placed)
        hits = state.get("hits", 0)
        self.hits = hits.to(self.device) if torch.is_tensor(hits) else hits

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if self.is_train and torch.is_tensor(self.hits):
            self.scale_log.add("train/codes_hit", (self.hits > 0).float().mean(1))
            self.hits = 0
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def make_picture(self, net):
        if not hasattr(self, "gt"):
            raise UserError("datasets: a tokenizer reconstructs GT, and this data set has none; give it dataroot_gt.")
        return reconstruction(net, self.gt, self.lq, **self.tiling())


def check_tokenizer(opt: dict, losses: tuple[str, ...]) -> None:
    """Raise UserError where the options cannot train a tokenizer by these losses, or test one."""
    kind = opt["network_g"]["type"]
    if kind != "AlignVARTokenizer":
        raise UserError(f"network_g.type: AlignVARTokenizerModel trains an AlignVARTokenizer, not {kind}.")
    side = check_geometry(opt, "network_g")
    if opt["path"].get("pretrain_network_g"):
        check_same_network(opt, "network_g")
    if not opt["is_train"]:
        return
    for key in losses:
        if not opt["train"].get(key):
            raise UserError(f"train.{key}: missing; a tokenizer learns from a pixel loss and a VQLoss.")
    if opt["train"].get("checkpointing"):
        raise UserError("train.checkpointing: a tokenizer has no blocks to compute again; where memory is short, "
                        "take its batch apart with train.accumulate.")
    if opt["train"].get("perceptual_opt"):
        raise UserError("train.perceptual_opt: a tokenizer has lpips_opt instead.")
    check_range(opt, "train.quantise_from", 0, opt["train"]["total_iter"] - 1, whole=True)
    check_range(opt, "train.revive_freq", 0, whole=True)
    check_range(opt, "train.revive_until", 0)
    check_range(opt, "train.scale_dropout", 0, 1)
    adversary.check_options(opt, side)


def _lpips_missing(train: dict) -> str | None:
    """Return which weights the perceptual loss that is asked for lacks, in a sentence."""
    asked = train.get("lpips_opt")
    return lpips_weights_missing(asked.get("weights")) if asked else None


def perceptual_loss(train: dict) -> dict[str, str]:
    """Return whether the perceptual loss, where it is asked for, is on: a run must go on as it began."""
    if not train.get("lpips_opt"):
        return {}
    return {"the perceptual loss": "off for want of its weights" if _lpips_missing(train) else "on"}


def _revive_until(train: dict) -> float:
    return train.get("revive_until", 0.8 * train["total_iter"])
