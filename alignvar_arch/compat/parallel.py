"""Several processes: DDP on CPUs too, and a validation that all of them share.

`BaseModel.model_to_device` gives DDP the current CUDA device whatever the device; `SRModel.dist_validation` lets rank 0
validate alone, while the others wait.
"""

import itertools
import os

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import imwrite, tensor2img
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm


def install() -> None:
    """Goes when BasicSR shares validations, and asks for the device."""
    BaseModel.model_to_device = _model_to_device
    SRModel.nondist_validation = _nondist_validation
    SRModel.dist_validation = _dist_validation


def _model_to_device(self, net):
    net = net.to(self.device)
    if self.opt["dist"]:
        devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=devices,
                                       find_unused_parameters=self.opt.get("find_unused_parameters", False))
    return DataParallel(net) if self.opt["num_gpu"] > 1 else net


def is_shared(model: SRModel) -> bool:
    """Whether every process comes to the model's validation: BasicSR's own, or one that says so."""
    return getattr(model, "shares_validation", False) or type(model).nondist_validation in _KNOWN


def _dist_validation(self, dataloader, current_iter, tb_logger, save_img):
    if is_shared(self) or self.opt["rank"] == 0:
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)


def _nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
    """BasicSR's validation of this process's share of the images; figures are the means over all images.

    The process that has made a picture saves it.
    """
    metrics, name = self.opt["val"].get("metrics"), dataloader.dataset.opt["name"]
    shared = self.opt["dist"] and is_shared(self)
    rank, world = (self.opt["rank"], self.opt["world_size"]) if shared else (0, 1)
    if metrics is not None:
        self._initialize_best_metric_results(name)
    sums, count = dict.fromkeys(metrics or {}, 0), 0
    images = tqdm(_share(dataloader, rank, world), total=len(range(rank, len(dataloader), world)), unit="image",
                  disable=rank != 0 or not self.opt["val"].get("pbar", False))
    for data in images:
        image = os.path.splitext(os.path.basename(data["lq_path"][0]))[0]
        self.feed_data(data)
        self.test()
        visuals = self.get_current_visuals()
        compared = {"img": tensor2img([visuals["result"]])}
        if "gt" in visuals:
            compared["img2"] = tensor2img([visuals["gt"]])
            del self.gt
        del self.lq, self.output
        torch.cuda.empty_cache()
        if save_img:
            imwrite(compared["img"], _picture_path(self.opt, name, image, current_iter))
        for metric, settings in (metrics or {}).items():
            sums[metric] += calculate_metric(compared, settings)
        count += 1
        images.set_description(f"Test {image}")
    if metrics is None:
        return
    if shared:
        shares = [None] * world
        torch.distributed.all_gather_object(shares, (sums, count))  # summed in one order, so to one figure everywhere
        sums, count = {metric: sum(own[metric] for own, _ in shares) for metric in sums}, sum(n for _, n in shares)
    self.metric_results = {metric: value / count for metric, value in sums.items()}
    for metric, value in self.metric_results.items():
        self._update_best_metric_result(name, metric, value, current_iter)
    self._log_validation_metric_values(current_iter, name, tb_logger)


def _picture_path(opt: dict, data_name: str, image: str, iteration: int) -> str:
    folder = opt["path"]["visualization"]
    if opt["is_train"]:
        return os.path.join(folder, image, f"{image}_{iteration}.png")
    return os.path.join(folder, data_name, f"{image}_{opt['val']['suffix'] or opt['name']}.png")


def _share(loader, rank: int, world: int):
    """Every `world`-th image; a loader of torch's does not even read the others."""
    if world == 1:
        return loader
    if isinstance(loader, DataLoader):
        return DataLoader(loader.dataset, sampler=range(rank, len(loader.dataset), world), generator=torch.Generator(),
                          pin_memory=loader.pin_memory)
    return itertools.islice(loader, rank, None, world)


# Those that do no more than call SRModel's; what another one does is not known, and stays with rank 0.
_KNOWN = (_nondist_validation, RealESRNetModel.nondist_validation, RealESRGANModel.nondist_validation)
