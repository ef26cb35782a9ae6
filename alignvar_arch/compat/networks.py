"""Models: weights are read safely, saved whole and misfits are named; AdamW stands beside Adam.

`BaseModel.load_network` unpickles whatever the file holds, knows `.pth` only, and answers a wrong file with KeyError or
with torch's list of every key. `BaseModel.get_optimizer` knows Adam only.
"""

import functools
import os
from dataclasses import dataclass

import torch
from basicsr.losses import basic_loss
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from alignvar_arch import checkpoints
from alignvar_arch.checkpoints.fit import fit, table
from alignvar_arch.checkpoints.maps import is_public
from alignvar_arch.checkpoints.recognise import NESTED, identify
from alignvar_arch.errors import UserError


def install() -> None:
    """Goes when BasicSR loads with `weights_only`, reads safetensors, saves whole files and offers AdamW and l2."""
    BaseModel.load_network = _load_network
    BaseModel.save_network = _save_network
    BaseModel.save_training_state = _save_training_state
    BaseModel.get_optimizer = _with_adamw(BaseModel.get_optimizer)
    # PerceptualLoss(criterion='l2') asks for torch.nn.L2loss, which never existed (basic_loss.py:192).
    if not hasattr(torch.nn, "L2loss"):
        basic_loss.torch = _TorchWithL2()
    PerceptualLoss.__init__ = _naming_vgg(PerceptualLoss.__init__)


@master_only
def _save_network(self, net, net_label, current_iter, param_key="params"):
    """Writes `net_LABEL_ITER.pth` whole, or ends the run: BasicSR tries three times and goes on without the file."""
    nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
    content = {key: {name.removeprefix("module."): value.cpu()
                     for name, value in self.get_bare_model(network).state_dict().items()}
               for key, network in zip(keys, nets, strict=True)}
    name = f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth"
    checkpoints.write_pth(os.path.join(self.opt["path"]["models"], name), content)


@master_only
def _save_training_state(self, epoch, current_iter):
    """Writes `ITER.state` whole, or ends the run."""
    if current_iter == -1:
        return
    content = {"epoch": epoch, "iter": current_iter, "optimizers": [entry.state_dict() for entry in self.optimizers],
               "schedulers": [entry.state_dict() for entry in self.schedulers]}
    checkpoints.write_pth(os.path.join(self.opt["path"]["training_states"], f"{current_iter}.state"), content)


class _TorchWithL2:
    """`torch` as basic_loss.py sees it: with the `nn.L2loss` that it asks for."""

    class nn:  # noqa: N801 - it stands in for the module of that name
        L1Loss = torch.nn.L1Loss
        L2loss = torch.nn.MSELoss

    def __getattr__(self, name):
        return getattr(torch, name)


def _naming_vgg(construct):
    """Says which file to fetch where torchvision cannot: BasicSR's VGG is downloaded on first use."""

    @functools.wraps(construct)
    def wrapper(self, *arguments, **named):
        try:
            construct(self, *arguments, **named)
        except OSError as error:
            raise UserError(
                f"PerceptualLoss needs VGG weights, and their download failed ({error}); put vgg19-dcbb9e9d.pth, "
                "torchvision's VGG-19, into experiments/pretrained_models, or leave perceptual_opt out."
            ) from error

    return wrapper


def _with_adamw(get_optimizer):
    def wrapper(self, optim_type, params, lr, **kwargs):
        if optim_type == "AdamW":
            return torch.optim.AdamW(params, lr, **kwargs)
        return get_optimizer(self, optim_type, params, lr, **kwargs)

    return wrapper


# Networks that are given and stay as they are: of their files the average is wanted.
FROZEN = ("network_tokenizer", "network_transformer")


def param_key(paths: dict, key: str) -> str | None:
    """Returns the state dict that the options' block `path` asks for, of the network under `key`."""
    return paths.get(f"param_key_{key.removeprefix('network_')}", "params_ema" if key in FROZEN else "params")


