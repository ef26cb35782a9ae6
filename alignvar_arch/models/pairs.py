"""What options with a tokenizer and a transformer refuse: two that do not belong together."""
from alignvar_arch import checkpoints
from alignvar_arch.errors import UserError
from alignvar_arch.inference.pairing import same_codes
from alignvar_arch.models.checks import arguments, check_same_network


def check_sizes(opt: dict, transformer: str, tokenizer: str) -> None:
    """Raise UserError where codebook or scales of the networks under these keys differ."""
    one, other = arguments(opt[transformer]), arguments(opt[tokenizer])
    for key in ("codebook_size", "latent_dim", "scales"):
        if one[key] != other[key]:
            raise UserError(f"{transformer}.{key} is {one[key]} but {tokenizer}.{key} is {other[key]}; take two that "
                            "belong together.")


def check_codes(opt: dict, transformer: str, tokenizer: str, param_key: str) -> None:
    """Raise UserError where the transformer's weights are of other settings, or were trained on other codes.

    Args:
        opt: complete options; both have weights.
        transformer, tokenizer: keys of the networks.
        param_key: the state dict of the tokenizer's file that is loaded.
    """
    metadata = check_same_network(opt, transformer)
    path, own = opt["path"][f"pretrain_{tokenizer}"], opt["path"][f"pretrain_{transformer}"]
    states = checkpoints.read(path)[0]
    embedding = states.get(param_key, states.get("params", {})).get("quantize.embedding.weight")
    if embedding is not None and not same_codes(metadata, embedding):
        raise UserError(f"path.pretrain_{tokenizer}: {own} was trained on other codes than those of {path} under "
                        f"{param_key}; take two that belong together, and params_ema where the transformer was trained "
                        "on the average.")
