"""`basicsr convert` and `basicsr list --params`: what is said, what is written, and the way back."""
import json
import re
from pathlib import Path

import public
import pytest
import small
import torch

from alignvar_arch import checkpoints
from alignvar_arch.cli import main


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, str]:
    return public.write_all(tmp_path_factory.mktemp("public"))


@pytest.fixture
def files(originals, tmp_path, monkeypatch) -> dict[str, str]:
    """The public files, and an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return originals


def convert(*arguments: str) -> None:
    assert main(["convert", *arguments]) == 0


def refusal(capsys, *arguments: str) -> str:
    capsys.readouterr()
    before = sorted(Path().iterdir())
    assert main(["convert", *arguments]) == 2 and sorted(Path().iterdir()) == before
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


def test_it_says_what_it_took_left_and_assumed(files, capsys):
    convert(files["varsr"], "-o", "a.safetensors")
    said = capsys.readouterr().out
    assert "holds VARSR's transformer (trainer.var_wo_ddp)" in said and "assumed" not in said
    assert re.search(r"left   diffloss +1 tensors +160  the diffusion refiner", said)
    assert re.search(r"taken  con_embedding +12 tensors", said)
    convert(files["varsr-tokenizer"], "-o", "a.safetensors")
    said = capsys.readouterr().out
    assert "assumed phi_on_last no" in said and "assumed scales [1, 2, 3, 4, 6, 9, 13, 18, 24, 32]" in said
    convert(files["var-tokenizer"], "-o", "a.safetensors", "--phi_on_last", "no", "--scales", "512")
    assert "assumed" not in capsys.readouterr().out
    torch.save(public.trainer(var_wo_ddp=public.varsr(), vae_local=public.tokenizer()), "both.pth")
    convert("both.pth", "-o", "a.safetensors")
    assert "--param_key trainer.vae_local takes that one" in capsys.readouterr().out
    convert("both.pth", "-o", "a.safetensors", "--param_key", "trainer.vae_local")
    assert "holds VARSR's tokenizer" in capsys.readouterr().out


def test_the_metadata_rebuild_the_network(files):
    convert(files["varsr"], "-o", "a.safetensors")
    _, metadata = checkpoints.read("a.safetensors")
    assert metadata.pop("network") == json.dumps(
        {"type": "AlignVAR", "depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 4, "codebook_size": 24,
         "latent_dim": 4, "condition_widths": [8, 8, 16], "condition_blocks": 0, "local_condition": False,
         "scales": [1, 2, 3, 4, 6, 9, 13, 18, 24, 32], "sca": "off"})
    assert metadata == {"kind": "varsr", "source": "varsr.pth", "scale": "4", "iter": "70"}
    convert(files["var-tokenizer"], "-o", "b.safetensors", "--scales", "1,2,4")
    network = json.loads(checkpoints.read("b.safetensors")[1]["network"])
    assert network["scales"] == [1, 2, 4] and network["phi_on_last"] is True and network["type"] == "AlignVARTokenizer"
    convert("b.safetensors", "-o", "c.safetensors")  # again, and nothing changes
    assert Path("b.safetensors").read_bytes() == Path("c.safetensors").read_bytes()


def same(a, b) -> bool:
    """Whether two files' contents are alike to the last bit, order and types included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and type(a) is type(b) and all(same(a[key], b[key]) for key in a)
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("kind", ["var", "var-tokenizer", "varsr", "varsr-tokenizer"])
def test_mapping_back_gives_the_identical_file(files, kind):
    convert(files[kind], "-o", "a.safetensors")
    state, metadata = checkpoints.read("a.safetensors")
    # Weights of nothing, so that every mapped one must come back from ours.
    blank = torch.load(files[kind], weights_only=True)
    place = blank if "trainer" not in blank else next(
        blank["trainer"][key] for key in ("var_wo_ddp", "vae_local") if key in blank["trainer"])
    for name in state["params"]:
        place[name].zero_()
    torch.save(blank, "blank.pth")
    convert("a.safetensors", "-o", "back.pth", "--onto", "blank.pth")
    original, back = (torch.load(path, weights_only=True) for path in (files[kind], "back.pth"))
    assert same(original, back) and not same(blank, back)
    convert("back.pth", "-o", "b.safetensors")
    assert checkpoints.read("b.safetensors")[1] == {**metadata, "source": "back.pth"}


