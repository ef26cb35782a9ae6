"""Token maps of fixed crops out of a cache, in place of the tokenizer's encoder."""
import torch
from basicsr.utils.registry import DATASET_REGISTRY

from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.compat.registries import find
from alignvar_arch.data.store import Store
from alignvar_arch.data.store.tokens import TokenCache
from alignvar_arch.errors import UserError

_DATA = {"LMDBPairDataset": "lmdb", "PairedImageDataset": "disk"}  # and the backend where the options name none


class CachedTokens:
    """The token maps of a training's crops, by their keys.

    Args:
        opt: complete options; ``train.token_cache`` names what `basicsr lmdb tokens` made.
        tokenizer: the one that is trained with.

    Raises:
        UserError: the cache was made by another tokenizer, or of other crops.
    """

    def __init__(self, opt: dict, tokenizer: AlignVARTokenizer):
        block = opt["datasets"]["train"]
        try:
            self.cache = TokenCache(opt["train"]["token_cache"])
            self.cache.check(tokenizer, Store(block["dataroot_gt"]),
                             Store(block["dataroot_lq"]) if tokenizer.target == "residual" else None)
        except UserError as error:
            raise UserError(f"train.token_cache: {error}") from error

    def __call__(self, keys: list[str], device: torch.device) -> list[torch.Tensor]:
        """Return the token maps r_1 … r_K, int64 (B, s, s), of the crops of these keys."""
        maps = zip(*map(self.cache.maps, keys), strict=True)
        return [torch.stack(crops).to(device, non_blocking=True) for crops in maps]


def check_options(opt: dict) -> None:
    """Raise UserError where a batch's tokens would not be those of a cache."""
    path, train, block = opt["train"].get("token_cache"), opt["train"], opt["datasets"]["train"]
    if path is None:
        return
    if not isinstance(path, str):
        raise UserError(f"train.token_cache: is {path!r}, but must be an LMDB that `basicsr lmdb tokens` made.")
    name = find(DATASET_REGISTRY, block["type"]).__name__
    if name not in _DATA or (block.get("io_backend") or {}).get("type", _DATA[name]) != "lmdb":
        raise UserError(f"train.token_cache: it goes by the keys of an LMDB, so datasets.train must be an "
                        f"LMDBPairDataset, or a PairedImageDataset with io_backend lmdb, and is {block['type']}.")
    for key in ("use_hflip", "use_rot"):
        if block.get(key) is not False:
            raise UserError(f"datasets.train.{key}: must be false with train.token_cache, which knows each crop one "
                            "way round only.")
    if train.get("bad_quality_rate"):
        raise UserError(f"train.bad_quality_rate: is {train['bad_quality_rate']}, but must be 0 with "
                        "train.token_cache, which knows no tokens of degraded pictures.")
    target = (train.get("hcc_opt") or {}).get("target", "cumulative")
    if target != "cumulative":
        raise UserError(f"train.hcc_opt.target: is {target}, which needs the encoder's latent, and train.token_cache "
                        "keeps tokens only; use cumulative.")
    try:
        TokenCache(path)
    except UserError as error:
        raise UserError(f"train.token_cache: {error}") from error
