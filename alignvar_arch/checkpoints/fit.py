"""How a public checkpoint fits a network of ours: what is loaded, and what starts fresh."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from alignvar_arch.checkpoints.maps import COMMON, HITS, SCALE_BOUND, Split, split
from alignvar_arch.checkpoints.recognise import Found
from alignvar_arch.checkpoints.shapes import tokenizer_arguments, transformer_arguments
from alignvar_arch.errors import UserError


def fit(found: Found, own: Mapping[str, torch.Tensor], strict: bool) -> Split:
    """Chooses from a public checkpoint what a network of ours takes; what the network has beyond that starts fresh.

    VAR gives blocks, head, head norm, word and level embeddings, all of them or none. VARSR gives everything but SCA's
    mask generator. What belongs to another scale schedule is left (SCALE_BOUND).

    Args:
        found: a checkpoint of a public kind, for this network.
        own: the network's state dict; the meta device will do.
        strict: whether VARSR's or a tokenizer's other names and shapes must all fit; VAR's must in any case.

    Returns:
        What is loaded, and the reason for every name of the file that is not.

    Raises:
        UserError: the sizes differ, or a part is missing.
    """
    parts = split(found)
    taken, left = dict(parts.taken), dict(parts.left)
    for name in SCALE_BOUND:
        if name in taken and name in own and taken[name].shape != own[name].shape:
            del taken[name]
            left[name] = "it belongs to another scale schedule; starts fresh"
    strict = strict or found.kind == "var"
    if strict:
        _check_sizes(found, taken, own)
        needed = COMMON if found.kind == "var" else ("",)
        spared = ("mask_generator.", HITS, *left)
        missing = [name for name in own
                   if name.startswith(needed) and not name.startswith(spared) and name not in taken]
        if missing:
            raise UserError(f"{found.path} is only part of {found.label}: {len(missing)} parameters are missing "
                            f"({missing[0]}{', …' if missing[1:] else ''}); fetch it again.")
    for name in [name for name in taken if name not in own or taken[name].shape != own[name].shape]:
        if strict:
            where = f"{tuple(own[name].shape)} in the network" if name in own else "is no part of the network"
            raise UserError(f"{found.path} does not fit: {name} has shape {tuple(taken[name].shape)} in the file, and "
                            f"{where}.")
        del taken[name]
        left[name] = "it does not fit the network"
    return Split(taken, left)


def _check_sizes(found: Found, taken: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    theirs, ours = arguments(found, taken), arguments(found, own)
    differ = [key for key in theirs if key in ours and theirs[key] != ours[key]]
    if differ:
        raise UserError(f"{found.path} holds {found.label} with {_words(theirs, differ)}, but the network has "
                        f"{_words(ours, differ)}; take a file of that size, or change the network's options.")


def arguments(found: Found, state: Mapping[str, torch.Tensor]) -> dict:
    """Returns the constructor's arguments that names and shapes tell.

    Raises:
        UserError: a part that they are read from is missing.
    """
    infer = tokenizer_arguments if found.network == "AlignVARTokenizer" else transformer_arguments
    with reading_shapes(found):
        return infer(state)


@contextmanager
def reading_shapes(found: Found) -> Iterator[None]:
    """Turns what a missing parameter, or one of another form, raises while shapes are read into a UserError."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{found.path} is only part of {found.label}: {error.args[0]} is missing; fetch it again."
                        ) from error
    except (IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{found.path} has the names of {found.label}, but a parameter of another form ({error}); it "
                        "is another network, or a damaged one.") from error


def _words(values: dict, keys: list[str]) -> str:
    return ", ".join(f"{key} {values[key]}" for key in keys)


def table(found: Found, parts: Split, own: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """Returns a line for every component of a file: what was taken, what was left and why, and what starts fresh.

    Args:
        found: the file's state dict.
        parts: what was taken of it, and the reasons for the rest.
        own: the network's state dict, for what starts fresh.
    """
    rows: dict[tuple[str, str, str], list[torch.Tensor]] = {}
    for name, tensor in found.state.items():
        verdict, why = ("taken", "") if name in parts.taken else ("left", parts.left[name])
        rows.setdefault((verdict, name.split(".")[0], why), []).append(tensor)
    for name, tensor in (own or {}).items():
        if name not in parts.taken:
            rows.setdefault(("fresh", name.split(".")[0], ""), []).append(tensor)
    order = {"taken": 0, "fresh": 1, "left": 2}
    return [f"  {verdict:5}  {component:21}  {len(tensors):4} tensors  {sum(map(torch.numel, tensors)):13,}  {why}"
            .rstrip() for (verdict, component, why), tensors in sorted(rows.items(), key=lambda row: order[row[0][0]])]
