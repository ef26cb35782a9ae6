"""`basicsr compare`: one LR for all, BasicSR's own figures, failures named, reports that merge or refuse to."""

import copy
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY
from conftest import listing, write

from alignvar_arch.cli.main import main
from alignvar_arch.compare import cost
from alignvar_arch.compare.contenders import Network
from alignvar_arch.compare.protocol import difference
from alignvar_arch.compare.statistics import summarise
from alignvar_arch.errors import UserError
from alignvar_arch.output import new_folder

PSNR = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
NIQE = {"type": "calculate_niqe", "crop_border": 2}


@pytest.fixture
def models(tiny_test) -> dict:
    """Options files one.yml and two.yml of the same small network with different weights, in the current folder."""
    tiny_test["val"]["metrics"] = {"psnr": PSNR}
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        torch.save({"params": build_network(tiny_test["network_g"]).state_dict()}, f"{name}.pth")
        tiny_test["path"]["pretrain_network_g"] = f"{name}.pth"
        write({**tiny_test, "name": name}, f"{name}.yml")
    return tiny_test


def compare(*arguments: str, code: int = 0) -> dict:
    """Runs the command into `out`, without costs; returns the report, {} where there is none."""
    assert main(["compare", *arguments, "-o", "out", *([] if "--merge" in arguments else ["--no_cost"])]) == code
    return json.loads(Path("out/report.json").read_text()) if Path("out/report.json").exists() else {}


def refused(capsys, *arguments: str) -> str:
    """Runs a command that must be refused without leaving anything; returns its sentence."""
    before = listing(Path.cwd())
    capsys.readouterr()
    assert main(["compare", *arguments, "-o", "out"]) == 2
    assert listing(Path.cwd()) == before
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("basicsr: ")
    return sentence


def pixels(path: str) -> np.ndarray:
    return cv2.imread(str(path))


def test_the_figures_are_basicsrs_own_on_the_pictures_that_are_kept(models):
    found = compare("-opt", "one.yml", "two.yml")
    assert [model["name"] for model in found["models"]] == ["one", "two", "bicubic"]
    assert len(found["images"]) == found["protocol"]["sets"][0]["count"] == 11
    for image in found["images"]:
        gt = pixels(f"out/{image['gt']}")
        assert np.array_equal(gt, pixels(f"gt/{image['image']}.png"))
        assert np.array_equal(pixels(f"out/{image['lr']}"), pixels(f"lq/{image['image']}.png"))
        for model, path in image["pictures"].items():
            data = {"img": pixels(f"out/{path}"), "img2": gt}
            assert image["values"][model]["psnr"] == pytest.approx(calculate_metric(data, PSNR), abs=1e-9)
    row = found["summary"]["Set"]["psnr"]
    values = {name: np.array([image["values"][name]["psnr"] for image in found["images"]]) for name in row}
    assert row["two"]["mean"] == pytest.approx(values["two"].mean())
    assert row["two"]["difference"] == pytest.approx((values["two"] - values["one"]).mean())
    assert row["two"]["low"] < row["two"]["mean"] < row["two"]["high"]


def test_the_picture_is_the_networks_own(models):
    found = compare("-opt", "one.yml")
    net = build_network(models["network_g"]).eval()
    net.load_state_dict(torch.load("one.pth")["params"])
    image = found["images"][3]
    lr = torch.from_numpy(pixels(f"out/{image['lr']}")[..., ::-1].transpose(2, 0, 1).copy())[None] / 255
    with torch.no_grad():
        made = (net(lr)[0].clamp(0, 1) * 255).round().numpy().transpose(1, 2, 0)[..., ::-1]
    assert np.array_equal(pixels(f"out/{image['pictures']['one']}"), made.astype(np.uint8))


def test_a_model_beside_itself_differs_by_nothing(models):
    found = compare("-opt", "one.yml", "one.yml")
    row = found["summary"]["Set"]["psnr"]
    assert row["one (2)"]["difference"] == 0 and row["one (2)"]["p"] == 1
    assert row["one (2)"]["mean"] == row["one"]["mean"]


def test_identical_runs_give_identical_reports(models):
    first = compare("-opt", "one.yml")
    first_files = {path: path.read_bytes() for path in Path("out").rglob("*.png")}
    shutil.rmtree("out")
    second = compare("-opt", "one.yml")
    for found in (first, second):
        del found["created"]
    assert first == second
    assert {path: path.read_bytes() for path in Path("out").rglob("*.png")} == first_files


def test_pictures_made_elsewhere_stand_beside(models, capsys):
    Path("other").mkdir()
    for index in range(11):
        shutil.copy(f"gt/{index:02}.png", f"other/{index:02}_run.png")
    Path("other/05_run.png").unlink()
    cv2.imwrite("other/06_run.png", np.zeros((20, 24, 3), np.uint8))
    whole = cv2.imencode(".jpg", cv2.imread("gt/07.png"))[1].tobytes()
    Path("other/07_run.png").unlink()
    Path("other/07_run.jpg").write_bytes(whole[:-40])  # OpenCV would fill in grey
    shutil.copy("gt/00.png", "other/stranger.png")
    found = compare("-opt", "one.yml", "--images", "Other=other", code=1)
    model = found["models"][1]
    assert (model["name"], model["kind"]) == ("Other", "images")
    reasons = {entry["image"]: entry["reason"] for entry in model["failed"]}
    assert set(reasons) == {"05", "06", "07"}
    assert "no picture" in reasons["05"] and "24x20" in reasons["06"] and "07_run.jpg" in reasons["07"]
    assert found["summary"]["Set"]["common"] == 8
    assert found["images"][0]["values"]["Other"]["psnr"] is None  # a perfect copy: infinite
    assert "Other on Set/05" in capsys.readouterr().err


def test_a_model_without_any_picture_of_a_set_takes_nothing_from_the_others(models, monkeypatch):
    use_brightness(models, monkeypatch)
    Path("other/b").mkdir(parents=True)
    for index in range(11):
        cv2.imwrite(f"other/b/{index:02}.png", cv2.blur(pixels(f"gt/{index:02}.png"), (3, 3)))
    found = compare("-opt", "one.yml", "--sets", "a=gt,lq", "b=gt,lq", "--images", "Other=other", code=1)
    assert {entry["set"] for entry in found["models"][1]["failed"]} == {"a"}
    for key in ("psnr", "set"):
        row, whole = (found["summary"][name][key] for name in "ab")
        assert (row["Other"]["n"], row["Other"]["mean"], row["Other"]["p"]) == (0, None, None)
        assert [row["one"], row["bicubic"]] == [whole["one"], whole["bicubic"]] and whole["Other"]["n"] == 11
    assert "n = 0" not in Path("out/report.md").read_text(encoding="utf-8")


def test_figures_stand_without_the_first_models():
    images = [{"set": "s", "pictures": {"b": "b.png"}, "values": {"b": {"m": value}}} for value in (1.0, 3.0)]
    found = {"protocol": {"sets": [{"name": "s"}], "metrics": [{"key": "m", "of_a_set": False}]},
             "models": [{"name": "a"}, {"name": "b"}], "images": images}
    row = summarise(found, {})["s"]
    assert row["common"] == 2 and (row["m"]["a"]["mean"], row["m"]["a"]["n"]) == (None, 0)
    assert (row["m"]["b"]["mean"], row["m"]["b"]["difference"], row["m"]["b"]["p"]) == (2, None, None)


def test_an_image_that_a_model_cannot_take_is_named_and_the_rest_go_on(models, capsys):
    models["network_g"] = {"type": "SwinIR", "upscale": 2, "img_size": 8, "window_size": 8, "depths": [1],
                           "embed_dim": 8, "num_heads": [2], "mlp_ratio": 1, "upsampler": "pixelshuffledirect"}
    torch.manual_seed(0)
    torch.save({"params": build_network(models["network_g"]).state_dict()}, "swin.pth")
    models["path"]["pretrain_network_g"] = "swin.pth"
    write({**models, "name": "swin", "model_type": "SwinIRModel"}, "swin.yml")
    small = cv2.imread("gt/03.png")[:6, :6]  # SwinIRModel mirrors 5 pixels more than the 3 that LR then has
    cv2.imwrite("gt/03.png", small)
    cv2.imwrite("lq/03.png", small[::2, ::2])
    found = compare("-opt", "one.yml", "swin.yml", code=1)
    assert [entry["image"] for entry in found["models"][1]["failed"]] == ["03"]
    assert "swin" not in found["images"][3]["pictures"] and "one" in found["images"][3]["pictures"]
    assert found["summary"]["Set"]["common"] == 10
    assert "swin on Set/03" in capsys.readouterr().err


