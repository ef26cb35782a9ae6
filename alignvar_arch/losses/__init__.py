"""Losses, registered with BasicSR: token cross-entropy, HCC, and the tokenizer's."""
from alignvar_arch.losses.hcc_loss import HCCLoss
from alignvar_arch.losses.token_loss import TokenCrossEntropyLoss
from alignvar_arch.losses.tokenizer_loss import LPIPSLoss, LPIPSPerceptualLoss, VQLoss

__all__ = ["HCCLoss", "LPIPSLoss", "LPIPSPerceptualLoss", "TokenCrossEntropyLoss", "VQLoss"]