def select(states: dict, name: str, param_key: str | None, path: str) -> tuple[dict, str]:
    """Picks the state dict of the network `name` and returns it with its key; names in it lose a leading 'module.'.

    BasicSR's rule, `param_key`, else 'params', else with None the only one there is; before 'params' comes the place
    where the trainers of VAR and VARSR keep such a network.
    """
    only = list(states) if param_key is None and len(states) == 1 else []
    key = next((key for key in (param_key, NESTED.get(name), "params", *only) if key in states), None)
    if key is None:
        raise UserError(f"{path} has no parameters under {param_key!r}; it holds {', '.join(map(repr, states))}.")
    return {entry.removeprefix("module."): value for entry, value in states[key].items()}, key


def misfit(own: dict, loaded: dict, name: str, path: str, strict: bool) -> str | None:
    """Says how `loaded` does not fit the state dict `own` of the network `name`, or None where it fits.

    A different shape, or no key in common, is always a misfit; missing and unexpected keys only if `strict`.
    """
    for key in own:
        if key in loaded and own[key].shape != loaded[key].shape and strict:
            return (f"{path} does not fit {name}: {key} has shape {_shape(loaded[key])} in the file and "
                    f"{_shape(own[key])} in the network.")
    missing = [key for key in own if key not in loaded]
    unexpected = [key for key in loaded if key not in own]
    if len(missing) == len(own):
        return f"{path} is not a checkpoint of {name}: they have no parameter name in common."
    if strict and (missing or unexpected):
        parts = [f"{len(keys)} {word} ({keys[0]}{', …' if len(keys) > 1 else ''})"
                 for keys, word in ((missing, "missing"), (unexpected, "unexpected")) if keys]
        return f"{path} does not fit {name}: parameters {' and '.join(parts)}."
    return None


def _shape(tensor) -> str:
    return str(tuple(tensor.shape))


@dataclass(frozen=True)
class Weights:
    """What a file gives a network.

    Attributes:
        state: the tensors to load.
        key: their place in the file.
        table: a line for every component, where a public checkpoint was adapted; empty where it is BasicSR's own.
    """

    state: dict[str, torch.Tensor]
    key: str
    table: tuple[str, ...] = ()


def weights_for(own: dict, name: str, path: str, param_key: str | None, strict: bool) -> Weights:
    """Reads what the file at `path` gives the network `name` with the state dict `own`.

    Public checkpoints of VAR and VARSR give AlignVAR and its tokenizer what fits (checkpoints.fit); others go by
    BasicSR's rules, `param_key` and `strict`.

    Raises:
        UserError: the file cannot be read or does not fit; it names the parameter and both shapes.
    """
    states, metadata = checkpoints.read(path)
    loaded, key = select(states, name, param_key, path)
    if name in NESTED:
        found = identify(path, key, states, metadata)
        if found.network not in (name, None):
            raise UserError(f"{path} holds {found.label}, and no {name}.")
        if is_public(found.kind):
            parts = fit(found, own, strict)
            plain = len(parts.taken) == len(own) and not parts.left
            return Weights(parts.taken, key, () if plain else tuple(table(found, parts, own)))
    problem = misfit(own, loaded, name, path, strict)
    if problem:
        raise UserError(problem)
    return Weights(loaded, key)


def _load_network(self, net, load_path, strict=True, param_key="params"):
    """Loads `net` from a `.pth` or `.safetensors` file; see `checkpoints.read` for what is accepted.

    Raises:
        UserError: if the file cannot be read or does not fit; it names the parameter and both shapes.
    """
    logger = get_root_logger()
    net = self.get_bare_model(net)
    name = type(net).__name__
    weights = weights_for(net.state_dict(), name, load_path, param_key, strict)
    if param_key is not None and weights.key != param_key:
        logger.info(f"Loading: {param_key} does not exist, use {weights.key}.")
    logger.info(f"Loading {name} model from {load_path}, with param key: [{weights.key}].")
    if weights.table:
        logger.info("\n".join([f"{name} takes what it shares with {load_path}:", *weights.table]))
        strict = False  # what starts fresh has just been said
    else:
        self._print_different_keys_loading(net, weights.state, strict)
    net.load_state_dict(weights.state, strict=strict)
