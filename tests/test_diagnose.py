"""`basicsr diagnose`: its figures are what they say, and the command goes through, or refuses in one sentence."""
import copy
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from conftest import listing, write
from einops import rearrange
from PIL import Image
from test_models import TOKENIZER, TRANSFORMER

from alignvar_arch import checkpoints
from alignvar_arch.archs.layers.attention import attend
from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer_arch import bicubic
from alignvar_arch.cli import main
from alignvar_arch.diagnose import attention, latents, planting
from alignvar_arch.diagnose.figures import TOKENS, mean, measure
from alignvar_arch.diagnose.subjects import Subject
from alignvar_arch.diagnose.tiles import Tile, Tiles
from alignvar_arch.errors import UserError

SCHEDULE = ScaleSchedule(small.SCALES)
K = len(small.SCALES)
SAMPLED = {"top_k": 0, "sample_seed": 3}


def subject(net=None, sca: str = "laplacian", val: dict | None = None) -> tuple[Subject, torch.nn.Module]:
    tokenizer = small.tokenizer(target="residual")
    return Subject("it", "opt.yml", net or small.transformer(), tokenizer.quantize, sca, val or SAMPLED), tokenizer


def tile() -> Tile:
    gt, lr = small.pictures(1)
    return Tile("set/it", lr, gt, 0, 0, (4, 4))


def test_probabilities_give_what_the_attention_call_gives():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 7, 8)
    torch.testing.assert_close(attention.probabilities(q, k) @ v, attend(q, k, v, scale=1.0))


def test_queries_keys_values_are_those_of_the_blocks_output():
    net = small.transformer()
    attn, x, ends = net.blocks[0].attn, torch.randn(1, 20, 32), (5, 20)
    q, k, v = attn.queries_keys_values(x, net.rope[:, :20])
    out = torch.cat([attention.probabilities(q[:, :, a:b], k[:, :, :b]) @ v[:, :, :b] for a, b in ((0, 5), (5, 20))], 2)
    torch.testing.assert_close(attn.proj(rearrange(out, "b h n d -> b n (h d)")), attn(x, net.rope[:, :20], ends))


def test_uniform_and_diagonal_attention_have_known_figures():
    flat = torch.full((1, 4, 4), 1 / 4)
    assert attention.look(flat, 2) == pytest.approx(((0 + 0.5 + 0.5 + 0.5 ** 0.5) / 4, 1))
    assert attention.uniform(2) == pytest.approx(attention.look(flat, 2))
    # In 3×3 a corner has 4 places around it, an edge 6, the middle 9.
    assert attention.look(torch.full((2, 9, 9), 1 / 9), 3)[1] == pytest.approx((4 * 4 + 4 * 6 + 9) / 81)
    assert attention.look(torch.eye(16)[None], 4) == (0, 1)


def test_attention_without_preference_is_uniform_and_shared_by_the_number_of_keys():
    prefix = 16
    q = k = torch.zeros(1, 2, prefix + SCHEDULE.tokens, 8)
    figures = attention.layer_figures(q, k, SCHEDULE, prefix)
    distance, near = zip(*map(attention.uniform, SCHEDULE.sides), strict=True)
    assert figures["distance"] == pytest.approx(distance) and figures["window"] == pytest.approx(near)
    seen = [prefix + span.stop for span in SCHEDULE.spans]
    assert figures["lr"] == pytest.approx([prefix / n for n in seen])
    assert figures["own"] == pytest.approx([length / n for length, n in zip(SCHEDULE.lengths, seen, strict=True)])
    assert figures["coarser"] == pytest.approx([span.start / n for span, n in zip(SCHEDULE.spans, seen, strict=True)])


