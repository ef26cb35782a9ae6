"""Training the tokenizer: reconstruction, perceptual distance where its weights are at hand, vector quantisation."""
from collections import OrderedDict

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY

from alignvar_arch.archs.lpips import lpips_weights_missing
from alignvar_arch.archs.tokenizer.codebook import count_hits, revive
from alignvar_arch.errors import UserError
from alignvar_arch.models.base import TokenModel
from alignvar_arch.models.scale_log import ScaleLog


@MODEL_REGISTRY.register()
class AlignVARTokenizerModel(TokenModel):
    """Trains ``network_g: AlignVARTokenizer``; validation reconstructs GT, the ceiling of what AlignVAR can reach.

    Options read from ``train``: ``pixel_opt``, ``vq_opt``, ``lpips_opt`` (losses), ``quantise_from`` (iterations that
    decode the latent itself before the codebook is placed, default 0), ``revive_freq`` (iterations between
    revivals of dead codes, default 50, 0 never), ``revive_until`` (last iteration that revives, default 80 % of
    total_iter), ``grad_clip`` (largest gradient norm, default none).
    """

    def __init__(self, opt):
        super().__init__(opt)
        self.scale_log = ScaleLog(self.get_bare_model(self.net_g).schedule.sides)
        self.hits = 0  # (K, V) since the last validation

    @staticmethod
    def check_options(opt: dict) -> None:
        """Raise UserError where the options cannot train or test a tokenizer."""
        network = opt["network_g"]
        if network["type"] != "AlignVARTokenizer":
            raise UserError("network_g.type: AlignVARTokenizerModel trains an AlignVARTokenizer, "
                            f"not {network['type']}.")
        for key in ("pixel_opt", "vq_opt"):
            if opt["is_train"] and not opt["train"].get(key):
                raise UserError(f"train.{key}: missing; a tokenizer learns from a pixel loss and a VQLoss.")

    def build_losses(self):
        train_opt = self.opt["train"]
        self.cri_pix = build_loss(train_opt["pixel_opt"]).to(self.device)
        self.cri_vq = build_loss(train_opt["vq_opt"]).to(self.device)
        self.cri_lpips = None
        lpips_opt = train_opt.get("lpips_opt")
        if lpips_opt:
            missing = lpips_weights_missing(lpips_opt.get("weights"))
            if missing:
                get_root_logger().warning(f"Training goes on without the perceptual loss. {missing}")
            else:
                self.cri_lpips = build_loss(lpips_opt).to(self.device)

    def optimize_parameters(self, current_iter):
        train_opt, pyramid = self.opt["train"], self.get_bare_model(self.net_g).quantize
        every = train_opt.get("revive_freq", 50)
        until = train_opt.get("revive_until", 0.8 * train_opt["total_iter"])
        # Codes placed on an untrained encoder's latents pull them to zero, so the first iterations go without. When
        # they are over no code has been hit, so that all move onto real latents: the codebook's initialisation.
        start = train_opt.get("quantise_from", 0)
        quantise = current_iter > start
        if every and start < current_iter <= until and (current_iter == start + 1 or current_iter % every == 0):
            net = self.get_bare_model(self.net_g)
            with torch.no_grad():
                moved = revive(pyramid, net.encode_latent(net.to_target(self.gt, self.lq)))
            if moved:
                get_root_logger().info(
                    f"Iteration {current_iter}: moved {moved} dead codes of {pyramid.codebook_size}.")
        self.optimizer_g.zero_grad()
        self.output, encoded = self.net_g(self.gt, self.lq, quantise)
        losses = OrderedDict(l_pix=self.cri_pix(self.output, self.gt))
        # Times zero, not left out: data-parallel training wants every parameter in the graph.
        losses["l_vq"] = self.cri_vq(encoded) * float(quantise)
        if self.cri_lpips is not None:
            losses["l_lpips"] = self.cri_lpips(self.output, self.gt)
        sum(losses.values()).backward()
        if train_opt.get("grad_clip"):
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), train_opt["grad_clip"])
        self.optimizer_g.step()
        hits = count_hits(pyramid, encoded.maps) if quantise else torch.zeros_like(pyramid.ema_vocab_hit_SV)
        self.hits = self.hits + hits
        self.step_ema(current_iter)
        with torch.no_grad():
            latent = encoded.latent
            losses["vq_error"] = (encoded.cumulative[-1] - latent).square().mean() / latent.var()
        losses["codes_hit"] = (hits.sum(0) > 0).float().mean()
        self.log_dict = self.reduce_loss_dict(losses)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if self.is_train and torch.is_tensor(self.hits):
            self.scale_log.add("codes_hit", (self.hits > 0).float().mean(1))
            self.hits = 0
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

    @torch.no_grad()
    def test(self):
        net = self.net_eval
        net.eval()

        def reconstruct(lr: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
            return net.to_image(net.decode(net.encode(net.to_target(gt, lr)).cumulative[-1]), lr)

        self.output = self.run_tiled(reconstruct, net.image_side // self.opt["scale"], self.gt)
        if self.is_train:
            net.train(net is not getattr(self, "net_g_ema", None))
