"""A network from a file: ours, VAR's or VARSR's. What it is stands in the metadata, or in the names and shapes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.checkpoints.describe import Description, describe
from alignvar_arch.checkpoints.fit import fit
from alignvar_arch.checkpoints.maps import HITS, Split, is_public
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

    Warns:
        UserWarning: for each setting that neither the file nor the arguments tell, and for what starts fresh.
    """
    outline = describe_network(recognise(path), scales, phi_on_last)
    for sentence in outline.description.assumed:
        warnings.warn(f"{path}: assumed {sentence}.", stacklevel=2)
    found, network = outline.found, outline.network
    if found.kind == "var":  # the rest must be drawn, so that this one is built with memory
        network = _build(found, outline.description)
    own, state = network.state_dict(), dict(outline.parts.taken)
    if HITS in own and HITS not in state:  # none were counted at these scales
        state[HITS] = torch.zeros(own[HITS].shape)
    state = {name: value.to(dtype) if dtype and value.is_floating_point() else value for name, value in state.items()}
    fresh = sorted({name.split(".")[0] for name in own if name not in state})
    if fresh:
        warnings.warn(f"{path} holds {found.label}: {', '.join(fresh)} of this AlignVAR start fresh, untrained.",
                      stacklevel=2)
        network.to(dtype or next(iter(state.values())).dtype)
    network.load_state_dict(state, strict=not fresh, assign=True)
    if isinstance(network, AlignVAR):
        network.make_tables()
    return network.eval()


@dataclass(frozen=True)
class Outline:
    """A network without memory, and what a file gives it.

    Attributes:
        found: the file's state dict.
        description: what the network is, and what of that was assumed.
        network: on the meta device.
        parts: what of the state dict is taken, and why the rest is not.
    """

    found: Found
    description: Description
    network: AlignVAR | AlignVARTokenizer
    parts: Split


def describe_network(found: Found, scales: Sequence[int] | None = None, phi_on_last: bool | None = None) -> Outline:
    """Tells which network a file holds and compares every name and shape with it; arguments as for `load`.

    Raises:
        UserError: it holds another network or half of one, or contradicts the arguments.
    """
    if found.network is None:
        raise UserError(f"{found.path} does not hold the network of AlignVAR, VAR or VARSR, nor a tokenizer of theirs.")
    description = describe(found, scales, phi_on_last)
    with torch.device("meta"):
        network = _build(found, description)
    own = network.state_dict()
    for name, value in found.state.items():
        if name in own and value.is_floating_point() != own[name].is_floating_point():
            raise UserError(f"{found.path} does not fit: {name} is {value.dtype} in the file, and {own[name].dtype} in "
                            "the network.")
    if is_public(found.kind):
        return Outline(found, description, network, fit(found, own, strict=True))
    problem = misfit(own, found.state, found.network, found.path, strict=True)
    if problem:
        raise UserError(f"{found.path} does not hold the network that its metadata describe: {problem}")
    return Outline(found, description, network, Split(found.state, {}))


def _build(found: Found, description: Description) -> AlignVAR | AlignVARTokenizer:
    options = dict(description.network)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element")  # it is refused in the next breath
            return _NETWORKS[options.pop("type")](**options)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{found.path} does not hold the network that it describes: {text}.") from error
