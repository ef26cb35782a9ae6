"""A store of fixed crops -> a cache of their token maps (tokens.py), resumable, under its name only when whole."""

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from alignvar_arch import checkpoints
from alignvar_arch.archs.loading import load
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.data.store import codecs, index, writer
from alignvar_arch.data.store.reader import Store
from alignvar_arch.data.store.tokens import ROLE, describe, identity, pack
from alignvar_arch.data.store.writer import StoreWriter
from alignvar_arch.errors import UserError
from alignvar_arch.hashing import sha256
from alignvar_arch.version import __version__

_COMMIT = 64  # crops: what a kill costs at most, about


def create(gt: Store, lq: Store | None, tokenizer_path: str, output: Path, *, batch: int = 8, device: str = "cpu",
           command: str = "", bar: bool = True) -> int:  # fmt: skip
    """Makes the cache.

    Args:
        gt: the crops, squares of the tokenizer's picture side.
        lq: their LR, for a tokenizer with a residual target; None takes the store that the index names.
        tokenizer_path: the tokenizer's own file.
        output: the cache, ending in .lmdb.
        batch: crops at once.
        device: where the tokenizer runs.
        command: what index.json says about the command.
        bar: whether to show a bar on a terminal.

    Returns:
        How many crops an interrupted run had already done.

    Raises:
        UserError: the file holds no tokenizer, the crops do not fit it, LR is missing or of no use, or the disk is
            full. What an interrupted run leaves behind is resumed by the same call.
    """
    tokenizer = load(tokenizer_path)
    if not isinstance(tokenizer, AlignVARTokenizer):
        raise UserError(f"--tokenizer: {tokenizer_path} holds a {type(tokenizer).__name__} and no tokenizer.")
    if lq is None and tokenizer.target == "residual":
        lq = _beside(gt)
    file = checkpoints.resolve(tokenizer_path)
    made_by = {"file": Path(file).name, "sha256": sha256(file), **describe(tokenizer)}
    _check_crops(gt, lq, tokenizer, checkpoints.read(tokenizer_path)[1].get("scale"))
    plan = {"format": index.FORMAT, "store": output.name, "tokenizer": made_by, "gt": identity(gt),
            "lq": identity(lq) if lq else None}  # fmt: skip
    if writer.is_finished(output) and writer.read_plan(output) == plan:  # only the name is missing
        writer.check_free(output)
        writer.publish(output)
        return len(gt)
    writer.check_free(output)
    fields = {"version": __version__, "command": command, "role": ROLE, "codec": "raw", "lossless": True,
              "made_from": [str(store.path) for store in (gt, lq) if store], "images": len(gt), "failed": [],
              "tokenizer": made_by, "gt_digest": plan["gt"], "lq_digest": plan["lq"]}  # fmt: skip
    with closing(StoreWriter(output, plan)) as store:
        store.rollback(store.count)
        first = store.count
        _fill(store, gt, lq, tokenizer.to(device), batch, bar)
        store.finish(fields)
        store.publish()
    return first


@torch.no_grad()
def _fill(store: StoreWriter, gt: Store, lq: Store | None, tokenizer: AlignVARTokenizer, batch: int, bar: bool):
    size, waiting = tokenizer.quantize.codebook_size, 0
    with tqdm(total=len(gt), initial=store.count, unit="crop", desc=store.path.name,
              disable=None if bar else True) as progress:  # fmt: skip
        for start in range(store.count, len(gt), batch):
            keys = gt.keys[start : start + batch]
            pictures = [_read(part, keys).to(tokenizer.post_quant_conv.weight.device) for part in (gt, lq) if part]
            maps = tokenizer.encode(tokenizer.to_target(*pictures)).maps
            for key, tokens in zip(keys, tokenizer.quantize.flatten(maps), strict=True):
                image = pack(tokens, size)
                content = codecs.encode(image, "raw")
                store.put(index.Record(key, image.shape, str(image.dtype), len(content), index.digest(content),
                                       str(gt.path)), content)  # fmt: skip
            progress.update(len(keys))
            waiting += len(keys)
            if waiting >= _COMMIT:
                store.commit()
                waiting = 0


def _read(store: Store, keys: list[str]) -> torch.Tensor:
    """Pictures as LMDBPairDataset gives them: RGB float32 (B, 3, H, W) in [0, 1]."""
    pictures = []
    for image in map(store.image, keys):
        planes = np.stack([image] * 3 if image.ndim == 2 else cv2.split(image)[2::-1])
        pictures.append(np.divide(planes, np.iinfo(planes.dtype).max, dtype=np.float32))
    return torch.from_numpy(np.stack(pictures))


def _beside(gt: Store) -> Store:
    name = (gt.index or {}).get("lq")
    if not name or not (gt.path.parent / name).is_dir():
        raise UserError(f"{gt.path} has no LR store beside it, and this tokenizer encodes what GT has beyond its LR; "
                        "name one by --pair.")  # fmt: skip
    return Store(gt.path.parent / name)


def _check_crops(gt: Store, lq: Store | None, tokenizer: AlignVARTokenizer, scale: str | None) -> None:
    side = tokenizer.image_side
    _check_sides(gt, side, "make crops of that size with `basicsr lmdb create --crop`")
    if lq is None:
        return
    if tokenizer.target == "image":
        raise UserError(f"--pair: this tokenizer encodes GT alone; leave {lq.path} out.")
    if lq.keys != gt.keys:
        alone = sorted(set(gt.keys) ^ set(lq.keys))
        raise UserError(f"{gt.path} and {lq.path} are no pair: {len(alone)} keys have no partner, for example "
                        f"{alone[0]}.")  # fmt: skip
    factor = int(scale) if scale else max(1, side // lq.shape(lq.keys[0])[0])
    _check_sides(lq, side // factor, "name the LR of the tokenizer's scale by --pair")


def _check_sides(store: Store, side: int, advice: str) -> None:
    for key in store.keys:
        height, width = store.shape(key)[:2]
        if (height, width) != (side, side):
            raise UserError(f"{store.path}: {key!r} is {width}x{height}, but this tokenizer takes {side}x{side} here; "
                            f"{advice}.")  # fmt: skip
