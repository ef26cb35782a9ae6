"""The third stage, ours: a tokenizer's decoder learns to live with the tokens that a transformer predicts.

A decoder trained on the ground truth's tokens takes all they say for true. What a transformer predicts is partly a
guess, and the texture that the decoder then draws is wrong with confidence. So the last stage of CodeFormer (Zhou et
al., NeurIPS 2022) is made here too: codebook and transformer stay as they are, the decoder goes on learning, from
predicted tokens. Encoder and codes stay the same to the bit, so that the transformer still fits.
"""
import copy
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import MODEL_REGISTRY

from alignvar_arch.compat.networks import param_key
from alignvar_arch.errors import UserError
from alignvar_arch.inference.picture import picture, structure
from alignvar_arch.models import pairing
from alignvar_arch.models.checks import check_range
from alignvar_arch.models.sampling import check_sampling, sampling
from alignvar_arch.models.stepping import PRECISIONS
from alignvar_arch.models.tokenizer_model import AlignVARTokenizerModel, check_tokenizer, perceptual_loss


@MODEL_REGISTRY.register()
class AlignVARDecoderModel(AlignVARTokenizerModel):
    """Trains the decoder of ``network_g: AlignVARTokenizer`` on what a frozen ``network_transformer`` predicts.

    Each sample's LR is taken through the transformer, without guidance, and decoded; ``pixel_opt``, ``lpips_opt`` and
    the adversary's ``gan_opt`` compare the picture with GT. Validation upscales, as AlignVARModel does
    without guidance and colour fix, with the decoder as it is by then.

    Options read from ``train``: ``pixel_opt``, ``lpips_opt``, the adversary's, and how tokens are chosen,
    ``choice``, ``top_k``, ``top_p`` and ``temperature``, as in AlignVARModel's ``val``. With ``precision`` bf16 or fp16
    the transformer predicts with weights of that type while the decoder trains. From ``val``: the same and
    ``sample_seed``, and the tiling.
    """

    reads_gt = False

    def __init__(self, opt):
        self.device = torch.device("cuda" if opt["num_gpu"] != 0 else "cpu")
        net = build_network(opt["network_transformer"]).to(self.device).eval().requires_grad_(False)
        self.load_network(net, opt["path"]["pretrain_network_transformer"],
                          opt["path"].get("strict_load_transformer", True),
                          param_key(opt["path"], "network_transformer"))
        self.transformer = net
        precision = PRECISIONS[opt["train"].get("precision", "fp32")]
        self.predictor = net if precision is None else copy.deepcopy(net).to(precision)
        super().__init__(opt)

    @staticmethod
    def check_options(opt: dict) -> None:
        """Raise UserError where tokenizer, transformer and losses do not fit each other."""
        if not opt["is_train"]:
            raise UserError("model_type: AlignVARDecoderModel trains; test with AlignVARModel, whose "
                            "network_tokenizer is what it has trained.")
        train, path = opt["train"], opt["path"]
        for key in ("vq_opt", "quantise_from", "revive_freq", "revive_until", "scale_dropout"):
            if train.get(key):
                raise UserError(f"train.{key}: the decoder alone is trained, and codes stay as they are; leave it out.")
        if train.get("parallel") == "fsdp":
            raise UserError("train.parallel: fsdp shares out the codebook, which the transformer needs whole to "
                            "predict; set ddp.")
        check_tokenizer(opt, losses=("pixel_opt",))
        if (opt.get("network_transformer") or {}).get("type") != "AlignVAR":
            raise UserError("network_transformer: missing, or no AlignVAR; the decoder learns from what one predicts.")
        for key in ("network_g", "network_transformer"):
            if not path.get(f"pretrain_{key}"):
                raise UserError(f"path.pretrain_{key}: missing; train tokenizer and transformer first.")
        pairing.check_sizes(opt, "network_transformer", "network_g")
        pairing.check_codes(opt, "network_transformer", "network_g", averaged=train.get("ema_decay", 0) > 0)
        for block in ("train", "val"):
            check_sampling(opt, block)
        check_range(opt, "val.sample_seed", 0, whole=True)

    @staticmethod
    def depends_on(train: dict) -> dict[str, object]:
        return perceptual_loss(train)

    def model_to_device(self, net):
        if hasattr(net, "quantize"):  # not the discriminator
            net.requires_grad_(False)
            for part in (net.decoder, net.post_quant_conv):
                part.requires_grad_(True)
        return super().model_to_device(net)

    def _tend_codebook(self, current_iter):
        return True

    @torch.no_grad()
    def _predict(self, part: slice) -> torch.Tensor:
        """Return the latent (B, C, S, S) that the transformer predicts from some LRs of the batch, fp32."""
        net, lr, seeds = self.predictor, self.lq[part], self.sample_seeds(part)
        draw = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        pyramid = self.get_bare_model(self.net_g).quantize
        return net.generate(lr.to(net.pos_start.dtype), pyramid, structure(net, lr, seeds), generator=draw,
                            **sampling(self.opt["train"])).f_hat

    def losses(self, part):
        gt, lr = self.gt[part], self.lq[part]
        latent = self._predict(part)
        with self.stepper.autocast():
            made, _ = self.net_g(gt, lr, latent=latent)
        losses = OrderedDict(l_pix=self.cri_pix(made, gt))
        if self.cri_lpips is not None:
            losses["l_lpips"] = self.cri_lpips(made, gt, self.loss_seed())
        if self.contested:
            losses["l_gan"] = self.adversary.judge(made)
        return losses

    def batch_figures(self):
        return {}

    def make_picture(self, net):
        val = self.opt.get("val") or {}
        return picture(self.transformer, net, self.lq, seed=val.get("sample_seed", 0), **sampling(val),
                       **self.tiling())
