"""A network from a file: ours, VAR's or VARSR's. What it is stands in the metadata, or in the names and shapes."""

import warnings
from collections.abc import Sequence

import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.checkpoints.describe import describe
from alignvar_arch.checkpoints.fit import fit
from alignvar_arch.checkpoints.maps import is_public
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.compat.networks import misfit
from alignvar_arch.errors import UserError

_NETWORKS = {"AlignVAR": AlignVAR, "AlignVARTokenizer": AlignVARTokenizer}


def load(path: str, *, scales: Sequence[int] | None = None, phi_on_last: bool | None = None,
         dtype: torch.dtype | None = torch.float32) -> AlignVAR | AlignVARTokenizer:
    """Returns the network that a file holds, with its weights (the averaged ones where there are two).

    The weights stay mapped to the file where their dtype is the wanted one: memory is used as they are read, and the
    file must not be overwritten in place meanwhile. VAR's transformer gives part of an AlignVAR; the rest starts fresh
    from torch's global generator, and a warning names it.

    Args:
        path: a `.safetensors` of `basicsr convert`, a `.pth` of `basicsr train`, or a public checkpoint of VAR or
            VARSR; may start with `alignvar_arch:`.
        scales: sides of the token maps, where the file does not say them; None is what it was published with.
        phi_on_last: the tokenizer's setting, where the file does not say it; None goes by whose tokenizer it is.
        dtype: of the parameters; float16 files are widened to compute as exactly as their weights allow. None keeps
            the file's.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        UserError: the file cannot be read, holds another network or half of one, or contradicts the arguments.
    """
    found = recognise(path)
    if found.network is None:
        raise UserError(f"{path} does not hold the network of AlignVAR, VAR or VARSR, nor a tokenizer of theirs.")
    options = dict(describe(found, scales, phi_on_last).network)
    kind = options.pop("type")
    try:
        # VAR's rest must be drawn, so that this one is built with memory.
        with torch.device("cpu" if found.kind == "var" else "meta"):
            network = _NETWORKS[kind](**options)
    except (KeyError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path} does not hold the network that it describes: {text}.") from error
    _assign(network, found, dtype)
    return network.eval()


def _assign(network: torch.nn.Module, found: Found, dtype: torch.dtype | None) -> None:
    own = network.state_dict()
    if is_public(found.kind):
        state = fit(found, own, strict=True).taken
        state |= {name: torch.zeros(own[name].shape) for name in own
                  if name.endswith("ema_vocab_hit_SV") and name not in state}
    else:
        state = found.state
        problem = misfit(own, state, type(network).__name__, found.path, strict=True)
        if problem:
            raise UserError(f"{found.path} does not hold the network that its metadata describe: {problem}")
    state = {name: value.to(dtype) if dtype and value.is_floating_point() else value for name, value in state.items()}
    fresh = sorted({name.split(".")[0] for name in own if name not in state})
    if fresh:
        warnings.warn(f"{found.path} holds {found.label}: {', '.join(fresh)} of this AlignVAR start fresh, untrained.",
                      stacklevel=3)
        network.to(dtype or next(iter(state.values())).dtype)
    network.load_state_dict(state, strict=not fresh, assign=True)
    if isinstance(network, AlignVAR):
        network.make_tables()
