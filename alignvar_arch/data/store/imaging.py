"""Reading source images whole or not at all, where sub-images lie in them, and LR made from GT."""

from pathlib import Path

import cv2
import numpy as np

_STRIP = 16  # output rows at a time: keeps the temporaries in the cache, and small for any image


def read_image(path: Path) -> np.ndarray:
    """Reads an image as it is, JPEGs upright.

    Returns:
        (H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16.

    Raises:
        ValueError: the file cannot be read, is cut short, is no image, or has neither 8 nor 16 bits; the text says
            which.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror) from error
    jpeg = content.startswith(b"\xff\xd8")
    # OpenCV 4 fills in grey where a JPEG ends too soon
    if jpeg and content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0:
        raise ValueError("the file is cut short")
    try:
        # a JPEG has no alpha, and only these flags make OpenCV heed its orientation
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if jpeg
                             else cv2.IMREAD_UNCHANGED)  # fmt: skip
    except cv2.error as error:
        raise ValueError("the file is empty or damaged") from error
    if image is None:
        raise ValueError("the file is damaged or is no image")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"it has {image.dtype} pixels and not 8 or 16 bits")
    return image


def starts(length: int, size: int, step: int, thresh: int = 0) -> list[int]:
    """Where sub-images begin along one side, as BasicSR's extract_subimages has them.

    Args:
        length: of the side, at least `size`.
        size: of a sub-image.
        step: between two.
        thresh: the last one reaches the edge if more than this many pixels would be left over.
    """
    found = list(range(0, length - size + 1, step))
    last = length - size
    return [*found, last] if last - found[-1] > thresh else found


def bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrinks with MATLAB's bicubic kernel and rounds, as BasicSR's imresize does, in a third of the time.

    Args:
        image: (H, W[, C]), uint8 or uint16; both sides multiples of scale.
        scale: whole factor, at least 1.

    Returns:
        (H / scale, W / scale[, C]) of the same type.
    """
    flat = image.reshape(len(image), -1)
    rows = _shrink(flat, scale).reshape(-1, *image.shape[1:])
    columns = np.ascontiguousarray(rows.swapaxes(0, 1))
    both = _shrink(columns.reshape(len(columns), -1), scale).reshape(-1, *columns.shape[1:]).swapaxes(0, 1)
    return np.ascontiguousarray(both.clip(0, np.iinfo(image.dtype).max).round().astype(image.dtype))


def _shrink(lines: np.ndarray, scale: int) -> np.ndarray:
    """Weighted means of neighbouring lines: (N, M) -> float32 (N / scale, M)."""
    offsets, weights = _kernel(scale)
    count, result = len(lines) // scale, np.empty((len(lines) // scale, lines.shape[1]), np.float32)
    for first in range(0, count, _STRIP):
        out = result[first : first + _STRIP]
        wanted = np.arange(first * scale + offsets[0], (first + len(out) - 1) * scale + offsets[-1] + 1)
        strip = lines[_mirrored(wanted, len(lines))].astype(np.float32)
        out[:] = 0
        for start, weight in enumerate(weights):
            out += weight * strip[start : start + (len(out) - 1) * scale + 1 : scale]
    return result


def _kernel(scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The lines that output line 0 is made of, and their weights; the same for every line, as scale is whole."""
    centre = (scale - 1) / 2
    offsets = np.arange(np.floor(centre - 2 * scale) + 1, np.ceil(centre + 2 * scale)).astype(int)
    x = np.abs(offsets - centre) / scale
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    return offsets, (weights / weights.sum()).astype(np.float32)


def _mirrored(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions outside 0 … length - 1 folded back, the edge's line repeated."""
    folded = positions % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)
