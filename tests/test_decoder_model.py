"""The third stage: the decoder alone learns, from what a frozen transformer predicts; it resumes to the bit."""
import functools
import json
import random
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from basicsr.models import build_model
from conftest import write
from runs import (
    TOKENIZER,
    TRANSFORMER,
    Kill,
    differences,
    end,
    folder,
    losses,
    options,
    outcome,
    said,
    small,
    start,
    train,
)

from alignvar_arch import checkpoints
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.cli import main
from alignvar_arch.inference.picture import picture, structure
from alignvar_arch.options import parse_options

FROZEN = ("encoder.", "quant_conv.", "quantize.")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


def third(**changes) -> dict:
    """Options of a tiny third stage, with `changes` of `train`; the weights that it begins with lie beside."""
    opt = options("tokenizer")
    tokenizer = small.tokenizer(target="residual")
    for file, net, network, more in (
            ("tokenizer", tokenizer, TOKENIZER, {}),
            ("transformer", small.transformer(**TRANSFORMER), TRANSFORMER,
             {"codebook": codebook_hash(tokenizer.quantize.embedding.weight), "bad_quality_rate": "0"})):
        checkpoints.write_safetensors(f"{file}.safetensors", net.state_dict(), {"network": json.dumps(network), **more})
    opt.update(name="decoder", model_type="AlignVARDecoderModel", network_transformer=dict(TRANSFORMER))
    opt["path"].update(pretrain_network_g="tokenizer.safetensors", param_key_g="params_ema",
                       pretrain_network_transformer="transformer.safetensors")
    for key in ("vq_opt", "quantise_from", "revive_freq", "revive_until", "scale_dropout"):
        del opt["train"][key]
    opt["train"].update({"top_k": 0, **changes})
    return opt


def model_of(opt: dict):
    return build_model(parse_options(str(Path.cwd()), True, ["-opt", write(opt)])[0])


def step(model, iteration: int) -> dict:
    gt, lq = small.pictures(4, seed=iteration)
    model.feed_data({"gt": gt, "lq": lq, "place": torch.tensor([[0, place] for place in range(4)])})
    model.optimize_parameters(iteration)
    return dict(model.get_current_log())


def test_the_decoder_learns_and_codes_stay_to_the_bit():
    model = model_of(third())
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    for iteration in (1, 2, 3):
        step(model, iteration)
    for net in (model.net_g, model.net_g_ema):
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith(FROZEN), name
    assert not any(entry.requires_grad for entry in model.transformer.parameters())


@pytest.mark.parametrize("how", [{"top_k": 0}, {"choice": "expected"}], ids=["drawn", "expected"])
@pytest.mark.parametrize("parts", [1, 2])
def test_it_learns_from_what_the_transformer_predicts_for_each_sample_by_its_own_seed(parts, how):
    model = model_of(third(accumulate=float(parts), **how))
    net, tokenizer = model.transformer, small.tokenizer(target="residual")
    gt, lq = small.pictures(4, seed=1)
    figures = step(model, 1)
    seeds = model.sample_seeds(slice(None))
    latent = net.generate(lq, tokenizer.quantize, structure(net, lq, seeds), **how,
                          generator=[torch.Generator().manual_seed(seed) for seed in seeds]).f_hat
    made = tokenizer.to_image(tokenizer.decode(latent, lq), lq)
    assert figures["l_pix"] == pytest.approx(F.l1_loss(made, gt).item(), rel=1e-5)
    assert "l_vq" not in figures and "codes_hit" not in figures


@pytest.mark.parametrize("how", [{"top_k": 0}, {"choice": "expected"}], ids=["drawn", "expected"])
def test_validation_upscales_with_the_average_and_reads_no_gt(how):
    opt = third()
    opt["val"].update(sample_seed=3, **how)
    model = model_of(opt)
    step(model, 1)
    lq = torch.rand(1, 3, 7, 5)
    model.feed_data({"lq": lq})
    model.test()
    assert not model.reads_gt
    assert torch.equal(model.output, picture(model.transformer, model.net_g_ema, lq, seed=3, **how))
    assert not torch.equal(model.output, picture(model.transformer, model.net_g, lq, seed=3, **how))


def test_half_precision_predicts_in_it_and_validates_in_full():
    model = model_of(third(precision="bf16"))
    step(model, 1)
    assert model.predictor.pos_start.dtype == torch.bfloat16 and model.transformer.pos_start.dtype == torch.float32


