"""Which images a batch is made of, and how each is augmented: a function of seed and iteration, of nothing else.

Whatever the number of workers, wherever a run was interrupted and on however many processes a batch is spread, the n-th
iteration sees the same crops of the same images. Epochs are shuffled anew, and so are their crops.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from alignvar_arch.errors import UserError
from alignvar_arch.training import rng

_TRIES = 8  # images in a row that may be unreadable


class Place(NamedTuple):
    """One sample: its epoch, its place in that epoch over all processes, and the image's index in the data set."""

    epoch: int
    place: int
    index: int


@dataclass(frozen=True)
class Order:
    """The order of a training's samples. Iterations count from 1, epochs from 0.

    Attributes:
        images: of the data set.
        batch: images of an iteration, in one process.
        seed: the run's.
        enlarge: how often an epoch goes through the images (`dataset_enlarge_ratio`).
        rank: of this process.
        world: number of processes.
    """

    images: int
    batch: int
    seed: int
    enlarge: float = 1
    rank: int = 0
    world: int = 1

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch; the images that fill no whole batch are left out, others in each epoch."""
        return math.ceil(self.images * self.enlarge) // (self.batch * self.world)

    def epoch(self, iteration: int) -> int:
        """The epoch that an iteration belongs to; 0 for iteration 0, which is before the first."""
        return max(iteration - 1, 0) // self.per_epoch

    def batches(self, done: int, total: int) -> Iterator[list[Place]]:
        """Yields this process's samples of the iterations `done + 1` to `total`."""
        shuffled, known = None, -1
        for step in range(done, total):
            epoch, number = divmod(step, self.per_epoch)
            if epoch != known:
                shuffled, known = self._shuffled(epoch), epoch
            first = number * self.batch * self.world + self.rank
            places = range(first, first + self.batch * self.world, self.world)
            yield [Place(epoch, place, int(shuffled[place]) % self.images) for place in places]

    def _shuffled(self, epoch: int) -> torch.Tensor:
        seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        return torch.randperm(math.ceil(self.images * self.enlarge), generator=torch.Generator().manual_seed(seed))


class Seeded(Dataset):
    """A data set whose samples are asked for by `Place`, and which passes over images that cannot be read.

    A sample's random draws (crop, flips, degradation) start from (seed, epoch, place), in a loader's worker and in the
    training process alike; there the process's own random states are put back. An unreadable image's place is taken by
    the next image, so that which one it is depends on nothing else either.

    Args:
        dataset: whose `dataset[index]` draws from python's, numpy's or torch's global generator; it may have
            `__getitems__`, which is then called for one image at a time.
        seed: the run's.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, places: list[Place]) -> list[tuple[dict, list[str]]]:
        """Returns the samples, each with a sentence for every image that was passed over."""
        if get_worker_info() is not None:
            return [self._sample(place) for place in places]
        with rng.kept():
            return [self._sample(place) for place in places]

    def _sample(self, place: Place) -> tuple[dict, list[str]]:
        problems: list[str] = []
        for index in range(place.index, place.index + _TRIES):
            rng.seed(self.seed, place.epoch, place.place)
            try:
                sample = self._read(index % len(self.dataset))
            except UserError as error:
                problems.append(str(error))
            else:
                # For what the model draws for this sample, on its device.
                return {**sample, "place": torch.tensor([place.epoch, place.place])}, problems
        raise UserError(f"{_TRIES} images in a row cannot be used, the first: {problems[0]}")

    def _read(self, index: int) -> dict:
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__([index])[0]
        return self.dataset[index]
