"""What a state dict's names and shapes tell about its network: VAR, VARSR and AlignVAR share the names."""

import re
from collections.abc import Mapping

import torch

# The scale schedules that VAR was published with, by the side of the picture.
SCHEDULES = {256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}

GUIDED = "decoder.guide.0.weight"  # a residual tokenizer's alone

State = Mapping[str, torch.Tensor]


def transformer_arguments(state: State) -> dict:
    """Returns AlignVAR's arguments as far as the shapes tell them.

    Raises:
        KeyError: a parameter that they are read from is missing.
    """
    codes, width = state["head.weight"].shape
    found = {"depth": _count(state, "blocks"), "embed_dim": width,
             "num_heads": state["blocks.0.attn.scale_mul_1H11"].shape[1],
             "mlp_ratio": state["blocks.0.ffn.fc1.weight"].shape[0] // width,
             "codebook_size": codes, "latent_dim": state["word_embed.weight"].shape[1]}
    if "con_embedding.conv_in.weight" in state:
        halving = range(1, _count(state, "con_embedding.blocks"), 2)
        found["condition_widths"] = [state["con_embedding.conv_in.weight"].shape[0],
                                     *(state[f"con_embedding.blocks.{i}.weight"].shape[0] for i in halving)]
        found["condition_blocks"] = _count(state, "con_embedding.extra")
        found["local_condition"] = "con_local.weight" in state
    return found


def tokenizer_arguments(state: State) -> dict:
    """Returns AlignVARTokenizer's arguments as far as the shapes tell them.

    Raises:
        KeyError: a parameter that they are read from is missing.
    """
    codes, latent = state["quantize.embedding.weight"].shape
    ch = state["encoder.conv_in.weight"].shape[0]
    common = {"ch": ch, "codebook_size": codes, "latent_dim": latent,
              "num_phi": _count(state, "quantize.quant_resi.qresi_ls")}
    if GUIDED in state:
        widths = [ch, *(state[f"encoder.down.{i}.1.weight"].shape[0] for i in range(_count(state, "encoder.down")))]
        return {**common, "target": "residual", "ch_mult": [width // ch for width in widths],
                "num_res_blocks": _count(state, "encoder.mid"),
                "guide_blocks": _count(state, "decoder.guide.1") + _count(state, "decoder.joined")}
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(_count(state, "encoder.down"))]
    return {**common, "ch_mult": [width // ch for width in widths],
            "num_res_blocks": _count(state, "encoder.down.0.block")}


def transformer_scales(state: State) -> list[int] | None:
    """Returns the published schedule that a transformer's positions fit, or None."""
    for sides in SCHEDULES.values():
        tokens, prefix = sum(side * side for side in sides), sides[-1] ** 2
        if state["lvl_embed.weight"].shape[0] != len(sides):
            continue
        if "pos_1LC" in state:  # VAR's absolute positions, one a token
            fits = state["pos_1LC"].shape[1] == tokens
        else:
            fits = state["pos_start"].shape[1] == prefix + 1 and (
                "lvl_1L" not in state or state["lvl_1L"].shape[1] == prefix + tokens)
        if fits:
            return list(sides)
    return None


def _count(state: State, prefix: str) -> int:
    """Returns one more than the highest number that follows ``prefix.``."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(pattern.match, state) if match), default=-1)
