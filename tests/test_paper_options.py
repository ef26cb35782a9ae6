"""The options files of the paper's size: built without memory, and valid with public weights that take none either."""
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import public
import pytest
import small
import torch
import yaml
from public import GIVEN_BY_VAR

from alignvar_arch import checkpoints, options
from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.checkpoints import recognise
from alignvar_arch.cli import main
from alignvar_arch.compat.networks import weights_for
from alignvar_arch.data.photos import find_photos, read_photo
from alignvar_arch.models.checks import arguments
from alignvar_arch.options import components

PAPER = Path(__file__).parent.parent / "options/paper"
README = PAPER.parent.parent / "datasets/README.md"
SIZES = {"alignvar_d24_x4": 1_056_481_121, "alignvar_d24_x4_test": 1_056_481_121, "alignvar_d16_x4": 328_653_473,
         "varsr_d24_x4": 1_065_327_840, "varsr_d24_x4_test": 1_065_327_840, "tokenizer_512_x4": 108_948_355,
         "tokenizer_512_x4_test": 108_948_355}


def test_they_are_all_known():
    assert {path.stem for path in PAPER.iterdir()} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_it_builds_its_published_size(name, capsys):
    assert main(["list", "--params", "-opt", str(PAPER / f"{name}.yml")]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"network_g: \w+ +{SIZES[name]:,}\n", said)
    assert "network_g" in said and ("tokenizer" in name or re.search(r"network_tokenizer: \w+ +108,948,355\n", said))


def zeros(cls, **given) -> dict[str, torch.Tensor]:
    """The state dict of a network, every tensor one number that is repeated."""
    with torch.device("meta"):
        state = cls(**given).state_dict()
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


def var(depth: int) -> dict[str, torch.Tensor]:
    state = zeros(AlignVAR, depth=depth, embed_dim=64 * depth, num_heads=depth)
    given = {name: value for name, value in state.items() if name.startswith(GIVEN_BY_VAR)}
    return {"pos_1LC": torch.zeros(()).expand(1, 680, 64 * depth), **given}


PUBLIC = {"var_d16.pth": lambda: {"params": var(16)}, "var_d24.pth": lambda: {"params": var(24)},
          "vae_ch160v4096z32.pth": lambda: {"params": zeros(AlignVARTokenizer)},
          "VQVAE.pth": lambda: {"trainer.vae_local": zeros(AlignVARTokenizer)},
          "VARSR.pth": lambda: {"trainer.var_wo_ddp": {
              **zeros(AlignVAR, condition_widths=(32, 128, 256, 512, 1536), sca="off"), "diffloss.a": torch.zeros(9)}},
          "net_g_latest.pth": lambda: {"params": zeros(AlignVAR)}}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A current folder where public weights are read, and a picture for every data set."""
    monkeypatch.chdir(tmp_path)
    for folder in ("weights", "experiments/alignvar_d24_x4/models"):
        (tmp_path / folder).mkdir(parents=True)
    for name in PUBLIC:
        (tmp_path / "weights" / name).touch()
    (tmp_path / "experiments/alignvar_d24_x4/models/net_g_latest.pth").touch()
    for module in (checkpoints, recognise):
        monkeypatch.setattr(module, "read", lambda path: (PUBLIC[Path(path).name](), {}))
    for folder, side in (("gt", 512), ("lq", 128)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.zeros((side, side, 3), np.uint8))
    (tmp_path / "list.txt").write_text("a.png\n")
    return tmp_path


def with_pictures(name: str) -> dict:
    """An options file whose data sets are ``place``'s."""
    content = yaml.safe_load((PAPER / f"{name}.yml").read_text())
    for phase, data in content["datasets"].items():
        data.update({"dataroot_gt": "gt", "meta_info": "list.txt"} if phase == "train" else
                    {"dataroot_gt": "gt", "dataroot_lq": "lq"})
    return content


@pytest.mark.parametrize("name", SIZES)
def test_it_is_valid_beside_data_and_weights(name, place):
    content = with_pictures(name)
    (place / "a.yml").write_text(yaml.safe_dump(content))
    train = not name.endswith("_test")
    args = options.argument_parser("basicsr", train).parse_args(["-opt", "a.yml"])
    opt, _ = options.validated(args, str(place), train)
    if opt["model_type"] == "AlignVARModel" and train:
        network = content["network_g"]
        own = components.build(AlignVAR, network, "network_g").state_dict()
        weights = weights_for(own, "AlignVAR", opt["path"]["pretrain_network_g"], "params", True)
        fresh = {key.split(".")[0] for key in own if key not in weights.state}
        assert fresh == (set() if "varsr" in name else {"con_embedding", "class_emb", "pos_start", "mask_generator"})
        if "varsr" in name:
            assert [line.split()[:2] for line in weights.table if "left" in line] == [["left", "diffloss"]]


