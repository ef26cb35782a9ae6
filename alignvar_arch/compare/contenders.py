"""What stands in a comparison: bicubic, a network from an options file, or a folder of pictures made elsewhere."""

from pathlib import Path

import numpy as np
import torch
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils import set_random_seed, tensor2img
from basicsr.utils.matlab_functions import imresize

from alignvar_arch.compare.material import Item
from alignvar_arch.data.evaluation_dataset import read_image
from alignvar_arch.errors import UserError
from alignvar_arch.hashing import sha256

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_NOT_SETTINGS = ("metrics", "save_img", "suffix", "pbar")


class Failed(Exception):
    """A contender has no picture of one image; its text is the reason, one sentence."""


class Bicubic:
    """MATLAB's bicubic kernel, the figure that every method must beat.

    Args:
        scale: GT's size over LR's.
    """

    def __init__(self, scale: int):
        self.name, self.scale = "bicubic", scale

    def make(self, item: Item) -> np.ndarray:
        """Returns the picture (H, W, 3), BGR uint8."""
        enlarged = imresize(item.read("LR").astype(np.float32) / 255, self.scale)
        return (enlarged.clip(0, 1) * 255).round().astype(np.uint8)

    def entry(self) -> dict:
        """Returns what the report says of this contender."""
        return _entry(self.name, "bicubic")


class Network:
    """A BasicSR model from a valid options file; `build` before `make`, `drop` afterwards.

    Args:
        opt: complete options for a test.
        file: the options file's path.
        name: the name in the report.
        seed: every picture starts from it, so that a picture does not depend on those before.
    """

    def __init__(self, opt: dict, file: str, name: str, seed: int):
        self.opt, self.file, self.name, self.seed = opt, file, name, seed
        self.model: BaseModel | None = None

    def build(self) -> None:
        """Makes the network and loads its weights."""
        self.model = build_model(self.opt)

    def drop(self) -> None:
        """Frees the network."""
        self.model = None

    def run(self, lr: torch.Tensor, gt: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what the model makes of LR (B, 3, h, w) in [0, 1], on the CPU; `gt` only for models that read it."""
        set_random_seed(self.seed)
        self.model.feed_data({"lq": lr} if gt is None else {"lq": lr, "gt": gt})
        self.model.test()
        return self.model.get_current_visuals()["result"]

    def make(self, item: Item) -> np.ndarray:
        """Returns the picture (H, W, 3), BGR uint8.

        Raises:
            Failed: whatever the model raises, and pictures of a wrong size or with values that are no numbers.
        """
        gt = to_tensor(item.read("GT")) if getattr(self.model, "reads_gt", False) else None
        try:
            made = self.run(to_tensor(item.read("LR")), gt)
            finite = bool(torch.isfinite(made).all())
            picture = tensor2img(made)
        except Exception as error:  # a model is anybody's code; the other images and models go on
            raise Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        if not finite:
            raise Failed("the picture holds values that are not numbers.")
        return _of_size(picture, item, 1)

    def entry(self) -> dict:
        """Returns what the report says of this contender; the network must be built."""
        networks = {key: value for key, value in vars(self.model).items() if isinstance(value, torch.nn.Module)}
        settings = {key: value for key, value in self.opt["val"].items() if key not in _NOT_SETTINGS}
        if getattr(self.model, "reads_gt", False):
            settings["reads GT"] = True
        return _entry(
            self.name, "options", source=self.file, model_type=self.opt["model_type"], settings=settings,
            weights={key.removeprefix("pretrain_network_"): {"path": Path(path).name, "sha256": sha256(path)[:16]}
                     for key, path in self.opt["path"].items() if key.startswith("pretrain_network_") and path},
            parameters={key: sum(map(torch.numel, value.parameters())) for key, value in networks.items()},
        )  # fmt: skip


class Results:
    """Pictures that another program has made: FOLDER/SET/IMAGE.png, or FOLDER/IMAGE.png for every set.

    A file belongs to the image whose name is its stem, or the longest name that its stem begins with and goes on from
    with "_": BasicSR writes IMAGE_RUN.png.

    Args:
        folder: of the pictures.
        name: the name in the report.
        items: the images of the comparison.
        scale: GT's size over LR's.

    Raises:
        UserError: the folder is missing or holds no picture of any image, or two of one.
    """

    def __init__(self, folder: str, name: str, items: list[Item], scale: int):
        self.folder, self.name, self.scale = Path(folder), name, scale
        if not self.folder.is_dir():
            raise UserError(f"--images {name}: there is no folder {folder}.")
        self.files: dict[tuple[str, str], Path] = {}
        for set_name in dict.fromkeys(item.set_name for item in items):
            self._match(set_name, {item.image for item in items if item.set_name == set_name})
        if not self.files:
            raise UserError(f"--images {name}: {folder} holds no picture named like an image of the comparison, "
                            f"such as {items[0].image}.png or {items[0].set_name}/{items[0].image}.png.")

    def _match(self, set_name: str, images: set[str]) -> None:
        folder = self.folder / set_name if (self.folder / set_name).is_dir() else self.folder
        for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES):
            parts = file.stem.split("_")
            stems = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
            image = next((stem for stem in stems if stem in images), None)
            if image is None:
                continue
            other = self.files.setdefault((set_name, image), file)
            if other != file:
                raise UserError(f"--images {self.name}: {other.name} and {file.name} in {folder} are both pictures of "
                                f"{image}; leave one.")

    def make(self, item: Item) -> np.ndarray:
        """Returns the picture (H, W, 3), BGR uint8.

        Raises:
            Failed: there is none, it cannot be read or has another size than GT.
        """
        file = self.files.get((item.set_name, item.image))
        if file is None:
            raise Failed(f"{self.folder} has no picture of it.")
        try:
            picture = read_image(str(file))
        except UserError as error:
            raise Failed(str(error)) from error
        return _of_size(picture, item, self.scale)

    def entry(self) -> dict:
        """Returns what the report says of this contender."""
        return _entry(self.name, "images", source=str(self.folder))


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """BGR uint8 (H, W, 3) to RGB (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))).float().div(255)[None]


def _of_size(picture: np.ndarray, item: Item, slack: int) -> np.ndarray:
    """Returns a picture of GT's size; up to `slack` − 1 rows and columns more are cut, as they were from GT."""
    height, width = item.size
    if not (0 <= picture.shape[0] - height < slack and 0 <= picture.shape[1] - width < slack):
        raise Failed(f"the picture is {picture.shape[1]}x{picture.shape[0]}, but GT is {width}x{height}.")
    return picture[:height, :width]


def _entry(name: str, kind: str, **more) -> dict:
    return {"name": name, "kind": kind, "source": None, "model_type": None, "weights": {}, "settings": {},
            "parameters": None, "cost": None, "failed": [], **more}


