"""What options with a tokenizer and a transformer refuse: two that do not belong together."""
from alignvar_arch import checkpoints
from alignvar_arch.compat.networks import select
from alignvar_arch.errors import UserError
from alignvar_arch.inference.pairing import same_codes
from alignvar_arch.models.checks import arguments, check_same_network


def check_sizes(opt: dict, transformer: str, tokenizer: str) -> None:
    """Raise UserError where codebook or scales of the networks under these keys differ."""
    one, other = arguments(opt[transformer]), arguments(opt[tokenizer])
    for key in ("codebook_size", "latent_dim", "scales"):
        if one[key] != other[key]:
            raise UserError(f"{transformer}.{key} is {one[key]} but {tokenizer}.{key} is {other[key]}; the transformer "
                            "must be built for the tokenizer that it goes with: make them equal.")


def check_codes(opt: dict, transformer: str, tokenizer: str, option: str, default: str) -> None:
    """Raise UserError where the transformer's weights are of other settings, or were trained on other codes.

    Args:
        opt: complete options; both have weights.
        transformer, tokenizer: keys of the networks.
        option, default: the option of ``path`` that names the state dict of the tokenizer's file, and its default.
    """
    metadata = check_same_network(opt, transformer)
    path, own = opt["path"][f"pretrain_{tokenizer}"], opt["path"][f"pretrain_{transformer}"]
    states = checkpoints.read(path)[0]
    state, key = select(states, opt[tokenizer]["type"], opt["path"].get(option, default), path)
    embedding = state.get("quantize.embedding.weight")
    if embedding is not None and not same_codes(metadata, embedding):
        other = f", or set path.{option} to params_ema" if key != "params_ema" and "params_ema" in states else ""
        raise UserError(f"path.pretrain_{tokenizer}: {own} was trained on other codes than those of {path} under "
                        f"{key}; take two that belong together{other}.")
