"""Where attention looks, layer by layer and scale by scale (the paper's Figure 2).

Shapes: H heads, N queries of one scale, M keys, P prefix tokens, s side of a scale, D head width.
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from alignvar_arch.archs.scales import ScaleSchedule
from alignvar_arch.archs.transformer.block import Attention
from alignvar_arch.diagnose.subjects import Subject


def probabilities(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the attention probabilities (…, N, M) of q (…, N, D) and k (…, M, D), scaled as the block gives them."""
    return (q.float() @ k.float().transpose(-1, -2)).softmax(-1)


def distances(side: int) -> torch.Tensor:
    """Return the Euclidean distances between the token centres of a map, (s², s²), in sides of the picture."""
    centres = (torch.arange(side) + 0.5) / side
    places = torch.cartesian_prod(centres, centres)
    return torch.cdist(places, places)


def window(side: int) -> torch.Tensor:
    """Return 1 where a key lies in the 3×3 around the query, else 0, (s², s²)."""
    index = torch.arange(side)
    places = torch.cartesian_prod(index, index)
    return ((places[:, None] - places).abs().amax(-1) <= 1).float()


def uniform(side: int) -> tuple[float, float]:
    """Return mean distance and 3×3 mass of attention that looks everywhere alike."""
    return distances(side).mean().item(), window(side).sum(1).mean().item() / side ** 2


def look(own: torch.Tensor, side: int) -> tuple[float, float]:
    """Return mean distance and 3×3 mass of probabilities (H, s², s²) over a scale's own keys."""
    apart, near = distances(side).to(own), window(side).to(own)
    return (own * apart).sum(-1).mean().item(), (own * near).sum(-1).mean().item()


def layer_figures(q: torch.Tensor, k: torch.Tensor, schedule: ScaleSchedule, prefix: int) -> dict[str, list[float]]:
    """Return one layer's figures by scale from q and k (1, H, P + L, D); the probabilities of one scale at a time.

    ``distance`` and ``window`` are of the probabilities over the scale's own keys, renormalised; ``own``, ``coarser``
    and ``lr`` are the shares of the whole mass that fall on the scale's own tokens, on those of coarser scales and on
    the LR prefix.
    """
    figures = {key: [] for key in ("distance", "window", "own", "coarser", "lr")}
    for span, side in zip(schedule.spans, schedule.sides, strict=True):
        start, stop = prefix + span.start, prefix + span.stop
        queries = q[0, :, start:stop]
        distance, near = look(probabilities(queries, k[0, :, start:stop]), side)
        mass = probabilities(queries, k[0, :, :stop]).mean((0, 1))
        for key, value in (("distance", distance), ("window", near), ("own", mass[start:].sum().item()),
                           ("coarser", mass[prefix:start].sum().item()), ("lr", mass[:prefix].sum().item())):
            figures[key].append(value)
    return figures


def measure(subject: Subject, lr: torch.Tensor, cumulative: list[torch.Tensor]) -> dict[str, list[list[float]]]:
    """Return ``layer_figures`` of all layers, figure → layer → scale, over the history of ``cumulative``."""
    net, layers = subject.net, []

    def record(attention: Attention, arguments: tuple) -> None:
        q, k, _ = attention.queries_keys_values(*arguments[:2])
        layers.append(layer_figures(q, k, net.schedule, net.prefix))

    with _watching([block.attn for block in net.blocks], record):
        subject.predict(lr, cumulative)
    return {key: [layer[key] for layer in layers] for key in layers[0]}


@contextmanager
def _watching(modules: list[Attention], function: Callable[[Attention, tuple], None]) -> Iterator[None]:
    """Call a function before each of the modules runs, as long as the context lasts."""
    hooks = [module.register_forward_pre_hook(function) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
