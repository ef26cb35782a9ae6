"""FSDP: each process keeps its share of parameters, gradients, optimiser and average, and whole ones are made of them.

A sharded parameter is a DTensor, cut along its first dimension. Buffers are whole everywhere.
"""
import copy

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def mesh(device: torch.device) -> DeviceMesh:
    """Return all processes in a row."""
    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def agree(net: nn.Module) -> nn.Module:
    """Give every process the first one's parameters and buffers: each has drawn its own."""
    for value in (*net.parameters(), *net.buffers()):
        torch.distributed.broadcast(value.detach(), 0)
    return net


def shard(net: nn.Module, parts: list[nn.Module], device: torch.device) -> None:
    """Let each process keep a share of ``net``, in place; ``parts`` are gathered, computed and let go one by one."""
    row = mesh(device)
    for part in parts:
        fully_shard(part, mesh=row)
    fully_shard(net, mesh=row)


def spread(net: nn.Module, device: torch.device, keep: torch.device) -> None:
    """Let each process keep a share of a network that is never run, an average, on the device ``keep``."""
    row = mesh(device)
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            share = distribute_tensor(parameter.detach().to(device), row, [Shard(0)]).to(keep)
            module.register_parameter(name, nn.Parameter(share, requires_grad=False))


def outline(net: nn.Module) -> nn.Module:
    """Return a copy of a network that is not sharded yet, without the memory of its parameters."""
    empty = {id(entry): nn.Parameter(entry.detach().to("meta"), requires_grad=False) for entry in net.parameters()}
    return copy.deepcopy(net, empty).eval()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what of a tensor this process keeps."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a whole tensor; every process must call it."""
    return tensor.to(device).full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Return a whole ``tensor``, the same on every process, sharded where ``model`` is, and as it is."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)


def filled(empty: nn.Module, net: nn.Module, device: torch.device) -> nn.Module:
    """Return a whole network: a copy of ``outline``'s with the sharded ``net``'s state; every process must call it."""
    state = {name: whole(value.detach(), device) for name, value in net.state_dict().items()}
    made = copy.deepcopy(empty)
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False)


class Unsharded:
    """While it is entered, the network's own parameters, not those of its parts, are whole on every process.

    What is written into ``parameter`` in between, the same on every process, is kept.

    Args:
        net: sharded as a whole, or not sharded at all.
        module, name: of the parameter that is written to.
    """

    def __init__(self, net: nn.Module, module: nn.Module, name: str):
        self.net, self.module, self.name = net, module, name

    def __enter__(self) -> None:
        if isinstance(self.net, FSDPModule):
            self.net.unshard()

    def __exit__(self, *_error) -> None:
        if isinstance(self.net, FSDPModule):
            written = getattr(self.module, self.name).detach().clone()
            self.net.reshard()
            kept = getattr(self.module, self.name)
            local(kept.detach()).copy_(local(like(written, kept)))