def test_an_unreadable_image_is_named_and_the_rest_go_on(models):
    Path("gt/04.png").write_bytes(b"nothing")
    found = compare("-opt", "one.yml", code=1)
    assert [entry["image"] for entry in found["unreadable"]] == ["number 5"]
    assert "04.png" in found["unreadable"][0]["reason"]
    assert found["protocol"]["sets"][0]["count"] == 10


def test_a_pair_of_sizes_that_do_not_fit_is_refused(models, capsys):
    cv2.imwrite("gt/04.png", pixels("gt/04.png")[:20])
    for flags in ((), ("--sets", "a=gt,lq")):
        assert all(word in refused(capsys, "-opt", "one.yml", *flags) for word in ("gt/04.png", "24x20", "12x12"))


def test_sets_of_the_command_line_replace_the_files(models):
    found = compare("-opt", "one.yml", "--sets", "a=gt,lq", "b=gt", "--limit", "2")
    assert [(entry["name"], entry["count"], entry["lr"]) for entry in found["protocol"]["sets"]] == [
        ("a", 2, "given"), ("b", 2, "MATLAB bicubic, 8 bit")]
    assert found["protocol"]["sets"][0]["hash"] != found["protocol"]["sets"][1]["hash"]


def test_the_hash_is_of_pixels_not_of_files(models):
    first = compare("-opt", "one.yml", "--sets", "a=gt")
    shutil.rmtree("out")
    for path in Path("gt").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert compare("-opt", "one.yml", "--sets", "a=gt")["protocol"] == first["protocol"]
    shutil.rmtree("out")
    changed = cv2.imread("gt/00.png")
    changed[0, 0, 0] ^= 1
    cv2.imwrite("gt/00.png", changed)
    assert compare("-opt", "one.yml", "--sets", "a=gt")["protocol"] != first["protocol"]


def test_merging_is_as_if_all_had_run_at_once(models):
    together = compare("-opt", "one.yml", "two.yml")
    for name in ("one", "two"):
        assert main(["compare", "-opt", f"{name}.yml", "-o", name, "--no_cost"]) == 0
    shutil.move("out", "together")
    merged = compare("--merge", "one", "two")
    assert [model["name"] for model in merged["models"]] == ["one", "bicubic", "two"]
    for key in ("protocol", "unreadable"):
        assert merged[key] == together[key]
    for name in ("one", "two", "bicubic"):
        assert merged["summary"]["Set"]["psnr"][name] == together["summary"]["Set"]["psnr"][name]
    for mine, theirs in zip(merged["images"], together["images"], strict=True):
        for name, path in theirs["pictures"].items():
            assert Path("out", mine["pictures"][name]).read_bytes() == Path("together", path).read_bytes()


def test_reports_of_another_protocol_refuse_to_merge(models, capsys):
    for name, metric in (("a", PSNR), ("b", {**PSNR, "test_y_channel": False})):
        write({**models, "name": "one", "val": {**models["val"], "metrics": {"psnr": metric}},
               "path": {**models["path"], "pretrain_network_g": "one.pth"}}, f"{name}.yml")
        assert main(["compare", "-opt", f"{name}.yml", "-o", name, "--no_cost"]) == 0
    assert "metric psnr" in (sentence := refused(capsys, "--merge", "a", "b")) and "cannot be merged" in sentence


