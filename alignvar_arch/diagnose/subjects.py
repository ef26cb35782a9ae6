"""What is diagnosed: one trained model with SCA switched at inference, or several trained models as they are."""
from dataclasses import dataclass
from pathlib import Path

import torch
from basicsr.models import build_model
from basicsr.utils.registry import MODEL_REGISTRY

from alignvar_arch.archs.alignvar_arch import GOOD, AlignVAR, Generation, Prediction
from alignvar_arch.archs.tokenizer.pyramid import ResidualPyramid
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.errors import UserError
from alignvar_arch.models import AlignVARModel
from alignvar_arch.models.checks import arguments
from alignvar_arch.models.sampling import sampling

SOURCES = ("laplacian", "off", "random")


@dataclass(frozen=True)
class Subject:
    """A network with one source of SCA's structure.

    Attributes:
        label: its name in charts.
        file: its options file.
        net: the transformer, in eval mode.
        pyramid: the tokenizer's ``quantize``.
        sca: ``laplacian``, ``random`` or ``off``, at inference.
        val: sampling settings, the options' block ``val``.
    """

    label: str
    file: str
    net: AlignVAR
    pyramid: ResidualPyramid
    sca: str
    val: dict

    @property
    def seed(self) -> int:
        return self.val.get("sample_seed", 0)

    def structure(self, lr: torch.Tensor) -> torch.Tensor | None:
        """Return s̄ of all scales; the noise of ``random`` is the one that ``basicsr test`` begins with."""
        return self.net.structure(lr, torch.Generator().manual_seed(self.seed), self.sca)

    def sample(self, lr: torch.Tensor, forced: list[torch.Tensor] | None = None) -> Generation:
        """Generate as the options say, after ``forced`` latents of the first scales; always the same random numbers.
        """
        return self.net.generate(lr, self.pyramid, self.structure(lr), guidance=self.val.get("guidance", 0.0),
                                 generator=torch.Generator(lr.device).manual_seed(self.seed), forced=forced,
                                 **sampling(self.val))

    @torch.no_grad()
    def predict(self, lr: torch.Tensor, cumulative: list[torch.Tensor]) -> Prediction:
        """Run the network once over the history of the given cumulative latents, without guidance."""
        quality = torch.full((len(lr),), GOOD, device=lr.device)
        return self.net(lr, self.pyramid.teacher_input(cumulative), quality, self.structure(lr))


def build(opts: dict[str, dict]) -> tuple[AlignVARTokenizer, list[Subject]]:
    """Load the models of valid test options, by file, and return their common tokenizer and what to diagnose.

    One file gives a subject for every source of SCA, as trained first; several files a subject each, as trained.

    Raises:
        UserError: another kind of model, or models that do not share tokenizer and scale.
    """
    for file, opt in opts.items():
        if not issubclass(MODEL_REGISTRY.get(opt["model_type"]), AlignVARModel):
            raise UserError(f"{file}: model_type is {opt['model_type']}, but only AlignVARModel can be diagnosed.")
    _check_same_settings(opts)
    models = {file: build_model(opt) for file, opt in opts.items()}
    (first_file, first), *others = models.items()
    tokenizer = first.tokenizer
    for file, model in others:
        _check_same_weights(first_file, tokenizer, file, model.tokenizer)
    nets = {file: model.get_bare_model(model.net_g).eval() for file, model in models.items()}
    if len(nets) == 1:
        net = nets[first_file]
        kinds = [net.sca, *(kind for kind in SOURCES if kind != net.sca)] if net.sca != "off" else ["off"]
        labels = [f"SCA {kind}{' (as trained)' if kind == net.sca else ''}" for kind in kinds]
        return tokenizer, [Subject(label, first_file, net, tokenizer.quantize, kind, opts[first_file]["val"])
                           for label, kind in zip(labels, kinds, strict=True)]
    labels = [Path(file).stem for file in nets]
    if len(set(labels)) < len(labels):
        labels = list(nets)
    return tokenizer, [Subject(label, file, net, tokenizer.quantize, net.sca, opts[file]["val"])
                       for label, (file, net) in zip(labels, nets.items(), strict=True)]


def _check_same_settings(opts: dict[str, dict]) -> None:
    (first_file, first), *others = opts.items()
    settings = arguments(first["network_tokenizer"])
    for file, opt in others:
        if opt["scale"] != first["scale"]:
            raise UserError(f"{file}: scale is {opt['scale']}, but {first_file} has {first['scale']}; models in one "
                            "diagnosis must share it.")
        for key, value in arguments(opt["network_tokenizer"]).items():
            if value != settings[key]:
                raise UserError(f"{file}: network_tokenizer.{key} is {value}, but {first_file} has {settings[key]}; "
                                "models in one diagnosis must share the tokenizer.")


def _check_same_weights(first_file: str, first: AlignVARTokenizer, file: str, other: AlignVARTokenizer) -> None:
    """Refuse another tokenizer's weights; how often codes were hit in training makes no difference."""
    states = first.state_dict(), other.state_dict()
    if any(not torch.equal(value, states[1][name]) for name, value in states[0].items()
           if not name.endswith("ema_vocab_hit_SV")):
        raise UserError(f"{file}: path.pretrain_network_tokenizer holds other weights than {first_file}'s; models in "
                        "one diagnosis must share the tokenizer.")
