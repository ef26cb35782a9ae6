"""How an image becomes a record's bytes and back. What a record is, is read from its own first bytes.

    codec  a record is                                    lossless
    raw    binary PNM: a short header and the pixels      yes
    auto   raw, or LZW TIFF where the image is flat       yes (the default)
    png    PNG, level 1                                   yes
    webp   lossless WebP                                  yes
    jpeg   JPEG, quality 95, 4:4:4                        no

Every one of them is read by `cv2.imdecode`, hence by BasicSR as it is. What a codec cannot keep as it is (alpha in raw,
16 bits or grey in WebP, …) becomes a PNG.

Measured on 320x320 sub-images of photographs (OpenCV 5, one thread; size against PNG level 1): PNG decodes in 2.3 ms;
raw in 0.2 ms and a crop of it in 0.02 ms, at 2.25 times the size; LZW TIFF in 1.2 ms at 1.1 times the size; WebP in 3.3
ms at 0.65 times the size, but takes 120 ms to encode. `auto` stores the flattest quarter as LZW: those are the ones
that raw inflates most and that LZW reads fastest. On the average a crop takes 0.25 ms, at 1.8 times the size.

Images are (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16, as cv2.IMREAD_UNCHANGED gives them.
"""

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image

from alignvar_arch.errors import UserError

CODECS = ("auto", "raw", "png", "webp", "jpeg")
LOSSY = ("jpeg",)
DEFAULT = "auto"

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # BasicSR's own level: a higher one takes longer and decodes no faster
_LZW = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
_WEBP = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100 means lossless
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_PNM = re.compile(rb"P([56])\n(\d+) (\d+)\n(255|65535)\n")
_PNM_LONGEST = 32  # bytes of its header
_FLAT = 2.75  # bits of entropy a byte; the size on the photographs above is 1.6 times PNG's at 3.25, 2.2 at 0
_ROWS = 8  # of which two are looked at to tell whether an image is flat
_WEBP_SIDE, _JPEG_SIDE = 16383, 65500


def check_codec(codec: str) -> None:
    """Raises UserError unless `codec` is one of CODECS."""
    if codec not in CODECS:
        raise UserError(f"--codec: there is no codec {codec!r}; known are {', '.join(CODECS)}.")


def encode(image: np.ndarray, codec: str = DEFAULT) -> bytes:
    """Encodes an image.

    Args:
        image: uint8 or uint16, (H, W), (H, W, 3) BGR or (H, W, 4) BGRA.
        codec: one of CODECS.

    Returns:
        The record; `decode` gives the same image again, pixel for pixel, unless the codec is in LOSSY.
    """
    deep, grey, alpha = image.dtype == np.uint16, image.ndim == 2, image.ndim == 3 and image.shape[2] == 4
    side = max(image.shape[:2])
    if codec in ("auto", "raw") and not alpha:
        if codec == "auto" and _is_flat(image):
            packed = _imencode(".tiff", image, _LZW)
            if len(packed) < image.nbytes:
                return packed
        return _to_pnm(image)
    if codec == "webp" and not (deep or grey or alpha) and side <= _WEBP_SIDE:
        return _imencode(".webp", image, _WEBP)
    if codec == "jpeg" and not (deep or alpha) and side <= _JPEG_SIDE:
        return _imencode(".jpg", image, _JPEG)
    return _imencode(".png", image, _PNG)


