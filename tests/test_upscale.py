"""`basicsr upscale`: what it reads, writes and names, what users get wrong, and what is left where it ends early."""
import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image
from tqdm import tqdm

from alignvar_arch import Upscaler
from alignvar_arch.cli import main
from alignvar_arch.inference import images


@pytest.fixture
def command(small_files, tmp_path, monkeypatch, capsys):
    """Runs the command on the tiny networks in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["upscale", *arguments, "--model", small_files[0], "--tokenizer", small_files[1]])
        return code, *capsys.readouterr()

    return run


def write(path: str, *shape: int) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small.noise(*(shape or (5, 4, 3)))).save(path)
    return Path(path)


def written(folder: str = "out") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_formats_bits_grey_and_alpha_come_out_as_they_went_in(command):
    kinds = [("png", 1, np.uint8), ("png", 2, np.uint16), ("png", 3, np.uint16), ("png", 4, np.uint8),
             ("tif", 3, np.uint16), ("tiff", 4, np.uint8), ("jpg", 1, np.uint8), ("JPEG", 3, np.uint8),
             ("webp", 4, np.uint8), ("bmp", 3, np.uint8)]
    Path("in").mkdir()
    for number, (ending, channels, dtype) in enumerate(kinds):
        picture = images.Picture(small.noise(3, 5, channels, dtype=dtype), b"profile" * 20)
        Path(f"in/{number}.{ending}").write_bytes(images.encode(picture, images.FORMATS[f".{ending.lower()}"]))
    code, out, err = command("in", "-o", "out")
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + len(kinds)
    for number, (ending, channels, dtype) in enumerate(kinds):
        made = images.read(Path(f"out/{number}_x4.{ending}"))
        assert made.pixels.shape == (12, 20, channels) and made.pixels.dtype == dtype
        assert made.icc == (None if ending == "bmp" else b"profile" * 20)


def test_a_rotated_picture_comes_out_upright(command):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(small.noise(4, 7, 3)).save("a.jpg", exif=exif)
    assert command("a.jpg", "-o", "out")[0] == 0
    with Image.open("out/a_x4.jpg") as made:
        assert made.size == (16, 28) and made.getexif().get(274, 1) == 1


def test_folders_globs_recursion_names_and_formats(command):
    for path in ("in/b.png", "in/a.png", "in/sub/c.png", "in/sub/.hidden.png", "one.png"):
        write(path)
    Path("in/notes.txt").write_text("no picture")
    assert command("in", "one.png", "-o", "out")[0] == 0
    assert written() == ["a_x4.png", "b_x4.png", "one_x4.png"]
    assert command("in", "-o", "deep", "--recursive", "--format", "webp", "--suffix", "")[0] == 0
    assert written("deep") == ["a.webp", "b.webp", "sub/c.webp"]
    for kind in ("png", "jpg", "tiff", "bmp"):
        assert command("one.png", "-o", "each", "--format", kind)[0] == 0
        with Image.open(f"each/one_x4.{kind}") as made:
            assert made.format == images.FORMATS[f".{kind}"]
    assert command("in/**/*.png", "-o", "globbed")[0] == 0
    assert written("globbed") == ["a_x4.png", "b_x4.png", "c_x4.png"]


def test_one_picture_may_be_given_its_name(command):
    write("in/a.png")
    assert command("in/a.png", "-o", "out/b.webp")[0] == 0
    assert written() == ["b.webp"] and images.read(Path("out/b.webp")).pixels.shape == (20, 16, 3)


def test_results_inside_the_folder_of_the_pictures_are_not_upscaled_again(command):
    write("in/a.png")
    for _ in range(2):
        assert command("in", "-o", "in/out", "--recursive")[0] == 0
    assert written("in") == ["a.png", "out/a_x4.png"]


@pytest.mark.parametrize("place", ["in/*", "in/**/*.png"])
def test_a_glob_may_be_given_again_though_it_finds_the_results_too(command, place):
    write("in/a.png")
    for _ in range(2):
        assert command(place, "-o", "in/out")[0] == 0
    assert written("in") == ["a.png", "out/a_x4.png"]
    assert command("in/out/*.png", "-o", "in/out")[0] == 0  # named on purpose
    assert written("in/out") == ["a_x4.png", "a_x4_x4.png"]


def test_results_that_are_there_stay_unless_overwritten(command):
    write("in/a.png")
    write("in/b.png")
    Path("out").mkdir()
    Path("out/a_x4.png").write_text("mine")
    code, out, _ = command("in", "-o", "out")
    assert code == 0 and "1 of 2 results are in out already" in out and Path("out/a_x4.png").read_text() == "mine"
    assert command("in", "-o", "out", "--overwrite")[0] == 0
    assert images.read(Path("out/a_x4.png")).pixels.shape == (20, 16, 3)


@pytest.mark.parametrize(("arguments", "text"), [
    (["gone.png", "-o", "out"], "there is no gone.png"), (["", "-o", "out"], "one of the inputs is empty"),
    (["empty", "-o", "out"], "there are no pictures in empty"),
    (["in", "-o", "in"], "-o: in is also a folder"), (["in/a.png", "-o", "in", "--suffix", ""], "itself a picture"),
    (["in/a.png", "other/a.png", "-o", "out"], "would both become out/a_x4.png"),
    (["in", "-o", "out", "--suffix", "a/b"], "has a slash"), (["in", "-o", "out", "--batch", "0"], "at least 1"),
    (["in", "-o", "out.png"], "is one picture's name"), (["in/a.png", "-o", "in/a.png"], "itself the picture"),
    (["in/a.png", "-o", "out.png", "--format", "jpg"], "is not of --format jpg"),
    (["in", "-o", "out", "--tile", "x"], "must be auto or a number"),
    (["in", "-o", "out", "--guidance", "6"], "without bad-quality samples"),
    (["in", "-o", "out", "--top_p", "2"], "top_p is 2.0")])
def test_mistakes_end_before_anything_is_made(command, arguments, text):
    write("in/a.png")
    write("other/a.png")
    Path("empty").mkdir()
    code, _, err = command(*arguments)
    assert code == 2 and text in err and err.count("\n") == 1
    assert not Path("out").exists() and written("in") == ["a.png"]


def test_every_bad_picture_is_named_and_the_rest_go_on(command):
    for name in ("a", "z"):
        write(f"in/{name}.png")
    Path("in/empty.png").write_bytes(b"")
    Path("in/text.jpg").write_text("no picture")
    Path("in/cut.png").write_bytes(write("x.png", 60, 60, 3).read_bytes()[:5000])
    Image.new("CMYK", (4, 4)).save("in/cmyk.jpg")
    Image.new("L", (5000, 1)).save("in/wide.webp")
    Path("in/b_x4").mkdir()
    Path("dead.png").symlink_to("nowhere")
    Path("x.gif").touch()
    write(f"in/{'l' * 250}.png")
    code, _, err = command("in", "dead.png", "x.gif", "-o", "out")
    lines = err.splitlines()
    assert code == 1 and lines[-1] == "basicsr: 8 failed; the others are done."
    for name in ("empty.png", "text.jpg", "cut.png", "cmyk.jpg", "wide_x4.webp", "dead.png", "x.gif", "name too long"):
        assert sum(name in line for line in lines) == 1, name
    assert len(lines) == 9 and written() == ["a_x4.png", "z_x4.png"]


def test_a_folder_that_cannot_be_written_is_named_for_each_picture_before_the_work(command, monkeypatch):
    write("in/a.png")
    Path("out").write_text("a file")
    monkeypatch.setattr(Upscaler, "__call__", lambda *_: pytest.fail("the work has begun"))
    code, _, err = command("in", "-o", "out")
    assert code == 1 and "cannot write out/a_x4.png" in err and "1 failed" in err


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_go_on(command, monkeypatch):
    write("in/a.png")
    Path("in/locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    code, _, err = command("in", "-o", "out", "--recursive")
    assert code == 1 and "cannot read the folder in/locked: Permission denied." in err and written() == ["a_x4.png"]


def test_a_full_disk_is_named_and_leaves_no_half_picture(command):
    """A limit on the size of files stands for the disk's."""
    write("in/a.png", 90, 90, 3)
    write("in/b.png", 3, 3, 3)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code, _, err = command("in", "-o", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1 and "cannot write out/a_x4.png: File too large." in err and written() == ["b_x4.png"]


def test_nothing_lies_in_the_folder_while_a_picture_is_made(command, monkeypatch):
    """So that nothing is left where the command is killed."""
    write("in/a.png")
    seen, upscale = [], Upscaler.__call__
    monkeypatch.setattr(Upscaler, "__call__", lambda *given: seen.append(os.path.exists("out")) or upscale(*given))
    assert command("in", "-o", "out")[0] == 0 and seen == [False] and written() == ["a_x4.png"]


def test_the_bar_counts_decoding_and_forgets_what_failed(command, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **settings):
            super().__init__(**{**settings, "disable": False, "file": io.StringIO(), "mininterval": 0})
            self.steps = []
            bars.append(self)

        def update(self, n=1):
            super().update(n)
            self.steps.append(self.n)

    monkeypatch.setattr("alignvar_arch.cli.upscale.tqdm", Bar)
    write("in/a.png", 4, 4, 3)
    Path("in/b.png").write_bytes(write("x.png", 60, 60, 3).read_bytes()[:5000])
    write("in/c.png", 4, 9, 3)
    assert command("in", "-o", "out")[0] == 1
    (bar,) = bars
    few, many = 1, bar.total // 2 - 1
    assert many > 1 and "decoding" in bar.fp.getvalue()
    assert sorted(set(bar.steps)) == [0, few, 2 * few, 2 * few + many, bar.total]


def test_an_interrupted_command_leaves_whole_pictures_and_says_how_to_go_on(small_files, tmp_path):
    write(f"{tmp_path}/in/a.png", 3, 3, 3)
    write(f"{tmp_path}/in/b.png", 1000, 700, 3)
    ends = {signal.SIGINT: 130, signal.SIGTERM: 143}
    run = [sys.executable, "-u", "-m", "alignvar_arch", "upscale", "in", "--model", small_files[0], "--tokenizer",
           small_files[1], "-o"]
    children = {number: subprocess.Popen([*run, f"out{number.value}"], cwd=tmp_path, text=True,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE) for number in ends}
    try:
        for number, child in children.items():
            assert "2 pictures" in child.stdout.readline() and "a_x4.png" in child.stdout.readline()
            child.send_signal(number)  # the second picture has begun
            _, err = child.communicate(timeout=60)
            assert child.returncode == ends[number] and "Traceback" not in err
            assert "The same command does what is missing." in err
            assert written(f"{tmp_path}/out{number.value}") == ["a_x4.png"]
    finally:
        for child in children.values():
            child.kill()


def test_the_shipped_model_upscales_a_photograph(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hr = Image.open(shared / "data/set5/butterfly.png").convert("RGB")
    lr = hr.resize((64, 64), Image.Resampling.BICUBIC)
    lr.save("lr.png")
    assert main(["upscale", "lr.png", "-o", "out", "--device", "cpu"]) == 0
    made = np.asarray(Image.open("out/lr_x4.png")).astype(float)
    expected = Upscaler.from_file(device="cpu")(np.asarray(lr))
    assert made.shape == (*hr.size[::-1], 3) and np.abs(made - expected).max() <= 1
    assert 10 * np.log10(255 ** 2 / np.square(made - np.asarray(hr)).mean()) > 19


def test_a_picture_for_which_memory_is_too_small_is_named_before_the_work(command, monkeypatch):
    write("in/a.png")
    monkeypatch.setattr("alignvar_arch.cli.upscale.free", lambda device: 2**10)
    code, _, err = command("in", "-o", "out")
    assert code == 1 and "cannot upscale in/a.png: 4x5 needs about" in err and "of memory, and 0 MiB are free" in err
    assert not Path("out").exists()
