"""AlignVARTokenizerModel and AlignVARModel through the front door: train, validate, save, resume, test, refuse."""
import copy
import re
from pathlib import Path

import cv2
import numpy as np
import public
import pytest
import small
import torch
from basicsr.models import build_model
from conftest import listing, write
from processes import scalars

from alignvar_arch import checkpoints
from alignvar_arch.cli import main
from alignvar_arch.inference.picture import picture, reconstruction
from alignvar_arch.options import parse_options

TOKENIZER = small.tokenizer_options(target="residual")
TRANSFORMER = {key: value for key, value in small.TRANSFORMER.items() if key != "drop_path"}  # the default rate


@pytest.fixture
def options(tmp_path, monkeypatch) -> dict:
    """A current folder with five ×4 pairs, and options that train a tiny tokenizer on them."""
    rng = np.random.default_rng(0)
    for name in ("gt", "lq"):
        (tmp_path / name).mkdir()
    for index in range(5):
        gt = cv2.resize(rng.integers(0, 255, (9, 8, 3)).astype(np.uint8), (32, 36), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "gt" / f"{index}.png"), gt)
        cv2.imwrite(str(tmp_path / "lq" / f"{index}.png"), cv2.resize(gt, (8, 9), interpolation=cv2.INTER_AREA))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNVAR_LPIPS", raising=False)
    data = {"type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq", "io_backend": {"type": "disk"}}
    return {
        "name": "tokenizer", "model_type": "AlignVARTokenizerModel", "scale": 4, "num_gpu": 0, "manual_seed": 0,
        "datasets": {"train": {"name": "Train", **data, "gt_size": 16, "use_hflip": True, "use_rot": True,
                               "num_worker_per_gpu": 0, "batch_size_per_gpu": 2},
                     "val": {"name": "Val", **data}},
        "network_g": copy.deepcopy(TOKENIZER),
        "path": {"pretrain_network_g": None, "resume_state": None},
        "train": {"ema_decay": 0.9, "optim_g": {"type": "AdamW", "lr": 1e-3},
                  "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10]}, "total_iter": 4, "grad_clip": 1.0,
                  "quantise_from": 1, "revive_freq": 2, "pixel_opt": {"type": "L1Loss"}, "vq_opt": {"type": "VQLoss"},
                  "lpips_opt": {"type": "LPIPSLoss"}},
        "val": {"val_freq": 2, "save_img": True, "tile_overlap": 1,
                "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": True},
    }


@pytest.fixture
def transformer_options(options) -> dict:
    """Options that train a tiny AlignVAR on the tokens of a tokenizer saved here."""
    torch.manual_seed(0)
    net = small.tokenizer(target="residual")
    net.decoder.conv_out.weight.data.mul_(0.1)  # within the picture's range, so that different codes look different
    checkpoints.write_safetensors("tokenizer.safetensors", net.state_dict())
    options.update(name="alignvar", model_type="AlignVARModel", network_g=copy.deepcopy(TRANSFORMER),
                   network_tokenizer=copy.deepcopy(TOKENIZER))
    options["path"]["pretrain_network_tokenizer"] = "tokenizer.safetensors"
    for key in ("quantise_from", "revive_freq", "pixel_opt", "vq_opt", "lpips_opt"):
        del options["train"][key]
    options["train"].update(ce_opt={"type": "TokenCrossEntropyLoss"}, bad_quality_rate=0.5,
                            hcc_opt={"type": "HCCLoss", "loss_weight": 1.0})
    return options


def log_text(name: str) -> str:
    return next(Path("experiments", name).glob("train_*.log")).read_text()


def test_tokenizer_trains_validates_and_says_that_lpips_is_off(options):
    assert main(["train", "-opt", write(options)]) == 0
    log = log_text("tokenizer")
    assert "without the perceptual loss" in log and "moved 24 dead codes of 24" in log
    assert "codes_hit" in log and "psnr" in log and "16x16" not in log and "4x4" in log
    states, metadata = checkpoints.read("experiments/tokenizer/models/net_g_4.pth")
    assert set(states) == {"params", "params_ema"} and metadata["iter"] == "4"
    assert any((states["params"][key] != states["params_ema"][key]).any() for key in states["params"])
    pictures = list(Path("experiments/tokenizer/visualization/0").glob("*.png"))
    assert {path.name for path in pictures} == {"0_2.png", "0_4.png"}
    assert cv2.imread(str(pictures[0])).shape == (36, 32, 3)
    assert list(Path("tb_logger/tokenizer").glob("events*"))