def test_measuring_attention_sees_every_layer_and_leaves_the_network_as_it_was():
    it, tokenizer = subject()
    _, lr = small.pictures(1)
    cumulative = it.sample(lr).cumulative
    before = it.predict(lr, cumulative).logits
    figures = attention.measure(it, lr, cumulative)
    assert {key: np.shape(values) for key, values in figures.items()} == dict.fromkeys(
        ("distance", "window", "own", "coarser", "lr"), (2, K))
    assert figures["distance"][0] != figures["distance"][1]
    np.testing.assert_allclose(np.sum([figures[key] for key in ("own", "coarser", "lr")], axis=0), 1, rtol=1e-5)
    assert not any(block.attn._forward_pre_hooks for block in it.net.blocks)
    assert torch.equal(it.predict(lr, cumulative).logits, before)


def test_neighbours_are_the_nearest_codes_that_differ():
    codes = torch.tensor([[0.0, 0], [0, 0], [1, 0], [1.5, 0], [9, 9]])
    assert planting.neighbours(codes).tolist() == [2, 2, 3, 2, 3]


@pytest.mark.parametrize(("percent", "count"), [(0, 0), (1, 1), (25, 4), (100, 16)])
def test_planting_exchanges_that_share_for_neighbours(percent, count):
    nearest = planting.neighbours(small.tokenizer().quantize.embedding.weight)
    maps = torch.randint(0, 24, (1, 4, 4), generator=torch.Generator().manual_seed(0))
    kept = maps.clone()
    planted = planting.plant(maps, percent, nearest, torch.Generator().manual_seed(1))
    assert torch.equal(maps, kept) and int((planted != maps).sum()) == count
    assert torch.equal(planted[planted != maps], nearest[maps[planted != maps]])


@pytest.mark.parametrize("val", [SAMPLED, {"top_k": 1}, {"choice": "expected"}], ids=["sampled", "greedy", "expected"])
def test_an_error_is_seen_from_its_scale_on_and_none_changes_nothing(val):
    net = small.transformer(seed=5)
    with torch.no_grad():
        net.word_embed.weight.mul_(20)  # a random network hardly heeds its history
    it, tokenizer = subject(net, val=val)
    _, lr = small.pictures(1)
    nearest = planting.neighbours(tokenizer.quantize.embedding.weight)
    clean = it.sample(lr)
    nothing = planting.travel(it, lr, clean, 1, 0, nearest)
    assert nothing["mse"] == nothing["changed"] == [0] * (K - 1)
    planted = planting.travel(it, lr, clean, 1, 50, nearest)
    assert planted["changed"][0] == 0.5 and planted["mse"][0] > 0
    forced = tokenizer.quantize.accumulate([*clean.maps[:1], (clean.maps[1] + 7) % 24])
    made = it.sample(lr, forced)
    assert all(torch.equal(a, b) for a, b in zip(made.cumulative[:2], forced, strict=True))
    added = [[one.cumulative[k] - one.cumulative[k - 1] for k in range(2, K)] for one in (made, clean)]
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(*added, strict=True)), "history makes no odds"


def test_ratios_of_planted_errors():
    figures = planting.relative({"mse": [2.0, 1.0], "energy": [4.0, 8.0], "changed": [1, 0]})
    assert figures["carried"] == [1, 0.5] and figures["relative_mse"] == [0.5, 0.125]
    assert np.isnan(planting.relative({"mse": [0.0], "energy": [0.0], "changed": [0]})["carried"]).all()


def test_errors_are_planted_from_the_first_to_the_last_but_one_scale():
    assert planting.planted_scales(10) == [0, 3, 5, 8] and planting.planted_scales(2) == [0]


def test_the_picture_after_the_last_scale_is_the_generated_one():
    it, tokenizer = subject()
    gt, lr = small.pictures(1)
    figures, drawn = measure(tile(), tokenizer, [it], 10, 0)
    made = it.sample(lr)
    with torch.no_grad():
        last = tokenizer.to_image(tokenizer.decode(made.f_hat, lr), lr).clamp(0, 1)
        truth = tokenizer(gt, lr)[0].clamp(0, 1)
    torch.testing.assert_close(drawn.made["it"][-1:], last)
    torch.testing.assert_close(drawn.made[TOKENS][-1:], truth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.bicubic[None], bicubic(lr, (16, 16)).clamp(0, 1))
    assert figures["psnr"]["bicubic"] == latents.psnr(drawn.bicubic[None], gt, 0)[0]


