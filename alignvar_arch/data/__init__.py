"""Registered datasets."""

from alignvar_arch.data.photo_dataset import PhotoDataset

__all__ = ["PhotoDataset"]
