"""The batches of a training from a given iteration on, and the loaders of its validation."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from alignvar_arch.errors import UserError
from alignvar_arch.training.sampling import Order, Seeded
from alignvar_arch.training.signals import shield_worker

_SHARE = 0.01  # of the images that may be unreadable, where the options do not say how many


class Feed:
    """The training's batches.

    Options read from `datasets.train`: `batch_size_per_gpu`, `num_worker_per_gpu`, `dataset_enlarge_ratio`,
    `pin_memory`, `prefetch_mode` (`cuda` copies the next batch to the GPU while the current one is worked on; `cpu`
    reads `num_prefetch_queue` batches ahead, in one process at least) and `bad_images` (how many unreadable ones a run
    passes over before it stops, default 1 % of the data set). `persistent_workers` is accepted and changes nothing: one
    loader, and its workers with it, lasts the whole run.

    Args:
        opt: complete options.
        dataset: of `datasets.train`.

    Attributes:
        order: which samples an iteration has.
        workers: processes that read.
    """

    def __init__(self, opt: dict, dataset: Dataset):
        block = opt["datasets"]["train"]
        devices = 1 if opt["dist"] else max(opt["num_gpu"], 1)  # DataParallel spreads one batch over its devices
        self.order = Order(len(dataset), block["batch_size_per_gpu"] * devices, opt["manual_seed"],
                           block.get("dataset_enlarge_ratio", 1), opt["rank"], opt["world_size"])
        self.dataset = dataset
        self.device = torch.device("cuda" if opt["num_gpu"] else "cpu")
        self.mode = block.get("prefetch_mode")
        self.workers = block["num_worker_per_gpu"] * devices
        ahead = 2
        if self.mode == "cpu":
            self.workers, ahead = max(self.workers, 1), block.get("num_prefetch_queue", 1)
        self._loader = {"dataset": Seeded(dataset, opt["manual_seed"]), "num_workers": self.workers,
                        "collate_fn": _collate,
                        "worker_init_fn": shield_worker, "pin_memory": block.get("pin_memory", False),
                        "prefetch_factor": ahead if self.workers else None}
        self.bad_images: set[str] = set()
        self.most_bad = block.get("bad_images", int(_SHARE * len(dataset)))

    def batches(self, done: int, total: int) -> Iterator[dict]:
        """Yields the batches of the iterations `done + 1` to `total`.

        Raises:
            UserError: too many images cannot be read, or a worker was killed.
        """
        # A generator of its own: the workers' seeds must not come out of the training's.
        loader = DataLoader(batch_sampler=self.order.batches(done, total), generator=torch.Generator(), **self._loader)
        batches = self._readable(loader)
        return _uploaded(batches, self.device) if self.mode == "cuda" and self.device.type == "cuda" else batches

    def _readable(self, loader: DataLoader) -> Iterator[dict]:
        with _no_alarm():
            batches = iter(loader)
        while True:
            try:
                batch, problems = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not _reader_has_died(batches, error):
                    raise
                raise UserError("a process that reads images was killed, most often for want of memory; lower "
                                "datasets.train.num_worker_per_gpu or batch_size_per_gpu.") from error
            for problem in problems:
                self._count(problem)
            yield batch

    def _count(self, problem: str) -> None:
        if problem in self.bad_images:
            return
        self.bad_images.add(problem)
        if len(self.bad_images) > self.most_bad:
            raise UserError(f"{problem} Unusable images so far: {len(self.bad_images)}, and datasets.train.bad_images "
                            f"allows {self.most_bad}.")
        logging.getLogger("basicsr").warning(f"Another image takes the place of an unusable one (number "
                                             f"{len(self.bad_images)} of {self.most_bad} allowed): {problem}")


def _reader_has_died(batches: Iterator, error: Exception) -> bool:
    """Whether an error comes of it; a batch that the dead one has sent fails in many ways when it is fetched."""
    workers = getattr(batches, "_workers", ())
    if not workers or "Caught " in str(error):  # raised by the data set
        return False
    return ("DataLoader worker" in str(error) or isinstance(error, (ConnectionError, EOFError))
            or not all(entry.is_alive() for entry in workers))


@contextlib.contextmanager
def _no_alarm() -> Iterator[None]:
    """Lets a loader start without its handler of SIGCHLD, which raises wherever the run is, in a half-written file too.

    A worker that has died is noticed all the same, when its batch is asked for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def validation_loader(dataset: Dataset, block: dict) -> DataLoader:
    """Returns a loader of one image after another, which draws nothing from the training's generators."""
    return DataLoader(dataset, batch_size=1, generator=torch.Generator(), pin_memory=block.get("pin_memory", False))


def _collate(samples: list[tuple[dict, list[str]]]) -> tuple[dict, list[str]]:
    return default_collate([sample for sample, _ in samples]), [text for _, found in samples for text in found]


def _uploaded(batches: Iterator[dict], device: torch.device) -> Iterator[dict]:
    """Copies each batch to the GPU on a stream of its own while the one before is worked on."""
    stream, ready = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            # The places are read on the CPU; from the GPU that would wait for the step before.
            moved = {key: value.to(device, non_blocking=True) if torch.is_tensor(value) and key != "place" else value
                     for key, value in batch.items()}
        if ready is not None:
            yield _arrived(*ready)
        ready = moved, stream.record_event()
    if ready is not None:
        yield _arrived(*ready)


def _arrived(batch: dict, copied: torch.cuda.Event) -> dict:
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    for value in batch.values():
        if torch.is_tensor(value) and value.is_cuda:
            value.record_stream(current)  # its memory belongs to the stream that copied it
    return batch
