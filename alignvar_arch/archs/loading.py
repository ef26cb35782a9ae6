"""A network from its own file: what it is stands in the checkpoint's metadata."""

import json

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from alignvar_arch import checkpoints
from alignvar_arch.errors import UserError


def load(path: str) -> torch.nn.Module:
    """Builds the network that a checkpoint describes and gives it the checkpoint's averaged weights.

    Args:
        path: a checkpoint that `basicsr train` or `basicsr convert` wrote; may start with `alignvar_arch:`.

    Returns:
        The network on the CPU, in float32 and eval mode.

    Raises:
        UserError: the file cannot be read, does not say what it is, or its weights do not fit what it says.
    """
    states, metadata = checkpoints.read(path)
    if "network" not in metadata:
        raise UserError(f"{path} does not say which network it holds; take a file of `basicsr train` or `convert`.")
    state = states.get("params_ema", states.get("params"))
    try:
        options = json.loads(metadata["network"])
        network = ARCH_REGISTRY.get(options.pop("type"))(**options)
        network.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not hold the network that its metadata describe: {reason[:200]}.") from error
    return network.float().eval()
