"""`basicsr upscale` and `Upscaler`: any picture, the same picture again, little memory, and what users get wrong."""
import ctypes
import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runs
import small
import torch
import yaml
from PIL import Image
from tqdm import tqdm

from alignvar_arch import Upscaler
from alignvar_arch.archs.layers.conv import Upsample
from alignvar_arch.archs.loading import load
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.cli import main
from alignvar_arch.errors import UserError
from alignvar_arch.inference import images, memory
from alignvar_arch.inference.decode import decode_tiled
from alignvar_arch.inference.pairing import MODEL
from alignvar_arch.inference.pairing import TOKENIZER as TOKENIZER_FILE
from alignvar_arch.inference.picture import picture
from alignvar_arch.inference.upscaler import PRECISIONS, fill_transparent

TOKENIZER = {"type": "AlignVARTokenizer", "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "codebook_size": 24,
             "latent_dim": 4, "scales": list(small.SCALES), "num_phi": 2}
TRANSFORMER = {"type": "AlignVAR", "depth": 2, "embed_dim": 32, "num_heads": 2, "codebook_size": 24, "latent_dim": 4,
               "scales": list(small.SCALES), "condition_widths": [8, 16], "drop_path": 0.0}


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A folder with a tiny transformer and its tokenizer."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer, net = small.tokenizer(), small.transformer()
    write_safetensors(str(folder / "t.safetensors"), tokenizer.state_dict(), {"network": json.dumps(TOKENIZER)})
    metadata = {"network": json.dumps(TRANSFORMER), "scale": "4", "bad_quality_rate": "0.0",
                "codebook": codebook_hash(tokenizer.quantize.embedding.weight)}
    write_safetensors(str(folder / "m.safetensors"), net.state_dict(), metadata)
    write_safetensors(str(folder / "guided.safetensors"), net.state_dict(), {**metadata, "bad_quality_rate": "0.1"})
    return folder


@pytest.fixture
def files(weights) -> tuple[str, str]:
    return str(weights / "m.safetensors"), str(weights / "t.safetensors")


@pytest.fixture
def upscaler(files) -> Upscaler:
    return Upscaler.from_file(*files, device="cpu")


