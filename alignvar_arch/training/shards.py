"""An optimiser's state in shares: each process writes its own, and any number of processes reads them back.

It lies in a folder `ITER.shards` beside `ITER.state`, in the format of torch.distributed.checkpoint, by the names of
the parameters: `blocks.0.attn.proj.weight|exp_avg`.
"""

import os
import pickle
import shutil
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.tensor import DTensor

from alignvar_arch.errors import UserError
from alignvar_arch.training.distributed import gathered

_METADATA = ".metadata"
_BETWEEN = "|"  # in no parameter's name
# All that torch's own metadata of tensors are made of; they are a pickle, which could else call anything.
_HARMLESS = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath"},
}


def are_needed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's parameters are sharded, so that no process has its whole state."""
    return any(isinstance(entry, DTensor) for group in optimizer.param_groups for entry in group["params"])


def beside(state: Path) -> Path:
    """The folder that belongs to a training state."""
    return state.with_suffix(".shards")


def write(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes the state of an optimiser of a sharded network, whole or not at all; every process must call it.

    Raises:
        UserError: it cannot be written.
    """
    names = _names(net)
    content = {f"{names[parameter]}{_BETWEEN}{key}": value for parameter, entry in optimizer.state.items()
               for key, value in entry.items() if torch.is_tensor(value)}
    part = folder.with_name(f".{folder.name}.part")
    problem = None
    try:
        if torch.distributed.get_rank() == 0:  # nobody writes before all have told what
            remove(part)
        dcp.save(content, storage_writer=FileSystemWriter(part, single_file_per_rank=True, sync_files=True))
        if torch.distributed.get_rank() == 0:
            check(part)
            remove(folder)  # of a checkpoint that was not finished
            os.replace(part, folder)
    except (dcp.CheckpointException, OSError, RuntimeError, UserError) as error:
        problem = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    problem = next(filter(None, gathered(problem)), None)
    if problem:
        raise UserError(f"cannot write {folder} ({problem}); mend that, older checkpoints are all there.")


def check(folder: Path) -> None:
    """Refuses a folder that is not whole.

    Raises:
        UserError: it says which file is missing or truncated.
    """
    ends: dict[str, int] = {}
    for entry in _Reader(folder).read_metadata().storage_data.values():
        ends[entry.relative_path] = max(ends.get(entry.relative_path, 0), entry.offset + entry.length)
    for name, end in ends.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < end:
            raise UserError(f"{file} is missing or truncated.")


def read(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts the state back, whatever number of processes has written it; every process must call it.

    Args:
        folder: as written.
        net: sharded or not.
        optimizer: of its parameters; its groups are loaded already.

    Raises:
        UserError: the folder is not whole or of another network.
    """
    by_name = {name: parameter for parameter, name in _names(net).items()}
    reader, content = _Reader(folder), {}
    for label, stored in reader.read_metadata().state_dict_metadata.items():
        name, _, key = label.partition(_BETWEEN)
        if name not in by_name:
            raise UserError(f"{folder} is of another network: it has {name}.")
        whole = stored.size == by_name[name].shape
        empty = torch.zeros_like(by_name[name].detach()) if whole else \
            torch.zeros(stored.size, device=_counts_on(optimizer, by_name[name]))
        content[label] = empty.to(stored.properties.dtype)
    try:
        dcp.load(content, storage_reader=reader)
    except (dcp.CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder} cannot be read; remove the state beside it to resume from the one before.") \
            from error
    for label, value in content.items():
        name, _, key = label.partition(_BETWEEN)
        optimizer.state[by_name[name]][key] = value


def remove(folder: Path) -> None:
    """Removes a folder, where there is one."""
    if folder.is_dir():
        shutil.rmtree(folder)


def _counts_on(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.device:
    """Where an optimiser wants the number of its steps, as its own `load_state_dict` puts it."""
    group = next(group for group in optimizer.param_groups if any(entry is parameter for entry in group["params"]))
    return parameter.device if group.get("fused") or group.get("capturable") else torch.device("cpu")


def _names(net: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in net.named_parameters()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _HARMLESS.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """torch's reader, which lets nothing in the metadata be executed."""

    def read_metadata(self, *_arguments, **_named):
        file = Path(self.path, _METADATA)
        try:
            with file.open("rb") as content:
                metadata = _Unpickler(content).load()
        except Exception as error:  # pickle raises whatever a damaged file leads it to
            raise UserError(f"{file} is missing, truncated or no metadata of shards.") from error
        # as torch's own does
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = dcp.metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata
