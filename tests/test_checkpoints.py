"""Public checkpoints: recognised by their names, parted without a rest, refused where they are something else."""
import builtins
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import public
import pytest
import small
import torch
from safetensors import safe_open

import alignvar_arch
from alignvar_arch import checkpoints
from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.checkpoints.fit import fit
from alignvar_arch.checkpoints.maps import SCALE_BOUND, split
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.checkpoints.shapes import tokenizer_arguments, transformer_arguments
from alignvar_arch.cli import main
from alignvar_arch.compat.networks import weights_for
from alignvar_arch.errors import UserError

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    return public.write_all(tmp_path_factory.mktemp("public"))


def meta(cls, **arguments) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return cls(**arguments).state_dict()


def found(kind: str, state: dict) -> Found:
    return Found("FILE", "params", kind, state)


# Names


def test_every_name_of_varsr_is_taken_or_left_with_a_reason():
    names = [str(key) for key in np.load(DATA / "varsr_d2.npz")["keys"]]
    names += ["diffloss.net.input_proj.weight", "decoder_norm.bias"]
    parts = split(found("varsr", dict.fromkeys(names, torch.zeros(1))))
    own = set(meta(AlignVAR, **{**public.VARSR, "condition_widths": (8, 8, 8, 8, 8)}))
    assert set(parts.taken) == own and set(parts.taken) | set(parts.left) == set(names)
    assert set(parts.left) == {"lvl_1L", "attn_bias_for_masking", *names[-2:]} and all(parts.left.values())


def test_every_name_of_the_tokenizers_is_taken():
    names = [str(key) for key in np.load(DATA / "var_tokenizer_ch32.npz")["keys"]]
    parts = split(found("var-tokenizer", dict.fromkeys(names, torch.zeros(1))))
    assert list(parts.taken) == names and not parts.left


@pytest.mark.parametrize("depth", [16, 24])
def test_var_gives_exactly_blocks_head_and_embeddings(depth):
    """At full size, without memory."""
    size = {"depth": depth, "embed_dim": 64 * depth, "num_heads": depth}
    own = meta(AlignVAR, **size)
    with torch.device("meta"):
        state = public.var(codebook_size=4096, latent_dim=32, **size)
    parts = fit(found("var", state), own, strict=True)
    assert set(parts.taken) == {name for name in own if name.startswith(public.GIVEN_BY_VAR)}
    assert {name.split(".")[0] for name in own.keys() - parts.taken.keys()} == {
        "con_embedding", "class_emb", "pos_start", "mask_generator"}
    assert set(parts.left) == {"pos_start", "pos_1LC", "lvl_1L", "attn_bias_for_masking", "class_emb.weight"}


def test_full_size_varsr_loads_with_nothing_missing_and_only_the_refiner_left():
    own = meta(AlignVAR, condition_widths=(32, 128, 256, 512, 1536), sca="off")
    state = {**own, "diffloss.a": torch.zeros(1), "decoder_norm.weight": torch.zeros(1)}
    parts = fit(found("varsr", state), own, strict=True)
    assert set(parts.taken) == set(own) and set(parts.left) == {"diffloss.a", "decoder_norm.weight"}


@pytest.mark.parametrize("given", [{}, {"depth": 3, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2,
                                        "condition_widths": (4, 12, 8)},
                                   {"condition_blocks": 3, "local_condition": True}])
def test_shapes_tell_a_transformers_arguments(given):
    expected = {**public.VARSR, "mlp_ratio": 4, "condition_blocks": 0, "local_condition": False, **given}
    told = transformer_arguments(meta(AlignVAR, **expected))
    assert told == {key: list(value) if isinstance(value, tuple) else value
                    for key, value in expected.items() if key != "sca"}