def test_a_run_without_the_perceptual_loss_does_not_go_on_with_it(options, monkeypatch, tmp_path, capsys):
    assert main(["train", "-opt", write(options)]) == 0
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(small.lpips_weights(tmp_path / "random")))
    options["train"]["total_iter"] = 6
    assert main(["train", "-opt", write(options), "--auto_resume"]) == 2
    assert "the perceptual loss was 'off for want of its weights' and is 'on'" in capsys.readouterr().err


def test_alignvar_trains_logs_by_scale_resumes_and_tests(transformer_options):
    opt = transformer_options
    assert main(["train", "-opt", write(opt)]) == 0
    log = log_text("alignvar")
    for figure in ("train/cross_entropy", "train/accuracy", "train/hcc", "train/hcc_floor", "train/mask_mean",
                   "train/mask_spread", "Val/cross_entropy", "Val/accuracy", "l_ce", "l_hcc"):
        assert figure in log
    assert checkpoints.read("experiments/alignvar/models/net_g_4.pth")[1]["bad_quality_rate"] == "0.5"
    tokens = Path("experiments/alignvar/models/net_g_2.pth")
    assert tokens.is_file() and not list(Path("experiments/alignvar/models").glob("*tokenizer*"))

    opt["train"]["total_iter"] = 6
    assert main(["train", "-opt", write(opt), "--auto_resume"]) == 0
    log = max(Path("experiments/alignvar").glob("train_*.log"), key=lambda path: path.stat().st_mtime_ns).read_text()
    assert "iter: 4." in log and "iter:       5" in log and "iter:       4," not in log

    same = ("model_type", "scale", "num_gpu", "manual_seed", "network_g", "network_tokenizer")
    test = {key: opt[key] for key in same}
    test.update(name="alignvar_test", datasets={"test_1": opt["datasets"]["val"]},
                path={**opt["path"], "pretrain_network_g": "experiments/alignvar/models/net_g_6.pth",
                      "param_key_g": "params_ema"},
                val={"save_img": True, "suffix": None, "guidance": 2.0, "top_k": 0, "top_p": 0.9,
                     "metrics": opt["val"]["metrics"]})
    assert main(["test", "-opt", write(test)]) == 0
    made = Path("results/alignvar_test/visualization/Val")
    first = {path.name: path.read_bytes() for path in made.glob("*.png")}
    assert len(first) == 5 and all(cv2.imread(str(path)).std() > 0 for path in made.glob("*.png"))
    test["manual_seed"] = 7  # sampled, but from its own seed
    assert main(["test", "-opt", write(test)]) == 0
    assert {path.name: path.read_bytes() for path in made.glob("*.png")} == first
    test["val"]["sample_seed"] = 7
    assert main(["test", "-opt", write(test)]) == 0
    assert {path.name: path.read_bytes() for path in made.glob("*.png")} != first


@pytest.mark.parametrize("kind", ["var", "varsr"])
def test_alignvar_starts_from_public_weights_and_says_what_starts_fresh(transformer_options, kind):
    opt = transformer_options
    arguments = {key: value for key, value in opt["network_g"].items() if key not in ("type", "drop_path")}
    state = public.varsr(**{**arguments, "sca": "off"})
    if kind == "var":
        state = public.var(**{**arguments, "sca": "off"})
    torch.save(public.trainer(var_wo_ddp=state), "public.pth")
    opt["path"]["pretrain_network_g"] = "public.pth"
    parsed, _ = parse_options(str(Path.cwd()), True, ["-opt", write(opt)])
    model = build_model(parsed)
    ema = model.net_g_ema.state_dict()
    for name, value in model.net_g.state_dict().items():
        assert torch.equal(value, ema[name])  # what starts fresh, too
        if name.startswith(public.GIVEN_BY_VAR if kind == "var" else "") and "mask_generator" not in name:
            assert torch.equal(value, state[name])
    assert main(["train", "-opt", write(opt)]) == 0
    log = log_text("alignvar")
    assert "AlignVAR takes what it shares with public.pth:" in log and re.search(r"fresh +mask_generator", log)
    assert bool(re.search(r"fresh +con_embedding", log)) is (kind == "var") and re.search(r"taken +blocks", log)