def test_the_schedule_of_every_file_is_512_pixels():
    for path in PAPER.iterdir():
        content = yaml.safe_load(path.read_text())
        network = arguments(content.get("network_tokenizer", content["network_g"]))
        assert network["scales"][-1] * 2 ** (len(network["ch_mult"]) - 1) == 512
        assert network["phi_on_last"] is ("varsr" not in path.stem)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("network_g", [1, 3, 2], "must grow strictly"), ("network_g", [2, 4, 32], "begins with 1"),
    ("network_g", [1, 2, 4, 8, 16], "network_tokenizer.scales is"), ("gt_size", 256, "describe pictures of 512"),
    ("both", [1, 2, 4, 8, 16], "describe pictures of 256"),
])
def test_a_schedule_that_does_not_fit_is_one_sentence(place, capsys, key, value, words):
    content = with_pictures("alignvar_d16_x4")
    for name in ("network_g", "network_tokenizer"):
        if key in (name, "both"):
            content[name]["scales"] = value
    if key == "gt_size":
        content["datasets"]["train"]["gt_size"] = value
    (place / "a.yml").write_text(yaml.safe_dump(content))
    assert main(["train", "-opt", "a.yml"]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert not (place / "experiments/alignvar_d16_x4").exists()


def test_varsrs_tokenizer_with_phi_on_the_last_scale_is_refused(place, capsys):
    content = with_pictures("varsr_d24_x4")
    content["network_tokenizer"]["phi_on_last"] = True
    (place / "a.yml").write_text(yaml.safe_dump(content))
    assert main(["train", "-opt", "a.yml"]) == 2
    error = capsys.readouterr().err
    assert "network_tokenizer.phi_on_last: is true, but weights/VQVAE.pth" in error and "convert --phi_on_last" in error


def test_guidance_is_for_varsr_itself_and_not_for_a_file_that_only_looks_like_it(place, monkeypatch, capsys):
    content = with_pictures("varsr_d24_x4_test")
    monkeypatch.setitem(PUBLIC, "VARSR.pth", lambda: {"params": zeros(
        AlignVAR, condition_widths=(32, 128, 256, 512, 1536), sca="off")})
    (place / "a.yml").write_text(yaml.safe_dump(content))
    assert main(["test", "-opt", "a.yml"]) == 2
    assert "does not say whether it was trained with bad-quality samples" in capsys.readouterr().err


TINY = ["scales=[1, 2, 3, 4]", "codebook_size=24", "latent_dim=4"]
TINY_TOKENIZER = [*TINY, "ch=32", "ch_mult=[1, 1, 1]", "num_res_blocks=1"]
TINY_TRANSFORMER = [*TINY, "depth=2", "embed_dim=32", "num_heads=2", "condition_widths=[8, 16]"]
SHORT = ["datasets:train:gt_size=16", "datasets:train:batch_size_per_gpu=2", "datasets:train:num_worker_per_gpu=0",
         "datasets:train:pin_memory=false", "datasets:train:prefetch_mode=none", "gt_usm=false", "train:total_iter=3",
         "train:accumulate=2", "datasets:val:dataroot_gt=val", "datasets:val:dataroot_lq=none", "val:tile_overlap=1",
         "val:tile_batch=8", "logger:print_freq=1", "logger:save_checkpoint_freq=1"]


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> None:
    """A current folder with scikit-image's photographs as the paper's data lie, and small weights by public names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    for folder in ("datasets/LSDIR/0001000", "datasets/FFHQ/images1024x1024/00000", "val", "weights"):
        Path(folder).mkdir(parents=True)
    astronaut, *others = map(read_photo, find_photos("scikit-image/train"))
    cv2.imwrite("datasets/FFHQ/images1024x1024/00000/00000.png", astronaut)
    for number, photo in enumerate(others, 1):
        cv2.imwrite(f"datasets/LSDIR/0001000/{number:07}.png", photo)
    cv2.imwrite("val/cat.png", read_photo(find_photos("scikit-image/val")[0])[96:144, 64:128])
    listing = re.search(r"^ +(find -L LSDIR.*) > lsdir_ffhq10k.txt$", README.read_text(), re.MULTILINE)[1]
    subprocess.run(f"{listing} > lsdir_ffhq10k.txt", shell=True, cwd="datasets", check=True)
    assert len(Path("datasets/lsdir_ffhq10k.txt").read_text().splitlines()) == len(others) + 1
    transformer = {"scales": small.SCALES, "condition_widths": (8, 16)}
    tokenizer = public.tokenizer(scales=small.SCALES)
    for name, content in {"var_d24": public.var(**transformer), "var_d16": public.var(**transformer),
                          "vae_ch160v4096z32": tokenizer, "VQVAE": public.trainer(vae_local=tokenizer),
                          "VARSR": public.trainer(var_wo_ddp=public.varsr(**transformer))}.items():
        torch.save(content, f"weights/{name}.pth")


@pytest.mark.parametrize("name", [name for name in SIZES if not name.endswith("_test")])
def test_scaled_down_it_trains_on_the_embedded_photographs(name, photographs):
    sizes = {"network_g": TINY_TOKENIZER} if name.startswith("tokenizer") else \
        {"network_g": TINY_TRANSFORMER, "network_tokenizer": TINY_TOKENIZER}
    tiny = [f"{block}:{size}" for block, entries in sizes.items() for size in entries]
    assert main(["train", "-opt", str(PAPER / f"{name}.yml"), "--force_yml", *SHORT, *tiny]) == 0
    log = next(Path("experiments", name).glob("train_*.log")).read_text()
    assert "iter:       3," in log and "psnr" in log and ("l_vq" if "tokenizer" in name else "l_ce") in log
    assert ("l_hcc" in log) is name.startswith("alignvar")
    saved, metadata = checkpoints.read(f"experiments/{name}/models/net_g_latest.pth")
    assert set(saved) == {"params", "params_ema"} and all(value.isfinite().all() for value in saved["params"].values())
    assert metadata.get("bad_quality_rate", "0.1") == "0.1"


def test_the_files_differ_in_networks_weights_and_losses_only():
    """Data, degradation and logging are the paper's in each."""
    contents = [yaml.safe_load((PAPER / f"{name}.yml").read_text()) for name in SIZES if not name.endswith("_test")]
    own = ("name", "model_type", "network_g", "network_tokenizer", "path", "train", "val")
    first, *others = ({key: value for key, value in content.items() if key not in own} for content in contents)
    assert all(other == first for other in others) and len(first) > 20
    assert first["datasets"]["train"]["batch_size_per_gpu"] * 8 == 32 and 94991 // 32 * 100 == 296800
