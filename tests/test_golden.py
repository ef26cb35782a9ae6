"""The reference programs' own figures (VAR's tokenizer, VARSR), to their bounds; see tests/data/README.md."""
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F

import alignvar_arch
from alignvar_arch.archs import AlignVAR, AlignVARTokenizer

DATA = Path(__file__).parent / "data"
VARSR_KEYS_RECOMPUTED = {"lvl_1L", "attn_bias_for_masking"}  # geometry, never loaded


def largest(expected: np.ndarray, actual: torch.Tensor) -> float:
    return float(np.abs(expected.astype(np.float32) - actual.numpy()).max())


def through_file(folder: Path, net: torch.nn.Module, place: str | None = None) -> torch.nn.Module:
    """``net`` in reference weights, as ``load`` makes it of a file of the published form, bare or in a trainer's place.
    """
    state = small.with_reference_weights(net).state_dict()
    torch.save(state if place is None else {"iter": 1, "trainer": {place: state}}, folder / f"{place}.pth")
    return alignvar_arch.load(str(folder / f"{place}.pth"))


@pytest.fixture(scope="module")
def var(tmp_path_factory):
    figures = np.load(DATA / "var_tokenizer_ch32.npz")
    net = through_file(tmp_path_factory.mktemp("var"), AlignVARTokenizer(ch=32, codebook_size=512))
    with torch.no_grad():
        encoded = net.encode(small.reference_picture(256))
        return figures, net, encoded, net.decode(encoded.cumulative[-1])


def test_tokenizer_has_the_public_names(var):
    figures, net, *_ = var
    assert set(net.state_dict()) == set(figures["keys"]) and len(figures["keys"]) == 324


def test_tokenizer_computes_what_var_computes(var):
    figures, net, encoded, reconstruction = var
    assert largest(figures["latent"], encoded.latent) < 2e-5
    assert (figures["indices"] == net.quantize.flatten(encoded.maps).numpy()).all()
    assert largest(figures["f_hat"], encoded.cumulative[-1]) < 2e-5
    assert largest(figures["teacher_input"], net.quantize.teacher_input(encoded.cumulative)[:, ::4]) < 2e-5
    assert largest(figures["reconstruction"], reconstruction[..., ::4, ::4]) < 3e-4


@pytest.fixture(scope="module")
def varsr(tmp_path_factory):
    figures, folder = np.load(DATA / "varsr_d2.npz"), tmp_path_factory.mktemp("varsr")
    tokenizer = through_file(folder, AlignVARTokenizer(ch=32, codebook_size=512), "vae_local")
    net = through_file(folder, AlignVAR(depth=2, embed_dim=128, num_heads=2, codebook_size=512, sca="off",
                                        condition_widths=(32, 128, 256, 512, 1536)), "var_wo_ddp")
    hr = small.reference_picture(512)
    lr = (F.interpolate(hr, scale_factor=0.25, mode="area") + 1) / 2
    return figures, tokenizer, net, hr, lr


def test_transformer_has_the_public_names(varsr):
    figures, _, net, *_ = varsr
    assert set(figures["keys"]) - set(net.state_dict()) == VARSR_KEYS_RECOMPUTED
    assert not set(net.state_dict()) - set(figures["keys"])


@torch.no_grad()
def test_teacher_forced_logits_are_varsrs(varsr):
    figures, tokenizer, net, hr, lr = varsr
    assert largest(figures["lr_resized"], net.con_embedding.resize(lr)[..., ::8, ::8]) < 2e-5
    prefix = net.con_embedding(lr)
    assert largest(figures["prefix_sample"], prefix[0, ::64]) < 2e-5
    assert largest(figures["prefix_mean_std"], torch.stack([prefix.mean(), prefix.std()])) < 2e-5
    encoded = tokenizer.encode(hr)
    assert (figures["tokens"] == tokenizer.quantize.flatten(encoded.maps).numpy()).all()
    teacher = tokenizer.quantize.teacher_input(encoded.cumulative)
    assert largest(figures["tokenizer_f_hat_input"], teacher[:, ::16]) < 2e-5
    logits = net(lr, teacher, torch.zeros(1, dtype=torch.long)).logits
    assert largest(figures["logits"], logits[0, figures["logit_rows"]]) < 1.5e-5


@pytest.mark.parametrize("cfg", [0, 6])
@torch.no_grad()
def test_greedy_generation_is_varsrs(varsr, cfg):
    figures, tokenizer, net, _, lr = varsr
    made = net.generate(lr, tokenizer.quantize, guidance=float(cfg))
    assert (figures[f"indices_cfg{cfg}"] == tokenizer.quantize.flatten(made.maps).numpy()).all()
    assert largest(figures[f"f_hat_cfg{cfg}"], made.f_hat[:, :, ::2, ::2]) < 2e-5
    image = tokenizer.to_image(tokenizer.decode(made.f_hat))
    assert largest(figures[f"image_cfg{cfg}"], image[..., ::16, ::16]) < 3e-4


def count(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def test_full_size_networks_have_the_published_counts():
    with torch.device("meta"):
        tokenizer, paper = AlignVARTokenizer(), AlignVAR()
        varsr = AlignVAR(condition_widths=(32, 128, 256, 512, 1536), sca="off")
    assert (count(tokenizer), count(tokenizer.encoder), count(tokenizer.decoder)) == (
        108_948_355, 44_107_872, 64_653_923)
    assert count(paper) == 1_056_481_121
    assert (count(paper.blocks), count(paper.mask_generator)) == (1_019_732_544, 590_977)
    assert count(varsr) == 1_065_327_840