@pytest.mark.parametrize("given", [{}, {"ch": 64, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 3, "num_phi": 2},
                                   {"target": "residual", "guide_blocks": 5},
                                   {"target": "residual", "guide_blocks": 0, "ch_mult": (1,), "num_res_blocks": 2},
                                   {"target": "residual", "guide_blocks": 1, "ch_mult": (1, 2, 4),
                                    "num_res_blocks": 0}])
def test_shapes_tell_a_tokenizers_arguments(given):
    expected = {**public.TOKENIZER, **given}
    told = tokenizer_arguments(meta(AlignVARTokenizer, **expected))
    assert told == {key: list(value) if isinstance(value, tuple) else value for key, value in expected.items()}


def test_files_are_recognised_by_their_names_and_places(files, tmp_path):
    for kind, path in files.items():
        assert recognise(path).kind == kind
    # A tokenizer beside VAR's own transformer is VAR's, and the transformer comes first.
    path = str(tmp_path / "ar-ckpt-last.pth")
    torch.save(public.trainer(var_wo_ddp=public.var(), vae_local=public.tokenizer()), path)
    assert recognise(path).kind == "var" and recognise(path).beside == ("trainer.vae_local",)
    assert recognise(path, "trainer.vae_local").kind == "var-tokenizer"
    assert recognise(path, network="AlignVARTokenizer").kind == "var-tokenizer"
    torch.save({"params": torch.nn.Linear(2, 2).state_dict()}, path)
    assert recognise(path).network is None


@pytest.mark.parametrize(("changes", "sca"), [({"condition_blocks": 1}, "off"), ({"local_condition": True}, "off"),
                                              ({"local_condition": True, "sca": "laplacian"}, "laplacian")])
def test_a_transformer_with_what_varsr_has_not_is_ours_without_metadata_too(tmp_path, changes, sca):
    net = AlignVAR(**{**public.VARSR, **changes})
    path = str(tmp_path / "a.pth")
    torch.save({"params": net.state_dict()}, path)
    assert recognise(path).kind == "alignvar"
    again = alignvar_arch.load(path)
    assert again.sca == sca and all(torch.equal(value, net.state_dict()[name])
                                    for name, value in again.state_dict().items())