def test_one_name_for_two_figures_refuses_to_merge(models, capsys):
    for name in ("one", "two"):
        write({**models, "name": "same", "path": {**models["path"], "pretrain_network_g": f"{name}.pth"}}, "same.yml")
        assert main(["compare", "-opt", "same.yml", "-o", name, "--no_cost"]) == 0
    assert "other figures for same" in refused(capsys, "--merge", "one", "two")
    shutil.copy("two/report.json", "kept.json")
    Path("two/report.json").write_text(json.dumps({"format": 1}))
    assert "damaged" in refused(capsys, "--merge", "one", "two")
    Path("two/report.json").write_text(Path("kept.json").read_text().replace("pictures/Set", "../pictures/Set"))
    assert "outside" in refused(capsys, "--merge", "two", "two")
    outside = Path("gt/00.png").absolute()  # it exists, and still is not the report's
    Path("two/report.json").write_text(Path("kept.json").read_text().replace("pictures/Set/00/GT.png", str(outside)))
    assert "outside" in refused(capsys, "--merge", "two", "two")
    Path("two/report.json").unlink()
    assert "no readable report.json" in refused(capsys, "--merge", "one", "two")


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "-opt is missing"),
    (("-opt", "one.yml", "four.yml"), "scale is 4, but one.yml has 2"),
    (("-opt", "none.yml"), "none.yml"),
    (("-opt", "fresh.yml"), "names no weights"),
    (("-opt", "one.yml", "--sets", "a=gt,gone"), "gone"),
    (("-opt", "one.yml", "--sets", "a=gt,few"), "few"),
    (("-opt", "one.yml", "--images", "X=gone"), "there is no folder gone"),
    (("-opt", "one.yml", "--images", "GT=gt"), "taken"),
    (("-opt", "one.yml", "--images", "X"), "NAME=FOLDER"),
    (("-opt", "one.yml", "--images", "X=few2"), "no picture named like"),
    (("-opt", "one.yml", "two.yml", "--weights", "one.pth"), "not clear which"),
    (("-opt", "one.yml", "--weights", "one=gone.pth"), "gone.pth"),
    (("-opt", "one.yml", "--metrics", "beauty"), "beauty"),
    (("-opt", "one.yml", "--device", "cuda"), "no CUDA device"),
    (("-opt", "one.yml", "--limit", "0"), "--limit"),
    (("-opt", "alone.yml"), "gives no GT"),
    (("-opt", "normal.yml"), "normalises by mean and std"),
    (("--merge", "one"), "two or more"),
    (("--merge", "one", "two", "--metrics", "psnr"), "beside it"),
    (("--merge", "one", "two", "--sets", "a=gt"), "beside it"),
])  # fmt: skip
def test_mistakes_are_one_sentence_and_leave_nothing(models, capsys, arguments, words):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    write({**models, "name": "four", "scale": 4}, "four.yml")
    weighed = {**models, "name": "one", "path": {"pretrain_network_g": "one.pth"}}
    pairs = models["datasets"]["test_1"]
    alone = {"name": "Set", "type": "SingleImageDataset", "dataroot_lq": "lq", "io_backend": {"type": "disk"}}
    write({**weighed, "datasets": {"test_1": alone}}, "alone.yml")
    write({**weighed, "datasets": {"test_1": {**pairs, "mean": [0.5] * 3, "std": [0.5] * 3}}}, "normal.yml")
    write({**models, "name": "fresh", "path": {"pretrain_network_g": None}}, "fresh.yml")
    Path("few").mkdir()
    shutil.copy("lq/00.png", "few/00.png")
    Path("few2").mkdir()
    shutil.copy("lq/00.png", "few2/elsewhere.png")
    assert words in refused(capsys, *arguments)


def test_a_folder_that_exists_is_left_alone(models, capsys):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "out exists" in refused(capsys, "-opt", "one.yml")
    Path("out/mine.txt").unlink()
    compare("-opt", "one.yml", "--limit", "1")  # an empty folder is as good as none


def test_bare_weights_go_to_the_file_that_lacks_them(models):
    write({**models, "name": "fresh", "path": {"pretrain_network_g": None}}, "fresh.yml")
    found = compare("-opt", "one.yml", "fresh.yml", "--weights", "two.pth", "--limit", "1")
    weights = [model["weights"].get("net_g", model["weights"].get("g")) for model in found["models"][:2]]
    assert [entry["path"] for entry in weights] == ["one.pth", "two.pth"]


def test_a_metric_without_weights_is_left_out_or_refused(models, monkeypatch, capsys):
    monkeypatch.delenv("ALIGNVAR_LPIPS", raising=False)
    assert "lin_v0.1_squeeze.pth" in refused(capsys, "-opt", "one.yml", "--metrics", "lpips_squeeze")
    models["val"]["metrics"]["lpips"] = {"type": "calculate_lpips_squeeze", "crop_border": 2}
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")
    found = compare("-opt", "one.yml", "--limit", "1")
    assert [metric["key"] for metric in found["protocol"]["metrics"]] == ["psnr"]
    assert "left out" in capsys.readouterr().err


