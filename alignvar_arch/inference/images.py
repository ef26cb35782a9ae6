"""Picture files: read upright with their bit depth, alpha and colour profile, and written in any of five formats.

EXIF data are not kept: they describe a picture of another size. GIFs, CMYK and animated pictures are refused.
"""
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from alignvar_arch.errors import UserError

# The format that a name's suffix stands for, as Pillow calls it.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
           ".bmp": "BMP"}
# Pillow's modes, and what they are read as; those with an I hold grey of 16 bits.
_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA",
          "I": "I", "I;16": "I", "I;16B": "I"}
_LARGEST = {"JPEG": 65500, "WEBP": 16383}  # pixels a side, as Pillow's libraries have it
_PHOTOMETRIC, _PLANAR, _EXTRA_SAMPLES = 262, 284, 338  # tags of TIFF
_MOST = 2**30  # bytes a chunk of a PNG; it may have twice as many
_SAVE = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95},
         "TIFF": {"compression": "tiff_adobe_deflate"}, "PNG": {}, "BMP": {}}


@dataclass(frozen=True)
class Picture:
    """What is kept of a picture file.

    Attributes:
        pixels: (H, W, C), uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (not premultiplied).
        icc: the colour profile that the file carries.
    """

    pixels: np.ndarray
    icc: bytes | None = None


def size(path: Path) -> tuple[int, int]:
    """Returns the two sides in pixels, before it is turned upright, from the file's head alone.

    Raises:
        UserError: the file cannot be opened or is no picture.
    """
    _check_file(path)
    with _opened(path, path) as image:
        return image.height, image.width


def read(path: Path) -> Picture:
    """Reads a picture whole or not at all, upright as its EXIF orientation says.

    Palettes become RGB, 1 to 8 bits become 8, 9 to 16 become 16.

    Raises:
        UserError: the file cannot be read, is cut short, is no picture of the five formats, is animated or has several
            pages, is CMYK or of another unusual kind, or has more than 16 bits.
    """
    _check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    with _opened(path, io.BytesIO(content)) as image:  # Pillow 13 reads uncompressed grey TIFFs wrong by their path
        # An MPO is a telephone's JPEG with further pictures behind it.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise UserError(f"cannot read {path}: it holds {image.n_frames} pictures, not one; take it apart first.")
        bits = _bits(image)
        if image.mode not in _MODES or bits > 16:
            kind = f"has {bits} bits a channel" if bits > 16 else f"is a {image.mode} picture"
            raise UserError(f"cannot read {path}: it {kind}; convert it to grey or RGB of 8 or 16 bits first.")
        try:
            return Picture(_deep(content, image) if bits > 8 else _plain(image), image.info.get("icc_profile"))
        except Exception as error:  # Pillow raises what it comes upon, by what the file holds
            raise UserError(f"cannot read {path}: {_reason(error)}.") from error


def encode(picture: Picture, kind: str) -> bytes:
    """Returns a picture as a file's content.

    JPEG and WebP are written at quality 95, JPEG with colours at full resolution. What a format lacks is left: JPEG,
    WebP and BMP have 8 bits, JPEG no alpha (white shows through), WebP no grey (nor then a profile, which would be
    grey's), BMP no profile and no grey with alpha.

    Args:
        picture: any.
        kind: a value of FORMATS.
    """
    pixels, icc = picture.pixels, picture.icc
    if pixels.dtype == np.uint16 and kind in ("PNG", "TIFF"):
        return _png16(pixels, icc) if kind == "PNG" else _tiff16(pixels, icc)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == "JPEG" and pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:] / np.float32(255)
        pixels = (pixels[..., :-1] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    if kind == "BMP" and pixels.shape[2] in (2, 4):  # Pillow's have an alpha that it does not find again
        return cv2.imencode(".bmp", pixels[..., [2, 1, 0, 3] if pixels.shape[2] == 4 else [0, 0, 0, 1]])[1].tobytes()
    if kind == "WEBP" and pixels.shape[2] < 3:
        icc = None
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, kind, icc_profile=icc, **_SAVE[kind])
    return file.getvalue()


