"""Networks, losses and metrics of an options file: do they exist, do their arguments, do their weights fit?"""

import ast
import contextlib
import inspect
import io
import textwrap
import warnings

import torch
from basicsr.losses import basic_loss  # noqa: F401 - registers BasicSR's losses
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY

from alignvar_arch import checkpoints
from alignvar_arch.compat.networks import param_key, weights_for
from alignvar_arch.compat.registries import find, nearest
from alignvar_arch.errors import UserError
from alignvar_arch.options.values import COUNT, FLAG, NOT_NEGATIVE, check_types

_METRIC_TYPES = {
    "crop_border": COUNT,
    "test_y_channel": FLAG,
    "input_order": ("HWC or CHW", lambda v: v in ("HWC", "CHW")),
    "better": ("higher or lower", lambda v: v in ("higher", "lower")),
}
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def registered(registry, name, path: str):
    """Returns what `registry` holds under `name`; raises UserError with the nearest names if it holds nothing."""
    found = find(registry, name) if isinstance(name, str) else None
    if found is None:
        raise UserError(
            f"{path}: no {registry._name} named {name!r} is registered{nearest(name, registry.keys())}; "
            "`basicsr list` shows all names."
        )
    return found


def component(registry, block, path: str):
    """Returns the registered object of a block with `type`, once its other keys are found to be its arguments."""
    if not isinstance(block, dict):
        raise UserError(f"{path}: is {block!r}, but must be a block with a type.")
    if "type" not in block:
        raise UserError(f"{path}.type: this key is missing; it names the {registry._name}.")
    found = registered(registry, block["type"], f"{path}.type")
    arguments = {key: value for key, value in block.items() if key != "type"}
    check_arguments(found, arguments, path)
    return found