def test_undefined_figures_are_null_and_leave_the_image_out_of_the_mean(models):
    models["val"]["metrics"]["niqe"] = NIQE  # pictures of 24 pixels are too small for it
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")
    found = compare("-opt", "one.yml", "--limit", "2")
    assert found["images"][0]["values"]["one"]["niqe"] is None
    assert found["summary"]["Set"]["niqe"]["one"]["mean"] is None
    assert found["summary"]["Set"]["psnr"]["one"]["n"] == 2


def use_brightness(models: dict, monkeypatch, version: str = "1") -> None:
    """Adds a figure of a set to one.yml: the range of the pictures' mean brightness."""
    def brightness(img, img2, crop_border):
        return Gathered([img.mean()])

    brightness.of_a_set = True
    brightness.version = lambda **options: version
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "brightness", brightness)
    models["val"]["metrics"]["set"] = {"type": "brightness", "crop_border": 0}
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")


def test_a_figure_of_a_set_is_not_computed_anew_by_another_version(models, monkeypatch, capsys):
    use_brightness(models, monkeypatch)
    for name in "ab":
        assert main(["compare", "-opt", "one.yml", "-o", name, "--no_cost", "--limit", "2"]) == 0
    use_brightness(models, monkeypatch, version="2")
    assert "set is of 1, but would be computed anew by 2" in refused(capsys, "--merge", "a", "b")


def test_a_figure_of_a_set_is_over_the_images_that_all_have(models, monkeypatch):
    use_brightness(models, monkeypatch)
    shutil.copytree("gt", "other")
    Path("other/02.png").unlink()
    found = compare("-opt", "one.yml", "--images", "other=other", code=1)
    means = [pixels(f"gt/{index:02}.png").mean() for index in range(11) if index != 2]
    assert found["summary"]["Set"]["set"]["other"]["mean"] == pytest.approx(max(means) - min(means))
    assert "set" not in found["images"][0]["values"]["one"]


class Gathered:
    """Adds up; divided by the count it is the range of what it gathered."""

    def __init__(self, values):
        self.values = values

    def __add__(self, other):
        return Gathered(self.values + other.values)

    def __radd__(self, zero):
        return self

    def __truediv__(self, count):
        assert count == len(self.values)
        return max(self.values) - min(self.values)


def test_costs_are_of_the_network_alone(models):
    small = ["--limit", "1", "--cost_size", "16", "--cost_batch", "3"]
    assert main(["compare", "-opt", "one.yml", "-o", "out", *small]) == 0
    found = json.loads(Path("out/report.json").read_text())
    one, bicubic = found["models"]
    net = build_network(models["network_g"])
    assert one["parameters"] == {"net_g": sum(parameter.numel() for parameter in net.parameters())}
    assert one["cost"]["ms_1"] > 0 and one["cost"]["ms_n"] > 0 and bicubic["cost"] is None
    assert found["protocol"]["timing"]["lr_size"] == [16, 16] and found["protocol"]["timing"]["batch"] == 3


def test_peak_memory_sees_what_is_allocated_and_freed():
    memory = cost.Memory(cuda=False)
    memory.restart()
    if memory.peak() is None:
        pytest.skip("this system does not tell a process its peak memory anew")
    torch.ones(32 << 20)  # 128 MiB, freed at once
    assert 120 < memory.peak() < 400


def test_statistics_against_cases_known_by_hand():
    figures = {"a": [1.0, 2, 3, 4, 5], "b": [2.0, 4, 6, 8, 10], "c": [1.0, 2, 3, None, 7]}
    images = [{"set": "s", "pictures": dict.fromkeys(figures),
               "values": {name: {"m": figures[name][i]} for name in figures}} for i in range(5)]
    found = {"protocol": {"sets": [{"name": "s"}], "metrics": [{"key": "m", "of_a_set": False}]},
             "models": [{"name": name} for name in figures], "images": images}
    row = summarise(found, {})["s"]["m"]
    assert {entry["n"] for entry in row.values()} == {4}  # the fourth image is undefined for one of them
    for image in images:
        image["values"]["c"]["m"] = None  # undefined everywhere: it counts no more
    row = summarise(found, {})["s"]["m"]
    assert row["c"]["mean"] is None and row["a"]["n"] == row["b"]["n"] == 5
    del figures["c"]
    found["models"].pop()
    row = summarise(found, {})["s"]["m"]
    assert row["b"]["difference"] == 3 and row["b"]["p"] == pytest.approx(2 / 2**5)  # all five signs alike, or none
    assert row["a"]["p"] == 1
    found["images"] = images[:1]
    row = summarise(found, {})["s"]["m"]["b"]
    assert (row["mean"], row["low"], row["p"]) == (2, None, 1)


