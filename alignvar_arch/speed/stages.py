"""CPU time of the stages between a file and a batch: read, decode, crop, augment, collate.

The stages are those of PairedImageDataset and LMDBPairDataset, taken apart; their batches are the data sets' own, for
the same draws. Augmenting includes the way to float32 planes.
"""

import random
import time
from contextlib import contextmanager

from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import FileClient, imfrombytes, img2tensor
from torch.utils.data import default_collate

from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.lmdb_dataset import augmented, planes
from alignvar_arch.data.store import Store, codecs
from alignvar_arch.data.transfer import to_floats
from alignvar_arch.speed.material import Material

STAGES = ("read", "decode", "crop", "augment", "collate")


class Stopwatch:
    """Sums up a thread's CPU time by stage, in `seconds`."""

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str):
        begun = time.thread_time()
        yield
        self.seconds[stage] += time.thread_time() - begun


def measure(material: Material, batch: int, batches: int) -> dict:
    """Returns milliseconds a pair by stage, for `png_folder` (BasicSR) and `store` (this project).

    Args:
        material: with its PNG folders written.
        batch: images at once.
        batches: how many.
    """
    stages = {"png_folder": PngStages(material), "store": StoreStages(material)}
    watches = {name: Stopwatch() for name in stages}
    draw = random.Random(0)
    for _ in range(batches):
        numbers = [draw.randrange(len(material.keys)) for _ in range(batch)]
        for name, one in stages.items():
            pairs = [one.pair(number, watches[name]) for number in numbers]
            with watches[name]("collate"):
                default_collate(pairs)
    return {name: {stage: 1000 * seconds / (batch * batches) for stage, seconds in watch.seconds.items()}
            for name, watch in watches.items()}  # fmt: skip


class PngStages:
    """PairedImageDataset on the PNG folders."""

    def __init__(self, material: Material):
        self._material, self._client = material, FileClient("disk")
        self._paths = list(zip(material.pngs("gt"), material.pngs("lq"), strict=True))

    def pair(self, number: int, watch: Stopwatch) -> dict:
        """Makes one item; the draws are Python's `random`."""
        paths, images = self._paths[number], []
        for path in paths:
            with watch("read"):
                content = self._client.get(path)
            with watch("decode"):
                images.append(imfrombytes(content, float32=True))
        with watch("crop"):
            images = paired_random_crop(*images, self._material.gt_size, self._material.scale, paths[0])
        with watch("augment"):
            gt, lq = img2tensor(augment(list(images)), bgr2rgb=True, float32=True)
        return {"lq": lq, "gt": gt}


class StoreStages:
    """LMDBPairDataset on the store."""

    def __init__(self, material: Material):
        self._material = material
        self._sizes = [material.lq.shape(key)[:2] for key in material.keys]

    def pair(self, number: int, watch: Stopwatch) -> dict:
        """Makes one item; the draws are Python's `random`."""
        material, (height, width) = self._material, self._sizes[number]
        key, scale, size = material.keys[number], material.scale, material.gt_size // material.scale
        with watch("crop"):
            top, left = random.randint(0, height - size), random.randint(0, width - size)
        lq = _window(material.lq, key, (top, left, size), watch)
        gt = _window(material.gt, key, (scale * top, scale * left, scale * size), watch)
        with watch("augment"):
            how = [random.random() < 0.5 for _ in range(3)]
            return {"lq": to_floats(planes(augmented(lq, *how))), "gt": to_floats(planes(augmented(gt, *how)))}


def _window(store: Store, key: str, box: tuple[int, int, int], watch: Stopwatch):
    top, left, side = box
    with watch("read"):
        transaction = lmdb_backend.open_shared(str(store.path)).begin(buffers=True)
        record = transaction.get(key.encode())
    with transaction:
        if codecs.name(record) == "raw":
            with watch("crop"):
                return codecs.crop(record, top, left, side, side)
        with watch("decode"):
            image = codecs.decode(record)
    with watch("crop"):
        return image[top : top + side, left : left + side].copy()
