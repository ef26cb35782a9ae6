"""Which transformer goes with which tokenizer, and which can be guided."""
import torch

from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.checkpoints.recognise import Found, recognise
from alignvar_arch.errors import UserError

MODEL = "alignvar_arch:weights/alignvar_x4_small.safetensors"
TOKENIZER = "alignvar_arch:weights/tokenizer_x4_small.safetensors"
NOT_GUIDED = ("this model was trained without bad-quality samples (train.bad_quality_rate 0), so there is nothing to "
              "guide away from")


def why_unguided(found: Found) -> str | None:
    """Returns why a transformer cannot be guided, or None where it can."""
    if found.is_varsrs:  # it knows the bad label
        return None
    if "bad_quality_rate" not in found.metadata:
        return f"{found.path} does not say whether it was trained with bad-quality samples, which guidance needs"
    try:
        rate = float(found.metadata["bad_quality_rate"])
    except ValueError:
        return (f"{found.path} has metadata with bad_quality_rate {found.metadata['bad_quality_rate']!r}, which is no "
                "number")
    return NOT_GUIDED if rate == 0 else None


def same_codes(metadata: dict[str, str], embedding: torch.Tensor) -> bool:
    """Tells whether a transformer with these metadata was trained on this codebook, as far as they say it."""
    name = codebook_hash(embedding)
    return metadata.get("codebook", name) == name


def tokenizer_of(model: Found, given: str | None = None) -> str:
    """Returns the file of a transformer's tokenizer.

    Args:
        model: the transformer.
        given: the tokenizer that the user names; None is the one that ships, if the transformer was trained on it.

    Raises:
        UserError: it holds no tokenizer, or other codes; or nothing is given and nothing tells which one it is.
    """
    if given is None and "codebook" not in model.metadata:
        raise UserError(f"{model.path} does not say which tokenizer it was trained on; name its file (--tokenizer).")
    path = given or TOKENIZER
    found = recognise(path, network="AlignVARTokenizer")
    if found.network != "AlignVARTokenizer":
        raise UserError(f"{path} holds {found.label} and no tokenizer; name the file of one.")
    if not same_codes(model.metadata, found.state["quantize.embedding.weight"]):
        raise UserError(f"{model.path} was trained on the codes of another tokenizer than {path}; name its own "
                        "(--tokenizer).")
    return path