def test_masks_drawn_are_the_networks():
    it, tokenizer = subject()
    _, lr = small.pictures(1)
    off, _ = subject(sca="off")
    figures, drawn = measure(tile(), tokenizer, [it], 10, 0)
    teacher = tokenizer.quantize.teacher_input(it.sample(lr).cumulative)
    with torch.no_grad():
        masks = it.net(lr, teacher, torch.zeros(1, dtype=torch.long), it.net.structure(lr)).masks
    assert torch.equal(torch.cat([mask.flatten() for mask in drawn.masks["it"]]), masks.flatten())
    assert figures["masks"]["it"]["mean"] == [masks[:, span].mean().item() for span in SCHEDULE.spans]
    assert measure(tile(), tokenizer, [off], 10, 0)[1].masks == {}


def test_sca_switched_at_inference_is_what_a_network_of_that_kind_does():
    _, lr = small.pictures(1)
    net, other = small.transformer(), small.transformer(sca="random")
    assert torch.equal(net.structure(lr, torch.Generator().manual_seed(3), "random"),
                       other.structure(lr, torch.Generator().manual_seed(3)))
    it, _ = subject(net, "off", {"top_k": 1})
    plain = small.transformer(sca="off")
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if "mask_generator" not in key})
    assert torch.equal(it.sample(lr).f_hat, plain.generate(lr, it.pyramid).f_hat)


def test_errors_of_latents_are_those_of_area_averages():
    pyramid = small.tokenizer().quantize
    z, f_hats = torch.randn(1, 4, 4, 4), list(torch.randn(K, 1, 4, 4, 4))
    wanted = [F.mse_loss(F.adaptive_avg_pool2d(f_hat, side), F.adaptive_avg_pool2d(z, side)).item()
              for f_hat, side in zip(f_hats, small.SCALES, strict=True)]
    assert latents.errors(pyramid, f_hats, [z] * K) == pytest.approx(wanted)
    assert latents.errors(pyramid, f_hats, f_hats) == [0] * K


def test_means_go_entry_by_entry():
    assert mean([{"a": [1, [2.0]], "b": 1}, {"a": [3, [4.0]], "b": 0}]) == {"a": [2, [3]], "b": 0.5}


class Pictures(list):
    opt = {"name": "set"}


def test_the_middle_of_a_large_image_is_taken_and_a_small_one_passed_over(capsys):
    gt = torch.rand(3, 43, 32)
    large = {"gt": gt, "lq": torch.rand(3, 10, 8), "gt_path": "x/large.png"}
    little = {"gt": torch.rand(3, 12, 16), "lq": torch.rand(3, 3, 4), "gt_path": "little.png"}
    tiles = Tiles([Pictures([little, large, large])], 4, 4, 2)
    (found,) = tiles
    assert found.name == "set/large" and (found.top, found.left, found.whole) == (3, 2, (10, 8))
    assert torch.equal(found.lr[0], large["lq"][:, 3:7, 2:6]) and torch.equal(found.gt[0], gt[:, 12:28, 8:24])
    assert len(tiles) == 2 and "set/little" in capsys.readouterr().err and tiles.failed[0][0] == "set/little"
    with pytest.raises(UserError, match="no GT"):
        list(Tiles([Pictures([{"lq": gt}])], 4, 4, 2))


