"""The data sets of a run, built before it makes a folder, so that what is wrong with them costs nobody a former run."""

import copy
import inspect
import math

from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from torch.utils.data import Dataset

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.errors import UserError

# What a constructor or the first image raises when an option's value is not what the code expects.
_WRONG_VALUE = (AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)


class Builder:
    """BasicSR's `build_dataset` over data sets that exist already.

    Args:
        opt: complete and valid options.

    Raises:
        UserError: a data set cannot be built, has no images, gives no first one, or is smaller than a batch.
    """

    def __init__(self, opt: dict):
        self.datasets = {}
        try:
            for phase, block in opt["datasets"].items():
                self.datasets[block["phase"], block["name"]] = dataset = _build(opt, block, f"datasets.{phase}")
                if phase == "train":
                    images = math.ceil(len(dataset) * block.get("dataset_enlarge_ratio", 1))
                    shares = opt["world_size"] if opt["dist"] else max(opt["num_gpu"], 1)
                    _check_batch(block["batch_size_per_gpu"] * shares, images)
        finally:
            lmdb_backend.close_all()

    def __call__(self, dataset_opt: dict) -> Dataset:
        """Returns the data set of a block of the options, and logs what BasicSR logs."""
        dataset = self.datasets[dataset_opt["phase"], dataset_opt["name"]]
        get_root_logger().info(f"Dataset [{type(dataset).__name__}] - {dataset_opt['name']} is built.")
        return dataset


def _build(opt: dict, block: dict, path: str) -> Dataset:
    try:
        dataset = DATASET_REGISTRY.get(block["type"])(copy.deepcopy(block))
        if len(dataset) == 0:
            raise UserError("the data set has no images; check where they are looked for.")
        try:
            sample = dataset[0]
        except UserError:
            if block["phase"] != "test":  # `test` passes over what it cannot read
                raise
            return dataset
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except _WRONG_VALUE as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {block['type']} fails with these options: {reason}.") from error
    _check_gt(opt, block, path, sample)
    return dataset


def _check_gt(opt: dict, block: dict, path: str, sample: dict) -> None:
    """Refuses data without GT where BasicSR's models or a metric compare with it."""
    if "gt" in sample:
        return
    if block["phase"] == "train" and MODEL_REGISTRY.get(opt["model_type"]).__module__.startswith("basicsr."):
        raise UserError(f"{path}.type: {block['type']} gives no GT, and {opt['model_type']} learns from it.")
    for name, metric in ((opt.get("val") or {}).get("metrics") or {}).items():
        if block["phase"] != "train" and "img2" in inspect.signature(METRIC_REGISTRY.get(metric["type"])).parameters:
            raise UserError(f"{path}.type: {block['type']} gives no GT, and the metric {name} compares with it.")


def _check_batch(batch_size: int, images: int) -> None:
    """Raises UserError where an epoch's `images` do not fill one batch, that of all processes or devices."""
    if images < batch_size:
        raise UserError(f"datasets.train: a batch of {batch_size} is larger than the {images} images of an epoch; "
                        "lower batch_size_per_gpu or raise dataset_enlarge_ratio.")
