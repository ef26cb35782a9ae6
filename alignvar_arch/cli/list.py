"""`basicsr list`: everything registered, and the package it came from."""

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.options import Parser

_REGISTRIES = (ARCH_REGISTRY, MODEL_REGISTRY, LOSS_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY)


def run(argv: list[str], plugins: list[Plugin]) -> int:
    """Prints one line an entry: registry, name, package; returns 0."""
    Parser(prog="basicsr list", description=__doc__).parse_args(argv)
    for registry in _REGISTRIES:
        for name, entry in sorted(registry, key=lambda pair: pair[0].lower()):
            print(f"{registry._name:8} {name:32} {entry.__module__.split('.')[0]}")
    for plugin in plugins:
        print(f"{'plugin':8} {plugin.name:32} {plugin.value}{f' FAILED: {plugin.error}' if plugin.error else ''}")
    return 0
