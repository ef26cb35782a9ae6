"""Images: the file is named when it cannot be read or its pair has another size; JPEG quality is a whole number.

`imfrombytes` fails with `'NoneType' object has no attribute 'astype'` on a damaged file, and nobody learns which one;
`imwrite` says no more than that it failed; `paired_random_crop` raises its sentence in two halves; OpenCV 5 refuses the
float quality of `degradations.py:745`.
"""

import functools

import cv2
import numpy as np
from basicsr.data import degradations, transforms
from basicsr.utils import img_util
from basicsr.utils.file_client import FileClient

from alignvar_arch.compat import patch
from alignvar_arch.errors import UserError


def install() -> None:
    """Goes when BasicSR's readers name the file and `add_jpg_compression` rounds its quality."""
    FileClient.get = _remembering_get(FileClient.get)
    patch.everywhere(img_util.imfrombytes, _naming_imfrombytes(img_util.imfrombytes))
    patch.everywhere(img_util.imwrite, _naming_imwrite(img_util.imwrite))
    patch.everywhere(transforms.paired_random_crop, _checking_crop(transforms.paired_random_crop))
    patch.everywhere(degradations.add_jpg_compression, _whole_quality(degradations.add_jpg_compression))


class _NamedBytes(bytes):
    """The bytes of a file or LMDB value that still know where they came from."""

    source = ""


def _remembering_get(get):
    @functools.wraps(get)
    def wrapper(self, filepath, client_key="default"):
        try:
            content = get(self, filepath, client_key)
        except OSError as error:
            raise UserError(f"cannot read {filepath}: {error.strerror or error}.") from error
        if not isinstance(content, bytes):
            return content
        named = _NamedBytes(content)
        named.source = f"{filepath} of {self.client.paths[client_key]}" if self.backend == "lmdb" else str(filepath)
        return named

    return wrapper


def _naming_imfrombytes(read):
    @functools.wraps(read)
    def wrapper(content, flag="color", float32=False):
        source = getattr(content, "source", "an image")
        try:
            image = read(content, flag=flag, float32=False)
        except cv2.error as error:
            raise UserError(f"cannot read the image {source}: the file is empty or damaged.") from error
        if image is None:
            raise UserError(f"cannot read the image {source}: the file is damaged or is not an image.")
        return image.astype(np.float32) / 255.0 if float32 else image

    return wrapper


def _naming_imwrite(write):
    @functools.wraps(write)
    def wrapper(img, file_path, params=None, auto_mkdir=True):
        try:
            write(img, file_path, params, auto_mkdir)
        except OSError as error:
            raise UserError(f"cannot write the image {file_path}: {error.strerror or error}; the disk may be full, the "
                            "folder not writable or the name too long.") from error

    return wrapper


def _checking_crop(crop):
    @functools.wraps(crop)
    def wrapper(img_gts, img_lqs, gt_patch_size, scale, gt_path=None):
        gt = img_gts[0] if isinstance(img_gts, list) else img_gts
        lq = img_lqs[0] if isinstance(img_lqs, list) else img_lqs
        (gt_h, gt_w), (lq_h, lq_w) = ((image.shape[-2:] if not isinstance(image, np.ndarray) else image.shape[:2])
                                      for image in (gt, lq))
        if (gt_h, gt_w) != (lq_h * scale, lq_w * scale):
            raise UserError(f"{gt_path}: GT is {gt_w}x{gt_h} and LR {lq_w}x{lq_h}, but scale {scale} "
                            f"asks for a GT of {lq_w * scale}x{lq_h * scale}.")
        if min(lq_h, lq_w) < gt_patch_size // scale:
            raise UserError(f"{gt_path}: the image is {gt_w}x{gt_h}, smaller than gt_size {gt_patch_size}; "
                            "remove it or lower gt_size.")
        return crop(img_gts, img_lqs, gt_patch_size, scale, gt_path)

    return wrapper


def _whole_quality(compress):
    @functools.wraps(compress)
    def wrapper(img, quality=90):
        return compress(img, int(quality))

    return wrapper
