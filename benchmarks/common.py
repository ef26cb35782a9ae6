"""What benchmarks share: networks, test pictures under one protocol, the machine in words, mistakes in a sentence."""
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import alignvar_arch  # noqa: F401 - before basicsr, which does not import without it

# isort: split
import cv2
import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.loading import load
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.cli.main import sentence
from alignvar_arch.errors import Terminated, UserError
from alignvar_arch.inference.pairing import tokenizer_of, why_unguided
from alignvar_arch.machine import device_name

TOKENIZER = "alignvar_arch:weights/tokenizer_x4_small.safetensors"
MODEL = "alignvar_arch:weights/alignvar_x4_small.safetensors"
SCALE, BATCH = 4, 8


def run(main: Callable[[], int | None]) -> None:
    """Run a script; where it fails, exit with its code: a mistake of the user's is one sentence and 2."""
    try:
        code = main()
    except UserError as error:
        print(sentence(error), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        code = 130
    except Terminated:
        print("terminated.", file=sys.stderr)
        code = 143
    if code:
        sys.exit(code)


def networks(model: str, tokenizer: str, guided: bool = False) -> tuple[AlignVAR, AlignVARTokenizer]:
    """Load a transformer and its tokenizer.

    Raises:
        UserError: they do not belong together, or the transformer is to be ``guided`` and cannot be.
    """
    found = recognise(model, network="AlignVAR")
    if guided and (problem := why_unguided(found)):
        raise UserError(f"--guidance: {problem}; give the flag without values.")
    pair = load(model), load(tokenizer_of(found, tokenizer))
    for path, network, kind in zip((model, tokenizer), pair, (AlignVAR, AlignVARTokenizer), strict=True):
        if not isinstance(network, kind):
            raise UserError(f"{path} gives {type(network).__name__} first, and no {kind.__name__}; take that one out "
                            "by `basicsr convert --param_key`.")
    return pair


def pairs(folder: str, lr_folder: str | None = None) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, GT (1, 3, H, W) and LR (1, 3, H/4, W/4) in [0, 1], RGB; GT is cropped to multiples of 4.

    LR has GT's name in ``lr_folder``, or is MATLAB's bicubic, rounded to 8 bits.
    """
    for wanted in filter(None, (folder, lr_folder)):
        if not Path(wanted).is_dir():
            raise UserError(f"there is no folder {wanted}; name one of pictures.")
    for path in sorted(Path(folder).iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        height, width = (side - side % SCALE for side in image.shape[:2])
        gt = _tensor(image[:height, :width])
        if lr_folder is None:
            lr = (imresize(gt, 1 / SCALE).clamp(0, 1) * 255).round() / 255
        else:
            lr = _tensor(cv2.imread(str(Path(lr_folder, path.name)), cv2.IMREAD_COLOR))
        yield path.stem, gt[None], lr[None]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255)


def machine() -> str:
    """Return device, cores and versions in words."""
    return f"{device_name()}, Python {platform.python_version()}, torch {torch.__version__}"