def test_protocols_name_their_first_difference():
    one = {"scale": 4, "seed": 0, "device": "CPU", "precision": "float32", "timing": None,
           "metrics": [{"key": "psnr", "version": "1"}], "sets": [{"name": "set5", "hash": "ab"}]}
    assert difference(one, copy.deepcopy(one)) is None
    for change, words in (({"device": "CUDA"}, "device is CPU in one and CUDA"),
                          ({"sets": [{"name": "set5", "hash": "cd"}]}, "hash of set set5 is ab in one and cd"),
                          ({"metrics": []}, "their metrics are psnr in one")):
        assert words in difference(one, {**one, **change})


@pytest.mark.parametrize("damage", [
    lambda report: report.update(protocol=None),
    lambda report: report["protocol"].pop("metrics"),
    lambda report: report.update(models=[]),
    lambda report: report["models"][0].update(parameters="many"),
    lambda report: report["models"][0].pop("failed"),
    lambda report: report["models"][0].update(cost={"ms_1": "long"}),
    lambda report: report.update(images=[1]),
    lambda report: report["images"].pop(),
    lambda report: report["images"][0]["values"]["one"].update(psnr="x"),
    lambda report: report["images"][0]["values"]["one"].update(psnr=float("nan")),
    lambda report: report["images"][0]["values"]["one"].clear(),
    lambda report: report["images"][0]["pictures"].update(one="report.json"),
    lambda report: report["images"][0]["pictures"].update(one="pictures/\0.png"),
    lambda report: report["images"][0].update(image="../../evil"),
    lambda report: report.update(unreadable=None),
])  # fmt: skip
def test_a_damaged_report_is_not_merged(models, capsys, damage):
    compare("-opt", "one.yml", "--limit", "2")
    for name in ("one", "two"):
        shutil.copytree("out", name)
    shutil.rmtree("out")
    report = json.loads(Path("two/report.json").read_text())
    damage(report)
    Path("two/report.json").write_text(json.dumps(report))
    for order in (("one", "two"), ("two", "one"), ("two", "two")):
        assert "two/report.json is damaged" in refused(capsys, "--merge", *order)


def test_pictures_of_another_size_or_cut_short_are_not_merged(models, capsys):
    compare("-opt", "one.yml", "--limit", "1")
    Path("out").rename("one")
    picture, text = Path("one/pictures/Set/00/one.png"), Path("one/report.json").read_text()
    Path("one/report.json").write_text(text.replace("00/one.png", "00/LR.png"))
    assert "is 12x12, but report.json says 24x24" in refused(capsys, "--merge", "one", "one")
    Path("one/report.json").write_text(text)
    shutil.copy("one/pictures/Set/00/LR.png", picture)
    assert "is 12x12, but report.json says 24x24" in refused(capsys, "--merge", "one", "one")
    picture.write_bytes(picture.read_bytes()[:-30])
    assert "cannot read the image one/pictures/Set/00/one.png" in refused(capsys, "--merge", "one", "one")


def test_metrics_of_one_label_are_told_apart(models):
    found = compare("-opt", "one.yml", "--limit", "1", "--metrics", "psnr", "psnr_rgb", "ssim")
    assert [metric["label"] for metric in found["protocol"]["metrics"]] == ["PSNR (Y)", "PSNR (RGB)", "SSIM"]
    models["val"]["metrics"] = {"here": PSNR, "there": {**PSNR, "crop_border": 3}}
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")
    shutil.rmtree("out")
    found = compare("-opt", "one.yml", "--limit", "1")
    assert [metric["label"] for metric in found["protocol"]["metrics"]] == ["PSNR (Y) (here)", "PSNR (Y) (there)"]