@pytest.mark.parametrize("validates", [True, False])
def test_figures_by_scale_reach_tensorboard_with_every_line_of_the_log(transformer_options, validates):
    opt = transformer_options
    opt["logger"]["print_freq"] = 2
    opt["train"]["total_iter"] = 5
    if not validates:
        opt["val"] = None
        del opt["datasets"]["val"]
    else:
        opt["val"]["val_freq"] = 3
    assert main(["train", "-opt", write(opt)]) == 0
    found = scalars("alignvar")
    for figure in ("cross_entropy", "accuracy", "hcc"):
        # the last validation, of iteration 5, takes what has come since the last line
        assert list(found[f"train/{figure}/scale_4"]) == ([2, 3, 4, 5] if validates else [2, 4])
    assert list(found["run/skipped_steps"]) == [2, 4]
    assert ("Val/accuracy/scale_1" in found) is validates is ("By scale" in log_text("alignvar"))


def test_lambda_zero_logs_hcc_and_trains_without_it(transformer_options):
    transformer_options["train"]["hcc_opt"]["loss_weight"] = 0.0
    assert main(["train", "-opt", write(transformer_options)]) == 0
    log = log_text("alignvar")
    assert "l_hcc" not in log and "l_ce" in log and "train/hcc" in log


def test_bad_quality_samples_are_their_own_degraded_pictures(transformer_options):
    transformer_options["train"]["bad_quality_rate"] = 1.0
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(transformer_options)])
    model = build_model(opt)
    gt, lr = small.pictures(4)
    model.feed_data({"gt": gt, "lq": lr})
    seeds = model.sample_seeds(slice(None))
    degraded, quality = model._degrade_some(gt, lr, seeds)
    assert quality.tolist() == [1] * 4 and not torch.equal(degraded, gt)
    model.bad_quality_rate = 0.0
    same, quality = model._degrade_some(gt, lr, seeds)
    assert quality.tolist() == [0] * 4 and torch.equal(same, gt)


def test_one_step_changes_every_parameter_and_leaves_the_tokenizer_alone(transformer_options):
    transformer_options["train"]["optim_g"]["weight_decay"] = 0  # would change everything by itself
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(transformer_options)])
    model = build_model(opt)
    before = {name: value.clone() for name, value in model.net_g.named_parameters()}
    frozen = copy.deepcopy(model.tokenizer.state_dict())
    gt, lr = small.pictures(4)
    for iteration in (1, 2, 3):
        model.feed_data({"gt": gt, "lq": lr})
        model.optimize_parameters(iteration)
    assert not [name for name, value in model.net_g.named_parameters() if torch.equal(value, before[name])]
    assert all(torch.equal(value, frozen[name]) for name, value in model.tokenizer.state_dict().items())


@pytest.mark.parametrize(("val", "arguments"), [
    ({}, {}),
    ({"top_k": 0, "top_p": 0.9, "temperature": 1.5, "sample_seed": 5, "tile_overlap": 2, "tile_batch": 3},
     {"top_k": 0, "top_p": 0.9, "temperature": 1.5, "seed": 5, "overlap": 2, "batch": 3}),
    ({"choice": "expected", "temperature": 0.7}, {"choice": "expected", "temperature": 0.7}),
    ({"guidance": 2.0, "colour": "adain", "decode_tile": 3},
     {"guidance": 2.0, "colour": "adain", "decode_tile": 3}),
    ({"colour": False}, {"colour": "off"}),  # YAML's bare `off`
])
def test_validation_and_inference_make_the_same_picture(transformer_options, val, arguments):
    del transformer_options["val"]["tile_overlap"]
    transformer_options["val"].update(val)
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(transformer_options)])
    model = build_model(opt)
    gt, lr = torch.rand(1, 3, 36, 44), torch.rand(1, 3, 9, 11)
    model.feed_data({"gt": gt, "lq": lr})
    model.test()
    assert torch.equal(model.output, picture(model.net_g_ema.eval(), model.tokenizer, lr, **arguments))


