"""Picture files: what goes in comes out, in every format and kind; what cannot be read is named."""
import io
import os
import resource
import signal

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from alignvar_arch.errors import UserError
from alignvar_arch.inference import images
from alignvar_arch.inference.images import Picture
from alignvar_arch.output import check_file, new_file

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(channels=3, bits=8, height=6, width=9) -> np.ndarray:
    """A smooth ramp, so that lossy formats stay near it; alpha is nowhere zero."""
    ramp = np.linspace(40, 200, height * width * channels).reshape(height, width, channels)
    return (ramp * (1 if bits == 8 else 257)).astype(np.uint8 if bits == 8 else np.uint16)


def stored(path, picture: Picture, kind: str):
    path.write_bytes(images.encode(picture, kind))
    return path


LOSSLESS = [(kind, channels, bits) for kind in ("PNG", "TIFF") for channels in (1, 2, 3, 4) for bits in (8, 16)
            if (kind, channels, bits) != ("TIFF", 2, 16)] + [("BMP", 1, 8), ("BMP", 3, 8), ("BMP", 4, 8)]


@pytest.mark.parametrize(("kind", "channels", "bits"), LOSSLESS)
def test_lossless_formats_bring_back_bits_alpha_grey_and_profile(tmp_path, kind, channels, bits):
    picture = Picture(pixels(channels, bits), None if kind == "BMP" else SRGB)
    back = images.read(stored(tmp_path / "x", picture, kind))
    assert back.pixels.dtype == picture.pixels.dtype and back.icc == picture.icc
    np.testing.assert_array_equal(back.pixels, picture.pixels)


@pytest.mark.parametrize(("kind", "channels"), [("JPEG", 1), ("JPEG", 3), ("WEBP", 3), ("WEBP", 4)])
def test_lossy_formats_come_back_nearly(tmp_path, kind, channels):
    picture = Picture(pixels(channels, height=32, width=48), SRGB)
    back = images.read(stored(tmp_path / "x", picture, kind))
    assert back.pixels.shape == picture.pixels.shape and back.icc == SRGB
    assert np.abs(back.pixels.astype(int) - picture.pixels).max() <= 8


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_becomes_colour_in_a_webp_and_leaves_its_profile(tmp_path, channels):
    back = images.read(stored(tmp_path / "x", Picture(pixels(channels), SRGB), "WEBP"))
    assert back.pixels.shape[2] == channels + 2 and back.icc is None


def test_sixteen_bit_tiff_with_grey_and_alpha_holds_what_it_is_given(tmp_path):
    picture = Picture(pixels(2, 16))
    np.testing.assert_array_equal(tifffile.imread(stored(tmp_path / "x", picture, "TIFF")), picture.pixels)