def too_large(kind: str, height: int, width: int) -> str | None:
    """Returns why a format cannot hold a picture of this size, or None."""
    most = _LARGEST.get(kind)
    if most is None or max(height, width) <= most:
        return None
    return f"{kind} holds no more than {most} pixels a side, and it would have {width}x{height}"


def _check_file(path: Path) -> None:
    # A pipe would be waited for until somebody writes; a folder is named when it is opened.
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"cannot read {path}: it is a pipe or a device and no file.")


def _opened(path: Path, source: Path | io.BytesIO) -> Image.Image:
    try:
        return Image.open(source, formats=sorted(set(FORMATS.values())))
    except Exception as error:  # as in read
        raise UserError(f"cannot read {path}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, damaged, of a rare kind, or no PNG, JPEG, WebP, TIFF or BMP"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; cut it first"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return f"it is damaged or cut short ({' '.join(str(error).split())})"


def _bits(image: Image.Image) -> int:
    """Bits a channel as the file says, which Pillow's mode does not: it makes 8 of 16 in silence."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    return 16 if image.format == "PNG" and "16" in _raw_mode(image) else 8


def _raw_mode(image: Image.Image) -> str:
    """What lies in the file, such as LA;16B, as long as it is not loaded."""
    return str(image.tile[0][3]) if image.tile else ""


def _plain(image: Image.Image) -> np.ndarray:
    """Pixels of at most 8 bits."""
    mode = _MODES[image.mode]
    if image.has_transparency_data and "A" not in mode:
        mode += "A"
    image.load()
    pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def _deep(content: bytes, image: Image.Image) -> np.ndarray:
    """Pixels of 16 bits, which Pillow gives in grey only."""
    grey = _raw_mode(image).startswith(("I", "L"))
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    image.load()  # finds every cut, which OpenCV does not
    if image.format == "TIFF" and image.tag_v2.get(_PLANAR) == 2:  # OpenCV takes neighbours in a plane for a pixel
        return _upright(tifffile.imread(io.BytesIO(content)).transpose(1, 2, 0), orientation)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("neither Pillow nor OpenCV reads this kind")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] >= 3:
        pixels = pixels[..., ([0, 3] if grey else [2, 1, 0, 3])[:pixels.shape[2]]]
    elif "transparency" in image.info:
        pixels = np.concatenate([pixels, 65535 * (pixels != image.info["transparency"]).astype(np.uint16)], 2)
    return _straight(pixels, image) if image.format == "TIFF" else _upright(pixels, orientation)


def _straight(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Does to a TIFF of 16 bits what OpenCV leaves: grey from white to black, colours multiplied by alpha. It turns it.
    """
    if image.tag_v2.get(_PHOTOMETRIC) == 0:
        pixels = 65535 - pixels
    if pixels.shape[2] == 4 and image.tag_v2.get(_EXTRA_SAMPLES, (0,))[0] == 1:
        colours, alpha = pixels[..., :3], np.maximum(pixels[..., 3:], 1).astype(np.float32)
        colours = np.minimum(colours * (65535 / alpha), 65535).round().astype(np.uint16)
        pixels = np.concatenate([colours, pixels[..., 3:]], 2)
    return pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors as an EXIF orientation asks, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _png16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    """A PNG of 16 bits: Pillow writes none in colour, and OpenCV none with a profile or in grey with alpha."""
    height, width, channels = pixels.shape
    lines = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, 1 + lines.shape[1]), 2, np.uint8)  # each line begins with its filter: 2, the line above
    filtered[:, 1:] = lines
    filtered[1:, 1:] -= lines[:-1]
    head = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    profile = [_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(icc))] if icc else []
    packed = zlib.compress(filtered)
    data = [_chunk(b"IDAT", packed[start:start + _MOST]) for start in range(0, len(packed), _MOST)]
    return b"".join([b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", head), *profile, *data, _chunk(b"IEND", b"")])


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    channels = pixels.shape[2]
    file = io.BytesIO()
    tifffile.imwrite(file, pixels[..., 0] if channels == 1 else pixels, metadata=None, iccprofile=icc,
                     photometric="minisblack" if channels < 3 else "rgb", compression="zlib",
                     planarconfig=None if channels == 1 else "contig",
                     extrasamples=["unassalpha"] if channels in (2, 4) else None)
    return file.getvalue()