def test_a_tokenizers_validation_decodes_in_tiles_where_it_is_told_to(options):
    options["val"]["decode_tile"] = 3
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(options)])
    model = build_model(opt)
    gt, lr = torch.rand(1, 3, 36, 44), torch.rand(1, 3, 9, 11)
    model.feed_data({"gt": gt, "lq": lr})
    model.test()
    torch.testing.assert_close(model.output, reconstruction(model.net_g_ema.eval(), gt, lr, overlap=1), atol=1e-5,
                               rtol=1e-5)


def _put(opt, key, value):
    *blocks, last = key.split(".")
    for block in blocks:
        opt = opt[block]
    opt[last] = value


@pytest.mark.parametrize(("key", "value", "words"), [
    ("network_g.codebook_size", 32, ["codebook_size", "32", "24"]),
    ("network_g.scales", [1, 2, 4], ["scales", "[1, 2, 4]", "[1, 2, 3, 4]"]),
    ("path.pretrain_network_tokenizer", None, ["path.pretrain_network_tokenizer", "tokenizer_x4.yml"]),
    ("network_tokenizer", None, ["network_tokenizer"]),
    ("datasets.train.gt_size", 32, ["gt_size", "32", "16"]),
    ("train.ce_opt", None, ["train.ce_opt"]),
    ("network_tokenizer.ch", 64, ["tokenizer.safetensors", "(32, 48, 3, 3) in the file", "(64, 48, 3, 3)"]),
    ("network_g.type", "MSRResNet", ["MSRResNet"]),
    ("network_g.sca", "laplace", ["laplace"]),
    ("train.hcc_opt.target", "quantized", ["quantised"]),
    ("train.hcc_opt", {"type": "L1Loss"}, ["train.hcc_opt.type", "L1Loss", "HCCLoss"]),
    ("train.pixel_opt", {"type": "L1Loss"}, ["train.pixel_opt"]),
    ("train.bad_quality_rate", 3, ["train.bad_quality_rate", "3"]),
    ("train.bad_quality_rate", None, ["train.bad_quality_rate", "None"]),
    ("train.ce_opt.label_smoothing", 2, ["label_smoothing", "2"]),
    ("train.head_from_codes", "yes", ["train.head_from_codes", "'yes'"]),
    ("network_tokenizer.guide_blocks", 3, ["tokenizer.safetensors", "missing", "decoder.joined.1"]),
    ("network_g.depth", 0, ["depth", "0"]),
    ("network_g.drop_path", -1, ["drop_path", "-1"]),
    ("val.guidance", "2", ["val.guidance"]),
    ("val.tile_overlap", 4, ["val.tile_overlap", "from 0 to 3"]),
    ("val.tile_batch", 0, ["val.tile_batch"]),
    ("val.decode_tile", 0, ["val.decode_tile", "whole number from 1"]),
    ("val.colour", "sepia", ["val.colour", "sepia", "off, wavelet, adain"]),
    ("val.top_p", 0, ["val.top_p"]),
    ("val.temperature", 0, ["val.temperature"]),
    ("val.choice", "mode", ["val.choice", "sample, expected"]),
])
def test_what_does_not_fit_is_refused_in_one_sentence(transformer_options, capsys, key, value, words):
    _put(transformer_options, key, value)
    path = write(transformer_options)
    before = listing(Path.cwd())
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error
    for word in words:
        assert word in error
    assert listing(Path.cwd()) == before


def test_a_residual_tokenizer_is_refused_for_another_scale_than_its_decoders(options, capsys):
    for index in range(5):
        cv2.imwrite(f"lq/{index}.png", cv2.resize(cv2.imread(f"gt/{index}.png"), (16, 18)))
    options["scale"] = 2
    assert main(["train", "-opt", write(options)]) == 2
    error = capsys.readouterr().err
    assert "scale: is 2, but network_g has target residual" in error and "4 times smaller" in error