@pytest.fixture
def command(files, tmp_path, monkeypatch, capsys):
    """Runs the command on the tiny networks in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["upscale", *arguments, "--model", files[0], "--tokenizer", files[1]])
        return code, *capsys.readouterr()

    return run


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def write(path: str, *shape: int) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*(shape or (5, 4, 3)))).save(path)
    return Path(path)


def written(folder: str = "out") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def directly(net, tokenizer, image: np.ndarray, **settings) -> np.ndarray:
    """What the networks make of an image without ``Upscaler``, by its defaults."""
    lr = torch.tensor(image).permute(2, 0, 1)[None] / 255
    made = picture(net, tokenizer, lr, **{"choice": "expected", **settings})
    return made[0].permute(1, 2, 0).mul(255).round().numpy()


# The Python API


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 50), (13, 7), (17, 16)])
def test_any_size(upscaler, size):
    done = []
    made = upscaler(noise(*size, 3), done.append)
    assert made.shape == (4 * size[0], 4 * size[1], 3) and made.dtype == np.uint8
    assert sum(done) == upscaler.tiles(*size)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 4), ((3, 500), 4), ((127, 129), 4), ((512, 1), 4),
                                             ((1000, 700), 2)])
def test_sizes_of_pictures(size, scale):
    """With tiles of 64 pixels and more; the large one by a factor of two, as four takes ten seconds."""
    tokenizer = small.tokenizer(ch_mult=(1, 1, 1, 1, 1), num_res_blocks=0, scales=(1, 4, 16))
    upscaler = Upscaler(small.transformer(depth=1, scales=(1, 4, 16)), tokenizer, scale=scale, top_k=1)
    made = upscaler(noise(*size, 3))
    assert made.shape == (size[0] * scale, size[1] * scale, 3)
    assert all(corner.std() > 0 for corner in (made[:4, :4], made[:4, -4:], made[-4:, :4], made[-4:, -4:]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 3), (6, 5, 4)])
def test_numpy_comes_back_as_it_went_in(upscaler, dtype, shape):
    made = upscaler(noise(*shape, dtype=dtype))
    assert made.dtype == dtype and made.shape == (24, 20, *shape[2:])


def test_numpy_and_torch_are_the_same_picture(upscaler):
    image = noise(6, 5, 4, dtype=np.uint16)
    tensor = torch.from_numpy(image.astype(np.float64) / 65535).permute(2, 0, 1)[None]
    made = upscaler(tensor)
    assert made.dtype == torch.float64 and made.min() >= 0 and made.max() <= 1
    expected = (made[0] * 65535).round().permute(1, 2, 0).numpy()
    assert np.abs(upscaler(image).astype(float) - expected).max() <= 1
    assert upscaler(tensor[:, :1].float()).shape == (1, 1, 24, 20)


def test_the_same_picture_whatever_came_before_and_another_for_another_seed_where_it_draws(upscaler, files):
    image, draws = noise(9, 9, 3), {"device": "cpu", "choice": "sample", "top_k": 0}
    for own in (upscaler, Upscaler.from_file(*files, **draws)):
        first = own(image)
        own(noise(4, 4, 3))
        np.testing.assert_array_equal(own(image), first)
    assert (Upscaler.from_file(*files, **draws, seed=1)(image) != first).any()


def test_a_batch_of_tiles_is_as_one_by_one(files):
    image = noise(11, 10, 3)
    together, alone = (Upscaler.from_file(*files, device="cpu", top_k=1, batch=batch)(image) for batch in (8, 1))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_grey_is_the_grey_of_the_colours(upscaler):
    grey = noise(6, 5, 1)
    expected = upscaler(grey.repeat(3, 2)) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(upscaler(grey)[..., 0] - expected).max() <= 1


def test_colours_that_nobody_sees_do_not_show(upscaler):
    one = noise(6, 5, 4)
    one[..., 3] = 255 * (noise(6, 5) > 99)
    other = one.copy()
    other[one[..., 3] == 0] = (0, 255, 0, 0)
    np.testing.assert_array_equal(upscaler(one), upscaler(other))


def test_transparent_pixels_take_the_nearest_colour():
    colour = torch.arange(5.0).view(1, 1, 1, 5)
    alpha = torch.tensor([0.0, 0, 0.5, 0, 1]).view(1, 1, 1, 5)
    assert fill_transparent(colour, alpha).flatten().tolist()[:3] == [2, 2, 2]
    torch.testing.assert_close(fill_transparent(colour, 0 * alpha), colour)


def test_defaults_are_those_of_the_shipped_options():
    val = yaml.safe_load((Path(__file__).parent.parent / "options/alignvar_x4_test.yml").read_text())["val"]
    defaults = Upscaler.__init__.__kwdefaults__
    assert {key: val[key] for key in ("guidance", "choice", "top_k", "top_p", "temperature")} == {
        key: defaults[key] for key in ("guidance", "choice", "top_k", "top_p", "temperature")}
    assert defaults["seed"] == val["sample_seed"]


def test_the_shipped_model_finds_its_tokenizer():
    image = noise(8, 6, 3)
    expected = directly(load(MODEL), load(TOKENIZER_FILE), image)
    assert np.abs(Upscaler.from_file(device="cpu")(image).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("image", "error", "text"), [
    ([[1]], TypeError, "not list"), (np.zeros((4, 4, 3)), TypeError, "not float64"),
    (np.zeros((4, 4, 5), np.uint8), ValueError, r"not \(4, 4, 5\)"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"not \(0, 4, 3\)"),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "not torch.uint8"),
    (torch.zeros(3, 4, 4), ValueError, r"not \(3, 4, 4\)"),
    (torch.full((1, 3, 4, 4), 2.0), ValueError, "from 2 to 2"),
    (torch.full((1, 3, 4, 4), torch.nan), ValueError, "from nan to nan")])
def test_what_is_no_image_is_refused(upscaler, image, error, text):
    with pytest.raises(error, match=text):
        upscaler(image)


@pytest.mark.parametrize(("settings", "text"), [
    ({"top_p": 0.0}, "top_p is 0.0"), ({"temperature": 0.0}, "temperature is 0.0"), ({"top_k": -1}, "top_k is -1"),
    ({"choice": "mode"}, "choice is 'mode'"),
    ({"guidance": 6.0}, "without bad-quality samples"), ({"precision": "int8"}, "one of fp32, bf16, fp16"),
    ({"colour": "sepia"}, "one of off, wavelet, adain"), ({"tile": 0}, "tile is 0"), ({"batch": 0}, "batch is 0"),
    ({"device": "cuda:99"}, "no device cuda:99"), ({"device": "nonsense"}, "no device nonsense")])
def test_settings_out_of_range_are_refused(files, settings, text):
    with pytest.raises(UserError, match=text):
        Upscaler.from_file(*files, **{"device": "cpu", **settings})


def test_guidance_needs_a_model_that_saw_bad_quality(weights, files):
    path = str(weights / "guided.safetensors")
    guided = Upscaler.from_file(path, files[1], device="cpu", guidance=6.0)(noise(5, 5, 3))
    assert (guided != Upscaler.from_file(path, files[1], device="cpu")(noise(5, 5, 3))).any()


def test_models_and_tokenizers_that_do_not_belong_together(files, weights, tmp_path):
    model, tokenizer = files
    with pytest.raises(UserError, match="another tokenizer than alignvar_arch:weights"):
        Upscaler.from_file(model)
    with pytest.raises(UserError, match="another tokenizer than"):
        Upscaler.from_file(None, tokenizer)
    with pytest.raises(UserError, match="AlignVAR's transformer and no tokenizer"):
        Upscaler.from_file(model, model)
    with pytest.raises(UserError, match="AlignVAR's tokenizer and no transformer"):
        Upscaler.from_file(tokenizer, tokenizer)
    silent = str(tmp_path / "silent.safetensors")
    write_safetensors(silent, small.transformer().state_dict(), {"network": json.dumps(TRANSFORMER), "scale": "4"})
    with pytest.raises(UserError, match="does not say which tokenizer"):
        Upscaler.from_file(silent)
    assert Upscaler.from_file(silent, tokenizer, device="cpu")(noise(2, 2, 3)).shape == (8, 8, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_are_networks_of_other_dtypes(files, precision):
    upscaler = Upscaler.from_file(*files, device="cpu", precision=precision, top_k=1)
    net, tokenizer = load(files[0], dtype=PRECISIONS[precision]), load(files[1])
    tokenizer.decoder.to(PRECISIONS[precision])
    tokenizer.post_quant_conv.to(PRECISIONS[precision])
    assert {value.dtype for value in upscaler.net.parameters()} == {PRECISIONS[precision]}
    expected = directly(net, tokenizer, noise(8, 8, 3), top_k=1)
    assert np.abs(upscaler(noise(8, 8, 3)).astype(int) - expected).max() <= 1


# Memory


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried")])
def test_running_out_of_memory_halves_the_batch_and_the_picture_is_the_same(files, error, monkeypatch):
    upscaler = Upscaler.from_file(*files, device="cpu", top_k=1, batch=8)
    image, told, done = noise(12, 12, 3), [], []
    expected = upscaler(image)
    generate = upscaler.net.generate

    def greedy_for_memory(lr, *arguments, **named):
        if len(lr) > 2:
            raise error
        return generate(lr, *arguments, **named)

    monkeypatch.setattr(upscaler.net, "generate", greedy_for_memory)
    made = upscaler(image, done.append, told.append)
    assert told == ["4 tiles at once", "2 tiles at once"] and sum(done) == upscaler.tiles(12, 12)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_running_out_of_memory_in_decoding_takes_ever_smaller_pieces(files, monkeypatch):
    upscaler = Upscaler.from_file(*files, device="cpu", top_k=1)
    image, told = noise(40, 30, 3), []
    expected = upscaler(image)

    def greedy_for_memory(block, x):
        if max(x.shape[-2:]) > 35:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(block, x)

    forward = Upsample.forward
    monkeypatch.setattr(Upsample, "forward", greedy_for_memory)
    made = upscaler(image, less=told.append)
    assert told == ["pieces of 80 pixels", "pieces of 40 pixels"] and np.abs(made.astype(int) - expected).max() <= 1


def test_the_colours_are_no_reason_to_decode_again(files, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    upscaler, told = Upscaler.from_file(*files, device="cpu"), []
    monkeypatch.setattr("alignvar_arch.inference.upscaler.fix_colour", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        upscaler(noise(40, 30, 3), less=told.append)
    assert not told


def status(name: str) -> int:
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_of(work) -> int:
    """Bytes that a piece of work takes at its peak, by the kernel: a thread that looks may not get its turn.

    The least of some laps; what the libraries keep for themselves and what the heap holds free vary.
    """
    work()
    peaks = []
    for _ in range(5):
        ctypes.CDLL(None).malloc_trim(0)
        before = status("RssAnon")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        work()
        peaks.append(status("VmHWM") - status("VmRSS") + status("RssAnon") - before)
    return min(peaks)


PIXELS = [("off", 3), ("off", 4), ("off", 1), ("adain", 3), ("wavelet", 3)]


def measure_pixels(model: str, tokenizer: str, side: int) -> None:
    """Write what the pictures around the networks take; what the networks make is replaced. For a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignvar_arch.inference.upscaler.upscale_latent", lambda *_, **__: torch.zeros(1, 4, side, side))
        patch.setattr(memory, "pieces", lambda *_: [memory.Piece(8, 0)])
        patch.setattr("alignvar_arch.inference.picture.decode_tiled",
                      lambda *_: torch.zeros(1, 3, 4 * side, 4 * side).add_(0.1))
        peaks = []
        for colour, channels in PIXELS:
            upscaler = Upscaler.from_file(model, tokenizer, device="cpu", colour=colour)
            upscaler.tokenizer.target = "residual"  # which takes more
            image = noise(side, side, channels)
            peaks.append(peak_of(lambda: upscaler(image)))  # noqa: B023 (called at once)
    Path("measured.json").write_text(json.dumps(peaks))


