"""Architectures: AlignVARTokenizer and AlignVAR, and what they are made of."""
from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer

__all__ = ["AlignVAR", "AlignVARTokenizer"]
