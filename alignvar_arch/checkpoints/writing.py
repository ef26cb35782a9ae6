"""Writing weights: a file is always whole, the old one or the new one."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from alignvar_arch.checkpoints.reading import reason
from alignvar_arch.errors import UserError

# What safetensors calls them; https://github.com/huggingface/safetensors, "Format".
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
          torch.bool: "BOOL"}
_ALIGNED = 64  # bytes


def write_safetensors(path: str, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None,
                      half: bool = False) -> None:
    """Writes one state dict with its metadata, tensor by tensor: never more than one is copied in memory.

    Equal input gives identical bytes. The library's own writer shuffles metadata, halves nothing on the way, and up to
    0.7 peaks at twice the file's size (measured; 0.8 no longer does).

    Args:
        path: the file.
        state: tensors on any device, mapped ones too.
        metadata: strings by name.
        half: store floating-point tensors as float16.

    Raises:
        UserError: it cannot be written; what was there before is still there.
    """
    dtypes = {name: torch.float16 if half and value.is_floating_point() else value.dtype
              for name, value in state.items()}
    for name, dtype in dtypes.items():
        if dtype not in _NAMES:
            raise UserError(f"cannot write {path}: {name} is {dtype}, which safetensors does not store here.")
    header, end = {"__metadata__": dict(sorted((metadata or {}).items()))} if metadata else {}, 0
    sizes = {name: value.numel() * dtypes[name].itemsize for name, value in state.items()}
    # Mapped tensors are computed with where they lie, and kernels are fast, and round alike, at multiples of 64 bytes.
    # The format knows no holes: those that keep the next one there go first; of the rest wide types, so that each lies
    # at a multiple of its own width.
    order = sorted(state, key=lambda name: (sizes[name] % _ALIGNED > 0, -dtypes[name].itemsize, name))
    for name in order:
        start, end = end, end + sizes[name]
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(state[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = state[name].detach().to("cpu", dtypes[name]).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())

    _write_whole(path, write)


def write_pth(path: str, content: dict) -> None:
    """Writes what `torch.save` can write.

    Raises:
        UserError: if it cannot be written; what was there before is still there.
    """
    _write_whole(path, lambda file: torch.save(content, file))


def _write_whole(path: str, write: Callable[[BinaryIO], object]) -> None:
    target, temporary = Path(path), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into RuntimeError
        raise UserError(f"cannot write {path} ({reason(error)}); mend that, nothing was changed there.") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Has the new name on disk too, before anyone removes an older file because of it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(handle)
