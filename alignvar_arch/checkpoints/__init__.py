"""Weights on disk: read without executing anything, written whole or not at all, recognised by their keys."""

from alignvar_arch.checkpoints.reading import PREFIX, read, resolve
from alignvar_arch.checkpoints.writing import write_pth, write_safetensors

__all__ = ["PREFIX", "read", "resolve", "write_pth", "write_safetensors"]
