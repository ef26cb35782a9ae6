"""`basicsr convert`: a training checkpoint as one safetensors file, which is how weights ship."""

import os

from alignvar_arch import checkpoints
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.options import Parser


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Converts; returns 0."""
    parser = Parser(prog="basicsr convert", description=__doc__)
    parser.add_argument("checkpoint", metavar="IN.pth", help="checkpoint that `basicsr train` wrote")
    parser.add_argument("-o", dest="output", metavar="OUT.safetensors", required=True, help="file to write")
    parser.add_argument("--param_key", default="params_ema", help="state dict to take; `params` where it is absent")
    parser.add_argument("--half", action="store_true", help="store floating-point weights as float16")
    args = parser.parse_args(argv)
    if not args.output.endswith(".safetensors"):
        raise UserError(f"{args.output}: the output must end with .safetensors.")
    if not os.path.isdir(os.path.dirname(args.output) or "."):
        raise UserError(f"{args.output}: there is no folder {os.path.dirname(args.output)}.")
    states, metadata = checkpoints.read(args.checkpoint)
    key = args.param_key if args.param_key in states else "params"
    if key not in states:
        raise UserError(f"{args.checkpoint} has no {args.param_key}; it holds {', '.join(states)}.")
    state = {name: value.half() if args.half and value.is_floating_point() else value
             for name, value in states[key].items()}
    checkpoints.write_safetensors(args.output, state, metadata)
    size = os.path.getsize(args.output) / 2**20
    print(f"{args.output}: {len(state)} tensors of {args.checkpoint} ({key}), {size:.1f} MiB")
    return 0