def test_a_metric_may_not_take_the_reports_own_word(models, capsys):
    write({**models, "val": {**models["val"], "metrics": {"common": PSNR}}}, "one.yml")
    assert "val.metrics.common" in refused(capsys, "-opt", "one.yml")


def _foreign_name() -> str:
    """The name of a picture that is no valid Unicode, as old archives hold them."""
    name = os.fsdecode(b"\xff\xfe")
    try:
        Path("gt/00.png").rename(f"gt/{name}.png")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    Path("lq/00.png").rename(f"lq/{name}.png")
    return name


def test_a_picture_whose_name_is_no_unicode_is_compared(models):
    name = _foreign_name()
    found = compare("-opt", "one.yml")
    assert len(found["images"]) == 11
    image = next(image for image in found["images"] if image["image"] == name)
    assert Path("out", image["gt"]).is_file() and image["values"]["one"]["psnr"] > 0


@pytest.mark.parametrize("answer", [None, "text", torch.zeros(1, 2, 3, 4, 5)])
def test_a_model_that_gives_no_picture_is_named_and_the_rest_go_on(models, monkeypatch, answer):
    monkeypatch.setattr(Network, "run", lambda *_: answer)
    found = compare("-opt", "one.yml", "--limit", "2", code=1)
    assert len(found["models"][0]["failed"]) == 2
    assert all(image["values"]["bicubic"]["psnr"] > 0 for image in found["images"])


@pytest.mark.parametrize("of_a_set", [False, True])
def test_a_metric_that_raises_is_named_and_the_rest_go_on(models, monkeypatch, capsys, of_a_set):
    def metric(img, img2, crop_border, **kwargs):
        raise KeyError("nobody knows")

    metric.of_a_set = of_a_set
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "calculate_odd", metric)
    models["val"]["metrics"] = {"odd": {"type": "calculate_odd", "crop_border": 2}, "psnr": PSNR}
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")
    found = compare("-opt", "one.yml", "--limit", "2")
    assert found["summary"]["Set"]["odd"]["one"]["mean"] is None
    assert found["summary"]["Set"]["psnr"]["one"]["mean"] > 0
    assert f"odd of Set{'' if of_a_set else '/00'} by one: KeyError: 'nobody knows'" in capsys.readouterr().err


def test_a_picture_within_the_border_has_no_figures(models):
    models["val"]["metrics"] = {"ssim": {**PSNR, "type": "calculate_ssim", "crop_border": 12}, "psnr": PSNR}
    models["path"]["pretrain_network_g"] = "one.pth"
    write({**models, "name": "one"}, "one.yml")
    found = compare("-opt", "one.yml", "--limit", "2")
    assert [image["values"]["one"]["ssim"] for image in found["images"]] == [None, None]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(models, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "out: No space left" in refused(capsys, "-opt", "one.yml")


def test_what_a_terminal_cannot_show_does_not_end_the_command(models, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "latin-1", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    compare("-opt", "one.yml", "--limit", "1")
    assert b"PSNR \\u2191" in terminal.buffer.getvalue()


def test_a_report_vanishes_when_its_making_fails(tmp_path):
    with pytest.raises(RuntimeError), new_folder(str(tmp_path / "out")) as place:
        (place / "half").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_no_folder_is_left_of_those_made_on_the_way(tmp_path):
    with pytest.raises(RuntimeError), new_folder(str(tmp_path / "a" / "b" / "out")):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_link_to_an_empty_folder_is_as_good_as_that_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(str(tmp_path / "link")) as place:
        (place / "file").touch()
    assert listing(tmp_path) == ["link", "real", "real/file"]


@pytest.mark.parametrize(("path", "words"), [
    (".", "current folder"), ("", "names no folder"), ("x" * 256, "too long"), ("/proc/x/y", "cannot write"),
])  # fmt: skip
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words), new_folder(path):
        pytest.fail("the work has begun")
    assert not list(tmp_path.iterdir())


def test_a_name_of_many_bytes_is_no_hindrance(tmp_path):
    with new_folder(str(tmp_path / ("ü" * 127))) as place:
        assert len(place.name.encode()) < 100
    assert [len(path.name) for path in tmp_path.iterdir()] == [127]
