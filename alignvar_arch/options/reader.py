"""Reads options files and `--force_yml` with a safe YAML loader: values only, nothing is ever executed."""

import re

import yaml

from alignvar_arch.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without tags that make objects, where `2e-4` is a number and a key given twice is an error."""


_FLOAT = "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != _FLOAT]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# PyYAML asks for a dot and a signed exponent; 2e-4 and 1E5 are numbers to everybody else.
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _construct_object(self: _Loader, node: yaml.Node, deep: bool = False):
    """Constructs at once, so that a value holding itself is refused; names the line of a value that cannot be."""
    try:
        return yaml.SafeLoader.construct_object(self, node, deep=True)
    except (ValueError, KeyError, OverflowError) as error:
        text = node.value if isinstance(node.value, str) else node.tag
        raise yaml.constructor.ConstructorError(
            None, None, f"{text[:40]!r} is not what its tag or form says", node.start_mark
        ) from error


_Loader.construct_object = _construct_object


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    lines: dict = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a word", key_node.start_mark)
        if key in lines:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice, in lines {lines[key]} and {line}", key_node.start_mark
            )
        lines[key] = line
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read(path: str) -> dict:
    """Reads an options file.

    Raises:
        UserError: if the file is missing, is not YAML, gives a key twice, or asks for an object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UserError(f"cannot read the options file {path}: {error.strerror}; check -opt.") from error
    except ValueError as error:  # no UTF-8, or a path with a zero byte
        raise UserError(f"the options file {path!r} is not UTF-8 text.") from error
    content = _parse(text, path)
    if not isinstance(content, dict):
        raise UserError(f"the options file {path} is not a mapping of keys to values.")
    return content


def force(opt: dict, entries: list[str]) -> None:
    """Applies `--force_yml` entries `block:key=value` to `opt` in place.

    The value is YAML as in the file (`none` is also null, as in BasicSR). The last key may be new, its block may not.

    Raises:
        UserError: if an entry has no `=`, names an unknown block, or its value is not YAML.
    """
    for entry in entries:
        keys_text, sign, value_text = entry.partition("=")
        keys = [key.strip() for key in keys_text.split(":")]
        if not sign or not all(keys):
            raise UserError(f"--force_yml {entry!r} does not read as block:key=value.")
        block = opt
        for depth, key in enumerate(keys[:-1]):
            block = block.get(key)
            if not isinstance(block, dict):
                raise UserError(f"--force_yml {entry!r}: the options have no block {'.'.join(keys[: depth + 1])}.")
        value = _parse(value_text, f"--force_yml {entry!r}")
        block[keys[-1]] = None if isinstance(value, str) and value.lower() == "none" else value


def _parse(text: str, source: str):
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source}{_explain(error)}") from error
    except RecursionError as error:
        raise UserError(f"{source}: its brackets are nested too deeply.") from error


def _explain(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{f', line {mark.line + 1}' if mark else ''}: {problem}."