def test_pixels_take_no_more_memory_than_is_said(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    side = 450
    assert runs.end(runs.start(measure_pixels, *files, side)) == 0, runs.said()
    said = memory.picture_bytes(4 * side, 4 * side)
    for peak, what in zip(json.loads(Path("measured.json").read_text()), PIXELS, strict=True):
        assert 0.3 * said < peak < 1.2 * said, what  # the heap is not the same twice


GUIDED = {"target": "residual", "ch": 64, "ch_mult": (1, 2), "num_res_blocks": 2, "guide_blocks": 6}


def measure_decoding(height: int, width: int, tile: int | None) -> None:
    """Write what decoding a latent takes at its peak, and what was said that it would; for a process."""
    tokenizer = small.tokenizer(**GUIDED)
    f_hat, lr = torch.randn(1, 4, height, width), torch.rand(1, 3, 2 * height, 2 * width)
    piece = memory.Piece(tile or max(height, width), 0)
    peak = peak_of(lambda: decode_tiled(tokenizer, f_hat, lr, piece.side, 0))
    Path("measured.json").write_text(json.dumps([peak, memory.decode_bytes(tokenizer, height, width, piece)]))


@pytest.mark.parametrize(("height", "width", "tile"), [(64, 64, None), (128, 96, None), (128, 128, 32)])
def test_decoding_by_the_lr_takes_no_more_memory_than_is_said(height, width, tile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.end(runs.start(measure_decoding, height, width, tile)) == 0, runs.said()
    peak, said = json.loads(Path("measured.json").read_text())
    assert 0.3 * said < peak < 1.2 * said  # the heap is not the same twice


def test_pieces_of_a_guided_decoder_are_said_to_take_what_they_see_and_no_more_than_the_picture():
    tokenizer = small.tokenizer(**GUIDED)
    halo = 2 * (tokenizer.decoder.reach + 1)
    whole, *less = (memory.decode_bytes(tokenizer, 64, 48, memory.Piece(side, 0)) for side in (64, 60, 32, 8))
    result, place = 3 * 4 * 64 * 48 * 8 ** 2, whole // (64 * 48) * memory.GUIDED_PIECE_MAPS // memory.GUIDED_MAPS
    assert less == [result + place * area for area in (64 * 48, min(32 + halo, 64) * 48, (8 + halo) ** 2)]
    assert memory.decode_bytes(tokenizer.bfloat16(), 64, 48, memory.Piece(64, 0)) < whole


def test_a_residual_tokenizer_goes_with_its_own_scale_only():
    with pytest.raises(UserError, match="residual, which makes pictures 4 times as large, and the scale is 2"):
        Upscaler(small.transformer(), small.tokenizer(target="residual"), scale=2)


def test_too_little_for_one_tile_is_a_sentence_and_other_errors_stay_themselves():
    def never(setting):
        raise MemoryError

    tried = []
    with pytest.raises(UserError, match="not enough memory even for the smallest piece"):
        memory.with_less(never, [4, 2, 1], tried.append)
    assert tried == [2, 1]

    def broken(setting):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        memory.with_less(broken, [4, 2, 1], tried.append)


def test_as_much_is_taken_at_once_as_fits():
    assert memory.batches(8, 1000, 100) == [8, 4, 2, 1] and memory.batches(8, 350, 100) == [3, 1]
    assert memory.batches(8, 1, 100) == [1]
    tokenizer = small.tokenizer()
    whole, *rest = memory.pieces(tokenizer, 64, 48, 2**40)
    assert whole.side == 64 and [piece.side for piece in rest] == [32, 16, 8]
    least = memory.decode_bytes(tokenizer, 64, 48, rest[-1]._replace(keep=0))
    for room in (least, 2 * least, 8 * least):
        found = memory.pieces(tokenizer, 64, 48, room)
        assert all(memory.decode_bytes(tokenizer, 64, 48, piece) <= room for piece in found[:-1])
    assert [piece.side for piece in memory.pieces(tokenizer, 64, 48, 0)] == [8]
    assert memory.pieces(tokenizer, 64, 48, 2**40, side=20)[0].side == 20


def test_what_is_needed_grows_with_everything():
    net, tokenizer = small.transformer(), small.tokenizer()
    plain, expected, drawn = (memory.tile_bytes(net, guided=False, choice=how) for how in memory.LOGITS)
    assert memory.tile_bytes(net, guided=True, choice="greedy") > plain and plain < expected < drawn
    assert memory.tile_bytes(net.bfloat16(), guided=False, choice="greedy") < plain
    upscaler = Upscaler(small.transformer(), tokenizer)
    assert upscaler.memory(100, 200) == upscaler.memory(200, 100) > upscaler.memory(100, 100)


def test_free_memory_is_what_the_shell_allows(monkeypatch):
    cpu = torch.device("cpu")
    most = memory.free(cpu)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 2**20, -1))
    assert 0 <= memory.free(cpu) <= 2**20 < most


