"""Token maps in a store: a cache of what a tokenizer makes of fixed crops, by the crops' keys.

A record is a grey 16-bit image of one row, the tokens of all scales one after another (ScaleSchedule); where a code
does not fit into 16 bits, the low 16 bits lie in a second row. So the store is one like any other, to be verified and
looked into by the same commands. index.json says which tokenizer made it, and of which GT store.
"""

from collections.abc import Sequence

import numpy as np
import torch

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.data.store import index
from alignvar_arch.data.store.reader import Store
from alignvar_arch.errors import UserError
from alignvar_arch.hashing import sha256

ROLE = "tokens"
_ONE_ROW = 1 << 16


class TokenCache:
    """Token maps by key; may be pickled and forked with, as a Store.

    Args:
        path: the folder that `basicsr lmdb tokens` made.

    Attributes:
        store: its Store.
        keys: of all crops, sorted.
        schedule: the tokenizer's ScaleSchedule.
        codebook_size: V; every token is below it.

    Raises:
        UserError: it is no LMDB, is damaged, or holds no token maps.
    """

    def __init__(self, path):
        self.store = Store(path)
        if (self.store.index or {}).get("role") != ROLE:
            raise UserError(f"{path} holds no token maps; make them with `basicsr lmdb tokens`.")
        self.keys = self.store.keys
        self._tokenizer = self.store.index["tokenizer"]
        self.schedule = ScaleSchedule(tuple(self._tokenizer["scales"]))
        self.codebook_size = self._tokenizer["codebook_size"]

    def __len__(self) -> int:
        return len(self.keys)

    def maps(self, key: str) -> list[torch.Tensor]:
        """Returns the token maps r_1 … r_K of a crop, int64 (s, s) each.

        Raises:
            UserError: there is no such key, or its record is damaged.
        """
        tokens = unpack(self.store.image(key))
        if len(tokens) != self.schedule.tokens or tokens.max() >= self.codebook_size:
            raise UserError(f"{self.store.path}: {key!r} holds no tokens of this tokenizer; see `basicsr lmdb verify "
                            f"{self.store.path}`.")  # fmt: skip
        return [tokens[span].view(side, side)
                for span, side in zip(self.schedule.spans, self.schedule.sides, strict=True)]

    def check(self, tokenizer: AlignVARTokenizer, gt: Store | None = None, lq: Store | None = None) -> None:
        """Checks that the maps are this tokenizer's.

        Args:
            tokenizer: the one that is to be trained with.
            gt: the store of the crops; it is compared too where it is given.
            lq: that of their LR, which a residual target depends on; likewise.

        Raises:
            UserError: they were made by another tokenizer, or of another store.
        """
        made_by = describe(tokenizer)
        for name, value in made_by.items():
            if self._tokenizer[name] != value:
                raise UserError(f"{self.store.path} was made by another tokenizer, {self._tokenizer['file']}: its "
                                f"{name} is {self._tokenizer[name]} and not {value}; make it again with this one.")
        for number, (name, store) in enumerate((("gt_digest", gt), ("lq_digest", lq))):
            if store is not None and self.store.index.get(name) != identity(store):
                raise UserError(f"{self.store.path} was made of {self.store.index['made_from'][number]}, which is not "
                                f"what {store.path} holds now; make it again.")  # fmt: skip


def describe(tokenizer: AlignVARTokenizer) -> dict:
    """What of a tokenizer decides about its token maps, JSON-able: codebook's hash and size, scales and target."""
    return {"codebook": codebook_hash(tokenizer.quantize.embedding.weight), "target": tokenizer.target,
            "codebook_size": tokenizer.quantize.codebook_size, "scales": list(tokenizer.schedule.sides)}  # fmt: skip


def identity(store: Store) -> str:
    """Names a store's content: the digest of its index, which holds every record's, or of its data."""
    if store.index is not None:
        return store.index["sha256_of"][index.RECORDS]
    return sha256(store.path / index.DATA)


def pack(tokens: torch.Tensor, codebook_size: int) -> np.ndarray:
    """Tokens (L,) as an image: uint16 (1, L), or (2, L) where the codebook has more than 2^16 codes."""
    values = tokens.cpu().numpy()
    rows: Sequence[np.ndarray] = [values] if codebook_size <= _ONE_ROW else [values >> 16, values & (_ONE_ROW - 1)]
    return np.stack(rows).astype(np.uint16)


def unpack(image: np.ndarray) -> torch.Tensor:
    """What `pack` was given: int64 (L,)."""
    rows = torch.from_numpy(image.astype(np.int64))
    return rows[0] if len(rows) == 1 else (rows[0] << 16) + rows[1]
