"""Perceptual metrics of pyiqa under pinned names; one wrapper for all of them.

What each name stands for is pinned here, because one name has meant several things in print:

    calculate_lpips          LPIPS 0.1 with AlexNet
    calculate_dists          DISTS
    calculate_maniqa         MANIQA trained on KonIQ-10k, pyiqa's default
    calculate_maniqa_pipal   MANIQA trained on PIPAL, which SeeSR and OSEDiff say they use; its figures are higher
    calculate_clipiqa        CLIP-IQA, RN50
    calculate_musiq          MUSIQ trained on KonIQ-10k

Which MANIQA the table of AlignVAR's paper has is not known; its figures, .34 to .47, are nearer to KonIQ's. (SeeSR's
authors, asked why somebody found .5050 where their paper has .6198: the paper's is PIPAL's.)
"""

from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.errors import UserError
from alignvar_arch.metrics import pyiqa_networks
from alignvar_arch.metrics.images import check_pair, to_tensor
from alignvar_arch.metrics.pyiqa_networks import exact


def _register(name, network, label, better, smallest, compares):
    """Registers `name`.

    Args:
        name: the metric's name in METRIC_REGISTRY.
        network: the Network whose output is the figure.
        label: how tables head its column.
        better: "higher" or "lower".
        smallest: pixels; the network's pooling leaves nothing of a shorter side.
        compares: whether it compares with a ground truth.
    """

    def figure(images, crop_border, input_order, device):
        images = [to_tensor(image, crop_border, input_order).to(device) for image in images]
        height, width = images[0].shape[-2:]
        if min(height, width) < smallest:
            raise UserError(f"{label} needs images of at least {smallest}x{smallest} pixels, not {width}x{height}: "
                            "use larger images or take it out of the options.")
        with exact():
            return network.build(device)(*images).item()

    if compares:
        def metric(img, img2, crop_border, input_order="HWC", device="cpu", **kwargs):
            check_pair(img, img2, label)
            return figure((img, img2), crop_border, input_order, device)
    else:
        def metric(img, crop_border, input_order="HWC", device="cpu", **kwargs):
            return figure((img,), crop_border, input_order, device)

    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = f"""{label} of pyiqa; {better} is better.

    Args:
        img: BGR or grey image, range [0, 255], (H, W, 3), (H, W), or (3, H, W) with input_order CHW.{'''
        img2: the image to compare with, of the same shape.''' if compares else ""}
        crop_border: pixels to leave out at each edge.
        input_order: HWC or CHW.
        device: cpu, so that every machine reports the same figure, or cuda, which is faster.
        kwargs: not used; BasicSR passes every metric everything it has.

    Returns:
        The figure, a float.

    Raises:
        UserError: pyiqa or its weights are missing or damaged, or the image is too small.
    """
    metric.label = label
    metric.better = better
    metric.unavailable = lambda *, device="cpu", **kwargs: network.unavailable(device)
    metric.version = lambda **kwargs: network.version()
    return METRIC_REGISTRY.register()(metric)


calculate_lpips = _register("calculate_lpips", pyiqa_networks.LPIPS, "LPIPS (AlexNet)", "lower", 31, True)
calculate_dists = _register("calculate_dists", pyiqa_networks.DISTS, "DISTS", "lower", 1, True)
calculate_maniqa = _register("calculate_maniqa", pyiqa_networks.MANIQA, "MANIQA (KonIQ)", "higher", 1, False)
calculate_maniqa_pipal = _register(
    "calculate_maniqa_pipal", pyiqa_networks.MANIQA_PIPAL, "MANIQA (PIPAL)", "higher", 1, False)
calculate_clipiqa = _register("calculate_clipiqa", pyiqa_networks.CLIPIQA, "CLIP-IQA", "higher", 31, False)
calculate_musiq = _register("calculate_musiq", pyiqa_networks.MUSIQ, "MUSIQ", "higher", 1, False)
