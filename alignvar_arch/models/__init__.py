"""What happens in one BasicSR step: AlignVARTokenizerModel and AlignVARModel."""
from alignvar_arch.models.alignvar_model import AlignVARModel
from alignvar_arch.models.tokenizer_model import AlignVARTokenizerModel

__all__ = ["AlignVARModel", "AlignVARTokenizerModel"]
