"""What of a public checkpoint AlignVAR has too, what is left out and why, and the way back; names are the same."""

from dataclasses import dataclass

import torch

from alignvar_arch.checkpoints.reading import load_pth, resolve
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.checkpoints.writing import write_pth
from alignvar_arch.errors import UserError

_GEOMETRY = {"lvl_1L": "geometry, which is computed from the scales",
             "attn_bias_for_masking": "the attention mask, which is computed from the scales"}
COMMON = ("blocks.", "head.", "head_nm.", "word_embed.", "lvl_embed.")
_TOKENIZER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
# By kind: how the names begin that are taken, and the reason for each that is left; other kinds are taken whole.
_TAKEN = {"var": COMMON, "varsr": (*COMMON, "con_embedding.", "class_emb.", "pos_start"),
          "var-tokenizer": _TOKENIZER, "varsr-tokenizer": _TOKENIZER}
_LEFT = {
    "var": {**_GEOMETRY, "class_emb.": "ImageNet's classes; AlignVAR's two rows are quality labels",
            "pos_start": "the place of VAR's one start token; AlignVAR starts from LR tokens",
            "pos_1LC": "absolute positions; AlignVAR has rotary ones"},
    "varsr": {**_GEOMETRY, "diffloss.": "the diffusion refiner, which is no part of AlignVAR",
              "decoder_norm.": "the diffusion refiner's normalisation"},
    "var-tokenizer": {}, "varsr-tokenizer": {},
}
# How often codes were hit at each scale in training, which no picture depends on.
HITS = "quantize.ema_vocab_hit_SV"
# What belongs to a scale schedule: with another one it starts fresh.
SCALE_BOUND = ("pos_start", "lvl_embed.weight", HITS)


@dataclass(frozen=True)
class Split:
    """A state dict parted.

    Attributes:
        taken: what AlignVAR has too.
        left: the reason for every other name.
    """

    taken: dict[str, torch.Tensor]
    left: dict[str, str]


def is_public(kind: str) -> bool:
    """Whether a file of this kind may hold more, or less, than the network of ours that it fits."""
    return kind in _TAKEN


def split(found: Found) -> Split:
    """Parts a public checkpoint's names into those that are taken and those that are left.

    Raises:
        UserError: it has a name that is in neither list, so it is something else.
    """
    if not is_public(found.kind):
        return Split(found.state, {})
    taken, left, unknown = {}, {}, []
    for name, value in found.state.items():
        reason = next((text for start, text in _LEFT[found.kind].items() if name.startswith(start)), None)
        if reason:
            left[name] = reason
        elif name.startswith(_TAKEN[found.kind]):
            taken[name] = value
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{found.path} looks like {found.label}, but {len(unknown)} of its names are unknown there "
                        f"({unknown[0]}{', …' if unknown[1:] else ''}); it is another network, or a changed one.")
    return Split(taken, left)


def write_onto(found: Found, public: str, output: str) -> tuple[int, int]:
    """Writes a public checkpoint again with our weights in the places that AlignVAR shares, everything else untouched.

    Args:
        found: weights of ours, converted from such a file and perhaps trained further.
        public: the `.pth` whose form, and whatever AlignVAR leaves out, the new file has.
        output: the `.pth` to write.

    Returns:
        How many tensors are ours, and how many are the public file's.

    Raises:
        UserError: the two do not hold the same network, or a file cannot be read or written.
    """
    target = recognise(public, network=found.network)
    shared, ours = ({name: value for name, value in state.items() if name != HITS}
                    for state in (split(target).taken, found.state))
    # Neither more nor less: without SCA's mask generator, for which VARSR has no place, ours would be another model.
    same = shared.keys() == ours.keys() and all(ours[name].shape == shared[name].shape for name in shared)
    if not is_public(target.kind) or target.network != found.network or not same:
        raise UserError(f"{found.path} does not fit into {public}: one holds {found.label}, the other {target.label}, "
                        "of other names or shapes; name the file that it was converted from.")
    content = load_pth(resolve(public))
    nest, _, key = target.key.rpartition(".")
    state = content[nest][key] if nest else content.get(target.key, content)
    for name in list(state):
        plain = name.removeprefix("module.")
        if plain in ours:
            state[name] = ours[plain].to(state[name].dtype)
    write_pth(output, content)
    return len(shared), len(target.state) - len(shared)