@pytest.fixture
def options(tmp_path, monkeypatch) -> dict:
    """A current folder with tiny weights and three pairs, and options that test them."""
    rng = np.random.default_rng(0)
    for folder in ("gt", "lq"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        gt = cv2.resize(rng.integers(0, 255, (5, 6, 3)).astype(np.uint8), (24, 20), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "gt" / f"{name}.png"), gt)
        cv2.imwrite(str(tmp_path / "lq" / f"{name}.png"), cv2.resize(gt, (6, 5), interpolation=cv2.INTER_AREA))
    monkeypatch.chdir(tmp_path)
    checkpoints.write_safetensors("tokenizer.safetensors", small.tokenizer(target="residual").state_dict())
    checkpoints.write_safetensors("net.safetensors", small.transformer().state_dict())
    return {
        "name": "tiny", "model_type": "AlignVARModel", "scale": 4, "num_gpu": 0, "manual_seed": 0,
        "datasets": {"test_1": {"name": "Set", "type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq",
                                "io_backend": {"type": "disk"}}},
        "network_g": copy.deepcopy(TRANSFORMER), "network_tokenizer": copy.deepcopy(TOKENIZER),
        "path": {"pretrain_network_g": "net.safetensors", "pretrain_network_tokenizer": "tokenizer.safetensors"},
        "val": {"save_img": False, "suffix": None, "top_k": 0},
    }


def content(folder: str) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(Path(folder, "diagnose.json").read_text(encoding="utf-8"), parse_constant=refuse)


CHARTS = ["attention.png", "attention_layers.png", "latent.png", "mask_strength.png", "planting.png", "psnr.png"]


def test_one_model_is_diagnosed_with_sca_switched_and_a_damaged_image_is_passed_over(options, capsys):
    damaged = Path("gt/b.png")
    damaged.write_bytes(damaged.read_bytes()[:60])
    before = listing(Path.cwd())
    assert main(["diagnose", "-opt", write(options), "-o", "out"]) == 1
    error = capsys.readouterr().err
    assert "b.png" in error and "1 of 3 images could not be used" in error
    assert set(listing(Path.cwd())) - set(before) == {"opt.yml", "out", *(
        f"out/{path}" for path in listing(Path("out")))}
    assert listing(Path("out/overall")) == CHARTS
    for name in "ac":
        assert listing(Path("out/Set", name)) == sorted([*CHARTS, "cumulative.png", "masks.png"])
    found = content("out")
    labels = ["SCA laplacian (as trained)", "SCA off", "SCA random"]
    assert [entry["label"] for entry in found["subjects"]] == labels
    assert [entry["name"] for entry in found["images"]] == ["Set/a", "Set/c"] and len(found["failed"]) == 1
    assert np.allclose(found["overall"]["to_latent"][labels[0]],
                       np.mean([image["to_latent"][labels[0]] for image in found["images"]], axis=0))
    assert list(found["images"][0]["mask_maps"]) == [labels[0], labels[2]]
    guide = Path("out/diagnose.md").read_text(encoding="utf-8")
    assert all(name in guide for name in (*CHARTS, "cumulative.png", "masks.png", *labels, "Set/a"))
    # Every pixel of the 16×16 pictures is a square of 12 in its sheet: the last cell of the first row is GT.
    with Image.open("out/Set/a/cumulative.png") as sheet:
        pixels, cell = np.asarray(sheet), 192
    left = pixels.shape[1] - 8 - cell
    shown = pixels[25:25 + cell:12, left:left + cell:12]
    assert np.array_equal(shown, cv2.imread("gt/a.png")[0:16, 4:20, ::-1])


