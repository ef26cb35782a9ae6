"""The benchmarks still fit the code they measure: each parses its arguments, and their parts work on a tiny case."""
import json
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import yaml

from alignvar_arch import checkpoints

FOLDER = Path(__file__).parent.parent / "benchmarks"
LOCAL = {"condition_blocks": 1, "local_condition": True}
NETWORKS = {"tokenizer": small.TOKENIZER, "model": {**small.TRANSFORMER, **LOCAL}}


@pytest.fixture
def run(monkeypatch):
    """Run a benchmark in this process, as a script."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def script(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(FOLDER / name), run_name="__main__")

    return script


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A tiny tokenizer, a tiny transformer, and two pictures, on disk."""
    for name, net in (("tokenizer", small.tokenizer()), ("model", small.transformer(**LOCAL))):
        checkpoints.write_safetensors(str(tmp_path / f"{name}.safetensors"), net.state_dict(),
                                      {"network": json.dumps(NETWORKS[name])})
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        cv2.imwrite(str(tmp_path / "pictures" / f"{index}.png"), rng.integers(0, 255, (37, 34, 3)).astype(np.uint8))
    return {"pictures": str(tmp_path / "pictures"), "json": str(tmp_path / "out.json"),
            "both": ["--tokenizer", str(tmp_path / "tokenizer.safetensors"), "--model",
                     str(tmp_path / "model.safetensors")]}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")
                                      if not re.search(r"^(common|plain.*|stages|training_steps)\.py$", path.name)))
def test_it_explains_itself(run, name, capsys):
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0 and "usage" in capsys.readouterr().out


def test_tokens_counts_and_compares(run, files, capsys):
    run("tokens.py", "--train", files["pictures"], "--test", f"two={files['pictures']}", "--json", files["json"],
        *files["both"])
    result = json.loads(Path(files["json"]).read_text())
    assert result["codes"] == 24 and 0 < result["codes_used"] <= 24
    assert result["two"]["gain"] == pytest.approx(result["two"]["unigram"] - result["two"]["model"])
    assert "below unigram" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "arguments"), [
    ("curves.py", ["--sets", "two=pictures", "--guidance"]), ("cheaper.py", ["--depth", "0"]),
    ("tokens.py", ["--train", "pictures", "--test", "two=pictures"])])
def test_networks_that_do_not_belong_together_are_not_measured(run, files, name, arguments, tmp_path, capsys):
    other = str(tmp_path / "other.safetensors")
    checkpoints.write_safetensors(other, small.transformer(**LOCAL).state_dict(),
                                  {"network": json.dumps(NETWORKS["model"]), "codebook": "another"})
    with pytest.raises(SystemExit) as stop:
        run(name, *arguments, *files["both"], "--model", other)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "on the codes of another tokenizer" in said and len(said.splitlines()) == 1


def test_a_model_that_cannot_be_guided_has_no_curve_of_guidance(run, files, capsys):
    with pytest.raises(SystemExit) as stop:
        run("curves.py", "--sets", f"two={files['pictures']}", *files["both"])
    assert stop.value.code == 2 and "give the flag without values" in capsys.readouterr().err


def test_quality_compares_methods(run, files, monkeypatch, shared):
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(shared / "data" / "weights"))
    run("quality.py", "--sets", f"two={files['pictures']}", "--json", files["json"], *files["both"])
    result = json.loads(Path(files["json"]).read_text())["two"]
    assert set(result) == {"bicubic", "tokenizer", "alignvar"}
    assert result["bicubic"]["psnr"] > result["alignvar"]["psnr"] and torch.tensor(result["bicubic"]["lpips"]) > 0


def test_cheaper_ways_begin_as_the_full_one(run, files, monkeypatch, shared):
    monkeypatch.setenv("ALIGNVAR_LPIPS", str(shared / "data" / "weights"))
    run("cheaper.py", "--sets", f"two={files['pictures']}", "--depth", "0", "--seeds", "1", "--json", files["json"],
        *files["both"])
    result = json.loads(Path(files["json"]).read_text())["two"]
    assert len(result) == 7 and len({row["lpips"] for row in result.values()}) == 7


def test_the_full_way_is_the_packages_own(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import cheaper

    monkeypatch.setitem(cheaper.WAYS, "structure 0.5", cheaper.Way(keep=0.9999, by="structure"))  # in truth all tokens
    net, tokenizer, lr = small.transformer(**LOCAL), small.tokenizer(), small.pictures()[1]
    draw = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    with torch.no_grad():
        made = cheaper.all_ways(net, tokenizer, lr, [1, 2])
        expected = net.generate(lr, tokenizer.quantize, net.structure(lr), generator=draw, **cheaper.SAMPLING).f_hat
    for name in ("full", "structure 0.5"):
        torch.testing.assert_close(made[name][0], expected)


def test_every_way_past_a_tiles_edge_works_with_a_residual_tokenizer(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import seams

    net, tokenizer, lr = small.transformer(**LOCAL), small.tokenizer(target="residual"), torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        made = {name: seams.WAYS[name](net, tokenizer, lr, 3) for name in ("latent", "pixel", "own")}
    assert all(picture.shape == (1, 3, 36, 36) for picture in made.values())
    assert (made["own"] - made["latent"]).abs().max() > 1e-3 < (made["pixel"] - made["latent"]).abs().max()


def test_decoding_the_shipped_layout_in_tiles_is_decoding_it_whole(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import decode

    shipped = yaml.safe_load((FOLDER.parent / "options/tokenizer_x4.yml").read_text())["network_g"]
    shipped["ch_mult"] = tuple(shipped["ch_mult"])
    assert {key: shipped[key] for key in decode.SMALL} == decode.SMALL
    whole, tiled = (decode.decode(128, tile, None, small=True)[2] for tile in (None, 8))
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=1e-4)


def test_weights_takes_its_steps(run, tmp_path, capsys):
    source, output = str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")
    for step in (["make", source, "1"], ["convert", source, output, "--half"], ["load", source], ["open", output]):
        run("weights.py", "--step", *step)
    said = capsys.readouterr().out
    assert len(re.findall(r"PEAK [\d.]+ [\d.]+ [\d.]+", said)) == 4 and "1025 prefix positions" in said
