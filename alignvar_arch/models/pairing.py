"""What options with a tokenizer and a transformer refuse: two that do not belong together."""
from alignvar_arch.checkpoints.recognise import Found
from alignvar_arch.errors import UserError
from alignvar_arch.inference.pairing import same_codes
from alignvar_arch.models.checks import arguments, check_same_network, chosen


def check_sizes(opt: dict, transformer: str, tokenizer: str) -> None:
    """Raise UserError where codebook or scales of the networks under these keys differ."""
    one, other = arguments(opt[transformer]), arguments(opt[tokenizer])
    for key in ("codebook_size", "latent_dim", "scales"):
        if one[key] != other[key]:
            raise UserError(f"{transformer}.{key} is {one[key]} but {tokenizer}.{key} is {other[key]}; the transformer "
                            "must be built for the tokenizer that it goes with: make them equal.")


def check_codes(opt: dict, transformer: str, tokenizer: str, averaged: bool = False) -> None:
    """Raise UserError where the transformer's weights are of other settings, or were trained on other codes.

    Args:
        opt: complete options; both have weights.
        transformer, tokenizer: keys of the networks.
        averaged: whether the tokenizer has an average beside it, which begins with the file's 'params_ema'.
    """
    metadata = check_same_network(opt, transformer)
    taken = average = chosen(opt, tokenizer)
    if "params_ema" in taken.beside:
        average = chosen(opt, tokenizer, "params_ema")
    for found in (taken, average) if averaged else (taken,):
        if not _fits(metadata, found):
            better = found is not average and _fits(metadata, average)
            option = f"path.param_key_{tokenizer.removeprefix('network_')}"
            raise UserError(f"path.pretrain_{tokenizer}: {opt['path'][f'pretrain_{transformer}']} was trained on other "
                            f"codes than those of {found.path} under {found.key}; take two that belong together"
                            f"{f', or set {option} to params_ema' if better else ''}.")


def _fits(metadata: dict[str, str], tokenizer: Found) -> bool:
    embedding = tokenizer.state.get("quantize.embedding.weight")
    return embedding is None or same_codes(metadata, embedding)