def decode(record) -> np.ndarray:
    """Decodes a whole record.

    Args:
        record: bytes or a memoryview.

    Returns:
        The image, writable and its own memory.

    Raises:
        ValueError: the record is damaged or is no image; the text says which.
    """
    if (pnm := _pnm(record)) is not None:
        return _bgr(pnm)
    try:
        image = cv2.imdecode(np.frombuffer(record, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError("it is empty or damaged") from error
    if image is None:
        raise ValueError("it is damaged or is no image")
    return image


def crop(record, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Decodes a window of a record; of a raw one only the window's bytes are touched.

    Args:
        record: bytes or a memoryview.
        top: first row of the window.
        left: first column.
        height: rows.
        width: columns.

    Returns:
        The window (height, width[, C]), contiguous, writable and its own memory.

    Raises:
        ValueError: the record is damaged, or the window does not lie inside the image.
    """
    pnm = _pnm(record)
    image = decode(record) if pnm is None else pnm
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > image.shape[0] or left + width > image.shape[1]:
        raise ValueError(f"a window of {width}x{height} at column {left}, row {top} does not lie inside its "
                         f"{image.shape[1]}x{image.shape[0]}")  # fmt: skip
    window = image[top : top + height, left : left + width]
    return window.copy() if pnm is None else _bgr(window)


def shape(record) -> tuple[int, ...]:
    """Reads (H, W) or (H, W, C) from a record's header.

    Raises:
        ValueError: it is no image.
    """
    if (pnm := _pnm(record)) is not None:
        return pnm.shape
    head = bytes(record[:33])
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 33:
        width, height, _, colour = struct.unpack_from(">IIBB", head, 16)
        if colour in (0, 2, 6):  # the others are palettes and grey with alpha, where OpenCV decides
            return (height, width) if colour == 0 else (height, width, 3 if colour == 2 else 4)
        return decode(record).shape
    try:
        with Image.open(io.BytesIO(record)) as image:
            bands = {"L": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "RGBA": 4}.get(image.mode)
            width, height = image.size
    except (OSError, ValueError, SyntaxError):
        bands = None
    if bands is None:
        return decode(record).shape
    return (height, width) if bands == 1 else (height, width, bands)


def name(record) -> str:
    """Names what a record is: raw, png, tiff, webp, jpeg or other."""
    head = bytes(record[:12])
    starts = {b"P5\n": "raw", b"P6\n": "raw", b"\x89PNG": "png", b"II*\0": "tiff", b"MM\0*": "tiff",
              b"\xff\xd8\xff": "jpeg"}  # fmt: skip
    for start, found in starts.items():
        if head.startswith(start):
            return found
    return "webp" if head[:4] == b"RIFF" and head[8:] == b"WEBP" else "other"


def _imencode(suffix: str, image: np.ndarray, parameters: list[int]) -> bytes:
    return cv2.imencode(suffix, image, parameters)[1].tobytes()


def _to_pnm(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    deep = image.dtype == np.uint16
    header = f"P{5 if image.ndim == 2 else 6}\n{width} {height}\n{65535 if deep else 255}\n".encode()
    # PNM's 16 bits are big-endian
    return b"".join((header, np.ascontiguousarray(pixels.byteswap() if deep else pixels).data))


def _pnm(record) -> np.ndarray | None:
    """A raw record's pixels as they lie in it: (H, W) or (H, W, 3) RGB, without a copy; None if it is not raw.

    Raises:
        ValueError: it is raw, but not whole.
    """
    if bytes(record[:2]) not in (b"P5", b"P6"):
        return None
    header = _PNM.match(bytes(record[:_PNM_LONGEST]))
    if header is None:
        raise ValueError("its header is damaged")
    kind, width, height, largest = map(int, header.groups())
    size = (height, width) if kind == 5 else (height, width, 3)
    dtype = np.dtype("u1" if largest == 255 else ">u2")
    needed = header.end() + int(np.prod(size, dtype=np.int64)) * dtype.itemsize
    if len(record) != needed or not width or not height:
        raise ValueError(f"it has {len(record)} bytes and should have {needed}")
    return np.frombuffer(record, dtype, offset=header.end()).reshape(size)


def _bgr(pixels: np.ndarray) -> np.ndarray:
    """A copy of PNM's pixels as OpenCV has them."""
    native = pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)
    # a tenth of the time that copying [..., ::-1] takes
    return native.copy() if native.ndim == 2 else cv2.cvtColor(native, cv2.COLOR_RGB2BGR)


def _is_flat(image: np.ndarray) -> bool:
    """Whether a compressor would shrink the image much, guessed in a twentieth of the time that compressing takes.

    The guess is the entropy of what a predictor from the left, above and above-left leaves, in every eighth row.
    """
    rows = len(image) // _ROWS * _ROWS
    if not rows or image.shape[1] < 2:
        return False
    pairs = image[:rows].reshape(-1, _ROWS, *image.shape[1:])[:, :2]
    below, above = pairs[:, 1], pairs[:, 0]
    rest = below[:, 1:] - above[:, 1:] - below[:, :-1] + above[:, :-1]  # wraps around, as it does in PNG and TIFF
    counts = np.bincount(rest.reshape(-1).view(np.uint8), minlength=256)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) < _FLAT
