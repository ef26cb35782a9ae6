"""What happens in one BasicSR step: the three stages of training, tokenizer, transformer and decoder."""
from alignvar_arch.models.alignvar_model import AlignVARModel
from alignvar_arch.models.decoder_model import AlignVARDecoderModel
from alignvar_arch.models.tokenizer_model import AlignVARTokenizerModel

__all__ = ["AlignVARDecoderModel", "AlignVARModel", "AlignVARTokenizerModel"]
