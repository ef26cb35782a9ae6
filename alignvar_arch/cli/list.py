"""`basicsr list`: everything registered, and the package it came from; with --params, what networks consist of.

--params counts the parameters of the networks that options files describe, by component, without allocating them.
Without -opt it counts AlignVAR and its tokenizer as they are by default, which is the paper's size.
"""

import argparse

import torch
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.options import Parser, reader
from alignvar_arch.options.components import build, component

_REGISTRIES = (ARCH_REGISTRY, MODEL_REGISTRY, LOSS_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY)
_DEFAULTS = {"network_g": {"type": "AlignVAR"}, "network_tokenizer": {"type": "AlignVARTokenizer"}}
# Components by how their parameters' names begin; any other is called by the first part of its name.
_COMPONENTS = {"con_embedding": "condition encoder", "mask_generator": "SCA mask generator", "blocks": "blocks",
               "head_nm": "head norm", "head": "head", "word_embed": "token embedding",
               "lvl_embed": "level embedding", "class_emb": "quality embedding", "pos_start": "prefix positions",
               "quantize.embedding": "codebook", "quantize.quant_resi": "phi"}


def run(argv: list[str], plugins: list[Plugin]) -> int:
    """Prints one line an entry: registry, name, package; or a table a network. Returns 0."""
    parser = Parser(prog="basicsr list", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", action="store_true", help="count parameters instead, by component")
    parser.add_argument("-opt", nargs="+", metavar="FILE", help="options files whose networks --params counts")
    args = parser.parse_args(argv)
    if args.opt and not args.params:
        raise UserError("-opt: names the files whose parameters are counted; give --params with it.")
    if args.params:
        for file in args.opt or [None]:
            print("\n".join(_sizes(file)))
        return 0
    for registry in _REGISTRIES:
        for name, entry in sorted(registry, key=lambda pair: pair[0].lower()):
            print(f"{registry._name:8} {name:32} {entry.__module__.split('.')[0]}")
    for plugin in plugins:
        print(f"{'plugin':8} {plugin.name:32} {plugin.value}{f' FAILED: {plugin.error}' if plugin.error else ''}")
    return 0


def _sizes(file: str | None) -> list[str]:
    """Returns the table of an options file's networks, or of the defaults."""
    options = reader.read(file) if file else _DEFAULTS
    blocks = {key: block for key, block in options.items() if key.startswith("network_")}
    if not blocks:
        raise UserError(f"{file}: it has no block network_g.")
    lines = [file or "defaults"]
    for key, block in blocks.items():
        try:
            counts = _count(build(component(ARCH_REGISTRY, block, key), block, key))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        lines.append(f"  {key + ': ' + block['type']:40} {sum(counts.values()):15,}")
        lines.extend(f"    {name:38} {count:15,}" for name, count in counts.items())
    return lines


def _count(network: torch.nn.Module) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        start = next((start for start in _COMPONENTS if f"{name}.".startswith(f"{start}.")), None)
        label = _COMPONENTS[start] if start else name.split(".")[0]
        counts[label] = counts.get(label, 0) + parameter.numel()
    return counts
