"""Which network a file holds, by its keys: VAR's, VARSR's, ours, or any other that BasicSR trained."""

from dataclasses import dataclass, field

import torch

from alignvar_arch.checkpoints.reading import NEST, read
from alignvar_arch.checkpoints.shapes import GUIDED
from alignvar_arch.errors import UserError

# Where a network of ours lies in the files of VAR's and VARSR's trainers.
NESTED = {"AlignVAR": f"{NEST}.var_wo_ddp", "AlignVARTokenizer": f"{NEST}.vae_local"}
LABELS = {"var": "VAR's transformer", "varsr": "VARSR's transformer", "var-tokenizer": "VAR's tokenizer",
          "varsr-tokenizer": "VARSR's tokenizer", "alignvar": "AlignVAR's transformer",
          "alignvar-tokenizer": "AlignVAR's tokenizer", "other": "another network of BasicSR"}
# What AlignVAR's transformer may have and VARSR's has not.
OWN = {"mask_generator.fc1.weight", "con_local.weight", "con_embedding.extra.0.conv1.weight"}


@dataclass(frozen=True)
class Found:
    """One state dict of a checkpoint.

    Attributes:
        path: the file.
        key: its place there, a parameter key such as 'params' or 'trainer.var_wo_ddp'.
        kind: a key of LABELS.
        state: the tensors by name, without a leading 'module.'.
        metadata: of the file.
        beside: the other places with weights.
    """

    path: str
    key: str
    kind: str
    state: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return LABELS[self.kind]

    @property
    def is_varsrs(self) -> bool:
        """Whether this is VARSR's transformer itself, and not one of ours without SCA, which has the same names."""
        return self.kind == "varsr" and (self.key.startswith(f"{NEST}.") or "kind" in self.metadata)

    @property
    def network(self) -> str | None:
        """The registered name of the network, None for others' networks."""
        if self.kind == "other":
            return None
        return "AlignVARTokenizer" if self.kind.endswith("tokenizer") else "AlignVAR"


def recognise(path: str, param_key: str | None = None, network: str | None = None) -> Found:
    """Reads a checkpoint and tells what it holds.

    Args:
        path: see `read`.
        param_key: the state dict to take; None takes the averaged weights, else 'params', else a trainer's transformer,
            else its tokenizer.
        network: AlignVAR or AlignVARTokenizer, which of a trainer's two networks is wanted; None takes either.

    Raises:
        UserError: the file cannot be read, has no such state dict, or holds a network that is unknown or not ours to
            run.
    """
    states, metadata = read(path)
    nested = [place for name, place in NESTED.items() if network in (None, name)]
    order = [param_key] if param_key else ["params_ema", "params", *nested]
    key = next((key for key in order if key in states), None)
    if key is None:
        wanted = f"under {param_key!r} " if param_key else ""
        raise UserError(f"{path} has no weights {wanted}that are known here; it holds {', '.join(states)}.")
    return identify(path, key, states, metadata)


def identify(path: str, key: str, states: dict[str, dict[str, torch.Tensor]], metadata: dict[str, str]) -> Found:
    """Tells what one of the state dicts that `read` returned holds."""
    state = {name.removeprefix("module."): value for name, value in states[key].items()}
    if "shared_ada_lin.1.weight" in state:
        raise UserError(f"{path} holds VAR with one AdaLN that all blocks share (var_d36); AlignVAR has one a block, "
                        "so take var_d30 or smaller.")
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise UserError(f"{path}: {name} is a sparse, quantised or empty tensor; save plain ones.")
    kind = _kind(key, state, states, metadata)
    return Found(path, key, kind, state, metadata, tuple(other for other in states if other != key))


def _kind(key: str, state: dict, states: dict, metadata: dict[str, str]) -> str:
    if metadata.get("kind") in LABELS:  # converted from a public file
        return metadata["kind"]
    if "quantize.embedding.weight" in state and "encoder.conv_in.weight" in state:
        if "network" in metadata or GUIDED in state:
            return "alignvar-tokenizer"
        # VARSR's lies in a trainer's file. So does VAR's own, beside the transformer that was trained on it.
        nested = key.startswith(f"{NEST}.")
        return "varsr-tokenizer" if nested and not _is_var(states.get(NESTED["AlignVAR"], {})) else "var-tokenizer"
    if "blocks.0.attn.mat_qkv.weight" in state:
        if "network" in metadata or not OWN.isdisjoint(state):
            return "alignvar"
        return "var" if _is_var(state) else "varsr"
    return "other"


def _is_var(state: dict) -> bool:
    return not {"pos_1LC", "module.pos_1LC"}.isdisjoint(state)
