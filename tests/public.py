"""Small networks written as VAR and VARSR publish theirs: the public names, and the public places in the file."""
from pathlib import Path

import torch

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.checkpoints.shapes import SCHEDULES

TOKENIZER = {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "codebook_size": 24, "latent_dim": 4, "num_phi": 4}
TRANSFORMER = {"depth": 2, "embed_dim": 32, "num_heads": 2, "codebook_size": 24, "latent_dim": 4}
VARSR = {**TRANSFORMER, "condition_widths": (8, 8, 16), "sca": "off"}
GIVEN_BY_VAR = ("blocks.", "head.", "head_nm.", "word_embed.", "lvl_embed.")


def tokenizer(**changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return AlignVARTokenizer(**{**TOKENIZER, **changes}).state_dict()


def varsr(**changes) -> dict[str, torch.Tensor]:
    """VARSR's transformer, refiner and geometry with it."""
    torch.manual_seed(2)
    state = AlignVAR(**{**VARSR, **changes}).state_dict()
    state["lvl_1L"] = torch.zeros(1, 1024 + 2240, dtype=torch.long)
    state["attn_bias_for_masking"] = torch.full((1, 1, 3, 3), -torch.inf)  # smaller than it is
    state["diffloss.net.cond_embed.weight"] = torch.randn(5, 32)
    state["decoder_norm.weight"] = torch.randn(32)
    return state


def var(px: int = 256, **changes) -> dict[str, torch.Tensor]:
    """VAR's transformer for classes, at 256 or 512 pixels."""
    state = {name: value for name, value in varsr(**changes).items() if name.startswith(GIVEN_BY_VAR)}
    width, tokens = state["word_embed.bias"].shape[0], sum(side * side for side in SCHEDULES[px])
    return {"pos_start": torch.randn(1, 1, width), "pos_1LC": torch.randn(1, tokens, width),
            "lvl_1L": torch.zeros(1, tokens, dtype=torch.long), "attn_bias_for_masking": torch.zeros(1, 1, 3, 3),
            "class_emb.weight": torch.randn(1001, width), **state}


def trainer(**networks) -> dict:
    """The file of a trainer that holds these networks."""
    return {"epoch": 3, "iter": 70, "trainer": {"config": {"patch_nums": (1, 2)}, **networks, "var_opt": {"state": {}}},
            "args": {"depth": 2, "tlr": 5e-5, "bf16": None}}


def write_all(folder: Path) -> dict[str, str]:
    """Write one file of every public form, and return the paths by kind."""
    content = {"var": var(), "var-tokenizer": tokenizer(), "varsr": trainer(var_wo_ddp=varsr()),
               "varsr-tokenizer": trainer(vae_local=tokenizer())}
    for kind, value in content.items():
        torch.save(value, folder / f"{kind}.pth")
    return {kind: str(folder / f"{kind}.pth") for kind in content}
