"""Registered datasets."""

from alignvar_arch.data.evaluation_dataset import EvaluationDataset
from alignvar_arch.data.lmdb_dataset import LMDBPairDataset
from alignvar_arch.data.photo_dataset import PhotoDataset

__all__ = ["EvaluationDataset", "LMDBPairDataset", "PhotoDataset"]