def test_whole_numbers_may_have_a_dot(transformer_options):
    """Also where they become sizes: the run trains in two parts and validates."""
    transformer_options["train"].update(accumulate=2.0, total_iter=2)
    transformer_options["val"].update(tile_overlap=1.0, tile_batch=2.0, decode_tile=3.0, top_k=1.0, sample_seed=0.0)
    assert main(["train", "-opt", write(transformer_options)]) == 0


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("precision", "fp16"), ("compile", True)])
def test_what_several_gpus_in_one_process_cannot_do_is_refused(transformer_options, monkeypatch, capsys, key, value):
    transformer_options["num_gpu"] = "auto"
    transformer_options["train"][key] = value
    path = write(transformer_options)
    before = listing(Path.cwd())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and f"train.{key}" in error and "torchrun" in error
    assert listing(Path.cwd()) == before
    del transformer_options["train"][key]
    for count, allowed in ((1, {key: value}), (2, {})):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        opt = {**transformer_options, "train": {**transformer_options["train"], **allowed}}
        assert parse_options(str(Path.cwd()), True, ["-opt", write(opt)])[0]["num_gpu"] == count


def test_guidance_is_refused_for_a_model_that_never_saw_bad_quality(transformer_options, capsys):
    opt = transformer_options
    opt["val"]["guidance"] = 2.0
    opt["train"]["bad_quality_rate"] = 0.0
    assert main(["train", "-opt", write(opt)]) == 2
    assert "bad_quality_rate" in capsys.readouterr().err


def test_a_checkpoint_converts_to_safetensors_with_its_metadata(options, capsys):
    assert main(["train", "-opt", write(options)]) == 0
    source = "experiments/tokenizer/models/net_g_latest.pth"
    assert main(["convert", source, "-o", "out.safetensors", "--half"]) == 0
    (state, metadata), (states, original) = checkpoints.read("out.safetensors"), checkpoints.read(source)
    assert metadata == original and set(state) == {"params"}
    for name, value in states["params_ema"].items():
        assert torch.equal(state["params"][name], value.half())
    capsys.readouterr()
    assert main(["convert", "absent.pth", "-o", "out2.safetensors"]) == 2
    assert "absent.pth" in capsys.readouterr().err and not Path("out2.safetensors").exists()


@pytest.mark.parametrize(("key", "value", "words"), [
    ("datasets.train.gt_size", 32, ["gt_size", "32", "16"]),
    ("train.quantise_from", 4, ["train.quantise_from"]),
    ("train.vq_opt", None, ["train.vq_opt"]),
    ("train.scale_dropout", 1.5, ["train.scale_dropout", "1.5"]),
    ("network_g.target", "image", ["guide_blocks", "2"]),
    ("train.vq_opt.beta", -1, ["beta", "-1"]),
    ("train.perceptual_opt", {"type": "L1Loss"}, ["train.perceptual_opt"]),
    ("train.checkpointing", True, ["train.checkpointing", "train.accumulate"]),
])
def test_a_tokenizer_that_cannot_train_is_refused(options, capsys, key, value, words):
    _put(options, key, value)
    path = write(options)
    before = listing(Path.cwd())
    assert main(["train", "-opt", path]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert listing(Path.cwd()) == before


def test_the_codebook_is_placed_once_and_given_weights_keep_theirs(options):
    options["train"].update(quantise_from=2, revive_freq=0)
    assert main(["train", "-opt", write(options)]) == 0
    assert log_text("tokenizer").count("moved 24 dead codes") == 1
    states, metadata = checkpoints.read("experiments/tokenizer/models/net_g_latest.pth")
    state = states["params_ema"]
    state["quantize.ema_vocab_hit_SV"].zero_()
    checkpoints.write_safetensors("given.safetensors", state, metadata)
    options["path"]["pretrain_network_g"] = "given.safetensors"
    options.update(name="tuned")
    assert main(["train", "-opt", write(options)]) == 0
    assert "dead codes" not in log_text("tuned") and "l_vq: 0.0000e+00" not in log_text("tuned")


def test_weights_of_other_settings_or_another_codebook_are_refused(transformer_options, capsys):
    opt = transformer_options
    assert main(["train", "-opt", write(opt)]) == 0
    opt.update(name="again")
    opt["path"]["pretrain_network_g"] = "experiments/alignvar/models/net_g_latest.pth"
    opt["network_g"]["sca"] = "random"
    assert main(["train", "-opt", write(opt)]) == 2
    assert "network_g.sca" in capsys.readouterr().err
    opt["network_g"]["sca"] = "laplacian"
    checkpoints.write_safetensors("tokenizer.safetensors", small.tokenizer(seed=1, target="residual").state_dict())
    assert main(["train", "-opt", write(opt)]) == 2
    assert "was trained on other codes than those of tokenizer.safetensors" in capsys.readouterr().err
    assert not Path("experiments/again").exists()


def test_a_head_from_codes_is_the_same_whatever_a_process_has_drawn_and_given_weights_keep_theirs(transformer_options):
    transformer_options["train"]["head_from_codes"] = True
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(transformer_options)])

    def made(draws: int, manual_seed: int = 0) -> torch.nn.Module:
        torch.manual_seed(draws)  # as another process has it
        return build_model({**copy.deepcopy(opt), "manual_seed": manual_seed})

    one, other = made(1), made(2)
    expected = small.transformer()
    expected.start_from_codes(one.tokenizer.quantize.embedding.weight, torch.Generator().manual_seed(0))
    for model in (one, other):
        for net in (model.net_g, model.net_g_ema):
            assert torch.equal(net.head.weight, expected.head.weight) and torch.equal(net.head.bias, expected.head.bias)
    assert not torch.equal(one.net_g.word_embed.weight, other.net_g.word_embed.weight)
    assert not torch.equal(made(1, manual_seed=1).net_g.head.weight, expected.head.weight)
    checkpoints.write_safetensors("given.safetensors", small.transformer().state_dict())
    opt["path"]["pretrain_network_g"] = "given.safetensors"
    given = made(1)
    assert torch.equal(given.net_g.head.weight, small.transformer().head.weight)
    assert torch.equal(given.net_g_ema.head.weight, given.net_g.head.weight)