@pytest.mark.parametrize("name", ["$a{$ \\frac\n漢字", "x" * 200])
def test_any_name_stands_in_the_charts(options, name):
    for folder in ("gt", "lq"):
        Path(folder, "b.png").unlink()
        Path(folder, "c.png").unlink()
        Path(folder, "a.png").rename(Path(folder, f"{name}.png"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        assert main(["diagnose", "-opt", write(options), "-o", "out"]) == 0
    assert listing(Path("out/Set", name)) == sorted([*CHARTS, "cumulative.png", "masks.png"])


def test_several_trained_models_stand_in_one_diagnosis(options):
    deeper = copy.deepcopy(options)
    checkpoints.write_safetensors("deep.safetensors", small.transformer(1, depth=3, sca="off").state_dict())
    deeper["network_g"].update(depth=3, sca="off")
    deeper["path"]["pretrain_network_g"] = "deep.safetensors"
    files = [write(options, "with.yml"), write(deeper, "without.yml")]
    flags = ["--limit", "1", "--plant", "50", "--sets", "overall=gt,lq"]  # a set may be named as the folder of means
    assert main(["diagnose", "-opt", *files, "-o", "out", *flags]) == 0
    assert set(listing(Path("out/overall"))) > {"psnr.png", "a/psnr.png"}
    found = content("out")
    assert [(s["label"], s["sca"]) for s in found["subjects"]] == [("with", "laplacian"), ("without", "off")]
    assert len(found["images"]) == 1 and len(found["images"][0]["attention"]["without"]["distance"]) == 3
    planted = found["overall"]["planting"]
    assert set(planted) == {"with", "without"} and planted["with"]["2"]["changed"][0] == pytest.approx(4 / 9)


def put(opt: dict, dotted: str, value) -> None:
    *blocks, key = dotted.split(".")
    for block in blocks:
        opt = opt[block]
    opt[key] = value


def refused(capsys, arguments: list[str], *words: str) -> None:
    before = listing(Path.cwd())
    assert main(["diagnose", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and all(word in error for word in words), error
    assert listing(Path.cwd()) == before


@pytest.mark.parametrize(("flags", "words"), [
    (["--plant", "0"], ["--plant", "0"]), (["--plant", "101"], ["--plant", "100"]), (["--plant", "nan"], ["--plant"]),
    (["--limit", "0"], ["--limit"]), (["-o", "gt"], ["gt exists"]),
    (["-opt", "opt.yml", "opt.yml"], ["twice"]), (["--sets", "Set=nowhere"], ["nowhere"]),
], ids=str)  # fmt: skip
def test_flags_that_cannot_be_meant_are_refused(options, capsys, flags, words):
    refused(capsys, ["-opt", write(options), *flags], *words)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("path.pretrain_network_g", "none.safetensors", ["path.pretrain_network_g", "none.safetensors"]),
    ("path.pretrain_network_g", None, ["path.pretrain_network_g"]),
    ("datasets.test_1.type", "SingleImageDataset", ["Set", "no GT"]),
])
def test_options_that_cannot_be_diagnosed_are_refused(options, capsys, key, value, words):
    put(options, key, value)
    if value == "SingleImageDataset":
        del options["datasets"]["test_1"]["dataroot_gt"]
    refused(capsys, ["-opt", write(options)], *words)


def test_only_unreadable_images_are_refused(options, capsys):
    for path in Path("gt").iterdir():
        path.write_bytes(b"no image")
    before = listing(Path.cwd())
    assert main(["diagnose", "-opt", write(options)]) == 2
    assert "none of the 3 images" in capsys.readouterr().err.splitlines()[-1]
    assert listing(Path.cwd()) == sorted([*before, "opt.yml"])


def test_another_kind_of_model_is_refused(options, capsys):
    options.update(model_type="SRModel", network_g={"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4})
    options["path"] = {"pretrain_network_g": None}
    del options["network_tokenizer"], options["val"]["top_k"]
    refused(capsys, ["-opt", write(options)], "opt.yml", "SRModel", "AlignVARModel")


@pytest.mark.parametrize("what", ["scale", "settings", "weights"])
def test_models_that_share_no_tokenizer_are_refused(options, capsys, what):
    other = copy.deepcopy(options)
    if what == "scale":  # of an image target, which goes with any
        checkpoints.write_safetensors("tokenizer.safetensors", small.tokenizer().state_dict())
        for one in (options, other):
            del one["network_tokenizer"]["target"], one["network_tokenizer"]["guide_blocks"]
            one["network_tokenizer"]["ch_mult"] = [1, 1, 1]
        other["scale"], other["datasets"]["test_1"]["dataroot_lq"] = 1, "gt"
    elif what == "settings":
        other["network_tokenizer"]["phi_on_last"] = False
    else:
        checkpoints.write_safetensors("other.safetensors", small.tokenizer(5, target="residual").state_dict())
        other["path"]["pretrain_network_tokenizer"] = "other.safetensors"
    refused(capsys, ["-opt", write(options, "one.yml"), write(other, "two.yml")], "two.yml", "one.yml", "share")