def test_only_the_network_that_it_came_from_takes_weights_back(files, capsys):
    convert(files["varsr"], "-o", "a.safetensors")
    convert(files["varsr-tokenizer"], "-o", "t.safetensors")
    for source, target in (("a.safetensors", "varsr-tokenizer"), ("a.safetensors", "var"), ("t.safetensors", "varsr")):
        error = refusal(capsys, source, "-o", "back.pth", "--onto", files[target])
        assert "does not fit into" in error or "no weights that are known here" in error
    torch.save({"params": small.transformer().state_dict()}, "ours.pth")
    assert "does not fit into" in refusal(capsys, "ours.pth", "-o", "back.pth", "--onto", files["varsr"])
    assert "leave the flag out" in refusal(capsys, "a.safetensors", "-o", "b.pth", "--onto", files["varsr"], "--half")
    assert "must end with .pth" in refusal(capsys, "a.safetensors", "-o", "b.safetensors", "--onto", files["varsr"])


@pytest.mark.parametrize(("kind", "flags", "words"), [
    ("var-tokenizer", ["--scales", "1,3,2"], "grow strictly"),
    ("var-tokenizer", ["--scales", "300"], "at least two sides"),
    ("var-tokenizer", ["--scales", "1,x"], "no sides of token maps"),
    ("varsr", ["--scales", "256"], "has 10 scales and the last side 32"),
    ("varsr", ["--phi_on_last", "no"], "a tokenizer's setting"),
    ("varsr", ["--param_key", "params"], "has no weights under 'params'"),
    ("var", ["--scales", "1,2,3"], "has 10 scales, but"),
])
def test_what_does_not_fit_is_refused(files, capsys, kind, flags, words):
    assert words in refusal(capsys, files[kind], "-o", "a.safetensors", *flags)


def test_other_networks_of_basicsr_go_as_they_are(files, capsys):
    state = {name: value for name, value in torch.nn.Linear(2, 3).state_dict().items()}
    torch.save({"params": {}, "params_ema": state}, "net.pth")
    convert("net.pth", "-o", "a.safetensors")
    assert "another network of BasicSR (params_ema)" in capsys.readouterr().out
    assert torch.equal(checkpoints.read("a.safetensors")[0]["params"]["weight"], state["weight"])
    assert "no network that has them" in refusal(capsys, "net.pth", "-o", "b.safetensors", "--scales", "256")
    assert "not known here" in refusal(capsys, "a.safetensors", "-o", "b.safetensors")


def test_list_counts_parameters_by_component(capsys, tmp_path):
    assert main(["list", "--params"]) == 0
    said = capsys.readouterr().out
    for line in (r"network_g: AlignVAR +1,056,481,121", r"blocks +1,019,732,544", r"condition encoder +23,496,864",
                 r"SCA mask generator +590,977", r"head norm +4,721,664", r"encoder +44,107,872", r"phi +36,992",
                 r"network_tokenizer: AlignVARTokenizer +108,948,355", r"codebook +131,072"):
        assert re.search(rf"(?m)^ +{line}$", said)
    (tmp_path / "a.yml").write_text("network_g: {type: MSRResNet, num_feat: 8, num_block: 1, upscale: 2}")
    assert main(["list", "--params", "-opt", str(tmp_path / "a.yml")]) == 0
    said = capsys.readouterr().out
    total, *parts = [int(number.replace(",", "")) for number in re.findall(r" ([\d,]+)$", said, re.MULTILINE)]
    assert total == sum(parts) and "conv_first" in said
    (tmp_path / "a.yml").write_text("network_g: {type: MSRResNet, num_fat: 8}")
    assert main(["list", "--params", "-opt", str(tmp_path / "a.yml")]) == 2
    assert main(["list", "-opt", str(tmp_path / "a.yml")]) == 2
    assert "num_fat" in capsys.readouterr().err