def test_a_run_killed_and_resumed_equals_one_never_killed():
    with folder("whole"):
        opt = third()
        assert end(start(functools.partial(train, before=Kill()), opt)) == 0, said()[-3000:]
        points = int(Path("points.txt").read_text())
        expected = {**outcome("decoder"), "losses": losses()}
    with folder("killed"):
        third()
        at = random.Random(0).randint(points // 3, 2 * points // 3)
        assert end(start(functools.partial(train, before=Kill(at)), opt, "--auto_resume")) == -signal.SIGKILL
        assert end(start(train, opt, "--auto_resume")) == 0, said()[-3000:]
        assert not differences(expected, {**outcome("decoder"), "losses": losses()})


def test_what_it_has_trained_tests_as_alignvars_tokenizer(capsys):
    opt = third()
    assert main(["train", "-opt", write(opt)]) == 0
    test = {key: opt[key] for key in ("scale", "manual_seed", "num_gpu", "val")}
    test.update(name="tested", model_type="AlignVARModel", network_g=opt["network_transformer"],
                network_tokenizer=opt["network_g"], datasets={"test": dict(opt["datasets"]["val"])},
                path={"pretrain_network_g": "transformer.safetensors",
                      "pretrain_network_tokenizer": "experiments/decoder/models/net_g_latest.pth"})
    assert main(["test", "-opt", write(test, "test.yml")]) == 0


@pytest.mark.parametrize(("change", "message"), [
    (lambda opt: opt["train"].update(vq_opt={"type": "VQLoss"}), "train.vq_opt: the decoder alone is trained"),
    (lambda opt: opt["train"].update(scale_dropout=0.5), "train.scale_dropout: the decoder alone is trained"),
    (lambda opt: opt["path"].update(pretrain_network_g=None), "path.pretrain_network_g: missing"),
    (lambda opt: opt["path"].update(pretrain_network_transformer=None), "path.pretrain_network_transformer: missing"),
    (lambda opt: opt.pop("network_transformer") and opt["path"].pop("pretrain_network_transformer"),
     "network_transformer: missing"),
    (lambda opt: opt["train"].update(top_p=2), "train.top_p: is 2"),
    (lambda opt: opt["train"].update(choice="mode"), "train.choice: is 'mode'"),
    (lambda opt: opt["train"].update(parallel="fsdp"), "train.parallel: fsdp shares out the codebook"),
    (lambda opt: opt["train"].pop("pixel_opt"), "train.pixel_opt: missing"),
], ids=["vq", "dropout", "tokenizer", "transformer", "no block", "top_p", "choice", "fsdp", "pixel"])
def test_what_does_not_fit_is_refused_in_one_sentence(change, message, capsys):
    opt = third()
    change(opt)
    assert main(["train", "-opt", write(opt)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not Path("experiments").exists()


@pytest.mark.parametrize(("place", "prefix"), [
    ("params", ""),
    ("params", "module."),  # as DataParallel names what it saves
    ("trainer.vae_local", ""),  # where VARSR's trainer keeps its tokenizer
])
def test_another_codebook_is_refused(place, prefix, capsys):
    opt = third()
    content = {prefix + name: value for name, value in small.tokenizer(1, target="residual").state_dict().items()}
    for key in reversed(place.split(".")):
        content = {key: content}
    torch.save(content, "tokenizer.pth")
    opt["path"]["pretrain_network_g"] = "tokenizer.pth"
    assert main(["train", "-opt", write(opt)]) == 2
    assert "was trained on other codes than those of" in capsys.readouterr().err


def test_it_trains_and_does_not_test(capsys):
    opt = third()
    del opt["train"], opt["datasets"]["train"], opt["logger"]
    assert main(["test", "-opt", write(opt)]) == 2
    assert "AlignVARDecoderModel trains; test with AlignVARModel" in capsys.readouterr().err


def test_the_average_is_named_where_its_codes_are_the_transformers(capsys):
    opt = third()
    trained, average = (small.tokenizer(seed, target="residual").state_dict() for seed in (1, 0))
    checkpoints.write_pth("tokenizer.pth", {"params": trained, "params_ema": average})
    opt["path"].update(pretrain_network_g="tokenizer.pth", param_key_g="params")
    assert main(["train", "-opt", write(opt)]) == 2
    assert "of tokenizer.pth under params; take two that belong together, or set path.param_key_g to params_ema." in (
        capsys.readouterr().err)