def test_scale_dropout_keeps_as_many_scales_whatever_the_parts_of_the_batch(options):
    options["train"]["scale_dropout"] = 1.0
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(options)])
    model = build_model(opt)
    gt, lr = small.pictures(40)

    def draw(rate: float, iteration: int = 1, *parts: slice) -> list[int]:
        model.opt["train"]["scale_dropout"], model.iteration = rate, iteration
        model.feed_data({"gt": gt, "lq": lr})
        return torch.cat([model._draw_kept(part) for part in parts or [slice(None)]]).tolist()

    kept = draw(1.0)
    assert set(kept) == {0, 1, 2, 3} and draw(1.0, 1, slice(0, 7), slice(7, 40)) == kept != draw(1.0, 2)
    some = draw(0.25)
    assert 2 <= sum(count < 4 for count in some) <= 20 and max(some) == 4
    model.opt["train"]["scale_dropout"] = 0
    assert model._draw_kept(slice(None)) is None


@pytest.mark.parametrize("head_from_codes", [False, True])
def test_resuming_continues_with_the_very_same_numbers(transformer_options, head_from_codes):
    """Weights, average, optimiser and schedule come back: a step after resuming equals the step without stopping."""
    transformer_options["train"]["head_from_codes"] = head_from_codes
    opt, _ = parse_options(str(Path.cwd()), True, ["-opt", write(transformer_options)])
    opt["train"]["bad_quality_rate"] = 0.0
    opt["network_g"]["drop_path"] = 0.0

    def steps(model, iterations):
        for iteration in iterations:
            model.feed_data(dict(zip(("gt", "lq"), small.pictures(2, seed=iteration), strict=True)))
            model.update_learning_rate(iteration)
            model.optimize_parameters(iteration)
        return model

    for folder in ("models", "training_states"):
        Path(opt["path"][folder]).mkdir(parents=True)
    whole = build_model(copy.deepcopy(opt))
    steps(whole, (1, 2)).save(0, 2)
    steps(whole, (3,))
    opt["path"].update(resume_state=f"{opt['path']['training_states']}/2.state",
                       pretrain_network_g=f"{opt['path']['models']}/net_g_2.pth")
    resumed = build_model(copy.deepcopy(opt))
    resumed.resume_training(torch.load(opt["path"]["resume_state"], weights_only=True))
    steps(resumed, (3,))
    for label in ("net_g", "net_g_ema"):
        for one, other in zip(getattr(whole, label).parameters(), getattr(resumed, label).parameters(), strict=True):
            torch.testing.assert_close(one, other)