def test_a_residual_tokenizer_is_ours_and_says_so_where_its_file_does_not_say_its_scales(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save({"params": small.tokenizer(target="residual").state_dict()}, path)
    assert recognise(path).kind == "alignvar-tokenizer"
    with pytest.raises(UserError, match="does not say which network it holds; take a file of"):
        alignvar_arch.load(path)


# Loading


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("kind", ["var-tokenizer", "varsr-tokenizer", "varsr"])
def test_load_gives_the_files_network(files, tmp_path, kind, converted):
    path = files[kind]
    if converted:
        path = str(tmp_path / "a.safetensors")
        assert main(["convert", files[kind], "-o", path]) == 0
    net = alignvar_arch.load(path)
    state = split(recognise(files[kind])).taken
    assert not net.training and net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(value.is_meta for value in [*net.buffers(), *net.parameters()])
    if kind == "varsr":
        with torch.no_grad():
            expected = AlignVAR(**public.VARSR).eval()
            expected.load_state_dict(state)
            lr, teacher, good = torch.rand(1, 3, 8, 8), torch.randn(1, 2239, 4), torch.zeros(1, dtype=torch.long)
            torch.testing.assert_close(net(lr, teacher, good).logits, expected(lr, teacher, good).logits, atol=2e-6,
                                       rtol=0)  # a mapped weight may lie where kernels round otherwise
    else:
        assert net.quantize.phi_on_last is (kind == "var-tokenizer")
        assert net.schedule.sides[-1] == (16 if kind == "var-tokenizer" else 32)


def test_a_loaded_network_is_trained_without_touching_its_file(files):
    before = Path(files["var-tokenizer"]).read_bytes()
    net = alignvar_arch.load(files["var-tokenizer"], scales=(1, 2, 4))
    picture = torch.rand(1, 3, 16, 16)
    encoded = net.encode(2 * picture - 1)
    assert [tokens.shape[-1] for tokens in encoded.maps] == [1, 2, 4]
    assert net.decode(encoded.cumulative[-1]).shape == picture.shape
    net.train()(picture)[0].sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert Path(files["var-tokenizer"]).read_bytes() == before


def test_var_gives_a_beginning_and_load_says_what_starts_fresh(files):
    with pytest.warns(UserWarning, match="VAR's transformer: class_emb, con_embedding, mask_generator, pos_start"):
        net = alignvar_arch.load(files["var"])
    given = public.var()
    for name, value in net.state_dict().items():
        assert value.isfinite().all()
        assert not name.startswith(public.GIVEN_BY_VAR) or torch.equal(value, given[name])
    assert net.pos_start.shape == (1, 257, 32)


def test_half_files_compute_in_float32_unless_asked_otherwise(files, tmp_path):
    assert main(["convert", files["varsr"], "-o", str(tmp_path / "half.safetensors"), "--half"]) == 0
    net = alignvar_arch.load(str(tmp_path / "half.safetensors"))
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    assert torch.equal(net.head.weight, public.varsr()["head.weight"].half().float())
    kept = alignvar_arch.load(str(tmp_path / "half.safetensors"), dtype=None)
    assert {value.dtype for value in kept.parameters()} == {torch.float16} and kept.rope.dtype == torch.float32


def test_settings_that_the_file_contradicts_are_refused(files, tmp_path):
    assert alignvar_arch.load(files["varsr-tokenizer"], phi_on_last=True).quantize.phi_on_last
    for options, words in (({"scales": (1, 2, 32)}, "has 10 scales and the last side 32"),
                           ({"phi_on_last": True}, "a tokenizer's setting")):
        with pytest.raises(UserError, match=words):
            alignvar_arch.load(files["varsr"], **options)
    assert main(["convert", files["varsr-tokenizer"], "-o", str(tmp_path / "a.safetensors")]) == 0
    with pytest.raises(UserError, match="says itself that it has phi_on_last False"):
        alignvar_arch.load(str(tmp_path / "a.safetensors"), phi_on_last=True)
    torch.save({"params": small.transformer().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not say which network it holds: it has 4 scales"):
        alignvar_arch.load(str(tmp_path / "a.pth"))
    assert alignvar_arch.load(str(tmp_path / "a.pth"), scales=small.SCALES).sca == "laplacian"


# Into networks of an options file


def test_varsr_gives_alignvar_everything_but_sca(files):
    own = meta(AlignVAR, **{**public.VARSR, "sca": "laplacian"})
    weights = weights_for(own, "AlignVAR", files["varsr"], "params", True)
    assert {name.split(".")[0] for name in own.keys() - weights.state.keys()} == {"mask_generator"}
    assert weights.key == "trainer.var_wo_ddp"
    assert any(re.match(r"  fresh  mask_generator +4 tensors", line) for line in weights.table)
    assert any(line.startswith("  left   diffloss") and "refiner" in line for line in weights.table)


def test_another_scale_schedule_starts_its_own_parts_fresh(files):
    scales = (1, 2, 3, 5)
    own = meta(AlignVAR, **{**public.VARSR, "scales": scales})
    weights = weights_for(own, "AlignVAR", files["varsr"], "params", True)
    assert own.keys() - weights.state.keys() == {"pos_start", "lvl_embed.weight"}
    own = meta(AlignVAR, **{**public.TRANSFORMER, "scales": scales})
    given = weights_for(own, "AlignVAR", files["var"], "params", True).state
    assert "lvl_embed.weight" not in given and "head.weight" in given
    own = meta(AlignVARTokenizer, **{**public.TOKENIZER, "scales": scales})
    assert own.keys() - weights_for(own, "AlignVARTokenizer", files["var-tokenizer"], "params", True).state.keys() == {
        "quantize.ema_vocab_hit_SV"}
    assert {"pos_start", "lvl_embed.weight", "quantize.ema_vocab_hit_SV"} == set(SCALE_BOUND)


@pytest.mark.parametrize(("kind", "name", "arguments", "words"), [
    ("var", "AlignVAR", {"depth": 3}, "VAR's transformer with depth 2, but the network has depth 3"),
    ("var", "AlignVAR", {"embed_dim": 64, "num_heads": 4}, "embed_dim 32, num_heads 2, but the network has embed_dim"),
    ("var", "AlignVAR", {"codebook_size": 30}, "codebook_size 24, but the network has codebook_size 30"),
    ("varsr", "AlignVAR", {"condition_widths": (8, 8, 24), "sca": "off"}, r"\[8, 8, 16\], but .* \[8, 8, 24\]"),
    ("var-tokenizer", "AlignVARTokenizer", {"num_res_blocks": 2}, "num_res_blocks 1, but"),
    ("var-tokenizer", "AlignVAR", {}, "holds VAR's tokenizer, and no AlignVAR"),
    ("varsr-tokenizer", "AlignVAR", {}, "under 'params'; it holds 'trainer.vae_local'"),
])
def test_another_size_is_named_with_both_values(files, kind, name, arguments, words):
    cls, base = (AlignVAR, public.TRANSFORMER) if name == "AlignVAR" else (AlignVARTokenizer, public.TOKENIZER)
    with pytest.raises(UserError, match=words) as error:
        weights_for(meta(cls, **{**base, **arguments}), name, files[kind], "params", True)
    assert files[kind] in str(error.value)


def test_strict_load_false_takes_from_varsr_what_fits(files):
    own = meta(AlignVAR, **{**public.VARSR, "condition_widths": (8, 8, 24)})
    state = weights_for(own, "AlignVAR", files["varsr"], "params", False).state
    assert "con_embedding.blocks.0.weight" in state and "con_embedding.conv_out.weight" not in state
    with pytest.raises(UserError, match="depth 2, but the network has depth 3"):  # VAR gives all of its part, or none
        weights_for(meta(AlignVAR, **{**public.TRANSFORMER, "depth": 3}), "AlignVAR", files["var"], "params", False)


# Files that are no such thing


def half(state: dict) -> dict:
    return {name: value for name, value in state.items() if not name.startswith(("blocks.0.attn.proj", "head_nm"))}


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def write_bad(kind: str, path: Path) -> str:
    """Write one and return its path."""
    if kind in ("half a transformer", "half a VAR", "strange", "shared", "other"):
        torch.save({"half a transformer": lambda: public.trainer(var_wo_ddp=half(public.varsr())),
                    "half a VAR": lambda: half(public.var()),
                    "strange": lambda: {**public.var(), "cross_attn.weight": torch.zeros(1)},
                    "shared": lambda: {**public.var(), "shared_ada_lin.1.weight": torch.zeros(1)},
                    "other": lambda: torch.nn.Linear(2, 2).state_dict()}[kind](), path)
    elif kind == "truncated":
        torch.save(public.var(), path)
        cut(path, 0.7)
    elif kind == "truncated safetensors":
        path = path.with_suffix(".safetensors")
        checkpoints.write_safetensors(str(path), public.var())
        cut(path, 0.7)
    elif kind == "folder":
        path.mkdir()
    elif kind == "code":
        torch.save({**public.var(), "evil": Evil()}, path)
    elif kind == "bare pickle with code":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        path.write_bytes({"web page": b"\n<!DOCTYPE html><html></html>", "empty": b"",
                          "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0"}[kind])
    return str(path)


BAD = {"truncated": "truncated, or not a checkpoint", "truncated safetensors": "truncated, or not a checkpoint",
       "web page": "web page", "empty": "it is empty", "lfs": "git lfs pull", "folder": "is a folder",
       "code": "holds Python objects, which are not executed (posix.mkdir); in the program that wrote it, save",
       "bare pickle with code": "holds Python objects, which are not executed",
       "half a transformer": "4 parameters are missing (blocks.0.attn.proj.weight, …)",
       "half a VAR": "4 parameters are missing (blocks.0.attn.proj.weight, …)",
       "strange": "1 of its names are unknown there (cross_attn.weight)", "shared": "var_d36",
       "other": "not known here (it begins with weight)"}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_one_sentence_and_nothing_is_written(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_bad(kind, tmp_path / "bad.pth")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    assert main(["convert", path, "-o", "out.safetensors"]) == 2
    error = capsys.readouterr().err
    assert path in error and BAD[kind] in error and len(error.strip().splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    with pytest.raises(UserError, match=re.escape(path)):
        alignvar_arch.load(path)
    if kind != "other":
        with pytest.raises(UserError, match=re.escape(path)):
            weights_for(meta(AlignVAR, **public.TRANSFORMER), "AlignVAR", path, "params", True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def refused(path: Path, state: dict, words: str) -> None:
    """See that ``load`` answers such a file with one sentence."""
    torch.save(state, path)
    with pytest.raises(UserError, match=words) as error:
        alignvar_arch.load(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("make", "name"), [
    (public.var, "lvl_embed.weight"), (public.varsr, "lvl_embed.weight"), (public.varsr, "pos_start"),
    (public.var, "head.weight"), (public.var, "blocks.0.attn.scale_mul_1H11"), (public.var, "word_embed.weight"),
    (public.var, "pos_1LC"), (public.tokenizer, "quantize.embedding.weight"),
    (public.tokenizer, "quantize.ema_vocab_hit_SV"), (public.tokenizer, "encoder.conv_in.weight"),
])
def test_a_parameter_that_shapes_are_read_from_may_be_missing_or_of_any_form(tmp_path, make, name):
    state = make()
    if not name.endswith(("SV", "1LC")) and make is not public.tokenizer:  # others make it something else
        refused(tmp_path / "a.pth", {key: value for key, value in state.items() if key != name}, "is missing")
    for value in (torch.zeros(()), torch.zeros(0, 0)):
        refused(tmp_path / "a.pth", {**state, name: value}, "another form|does not fit|does not say|does not hold")


@pytest.mark.parametrize(("form", "words"), [
    (lambda value: value.to_sparse(), "quant_conv.bias is a sparse"), (lambda value: value.to("meta"), "empty tensor"),
    (lambda value: value.long(), "quant_conv.bias is torch.int64 in the file"),
])
def test_a_tensor_that_no_network_has_is_named(tmp_path, recwarn, form, words):
    state = public.tokenizer()
    refused(tmp_path / "a.pth", {**state, "quant_conv.bias": form(state["quant_conv.bias"])}, words)
    assert not [warning for warning in recwarn if "assumed" not in str(warning.message)]


@pytest.mark.parametrize("change", [{"ch": -32}, {"ch_mult": []}, {"num_phi": 0}, {"codebook_size": -5}, {"ch": 0},
                                    {"phi_on_last": "no"}, {"type": "os.system"}])
def test_metadata_may_say_anything(tmp_path, recwarn, change):
    network = {"type": "AlignVARTokenizer", **public.TOKENIZER, "phi_on_last": True, **change}
    refused(tmp_path / "a.pth", {"params": public.tokenizer(), "metadata": {"network": json.dumps(network)}},
            "does not hold the network that|neither true nor false")
    assert not recwarn


def test_programs_of_torch_are_refused_with_the_way_out(tmp_path, recwarn):
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as file:
        file.writestr("script/constants.pkl", pickle.dumps(()))
        file.writestr("script/data.pkl", pickle.dumps(Evil(), protocol=2))
        file.writestr("script/version", "3")
    with pytest.raises(UserError, match="TorchScript program .* save the state dict alone"):
        checkpoints.read(str(tmp_path / "script.pth"))
    (tmp_path / "new.pth").write_bytes(pickle.dumps(Evil(), protocol=4))
    with pytest.raises(UserError, match="cannot be read as weights"):
        checkpoints.read(str(tmp_path / "new.pth"))
    assert not recwarn and not Path("pwned").exists()


@pytest.mark.parametrize("length", [*range(1, 24), 100, 5000, -1, -10, -22, -30, -5000])
def test_a_file_cut_anywhere_is_truncated(files, tmp_path, length):
    (tmp_path / "a.pth").write_bytes(Path(files["var"]).read_bytes()[:length])
    with pytest.raises(UserError, match="a.pth cannot be read as weights: truncated, or not a checkpoint"):
        checkpoints.read(str(tmp_path / "a.pth"))


def test_safetensors_are_read_under_any_name(tmp_path):
    for name in ("a.SAFETENSORS", "b.pth"):
        checkpoints.write_safetensors(str(tmp_path / name), public.var())
        assert recognise(str(tmp_path / name)).kind == "var"


def test_load_guesses_nothing_in_silence(files, recwarn):
    alignvar_arch.load(files["varsr-tokenizer"])
    said = " ".join(str(warning.message) for warning in recwarn)
    assert "assumed phi_on_last no" in said and "assumed scales [1, 2, 3, 4, 6" in said
    recwarn.clear()
    alignvar_arch.load(files["varsr-tokenizer"], phi_on_last=False, scales=(1, 2, 4))
    assert not recwarn


def test_a_file_that_may_not_be_read_is_named(files, monkeypatch):
    def denied(path, *arguments, **named):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(UserError, match="var.pth cannot be read as weights: Permission denied"):
        checkpoints.read(files["var"])


def test_files_of_old_torch_are_read_too(files, tmp_path):
    path = str(tmp_path / "old.pth")
    torch.save(public.tokenizer(), path, _use_new_zipfile_serialization=False)
    state = recognise(path).state
    assert recognise(path).kind == "var-tokenizer"
    assert all(torch.equal(value, state[name]) for name, value in public.tokenizer().items())


# Writing


def test_safetensors_of_every_dtype_are_read_by_the_library_and_equal_input_gives_equal_bytes(tmp_path):
    state = {"z": torch.randn(3, 5).T, "half": torch.randn(7).half(), "brain": torch.randn(3).bfloat16(),
             "flags": torch.tensor([True, False, True]), "number": torch.tensor(2.5, dtype=torch.double),
             "none": torch.zeros(0, 4), "byte": torch.arange(3, dtype=torch.uint8), "long": torch.arange(3),
             "a": torch.randn(2), "ünï": torch.arange(2, dtype=torch.int16)}
    metadata = {name: json.dumps({"x": name}) for name in "dcba"}
    checkpoints.write_safetensors(str(tmp_path / "a.safetensors"), state, metadata)
    with safe_open(str(tmp_path / "a.safetensors"), framework="pt") as file:
        assert set(file.keys()) == set(state) and file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), value) and file.get_tensor(name).dtype == value.dtype
                   for name, value in state.items())
    state = {"big": torch.zeros(16), "odd": torch.zeros(3), "wide": torch.zeros(5, 16), "byte": state["byte"]}
    checkpoints.write_safetensors(str(tmp_path / "a.safetensors"), state, metadata)
    read = checkpoints.read(str(tmp_path / "a.safetensors"))[0]["params"]
    assert all(read[name].data_ptr() % 64 == 0 for name in ("big", "wide")) and read["odd"].data_ptr() % 4 == 0
    backwards = [dict(reversed(list(values.items()))) for values in (state, metadata)]
    checkpoints.write_safetensors(str(tmp_path / "b.safetensors"), *backwards)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(UserError, match="cannot write .*c.safetensors: a is torch.complex64"):
        checkpoints.write_safetensors(str(tmp_path / "c.safetensors"), {"a": torch.zeros(1, dtype=torch.complex64)})
    assert len(list(tmp_path.iterdir())) == 2
