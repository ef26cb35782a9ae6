"""Which option keys the code reads, found in the code itself, so that every BasicSR extension is served alike.

BasicSR's classes take one dict and read it by string keys. Every identifier-like string in the modules of a class and
of its bases is taken for a key that it may read: too generous, but a misspelt key is in none of them.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from types import ModuleType


@cache
def strings(module: ModuleType) -> frozenset[str]:
    """Returns the identifier-like string constants in a module's source."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):  # no Python source at hand
        return frozenset()
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
    )


def known(cls: type) -> frozenset[str]:
    """Returns the keys that `cls` may read: strings in the modules of its bases and of their packages' helpers."""
    found: set[str] = set()
    for module in _modules(cls):
        found |= strings(module)
    return frozenset(found)


def _modules(cls: type) -> set[ModuleType]:
    modules = set()
    for base in cls.__mro__:
        module = sys.modules.get(base.__module__)
        if module is None or base.__module__.split(".")[0] in ("builtins", "abc", "typing", "torch"):
            continue
        modules.add(module)
        package = base.__module__.rpartition(".")[0]
        for value in list(vars(module).values()):
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            if package and isinstance(name, str) and name.startswith(package + ".") and name in sys.modules:
                modules.add(sys.modules[name])
    return modules


def required(cls: type, methods: tuple[str, ...], train: bool) -> dict[str, set[str]]:
    """Returns the keys that BasicSR's own methods of `cls` read with `[...]` on every path, by block.

    Args:
        cls: a model or dataset class.
        methods: names of the methods that will run.
        train: whether code under `if self.opt['phase'] == 'train'` runs.

    Returns:
        Keys of the whole dict under '', and keys of its block `train` under 'train'.
    """
    found: dict[str, set[str]] = {"": set(), "train": set()}
    for method in methods:
        for tree in _definitions(cls, method):
            stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_store(node)}
            written = {_key(node) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and _is_store(node)}
            for node in _always_run(tree.body, train):
                block = _block(node.value, stored) if isinstance(node, ast.Subscript) else None
                if block is not None and _key(node) not in written and _key(node) is not None:
                    found[block].add(_key(node))
    return found


def _definitions(cls: type, method: str) -> Iterator[ast.FunctionDef]:
    """Yields the definitions of `method` that run, the most derived first, down to one that does not call super()."""
    for base in cls.__mro__:
        function = base.__dict__.get(method)
        if not inspect.isfunction(function):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        if base.__module__.startswith("basicsr."):
            yield tree
        if not any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(tree)):
            return


def _always_run(statements, train: bool) -> Iterator[ast.AST]:
    for node in statements:
        if isinstance(node, ast.If):
            if _asks_for_train(node.test):
                yield from _always_run(node.body if train else node.orelse, train)
            continue
        if isinstance(node, (ast.IfExp, ast.BoolOp, ast.Try, ast.For, ast.While, ast.FunctionDef, ast.Lambda)):
            continue
        yield node
        yield from _always_run(ast.iter_child_nodes(node), train)


def _asks_for_train(test: ast.AST) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Subscript)
        and _key(test.left) == "phase"
        and isinstance(test.ops[0], ast.Eq)
        and getattr(test.comparators[0], "value", None) == "train"
    )


def _block(node: ast.AST, stored: set[str]) -> str | None:
    if isinstance(node, ast.Attribute) and node.attr == "opt":
        return ""
    if isinstance(node, ast.Name) and node.id == "opt" and "opt" not in stored:
        return ""
    if isinstance(node, ast.Name) and node.id == "train_opt":
        return "train"
    if isinstance(node, ast.Subscript) and _key(node) == "train" and _block(node.value, stored) == "":
        return "train"
    return None


def _key(node: ast.Subscript) -> str | None:
    value = getattr(node.slice, "value", None)
    return value if isinstance(value, str) else None


def _is_store(node) -> bool:
    return isinstance(node.ctx, (ast.Store, ast.Del))