def test_sixteen_bit_tiffs_of_other_layouts_are_read_right(tmp_path):
    """OpenCV reads all three, each wrong in its way."""
    rgba, file = pixels(4, 16), tmp_path / "x.tif"
    tifffile.imwrite(file, rgba[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(images.read(file).pixels, rgba[..., :3])
    tifffile.imwrite(file, rgba[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(images.read(file).pixels, 65535 - rgba[..., :1])
    alpha = rgba[..., 3:].astype(float)
    multiplied = (rgba[..., :3] * alpha / 65535).round().astype(np.uint16)
    tifffile.imwrite(file, np.concatenate([multiplied, rgba[..., 3:]], 2), photometric="rgb",
                     extrasamples=["assocalpha"])
    assert np.abs(images.read(file).pixels.astype(int) - rgba).max() <= 5


def test_grey_with_alpha_becomes_colour_in_a_bmp(tmp_path):
    back = images.read(stored(tmp_path / "x", Picture(pixels(2)), "BMP")).pixels
    np.testing.assert_array_equal(back, pixels(2)[..., [0, 0, 0, 1]])


def test_sixteen_bits_become_eight_where_the_format_has_no_more():
    picture = Picture(np.array([[[0], [128], [129], [65535]]], np.uint16).repeat(3, 2))
    decoded = Image.open(io.BytesIO(images.encode(picture, "BMP")))
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_white_shows_through_where_the_format_has_no_alpha():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, 8:, 3] = 255
    decoded = np.asarray(Image.open(io.BytesIO(images.encode(Picture(rgba), "JPEG"))))
    assert decoded[:, :6].min() > 250 and decoded[:, 10:].max() < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_not_handed_on(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    lying = Image.fromarray(pixels(height=24, width=40))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    lying.save(tmp_path / "x", kind, exif=exif, **options)
    turn = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]  # Pillow's Transpose
    expected = np.asarray(lying if turn is None else lying.transpose(Image.Transpose(turn)))
    back = images.read(tmp_path / "x")
    assert back.pixels.shape == expected.shape
    assert np.abs(back.pixels.astype(int) - expected).max() <= (6 if kind == "JPEG" else 0)
    again = Image.open(io.BytesIO(images.encode(back, kind)))
    assert again.getexif().get(274, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_sixteen_bits(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    grey = pixels(1, 16)[..., 0]
    for kind in ("PNG", "TIFF"):
        Image.fromarray(grey).save(tmp_path / f"{kind}16", kind, exif=exif)
        Image.fromarray((grey // 257).astype(np.uint8)).save(tmp_path / f"{kind}8", kind, exif=exif)
        deep, plain = images.read(tmp_path / f"{kind}16").pixels, images.read(tmp_path / f"{kind}8").pixels
        np.testing.assert_array_equal(deep // 257, plain)


def test_palettes_single_bits_and_transparent_colours(tmp_path):
    file = tmp_path / "x.png"
    Image.fromarray(pixels()).quantize(8).save(file)
    assert images.read(file).pixels.shape == (6, 9, 3)
    Image.fromarray(pixels()).quantize(8).save(file, transparency=0)
    assert images.read(file).pixels.shape == (6, 9, 4)
    Image.fromarray(pixels(1)[..., 0] > 99).save(file)
    assert np.unique(images.read(file).pixels).tolist() == [0, 255]
    Image.new("RGB", (2, 1), (1, 2, 3)).save(file, transparency=(1, 2, 3))
    assert images.read(file).pixels.tolist() == [[[1, 2, 3, 0]] * 2]
    deep = Image.fromarray(np.array([[7, 8]], np.uint16))
    deep.save(file, transparency=7)
    assert images.read(file).pixels.tolist() == [[[7, 0], [8, 65535]]]


def test_size_is_read_from_the_head(tmp_path):
    whole = images.encode(Picture(pixels(height=50, width=70)), "PNG")
    (tmp_path / "x").write_bytes(whole[:60])
    assert images.size(tmp_path / "x") == (50, 70)


def save(path, mode, kind, **options):
    Image.new(mode, (8, 8)).save(path, kind, **options)


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty, damaged, of a rare kind, or no PNG"),
    "text": (lambda path: path.write_text("hello " * 99), "it is empty, damaged, of a rare kind, or no PNG"),
    "gif": (lambda path: save(path, "P", "GIF"), "no PNG, JPEG, WebP, TIFF or BMP"),
    "missing": (lambda path: None, "No such file"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "pipe": (os.mkfifo, "it is a pipe or a device and no file"),
    "cmyk": (lambda path: save(path, "CMYK", "JPEG"), "is a CMYK picture; convert it"),
    "cmyk tiff": (lambda path: save(path, "CMYK", "TIFF"), "is a CMYK picture; convert it"),
    "float": (lambda path: save(path, "F", "TIFF"), "has 32 bits a channel; convert it"),
    "pages": (lambda path: save(path, "L", "TIFF", save_all=True, append_images=[Image.new("L", (8, 8))]),
              "holds 2 pictures"),
    "film": (lambda path: save(path, "L", "PNG", save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
             "holds 2 pictures"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, what):
    make, expected = BAD[what]
    make(tmp_path / "x.png")
    with pytest.raises(UserError, match=expected) as caught:
        images.read(tmp_path / "x.png")
    text = str(caught.value)
    assert text.startswith(f"cannot read {tmp_path / 'x.png'}: ") and text.endswith(".") and "\n" not in text


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("kind", "bits"), [("PNG", 8), ("PNG", 16), ("JPEG", 8), ("WEBP", 8), ("TIFF", 8),
                                            ("TIFF", 16), ("BMP", 8)])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind, bits):
    noise = np.random.default_rng(0).integers(0, 2 ** bits, (40, 30, 3)).astype(pixels(bits=bits).dtype)
    whole = images.encode(Picture(noise), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        (tmp_path / "x").write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(UserError, match="cannot read"):
            images.read(tmp_path / "x")


def test_zero_sides_are_refused(tmp_path):
    content = bytearray(images.encode(Picture(pixels()), "BMP"))
    content[18:22] = bytes(4)  # the width
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        images.read(tmp_path / "x")


def test_formats_say_what_they_cannot_hold():
    assert images.too_large("PNG", 70000, 10) is None and images.too_large("WEBP", 16383, 5) is None
    assert "16383" in images.too_large("WEBP", 5, 16384)
    assert "65500" in images.too_large("JPEG", 65501, 5)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "sub" / "x.png"
    with new_file(target) as file:
        file.write(b"old")
    assert target.stat().st_mode & 0o777 == 0o644
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), new_file(target) as file:
            file.write(b"half")
            raise error
    assert target.read_bytes() == b"old" and os.listdir(target.parent) == ["x.png"]


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/x.png: File exists."), new_file(
            tmp_path / "file" / "x.png"):
        pytest.fail("the work has begun")


def test_a_place_is_checked_without_leaving_anything(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dead").symlink_to("nowhere")
    for name in ("x.png", "new/deep/x.png", "file"):
        check_file(tmp_path / name)
    for name, reason in (("file/x.png", "Not a directory"), ("folder", "Is a directory"), ("x" * 300, "too long"),
                         ("dead/x.png", "Not a directory")):
        with pytest.raises(UserError, match=f"cannot write .*{reason}"):
            check_file(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda *_: False)  # a superuser may write anywhere
    with pytest.raises(UserError, match="cannot write .*new/x.png: Permission denied"):
        check_file(tmp_path / "new" / "x.png")
    assert sorted(os.listdir(tmp_path)) == ["dead", "file", "folder"]


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the disk's."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*x.png: File too large."), new_file(
                tmp_path / "x.png") as file:
            file.write(bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not os.listdir(tmp_path)