def construct(choices: dict, block: dict, path: str, *given):
    """Calls what `choices` holds under the block's type with `given` and the block's other keys.

    Raises:
        UserError: whatever it raises, as one sentence.
    """
    arguments = {key: value for key, value in block.items() if key != "type"}
    try:
        return choices[block["type"]](*given, **arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever it is, the run would end with it
        raise UserError(f"{path}: {block['type']} cannot be made: {_line(error)}.") from error


def check_arguments(target, arguments: dict, path: str, given: tuple[str, ...] = (), also: frozenset = frozenset()):
    """Compares `arguments` with the signature of `target` (a class or function).

    Args:
        target: what will be called.
        arguments: the keyword arguments of the options file.
        path: dotted path of their block, for the message.
        given: parameters that BasicSR passes itself.
        also: names allowed beside the parameters.
    """
    name = getattr(target, "__name__", str(target))
    parameters = {key: value for key, value in inspect.signature(target).parameters.items() if key not in given}
    named = {key: value for key, value in parameters.items() if value.kind not in _VARIADIC}
    swallows = any(value.kind == value.VAR_KEYWORD for value in parameters.values()) and _reads_kwargs(target)
    for key in arguments:
        if key not in named and key not in also and not swallows:
            raise UserError(f"{path}.{key}: {name} has no such argument{nearest(key, named)}.")
    for key, value in named.items():
        if value.default is value.empty and key not in arguments:
            raise UserError(f"{path}.{key}: this key is missing; {name} needs it.")


def _reads_kwargs(target) -> bool:
    """Whether a callable with `**kwargs` uses them; SwinIR and the metrics only swallow them, and typos with them."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    variable = next(p.name for p in inspect.signature(function).parameters.values() if p.kind == p.VAR_KEYWORD)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):  # no Python source at hand
        return True
    return any(isinstance(node, ast.Name) and node.id == variable for node in ast.walk(tree))


def check_networks(opt: dict) -> None:
    """Checks each block `network_*` and the weights named for it in `path`; builds networks without memory."""
    for key in [key for key in opt if key.startswith("network_")]:
        network_class = component(ARCH_REGISTRY, opt[key], key)
        if getattr(network_class, "__name__", "") == "SwinIR" and opt[key].get("use_checkpoint"):
            raise UserError(f"{key}.use_checkpoint: SwinIR of BasicSR 1.4.2 fails with it; set false.")
        network = build(network_class, opt[key], key)
        empty = [name for name, parameter in network.named_parameters() if parameter.numel() == 0]
        if empty:
            raise UserError(f"{key}: its parameter {empty[0]} has no elements; a width is 0.")
        check_weights(opt, key, network)


def build(network_class, block: dict, path: str) -> torch.nn.Module:
    """Builds a network on the meta device, or on the CPU where its constructor computes with values."""
    arguments = {key: value for key, value in block.items() if key != "type"}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return network_class(**arguments)
        except UserError:
            raise
        except Exception:  # whatever it is, the CPU build below shows whether it is the meta device's fault
            pass
        try:
            return network_class(**arguments)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{path}: {block['type']} cannot be built: {_line(error)}.") from error


def check_weights(opt: dict, key: str, network: torch.nn.Module) -> None:
    """Resolves `path.pretrain_KEY` in place and compares the file with the network, names and shapes."""
    label = key.removeprefix("network_")
    paths = opt["path"]
    path = paths.get(f"pretrain_{key}")
    if path is None:
        return
    option = f"path.pretrain_{key}"
    if "resume_from" in paths:
        option = f"cannot resume: {option}"
    if not isinstance(path, str):
        raise UserError(f"{option}: is {path!r}, but must be the path of a file.")
    try:
        paths[f"pretrain_{key}"] = path = checkpoints.resolve(path)
        weights_for(network.state_dict(), opt[key]["type"], path, param_key(paths, key),
                    paths.get(f"strict_load_{label}", True))
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def check_losses(train: dict, required_type: bool) -> None:
    """Checks each loss block of `train`: every block with a `type` that is neither an optimiser nor the scheduler.

    Args:
        train: the block.
        required_type: whether every `*_opt` block must have a type, as BasicSR's own models ask.
    """
    for key, block in train.items():
        if key.endswith("_opt") and not isinstance(block, (dict, type(None))):
            raise UserError(f"train.{key}: is {block!r}, but must be a block with a type, or ~.")
        if key.startswith("optim_") or key == "scheduler" or not isinstance(block, dict):
            continue
        if "type" in block or (required_type and key.endswith("_opt")):
            loss = component(LOSS_REGISTRY, block, f"train.{key}")
            check_types(block, f"train.{key}", {name: NOT_NEGATIVE for name in block if name.endswith("weight")})
            # Those that read files are built where the run may do without them.
            if not {"weights", "vgg_type"} & set(inspect.signature(loss).parameters):
                construct({block["type"]: loss}, block, f"train.{key}")
    if required_type and not any(block for key, block in train.items() if key.endswith("_opt")):
        raise UserError("train.pixel_opt: no block of train names a loss; give this one.")


def check_metrics(val: dict) -> list[str]:
    """Checks `val.metrics`, removes what cannot run here, and returns a sentence for each one removed."""
    metrics = val.get("metrics")
    if metrics is None:
        return []
    if not isinstance(metrics, dict):
        raise UserError(f"val.metrics: is {metrics!r}, but must be a block of metrics, each with a type.")
    everywhere = {name for _, metric in METRIC_REGISTRY for name in inspect.signature(metric).parameters}
    dropped = []
    for name, block in list(metrics.items()):
        path = f"val.metrics.{name}"
        if not isinstance(block, dict) or "type" not in block:
            raise UserError(f"{path}.type: this key is missing; it names the metric.")
        metric = registered(METRIC_REGISTRY, block["type"], f"{path}.type")
        arguments = {key: value for key, value in block.items() if key not in ("type", "better")}
        check_arguments(metric, arguments, path, given=("img", "img2"), also=frozenset(everywhere - {"kwargs"}))
        check_types(block, path, _METRIC_TYPES)
        reason = metric.unavailable(**arguments) if hasattr(metric, "unavailable") else None
        if reason:
            del metrics[name]
            dropped.append(f"{path} is left out: {reason}")
    return dropped


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if isinstance(error, (ValueError, AssertionError)) and text else f"{type(error).__name__}: {text}"
