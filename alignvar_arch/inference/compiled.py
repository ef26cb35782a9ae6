"""Steps and decoding through torch.compile, and through CUDA graphs on a GPU; as they are where that fails.

A block is compiled once for each scale and serves all blocks, whose weights it is given: ten graphs, and one for the
last block beside the LR's tokens, whatever the depth. On a GPU a whole step is then recorded as one CUDA graph, which
needs its tensors to stay where they are: the memory of keys and values is allocated once and used again.
"""
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.layers.conv import SpatialAttention
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.archs.transformer.block import Block
from alignvar_arch.inference.memory import is_exhausted

SIZES = 8  # of results whose decoding is compiled: it takes longer than decoding some pictures does
GRAPHS = 64  # of one function; torch gives up at 8, and there are ten scales
Memory = list[tuple[torch.Tensor, torch.Tensor]]


class Compiled:
    """Does what a network's ``memory`` and ``predict`` and a tokenizer's ``decode`` do, compiled at the first use.

    What fails is computed again as it is, and so is everything after it.

    Args:
        net, tokenizer: in eval mode; their weights must stay as they are.
        say: is told why, in one sentence, where it fails.
    """

    def __init__(self, net: AlignVAR, tokenizer: AlignVARTokenizer, say: Callable[[str], object]):
        self.net, self.tokenizer, self.say = net, tokenizer, say
        self.working = True
        self._functions: dict[Callable, Callable] = {}
        self._sizes: set[torch.Size] = set()
        self._recorded: Recorded | None = None

    def memory(self, x: torch.Tensor, rows: int) -> Memory:
        """Does what ``AlignVAR.memory`` does; on a GPU it is the same memory as long as ``rows`` stays the same."""
        if not self.working or x.device.type != "cuda":
            return self.net.memory(x, rows)
        if self._recorded is None or self._recorded.rows != rows:
            self._recorded = None  # first, so that its memory is free
            self._recorded = Recorded(self.net.memory(x, rows), rows)
        return self._recorded.memory

    def predict(self, k: int, x: torch.Tensor, tables: list[torch.Tensor], head_table: torch.Tensor,
                memory: Memory) -> torch.Tensor:
        """Does what ``AlignVAR.predict`` does; on a GPU what it returned last for a scale is overwritten."""
        return self._try(self._step, self.net.predict, k, x, tables, head_table, memory)

    def decode(self, f_hat: torch.Tensor, lr: torch.Tensor | None = None) -> torch.Tensor:
        """Does what ``AlignVARTokenizer.decode`` does, compiled for small results, the first ``SIZES`` sizes."""
        small, given = max(f_hat.shape[-2:]) <= SpatialAttention.window, (self.tokenizer, f_hat, lr)
        if small and (len(self._sizes) < SIZES or f_hat.shape in self._sizes):
            self._sizes.add(f_hat.shape)
            return self._try(self._compiled(AlignVARTokenizer.decode), AlignVARTokenizer.decode, *given)
        return self.tokenizer.decode(f_hat, lr)

    def _try(self, fast: Callable, plain: Callable, *given) -> torch.Tensor:
        if self.working:
            try:
                with _many_graphs():
                    return fast(*given)
            # Compilers fail in ways of their own. What is no fault of theirs fails again, below.
            except Exception as error:
                if is_exhausted(error):
                    raise
                first = next(iter(str(error).strip().splitlines()), "")
                reason = f"{type(error).__name__}: {first[:200]}".rstrip(".: ")
            self.working, self._recorded = False, None
            self.say(f"compiling failed ({reason}); going on without.")
        return plain(*given)

    def _compiled(self, function: Callable) -> Callable:
        """Returns what compiles a function when it is called."""
        def run(*given, **named):
            if function not in self._functions:
                self._functions[function] = torch.compile(function, fullgraph=True, dynamic=False)
            return self._functions[function](*given, **named)

        return run

    def _step(self, k: int, x: torch.Tensor, tables: list[torch.Tensor], head_table: torch.Tensor,
              memory: Memory) -> torch.Tensor:
        def step(*given) -> torch.Tensor:
            return self.net.predict(k, *given, run=self._compiled(Block.forward))

        if self._recorded is None:
            return step(x, tables, head_table, memory)
        return self._recorded(k, step, x, tables, head_table)


def _many_graphs() -> AbstractContextManager:
    import torch._dynamo  # not above: it takes seconds, which nobody else need wait

    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # to torch 2.6
    return torch._dynamo.config.patch({name: GRAPHS})


class Recorded:
    """Steps recorded as CUDA graphs, for one number of rows, with all tensors that they read and write."""

    def __init__(self, memory: Memory, rows: int):
        self.memory, self.rows = memory, rows
        self.tables: list[torch.Tensor] | None = None
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        self.pool = torch.cuda.graph_pool_handle()  # one for all: no two steps run at once

    def __call__(self, k: int, step: Callable, x: torch.Tensor, tables: list[torch.Tensor],
                 head_table: torch.Tensor) -> torch.Tensor:
        """Runs step ``k``, by its graph if there is one already."""
        given = [*tables, head_table]
        if self.tables is None:
            self.tables = [table.clone() for table in given]
        elif k == 0:  # all steps of a generation have the same
            torch._foreach_copy_(self.tables, given)
        if k not in self.graphs:
            self.graphs[k] = self._record(step, x.clone())
        graph, own, logits = self.graphs[k]
        own.copy_(x)
        graph.replay()
        return logits

    def _record(self, step: Callable,
                x: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        *tables, head_table = self.tables
        aside, now = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            step(x, tables, head_table, self.memory)  # compiles, and makes the libraries' workspaces
        now.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Left to itself it records on a stream of the current device, which another device's work never enters.
        with torch.cuda.graph(graph, pool=self.pool, stream=aside):
            logits = step(x, tables, head_table, self.memory)
        return graph, x, logits
