"""Weights on disk: BasicSR's `.pth` and `.safetensors`, read without executing anything but tensors."""

import os
import tempfile
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from alignvar_arch.errors import UserError

PREFIX = "alignvar_arch:"


def resolve(path: str) -> str:
    """Turns `alignvar_arch:weights/NAME` into the path inside the installed package; leaves other paths as they are."""
    path = str(path)
    if not path.startswith(PREFIX):
        return os.path.expanduser(path)
    found = resources.files("alignvar_arch").joinpath(path[len(PREFIX):])
    if not found.is_file():
        folder = resources.files("alignvar_arch")
        raise UserError(f"{path} does not ship with this package; look into {folder}/weights.")
    return str(found)


def read(path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    """Reads a checkpoint onto the CPU.

    Args:
        path: a `.pth` of BasicSR ({'params': …, 'params_ema': …, optional 'metadata'}) or of a bare state dict, or a
            `.safetensors` file; may start with `alignvar_arch:`.

    Returns:
        The state dicts by parameter key (a bare state dict is 'params'), and the metadata, strings by name.

    Raises:
        UserError: if the file is missing, damaged, or holds anything but tensors.
    """
    path = resolve(path)
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}; check the path.")
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here, by what the file holds
        raise UserError(f"{path} is not a checkpoint of tensors (truncated, or of another kind): "
                        f"{_first_line(error)}") from error
    metadata = content.pop("metadata", {}) if isinstance(content, dict) else {}
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state dict.")
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"params": content}
    states = {key: dict(value) for key, value in content.items()
              if isinstance(value, dict) and all(isinstance(entry, torch.Tensor) for entry in value.values())}
    if not states:
        raise UserError(f"{path} holds no state dict; its keys are {', '.join(map(str, content))}.")
    return states, {str(key): str(value) for key, value in metadata.items()}


def _read_safetensors(path: str) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {"params": {key: file.get_tensor(key) for key in file.keys()}}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file, or a truncated one: {_first_line(error)}") from error


def write_safetensors(path: str, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes one state dict with its metadata so that `path` is always whole: the old file or the new one."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(tensors, metadata or {}))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
