"""Small networks, random but seeded, as files too, and reference weights: what the tests of the core share."""
import json
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torchvision.models import squeezenet1_1

from alignvar_arch.archs import AlignVAR, AlignVARTokenizer
from alignvar_arch.archs.lpips import TAPS
from alignvar_arch.archs.tokenizer.codebook import codebook_hash
from alignvar_arch.checkpoints import write_safetensors

SCALES = (1, 2, 3, 4)
TOKENIZER = {"type": "AlignVARTokenizer", "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "codebook_size": 24,
             "latent_dim": 4, "scales": list(SCALES), "num_phi": 2}  # as options and metadata have them
TRANSFORMER = {"type": "AlignVAR", "depth": 2, "embed_dim": 32, "num_heads": 2, "codebook_size": 24, "latent_dim": 4,
               "scales": list(SCALES), "condition_widths": [8, 16], "drop_path": 0.0}
RESIDUAL = {"ch_mult": [1], "guide_blocks": 2, "target": "residual"}  # of 16-pixel pictures, too


def tokenizer_options(**changes) -> dict:
    """The options of ``tokenizer(**changes)``."""
    return {**TOKENIZER, **(RESIDUAL if changes.get("target") == "residual" else {}), **changes}


def tokenizer(seed: int = 0, **changes) -> AlignVARTokenizer:
    """A tokenizer of 16-pixel pictures: factor 4, four scales, 24 codes of width 4, no two alike in size.

    With ``target="residual"`` tokens and LR show in the picture, as they do after training.
    """
    torch.manual_seed(seed)
    net = AlignVARTokenizer(**_arguments(tokenizer_options(**changes)))
    with torch.no_grad():
        if net.target == "residual":
            net.decoder.guide[-1].weight.normal_(std=0.2)
            net.decoder.conv_out.weight.normal_(std=0.05)
        net.quantize.embedding.weight.mul_(torch.linspace(1.5, 0.1, net.quantize.codebook_size)[:, None])
    return net.eval()


def transformer(seed: int = 0, **changes) -> AlignVAR:
    """A transformer for ``tokenizer()`` whose every part matters: nothing is left at zero."""
    torch.manual_seed(seed)
    net = AlignVAR(**_arguments({**TRANSFORMER, **changes}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def _arguments(options: dict) -> dict:
    return {key: value for key, value in options.items() if key != "type"}


def files(folder: Path) -> tuple[str, str]:
    """Write the two as weights that belong together, with metadata, and return the transformer's path and the other."""
    model, path, net = str(folder / "m.safetensors"), str(folder / "t.safetensors"), tokenizer()
    write_safetensors(path, net.state_dict(), {"network": json.dumps(TOKENIZER)})
    write_safetensors(model, transformer().state_dict(),
                      {"network": json.dumps(TRANSFORMER), "scale": "4", "bad_quality_rate": "0.0",
                       "codebook": codebook_hash(net.quantize.embedding.weight)})
    return model, path


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    """Whole numbers of all values that the type holds."""
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def pictures(batch: int = 2, side: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """GT (B, 3, side, side) and its LR, four times smaller, in [0, 1]."""
    gt = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return gt, torch.nn.functional.avg_pool2d(gt, 4)


def squeezenet() -> torch.nn.Module:
    """LPIPS's network with random weights."""
    torch.manual_seed(0)
    return squeezenet1_1(weights=None).eval()


def lpips_linear() -> dict[str, torch.Tensor]:
    """Random weights for the layers after it."""
    generator = torch.Generator().manual_seed(1)
    return {f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
            for index, width in enumerate(TAPS.values())}


def lpips_weights(folder: Path) -> Path:
    """Write both into a new folder, by the names that LPIPS's weights have in ../shared, and return it."""
    folder.mkdir()
    torch.save(squeezenet().features.state_dict(), folder / "squeezenet1_1_features_fp32.pth")
    torch.save(lpips_linear(), folder / "lin_v0.1_squeeze.pth")
    return folder


def reference_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The float32 weights that the golden figures were computed with, drawn by rule from a tensor's public name."""
    normal = torch.from_numpy(
        np.random.default_rng(crc32(f"0:{name}".encode())).standard_normal(shape).astype(np.float32))
    if name.endswith("scale_mul_1H11"):
        return torch.where(torch.arange(shape[1]).view(shape) == 0, torch.tensor(5.0), 1.4 + 0.1 * normal)
    if name.endswith("quantize.embedding.weight"):
        return normal * (1.2 * torch.exp(-3.5 * torch.arange(shape[0]) / shape[0]))[:, None]
    if name.endswith(("class_emb.weight", "lvl_embed.weight")):
        return normal
    if name.endswith("pos_start"):
        return 0.3 * normal
    if len(shape) >= 2:
        return normal * ((2.0 if "word_embed" in name else 1.0) / np.sqrt(int(np.prod(shape[1:]))))
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.1 * normal
    return 0.1 * normal


def with_reference_weights(net: torch.nn.Module) -> torch.nn.Module:
    """``net`` in eval mode with the weights of the golden figures."""
    kept = ("zero_k_bias", "ema_vocab_hit_SV")
    net.load_state_dict({name: value if name.split(".")[-1] in kept else reference_tensor(name, tuple(value.shape))
                         for name, value in net.state_dict().items()})
    return net.eval()


def reference_picture(side: int) -> torch.Tensor:
    """The golden figures' smooth picture, (1, 3, side, side) in [−1, 1]: eight plane waves a channel."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(0, 1, side, endpoint=False),) * 2, indexing="ij")
    terms = zip(rng.uniform(.05, .4, (8, 3, 1, 1)), rng.integers(0, 12, (8, 3, 1, 1)),
                rng.integers(0, 12, (8, 3, 1, 1)), rng.uniform(0, 6.28, (8, 3, 1, 1)), strict=True)
    waves = sum(a * np.sin(2 * np.pi * (u * x[None] + v * y[None]) + p) for a, u, v, p in terms)
    return torch.from_numpy(np.clip(waves, -1, 1).astype(np.float32))[None]