@pytest.mark.parametrize(("folder", "limit", "usage", "cached"), [
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")])
def test_free_memory_is_what_the_container_allows_and_cached_files_make_room(tmp_path, folder, limit, usage, cached):
    assert memory.container(tmp_path) is None
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / "memory.stat").write_text(f"anon 5\n{cached} 300\nactive_file 7\n")
    (place / usage).write_text("900\n")
    (place / limit).write_text("1000\n")
    assert memory.container(tmp_path) == 400
    (place / limit).write_text("max\n")
    assert memory.container(tmp_path) is None


def test_a_picture_for_which_memory_is_too_small_is_named_before_the_work(command, monkeypatch):
    write("in/a.png")
    monkeypatch.setattr("alignvar_arch.cli.upscale.free", lambda device: 2**10)
    code, _, err = command("in", "-o", "out")
    assert code == 1 and "cannot upscale in/a.png: 4x5 needs about" in err and "of memory, and 0 MiB are free" in err
    assert not Path("out").exists()


# The command


def test_formats_bits_grey_and_alpha_come_out_as_they_went_in(command):
    kinds = [("png", 1, np.uint8), ("png", 2, np.uint16), ("png", 3, np.uint16), ("png", 4, np.uint8),
             ("tif", 3, np.uint16), ("tiff", 4, np.uint8), ("jpg", 1, np.uint8), ("JPEG", 3, np.uint8),
             ("webp", 4, np.uint8), ("bmp", 3, np.uint8)]
    Path("in").mkdir()
    for number, (ending, channels, dtype) in enumerate(kinds):
        picture = images.Picture(noise(3, 5, channels, dtype=dtype), b"profile" * 20)
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
    Image.fromarray(noise(4, 7, 3)).save("a.jpg", exif=exif)
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


def test_an_interrupted_command_leaves_whole_pictures_and_says_how_to_go_on(files, tmp_path):
    write(f"{tmp_path}/in/a.png", 3, 3, 3)
    write(f"{tmp_path}/in/b.png", 1000, 700, 3)
    ends = {signal.SIGINT: 130, signal.SIGTERM: 143}
    children = {number: subprocess.Popen(
        [sys.executable, "-u", "-m", "alignvar_arch", "upscale", "in", "-o", f"out{number.value}", "--model", files[0],
         "--tokenizer", files[1]], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in ends}
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
    expected = directly(load(MODEL), load(TOKENIZER_FILE), np.asarray(lr))
    assert made.shape == (*hr.size[::-1], 3) and np.abs(made - expected).max() <= 1
    assert 10 * np.log10(255 ** 2 / np.square(made - np.asarray(hr)).mean()) > 19
