"""Presets: the layouts that archives have when unpacked, what is taken of them, and what is said where they differ."""
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.photos import bicubic_lr
from alignvar_arch.data.store import Store, presets
from alignvar_arch.errors import UserError

# preset, keys, files as unpacked: those of the keys (GT, then LR), then others that lie there too and are not taken
LAYOUTS = [
    ("lsdir", ["0000001", "0001001"], ["HR/train/0001000/0000001.png", "HR/train/0002000/0001001.png"], [],
     ["X4/train/0001000/0000001x4.png", "HR/val/0000001.png", "val1/HR/val/0000001.png"]),
    ("lsdir", ["0000001", "0001001"], ["shard-00/0001000/0000001.png", "shard-01/0002000/0001001.png"], [], []),
    ("lsdir", ["0000001"], ["0001000/0000001.png"], [], ["train.json"]),
    ("ffhq10k", ["00000", "09999"], ["images1024x1024/00000/00000.png", "images1024x1024/09000/09999.png"], [],
     ["images1024x1024/10000/10000.png", "thumbnails128x128/00000/00000.png", "in-the-wild-images/00000/00001.png"]),
    ("ffhq10k", ["00000"], ["ffhq/images1024x1024/00000.png"], [], ["ffhq/images1024x1024/69999.png"]),
    ("div2k", ["0001", "0800"], ["DIV2K/DIV2K_train_HR/0001.png", "DIV2K/DIV2K_train_HR/0800.png"], [],
     ["DIV2K/DIV2K_valid_HR/0801.png", "DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png"]),
    ("div2k100", ["0801"], ["DIV2K_valid_HR/0801.png"], [], ["DIV2K_train_HR/0001.png"]),
    ("div2k_val", ["0801_pch_00002"], ["StableSR_testsets/DIV2K_V2_val/gt/0801_pch_00002.png"],
     ["StableSR_testsets/DIV2K_V2_val/lq/0801_pch_00002.png"],
     ["StableSR_testsets/RealSRVal_crop128/gt/Canon_001_LR4.png"]),
    ("div2k_val", ["0801_pch_00002"], ["DIV2K_V2_val/test_HR/0801_pch_00002.png"],
     ["DIV2K_V2_val/test_LR/0801_pch_00002.png"], []),
    ("realsr", ["Canon_001", "Nikon_001"],
     ["RealSR(V3)/Canon/Test/4/Canon_001_HR.png", "RealSR(V3)/Nikon/Test/4/Nikon_001_HR.png"],
     ["RealSR(V3)/Canon/Test/4/Canon_001_LR4.png", "RealSR(V3)/Nikon/Test/4/Nikon_001_LR4.png"],
     ["RealSR(V3)/Canon/Test/2/Canon_001_HR.png", "RealSR(V3)/Canon/Train/4/Canon_002_HR.png"]),
    ("realsr", ["Canon_001"], ["T/RealSRVal_crop128/test_HR/Canon_001_LR4.png"],
     ["T/RealSRVal_crop128/test_LR/Canon_001_LR4.png"], ["T/DrealSRVal_crop128/test_HR/Canon_10_x1.png"]),
    ("realsr", ["Nikon_050"], ["HR/Nikon_050_LR4.png"], ["LR/Nikon_050_LR4.png"], []),
    ("drealsr", ["Canon_10", "DSC_1412"],
     ["DRealSR/x4/Test_x4/test_HR/Canon_10_x4.png", "DRealSR/x4/Test_x4/test_HR/DSC_1412_x4.png"],
     ["DRealSR/x4/Test_x4/test_LR/Canon_10_x1.png", "DRealSR/x4/Test_x4/test_LR/DSC_1412_x1.png"],
     ["DRealSR/x2/Test_x2/test_HR/Canon_10_x2.png", "DRealSR/x2/Test_x2/test_LR/Canon_10_x1.png"]),
    ("drealsr", ["DSC_1412"], ["DrealSRVal_crop128/test_HR/DSC_1412_x1.png"],
     ["DrealSRVal_crop128/test_LR/DSC_1412_x1.png"], ["RealSRVal_crop128/test_HR/Canon_001_LR4.png"]),
    ("set5", ["baby", "bird"], ["Set5/GTmod12/baby.png", "Set5/GTmod12/bird.png"], [],
     ["Set5/original/baby.bmp", "Set5/LRbicx4/baby.png"]),
    ("set5", ["img_001"], ["Set5/image_SRF_4/img_001_SRF_4_HR.png"], [],
     ["Set5/image_SRF_4/img_001_SRF_4_LR.png", "Set5/image_SRF_2/img_001_SRF_2_HR.png"]),
    ("set14", ["ppt3"], ["benchmark/Set14/HR/ppt3.png"], [],
     ["benchmark/Set5/HR/baby.png", "benchmark/Set14/LR_bicubic/X4/ppt3x4.png"]),
    ("bsd100", ["101085"], ["benchmark/B100/HR/101085.png"], [], []),
    ("bsd100", ["img_001"], ["BSD100_SR/image_SRF_4/img_001_SRF_4_HR.png"], [], []),
    ("urban100", ["img001"], ["benchmark/Urban100/HR/img001.png"], [], []),
    ("manga109", ["Arisa"], ["manga109/GTmod12/Arisa.png"], [], []),
    ("manga109", ["Arisa"], ["Arisa.bmp"], [], ["LR/Arisa.bmp"]),
    ("set5", ["baby"], ["Set5_HR/baby.png"], [], []),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    lmdb_backend.close_all()


def lay(*files: str) -> None:
    """Files where presets look at names alone."""
    for file in files:
        path = Path("root", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(file: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    image = cv2.resize(np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8), (width, height))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(file, image)
    return image


@pytest.mark.parametrize(("name", "keys", "gt", "lq", "others"), LAYOUTS,
                         ids=[f"{layout[0]}: {layout[2][0]}" for layout in LAYOUTS])
def test_a_published_layout_gives_its_images_and_no_others(name, keys, gt, lq, others):
    lay(*gt, *lq, *others)
    found = presets.find(name, ["root"], any_count=True)
    assert [source.key for source in found] == keys
    here = Path("root").resolve()
    assert [source.path.relative_to(here).as_posix() for source in found] == gt
    assert [source.lq_path.relative_to(here).as_posix() for source in found if source.lq_path] == lq


def test_the_folder_may_be_named_at_any_depth():
    lay("RealSR(V3)/Canon/Test/4/Canon_001_HR.png", "RealSR(V3)/Canon/Test/4/Canon_001_LR4.png", "Set5/HR/baby.png")
    for root in ("root", "root/RealSR(V3)", "root/RealSR(V3)/Canon", "root/RealSR(V3)/Canon/Test/4"):
        assert [source.key for source in presets.find("realsr", [root], True)] == ["Canon_001"]
    for root in ("root", "root/Set5", "root/Set5/HR", str(Path("root/Set5").resolve())):
        assert [source.key for source in presets.find("set5", [root], True)] == ["baby"]
    lay("a/0001000/0000001.png", "b/0002000/0001001.png")
    assert len(presets.find("lsdir", ["root/a", "root/b"], True)) == 2


def refusal(*arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        presets.find(*arguments, **named)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_a_count_that_differs_is_said_and_may_be_accepted():
    lay(*(f"Set5/HR/{number}.png" for number in range(5)))
    assert len(presets.find("set5", ["root"])) == 5
    Path("root/Set5/HR/4.png").unlink()
    message = refusal("set5", ["root"])
    assert "root holds 4 images Set5/HR/{}.png, but Set5 has 5" in message and "--any-count" in message
    assert len(presets.find("set5", ["root"], any_count=True)) == 4


def test_what_fits_no_layout_is_one_sentence():
    lay("Canon/001.png")
    message = refusal("realsr", ["root"], any_count=True)
    assert "*/Test/4/{}_HR.png with */Test/4/{}_LR4.png" in message and "root is not laid out as RealSR" in message
    lay("Canon/Test/4/Canon_001_HR.png", "Canon/Test/4/Canon_002_HR.png", "Canon/Test/4/Canon_002_LR4.png")
    assert "2 images */Test/4/{}_HR.png and 1 */Test/4/{}_LR4.png, of which 1 have no partner, for example Canon_001" \
        in refusal("realsr", ["root"], any_count=True)
    lay("a/Set5/HR/baby.png", "b/Set5/HR/baby.png")
    assert "are both baby" in refusal("set5", ["root"], any_count=True)
    assert "there is no 'set6' (nearest: set5" in refusal("set6", ["root"])
    assert "there is no nowhere" in refusal("set5", ["nowhere"])


def test_a_classical_set_becomes_hr_and_its_bicubic_lr():
    images = [write(f"Set5/original/{number}.bmp", 41 + number, 38, number) for number in range(5)]
    assert main(["lmdb", "create", "Set5", "--preset", "set5", "-o", "set5.lmdb"]) == 0
    hr, lr = Store("set5.lmdb"), Store("set5_lq_x4.lmdb")
    for number, image in enumerate(images):
        image = image[: len(image) // 4 * 4, :36]
        assert np.array_equal(hr.image(str(number)), image)
        # the two implementations may round a tie otherwise
        assert np.abs(lr.image(str(number)).astype(int) - bicubic_lr(image, 4)).max() <= 1
    assert hr.index["made_from"] == ["preset set5", "Set5"]


def test_real_pairs_are_cut_in_the_middle_to_128_and_512():
    lq = write("RealSR(V3)/Canon/Test/4/Canon_001_LR4.png", 141, 150)
    gt = write("RealSR(V3)/Canon/Test/4/Canon_001_HR.png", 564, 600, 1)
    write("RealSR(V3)/Nikon/Test/4/Nikon_001_LR4.png", 128, 128)
    write("RealSR(V3)/Nikon/Test/4/Nikon_001_HR.png", 512, 512)
    assert main(["lmdb", "create", ".", "--preset", "realsr", "--any-count", "-o", "realsr.lmdb"]) == 0
    assert Store("realsr.lmdb").keys == Store("realsr_lq_x4.lmdb").keys == ["Canon_001", "Nikon_001"]
    assert np.array_equal(Store("realsr_lq_x4.lmdb").image("Canon_001"), lq[6:134, 11:139])
    assert np.array_equal(Store("realsr.lmdb").image("Canon_001"), gt[24:536, 44:556])
    assert Store("realsr.lmdb").shape("Nikon_001") == (512, 512, 3)
    assert main(["lmdb", "verify", "realsr.lmdb"]) == 0


def test_training_sets_become_sub_images_unless_flags_say_otherwise(monkeypatch):
    write("DIV2K_train_HR/0001.png", 500, 740)
    monkeypatch.setitem(presets.PRESETS, "div2k", dataclasses.replace(presets.PRESETS["div2k"], count=1))
    assert main(["lmdb", "create", ".", "--preset", "div2k", "-o", "a.lmdb"]) == 0
    assert Store("a.lmdb").keys == [f"0001_s{number:03}" for number in range(1, 7)]
    assert Store("a_lq_x4.lmdb").shape("0001_s006") == (120, 120, 3)
    assert main(["lmdb", "create", ".", "--preset", "div2k", "--crop", "200", "--lq-scale", "2", "-o", "b.lmdb"]) == 0
    assert len(Store("b.lmdb")) == 12 and Store("b_lq_x2.lmdb").shape("0001_s012") == (100, 100, 3)


def test_flags_that_a_preset_has_no_use_for_are_refused(capsys):
    lay("Set5/HR/baby.png")
    for flags, words in ((["--preset", "set5", "--lq", "root"], "leave --lq and --keys out"),
                         (["--preset", "set5", "--keys", "common"], "leave --lq and --keys out"),
                         (["--any-count"], "--any-count is for --preset"),
                         (["--preset", "set5"], "holds 1 images")):
        assert main(["lmdb", "create", "root", *flags, "-o", "x.lmdb"]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["root"]


def test_the_readme_tells_every_preset_and_its_count():
    readme = (Path(__file__).parent.parent / "datasets/README.md").read_text()
    rows = {line.split("`")[1]: line for line in readme.splitlines() if line.startswith("| `")}
    for name, preset in presets.PRESETS.items():
        assert rows[name].split("|")[3].strip() == str(preset.count), name
    assert {name for name in rows if "." not in name} == set(presets.PRESETS)
