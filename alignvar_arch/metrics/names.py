"""Short names of metrics for the command line, and what a report says of a metric.

A metric is any function in BasicSR's METRIC_REGISTRY. It may carry, each optional:

    label            str, how tables head its column
    better           "higher" or "lower"
    of_a_set         True: it returns what adds up to one figure of a whole data set, and has none of an image
    unavailable      function of its options: why it cannot be computed here, one sentence, or None
    version          function of its options: what its figures depend on beside the images
"""

import inspect
from importlib import metadata

from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.version import __version__

# Blocks of `val.metrics`, but for crop_border: that is the scale, which only the caller knows.
NAMES = {
    "psnr": {"type": "calculate_psnr", "test_y_channel": True, "better": "higher"},
    "ssim": {"type": "calculate_ssim", "test_y_channel": True, "better": "higher"},
    "psnr_rgb": {"type": "calculate_psnr", "test_y_channel": False, "better": "higher"},
    "ssim_rgb": {"type": "calculate_ssim", "test_y_channel": False, "better": "higher"},
    "niqe": {"type": "calculate_niqe", "better": "lower"},
    "lpips_squeeze": {"type": "calculate_lpips_squeeze", "better": "lower"},
    "lpips": {"type": "calculate_lpips", "better": "lower"},
    "dists": {"type": "calculate_dists", "better": "lower"},
    "maniqa": {"type": "calculate_maniqa", "better": "higher"},
    "maniqa_pipal": {"type": "calculate_maniqa_pipal", "better": "higher"},
    "clipiqa": {"type": "calculate_clipiqa", "better": "higher"},
    "musiq": {"type": "calculate_musiq", "better": "higher"},
    "fid": {"type": "calculate_fid", "better": "lower"},
}  # fmt: skip


def describe(options):
    """Says how a metric is to be shown and compared.

    Args:
        options: its block of an options file, with `type`.

    Returns:
        A dict: `label`, str; `space`, "Y", "RGB" or, for NIQE on grey values, "grey"; `better`, "higher" or "lower" (of
        the block, else the metric's own, else "higher", as BasicSR takes it); `of_a_set`, bool: there is a figure of
        the data set, and none of an image.

    Raises:
        UserError: no metric of this type is registered.
    """
    metric = METRIC_REGISTRY.get(options["type"])
    return {
        "label": getattr(metric, "label", options["type"].removeprefix("calculate_").upper()),
        "space": _space(metric, options),
        "better": options.get("better", getattr(metric, "better", "higher")),
        "of_a_set": getattr(metric, "of_a_set", False),
    }


def version(type_name, options):
    """Names what a figure depends on beside the images, so that two reports can be known to mean the same by it.

    Args:
        type_name: the metric's name in METRIC_REGISTRY.
        options: its block of an options file; `type` and `better` may stand in it.

    Returns:
        Distribution and version of who computes it, then weights by a hash of their content where there are any:
        "basicsr 1.4.2", "alignvar 0.1.0, weights 1a2b3c4d5e6f", "pyiqa 0.1.16, lpips, weights 1a2b3c4d5e6f".

    Raises:
        UserError: no metric of this type is registered, or its weights are missing or damaged.
    """
    metric = METRIC_REGISTRY.get(type_name)
    if hasattr(metric, "version"):
        return metric.version(**{key: value for key, value in options.items() if key not in ("type", "better")})
    package = metric.__module__.partition(".")[0]
    if package == "alignvar_arch":
        return f"alignvar {__version__}"
    distributions = metadata.packages_distributions().get(package)
    return f"{distributions[0]} {metadata.version(distributions[0])}" if distributions else package


def _space(metric, options):
    """The colour space, by the two arguments through which BasicSR's metrics choose it."""
    parameters = inspect.signature(metric).parameters
    if "test_y_channel" in parameters:
        return "Y" if options.get("test_y_channel", parameters["test_y_channel"].default) else "RGB"
    if "convert_to" in parameters:
        return "Y" if options.get("convert_to", parameters["convert_to"].default) == "y" else "grey"
    return "RGB"
