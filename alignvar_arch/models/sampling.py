"""How a block of options, ``val`` or ``train``, says that tokens are chosen."""
from alignvar_arch.archs.transformer.sampling import CHOICES
from alignvar_arch.errors import UserError
from alignvar_arch.models.checks import check_range


def sampling(block: dict) -> dict:
    """Return the arguments of ``AlignVAR.generate`` that a block gives, with its defaults: greedy."""
    return {"choice": block.get("choice", "sample"), "top_k": block.get("top_k", 1), "top_p": block.get("top_p", 1.0),
            "temperature": block.get("temperature", 1.0)}


def check_sampling(opt: dict, block: str) -> None:
    """Raise UserError where what ``opt[block]`` says of it is unknown or out of range."""
    choice = sampling(opt.get(block) or {})["choice"]
    if choice not in CHOICES:
        raise UserError(f"{block}.choice: is {choice!r}, but must be one of {', '.join(CHOICES)}.")
    check_range(opt, f"{block}.top_k", 0, whole=True)
    check_range(opt, f"{block}.top_p", 1e-6, 1)
    check_range(opt, f"{block}.temperature", 1e-6)
