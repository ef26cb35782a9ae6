"""`basicsr convert`: weights of VAR, VARSR or BasicSR as one safetensors file that says what it is, and the way back.

The keys of IN tell what it is. What is taken, what is left and why is printed, and so is everything that neither the
file nor its shapes say. With --onto, weights of ours are written back in a public checkpoint's own form.
"""

import argparse
import json
import os
from pathlib import Path

from alignvar_arch.archs.loading import describe_network
from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.checkpoints import resolve, write_safetensors
from alignvar_arch.checkpoints.fit import table
from alignvar_arch.checkpoints.maps import Split, is_public, write_onto
from alignvar_arch.checkpoints.reading import is_safetensors, load_pth
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.checkpoints.shapes import SCHEDULES
from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.errors import UserError
from alignvar_arch.options import Parser


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Converts; returns 0."""
    parser = Parser(prog="basicsr convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="IN", help="a .pth of VAR, VARSR or `basicsr train`, or a .safetensors")
    parser.add_argument("-o", dest="output", metavar="OUT.safetensors", required=True, help="file to write")
    parser.add_argument("--param_key", help="state dict to take; otherwise params_ema, else params, else a trainer's "
                                            "transformer (trainer.var_wo_ddp), else its tokenizer (trainer.vae_local)")
    parser.add_argument("--half", action="store_true", help="store floating-point weights as float16")
    parser.add_argument("--scales", metavar="256|512|SIDES", type=_scales,
                        help="scale schedule where IN does not say it: a published one by the picture's side, or the "
                             "sides of all token maps, 1,2,3,…")
    parser.add_argument("--phi_on_last", choices=["yes", "no"],
                        help="whether IN, a tokenizer, has phi on its last scale; VAR's has, VARSR's has not")
    parser.add_argument("--onto", metavar="PUBLIC.pth",
                        help="write OUT.pth instead: this public checkpoint with the weights of IN in their places")
    args = parser.parse_args(argv)
    ending = ".pth" if args.onto else ".safetensors"
    if not args.output.endswith(ending):
        raise UserError(f"{args.output}: the output must end with {ending}.")
    if not os.path.isdir(os.path.dirname(args.output) or "."):
        raise UserError(f"{args.output}: there is no folder {os.path.dirname(args.output)}.")
    found = recognise(args.checkpoint, args.param_key)
    if args.onto:
        _refuse_flags(args)
        ours, kept = write_onto(found, args.onto, args.output)
        print(f"{args.output}: {ours} tensors of {args.checkpoint}, {kept} of {args.onto}")
        return 0
    phi_on_last = None if args.phi_on_last is None else args.phi_on_last == "yes"
    parts, metadata, assumed = _sort(found, args.scales, phi_on_last)
    write_safetensors(args.output, parts.taken, metadata, args.half)
    print("\n".join([f"{args.checkpoint} holds {found.label} ({found.key}):", *table(found, parts)]))
    for place in found.beside:
        print(f"  left   {place}, a state dict beside it; --param_key {place} takes that one")
    for sentence in assumed:
        print(f"  assumed {sentence}")
    size = os.path.getsize(args.output) / 2**20
    print(f"{args.output}: {len(parts.taken)} tensors of {args.checkpoint} ({found.key}), {size:.1f} MiB")
    return 0


def _sort(found: Found, scales: tuple[int, ...] | None,
          phi_on_last: bool | None) -> tuple[Split, dict[str, str], tuple[str, ...]]:
    """Returns what is taken, the metadata to write, and a sentence for everything that was assumed."""
    if found.network is None:
        path = resolve(found.path)
        if is_safetensors(path) or not {"params", "params_ema"} & load_pth(path).keys():
            raise UserError(f"{found.path} holds a network that is not known here (it begins with "
                            f"{next(iter(found.state))}); known are VAR, VARSR, AlignVAR, and files of BasicSR with "
                            "params or params_ema.")
        if scales or phi_on_last is not None:
            raise UserError(f"--scales and --phi_on_last: {found.path} holds no network that has them; leave them out.")
        return Split(found.state, {}), found.metadata, ()
    outline = describe_network(found, scales, phi_on_last)
    metadata = {**found.metadata, "network": json.dumps(outline.description.network)}
    if is_public(found.kind) and "kind" not in metadata:
        metadata |= {"kind": found.kind, "source": Path(found.path).name}
        if found.kind.startswith("varsr"):
            metadata["scale"] = "4"
    return outline.parts, metadata, outline.description.assumed


def _scales(text: str) -> tuple[int, ...]:
    """Reads --scales."""
    try:
        sides = tuple(int(side) for side in text.split(","))
        return SCHEDULES[sides[0]] if len(sides) == 1 and sides[0] in SCHEDULES else ScaleSchedule(sides).sides
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no sides of token maps ({error})") from error


def _refuse_flags(args: argparse.Namespace) -> None:
    for flag in ("half", "scales", "phi_on_last"):
        if getattr(args, flag):
            raise UserError(f"--{flag}: --onto keeps the form of {args.onto}; leave the flag out.")
