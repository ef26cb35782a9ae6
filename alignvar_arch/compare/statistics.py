"""From figures of images to a table: means, bootstrap intervals, a paired test against the first model."""

import numpy as np
from scipy import stats

RESAMPLES = 9999
SEED = 0


def summarise(report: dict, of_sets: dict[tuple[str, str, str], float]) -> dict:
    """Returns the report's `summary`.

    Args:
        report: with protocol, models and images.
        of_sets: figures of a whole set, by set, metric and model.

    Returns:
        By set: `common`, the images that every model did, and by metric and model `mean`, `n` (images in it), `low` and
        `high` (95 % bootstrap interval of the mean), `difference` (mean paired difference to the first model) and `p`
        (two-sided permutation test of it). Means are over common images where no model's figure is undefined, so that
        every row speaks of the same pictures; a model whose every figure is undefined does not count. None stands for
        what is not defined, such as all figures of a model without a picture of the set.
    """
    models = [model["name"] for model in report["models"]]
    summary = {}
    for entry in report["protocol"]["sets"]:
        common = common_images(report, entry["name"])
        taking = [model for model in models if common and model in common[0]["pictures"]]
        summary[entry["name"]] = row = {"common": len(common)}
        for metric in report["protocol"]["metrics"]:
            key = metric["key"]
            row[key] = {model: _single(None, 0) for model in models}
            if metric["of_a_set"]:
                row[key] |= {model: _single(of_sets.get((entry["name"], key, model)), len(common)) for model in taking}
                continue
            values = np.array([[image["values"][model][key] for model in taking] for image in common], dtype=float)
            values = values.reshape(len(common), len(taking))
            # A perfect copy has no finite PSNR anywhere, and must not leave the others without a mean.
            defined = [index for index in range(len(taking)) if np.isfinite(values[:, index]).any()]
            values = values[np.isfinite(values[:, defined]).all(axis=1)]
            first = values[:, 0] if 0 in defined and taking[0] == models[0] else None
            row[key] |= {taking[index]: _column(values[:, index], first) for index in defined}
    return summary


def common_images(report: dict, set_name: str) -> list[dict]:
    """Returns the images of a set that every model has a picture of; one that has none at all does not count."""
    images = [image for image in report["images"] if image["set"] == set_name]
    names = {name for image in images for name in image["pictures"]}
    return [image for image in images if names <= set(image["pictures"])]


def _single(value: float | None, count: int) -> dict:
    return {"mean": value, "n": count, "low": None, "high": None, "difference": None, "p": None}


def _column(values: np.ndarray, first: np.ndarray | None) -> dict:
    """One model's figures beside the first model's, paired by image; None where the first has none of the set."""
    if len(values) == 0:
        return _single(None, 0)
    low, high = _interval(values)
    found = {**_single(float(values.mean()), len(values)), "low": low, "high": high}
    return found if first is None else {**found, "difference": float((values - first).mean()), "p": _p(values - first)}


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap over images; with one image there is nothing to resample."""
    if len(values) < 2:
        return None, None
    found = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=1000,
                            rng=SEED)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _p(difference: np.ndarray) -> float:
    """Two-sided: how often random signs make a mean difference as large. Exact up to 13 images; 1 for a single one."""
    if len(difference) < 2:
        return 1.0
    test = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, batch=1000,
                                  rng=SEED)
    return float(test.pvalue)
