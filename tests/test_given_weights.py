"""Weights that options give: checked and loaded from the same state dict of a file, whatever form the file has."""
import json

import public
import pytest
import torch
from conftest import write
from runs import TRANSFORMER, options, small

from alignvar_arch import checkpoints
from alignvar_arch import options as package_options
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.cli import main
from alignvar_arch.compat.networks import FROZEN, param_key, weights_for
from alignvar_arch.errors import UserError
from alignvar_arch.inference.pairing import why_unguided


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


def state(seed: int) -> dict[str, torch.Tensor]:
    return small.tokenizer(seed, target="residual").state_dict()


def write_transformer(seed: int) -> str:
    """A transformer that was trained on the codes of ``state(seed)``, without guidance."""
    metadata = {"network": json.dumps(TRANSFORMER), "bad_quality_rate": "0",
                "codebook": codebook_hash(state(seed)["quantize.embedding.weight"])}
    checkpoints.write_safetensors(f"{seed}.safetensors", small.transformer(**TRANSFORMER).state_dict(), metadata)
    return f"{seed}.safetensors"


def going_on(content: dict, seed: int = 0, **paths) -> dict:
    """Options that train a transformer on, which was trained on the codes of ``state(seed)``, and whose tokenizer's
    file holds ``content``."""
    opt = options("alignvar")
    content = dict(content)
    if "trainer.vae_local" in content:
        content["trainer"] = {"vae_local": content.pop("trainer.vae_local")}
    torch.save(content, "tokenizer.pth")
    opt["path"].update(pretrain_network_tokenizer="tokenizer.pth", pretrain_network_g=write_transformer(seed), **paths)
    del opt["train"]["head_from_codes"]
    return opt


def decoding(content: dict, seed: int = 0, **paths) -> dict:
    """Options that train the decoder on, of a tokenizer whose file holds ``content``."""
    opt = options("tokenizer")
    torch.save(content, "tokenizer.pth")
    opt.update(model_type="AlignVARDecoderModel", network_transformer=dict(TRANSFORMER))
    opt["path"].update(pretrain_network_g="tokenizer.pth", pretrain_network_transformer=write_transformer(seed),
                       **paths)
    for key in ("vq_opt", "quantise_from", "revive_freq", "revive_until", "scale_dropout"):
        del opt["train"][key]
    opt["train"]["top_k"] = 0
    return opt


def valid(opt: dict) -> dict:
    args = package_options.argument_parser("basicsr", True).parse_args(["-opt", write(opt)])
    return package_options.validated(args, ".", True)[0]


@pytest.mark.parametrize(("places", "paths", "taken"), [
    (["params"], {}, "params"), (["params_ema"], {}, "params_ema"), (["params", "params_ema"], {}, "params_ema"),
    (["params", "params_ema"], {"param_key_tokenizer": "params"}, "params"),
    (["params", "params_ema"], {"param_key_tokenizer": None}, "params"),
    (["anything"], {"param_key_tokenizer": "anything"}, "anything"),
    (["anything"], {"param_key_tokenizer": None}, "anything"),
    (["anything", "params"], {"param_key_tokenizer": "anything"}, "anything"),
    (["trainer.vae_local", "params"], {}, "trainer.vae_local"),
    (["trainer.vae_local", "params"], {"param_key_tokenizer": "params"}, "params"),
])
def test_what_is_checked_is_what_is_loaded(places, paths, taken):
    content = {place: state(number) for number, place in enumerate(places)}
    opt = valid(going_on(content, seed=places.index(taken), **paths))
    key = param_key(opt["path"], "network_tokenizer")
    loaded = weights_for(state(0), "AlignVARTokenizer", "tokenizer.pth", key, True)
    assert loaded.key == taken and torch.equal(loaded.state["quantize.embedding.weight"],
                                               content[taken]["quantize.embedding.weight"])
    with pytest.raises(UserError, match=f"on other codes than those of tokenizer.pth under {taken}"):
        valid(going_on(content, seed=5, **paths))


def test_frozen_networks_give_their_average_by_default():
    assert [param_key({}, key) for key in (*FROZEN, "network_g")] == ["params_ema", "params_ema", "params"]
    assert param_key({"param_key_tokenizer": "params"}, "network_tokenizer") == "params"


def test_the_decoders_average_has_the_transformers_codes_too():
    both = {"params": state(0), "params_ema": state(1)}
    with pytest.raises(UserError, match=r"under params_ema; take two that belong together\.$"):
        valid(decoding(both, seed=0))
    with pytest.raises(UserError, match="under params; take .*, or set path.param_key_g to params_ema"):
        valid(decoding(both, seed=1))
    with pytest.raises(UserError, match=r"under params; take two that belong together\.$"):  # the average is no better
        valid(decoding(both, seed=2))
    opt = decoding(both, seed=0)
    opt["train"]["ema_decay"] = 0
    valid(opt)
    valid(decoding({"params": state(0), "params_ema": {**state(1), **{
        name: value for name, value in state(0).items() if name.startswith("quantize.")}}}, seed=0))


def test_vars_tokenizer_beside_its_transformer_is_vars_under_data_parallels_names_too():
    networks = {"var_wo_ddp": public.var(), "vae_local": public.tokenizer()}
    for prefix in ("", "module."):
        torch.save(public.trainer(**{place: {prefix + name: value for name, value in content.items()}
                                     for place, content in networks.items()}), "a.pth")
        assert recognise("a.pth", "trainer.vae_local").kind == "var-tokenizer"


@pytest.mark.parametrize("key", ["pretrain_network_g", "pretrain_network_tokenizer"])
@pytest.mark.parametrize(("said", "words"), [
    ("{", "describe no network"), ("{}", "describe no network"), ("[]", "describe no network"),
    ("null", "describe no network"), ('{"type": "Nope"}', "it holds Nope, and no AlignVAR"),
])
def test_metadata_that_describe_no_such_network_are_one_sentence(key, said, words, capsys):
    opt = going_on({"params": state(0)})
    network = state(0) if key.endswith("tokenizer") else small.transformer(**TRANSFORMER).state_dict()
    checkpoints.write_safetensors("a.safetensors", network, {"network": said})
    opt["path"][key] = "a.safetensors"
    assert main(["train", "-opt", write(opt)]) == 2
    error = capsys.readouterr().err
    assert words in error and "a.safetensors" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("rate", "words"), [("some", "bad_quality_rate 'some', which is no number"),
                                             ("0", "without bad-quality samples"), ("0.1", None)])
def test_a_model_is_guided_by_what_its_metadata_say(rate, words):
    checkpoints.write_safetensors("a.safetensors", small.transformer(**TRANSFORMER).state_dict(),
                                  {"network": json.dumps(TRANSFORMER), "bad_quality_rate": rate})
    said = why_unguided(recognise("a.safetensors"))
    assert said is None if words is None else words in said
