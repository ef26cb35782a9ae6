"""What a checkpoint says of its network: written in its metadata, or read from its shapes and from what kind it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from alignvar_arch.checkpoints.fit import arguments, reading_shapes
from alignvar_arch.checkpoints.recognise import Found
from alignvar_arch.checkpoints.shapes import SCHEDULES, transformer_scales
from alignvar_arch.errors import UserError


@dataclass(frozen=True)
class Description:
    """A network that can be built.

    Attributes:
        network: its registered `type`, and its arguments.
        assumed: a sentence for everything that neither metadata nor shapes told.
    """

    network: dict
    assumed: tuple[str, ...] = ()


def describe(found: Found, scales: Sequence[int] | None = None, phi_on_last: bool | None = None) -> Description:
    """Tells which network a state dict belongs to.

    Args:
        found: of any kind but 'other'.
        scales: the scale schedule, where the file does not say it.
        phi_on_last: the tokenizer's setting, where the file does not say it.

    Raises:
        UserError: the file is half a checkpoint, or nothing tells the network, or the file says something else.
    """
    if "network" in found.metadata:
        return _by_itself(found, scales, phi_on_last)
    if found.network == "AlignVARTokenizer":
        with reading_shapes(found):
            return _tokenizer(found, scales, phi_on_last)
    if phi_on_last is not None:
        raise UserError(f"--phi_on_last is a tokenizer's setting, and {found.path} holds {found.label}; leave it out.")
    with reading_shapes(found):
        return _transformer(found, scales)


def stored_network(found: Found) -> dict:
    """Returns `type` and arguments of the network, as the metadata say them.

    Raises:
        UserError: they say none.
    """
    try:
        network = json.loads(found.metadata["network"])
        network["type"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{found.path} has metadata that describe no network; fetch it again.") from error
    return network


def _by_itself(found: Found, scales: Sequence[int] | None, phi_on_last: bool | None) -> Description:
    network = stored_network(found)
    if not isinstance(network.get("phi_on_last", True), bool):
        raise UserError(f"{found.path} has metadata with phi_on_last {network['phi_on_last']!r}, which is neither true "
                        "nor false; fetch it again.")
    for key, given in (("scales", list(scales) if scales else None), ("phi_on_last", phi_on_last)):
        if given is not None and network.get(key, given) != given:
            raise UserError(f"--{key}: {found.path} says itself that it has {key} {network[key]}; leave the flag out.")
    return Description(network)


def _tokenizer(found: Found, scales: Sequence[int] | None, phi_on_last: bool | None) -> Description:
    if found.kind == "alignvar-tokenizer":
        raise UserError(f"{found.path} does not say which network it holds; take a file of `basicsr train` or "
                        "`convert`.")
    network, assumed = {"type": "AlignVARTokenizer", **arguments(found, found.state)}, []
    hits = found.state.get("quantize.ema_vocab_hit_SV")
    if not scales:
        published = 512 if found.kind == "varsr-tokenizer" else 256
        if hits is not None and len(hits) != len(SCHEDULES[published]):
            raise _unknown_scales(found, len(hits))
        scales = SCHEDULES[published]
        assumed.append(f"scales {list(scales)}: {found.label} has them, and no weight tells; --scales says others")
    if phi_on_last is None:
        phi_on_last = found.kind != "varsr-tokenizer"
        assumed.append(f"phi_on_last {'yes' if phi_on_last else 'no'}: taken for {found.label} because "
                       f"{'it lies where VARSR has it' if not phi_on_last else 'it lies where VAR has it'} "
                       f"({found.key}); --phi_on_last says otherwise")
    network.update(scales=list(scales), phi_on_last=phi_on_last)
    return Description(network, tuple(assumed))


def _transformer(found: Found, scales: Sequence[int] | None) -> Description:
    network, assumed = {"type": "AlignVAR", **arguments(found, found.state)}, []
    count = len(found.state["lvl_embed.weight"])
    if scales:
        _check_scales(found, scales, count)
    else:
        scales = transformer_scales(found.state)
        if scales is None:
            raise _unknown_scales(found, count)
    network["scales"] = list(scales)
    if found.kind == "varsr" or found.kind == "alignvar" and "mask_generator.fc1.weight" not in found.state:
        network["sca"] = "off"
    elif found.kind == "alignvar":
        assumed.append("sca laplacian: it has a mask generator, and no weight tells laplacian from random")
        network["sca"] = "laplacian"
    return Description(network, tuple(assumed))


def _check_scales(found: Found, scales: Sequence[int], count: int) -> None:
    prefix = found.state["pos_start"].shape[1] - 1 if found.kind != "var" else None
    if len(scales) != count or prefix not in (None, scales[-1] ** 2):
        side = "" if prefix is None else f" and the last side {round(prefix ** 0.5)}"
        raise UserError(f"--scales: {found.path} has {count} scales{side}, but {list(scales)} are {len(scales)} scales "
                        f"and the last side {scales[-1]}; give its own.")


def _unknown_scales(found: Found, count: int) -> UserError:
    return UserError(f"{found.path} does not say which network it holds: it has {count} scales, of no published "
                     "schedule; name their sides by `basicsr convert --scales`.")
