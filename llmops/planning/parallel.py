"""Which ways of splitting a model over GPUs are valid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmops.checkpoint.facts import ModelFacts
from llmops.hardware.host import Host
from llmops.planning.limits import why_not_tensor_parallel

_MARLIN_K = 128


@dataclass(frozen=True, slots=True)
class Split:
    """Tensor- and pipeline-parallel degrees on chosen GPUs; ``island`` says that tensor parallelism stays in NVLink."""

    tensor_parallel: int
    pipeline_parallel: int
    gpus: tuple[int, ...]
    island: bool

    @property
    def size(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


def tensor_parallel_obstacle(facts: ModelFacts, degree: int) -> str | None:
    """Why this model cannot be split ``degree`` ways, None when it can.

    Quantised matrices that are split by their inputs must keep whole groups, and whole tiles of 128 for Marlin.
    """
    quantized = facts.quantization is not None and facts.quantization.method in (
        "gptq",
        "awq",
        "w4a16",
        "w8a16",
        "nvfp4",
    )
    group = facts.quantization.group_size if quantized and facts.quantization else None
    rows = _row_dims(facts)
    heads = 0 if facts.heads == 0 else facts.heads
    return why_not_tensor_parallel(
        degree,
        heads=heads,
        kv_heads=0 if facts.groups and facts.groups[0].kind == "mla" else facts.kv_heads,
        vocab=facts.vocab or None,
        row_dims=rows,
        group_size=group,
        kernel_k=_MARLIN_K if quantized and group else 1,
    )


def splits(
    facts: ModelFacts, host: Host, gpus: tuple[int, ...], *, tensor: int | None, pipeline: int | None
) -> Iterator[Split]:
    """Valid ways to use some of ``gpus`` for one replica, in the order to try.

    Where cards are linked, tensor parallelism goes before pipelines; elsewhere pipelines go first, since they send less.
    Then sizes that leave no card idle, then fewer cards.
    """
    islands = [tuple(index for index in island if index in gpus) for island in host.islands()]
    largest = max((len(island) for island in islands), default=1)
    options = []
    for tp in range(1, len(gpus) + 1):
        if tensor is not None and tp != tensor:
            continue
        if tensor_parallel_obstacle(facts, tp) is not None:
            continue
        for pp in range(1, len(gpus) // tp + 1):
            if (pipeline is not None and pp != pipeline) or pp > max(1, facts.layers):
                continue
            size, slow = tp * pp, tp > largest
            needless = pp > 1 and size <= largest
            options.append((needless, len(gpus) % size != 0, size, slow, pp, tp))
    for _, _, size, slow, pp, tp in sorted(options):
        yield Split(tp, pp, _choose(islands, gpus, tp, size), island=not slow)


def _choose(islands: list[tuple[int, ...]], gpus: tuple[int, ...], tp: int, size: int) -> tuple[int, ...]:
    """GPUs for a replica: each tensor-parallel group inside one island, from the smallest island that has room."""
    chosen: list[int] = []
    rooms = [list(island) for island in sorted(islands, key=len)]
    while len(chosen) < size:
        room = next((room for room in rooms if len(room) >= tp), None)
        if room is None:
            rest = [index for index in gpus if index not in chosen]
            return tuple(chosen + rest[: size - len(chosen)])
        chosen += room[:tp]
        del room[:tp]
    return tuple(chosen)


def _row_dims(facts: ModelFacts) -> tuple[int, ...]:
    """Input sizes of matrices that are split by input: what attention gives out, and the inner size."""
    inner = {facts.heads * facts.head_dim if facts.heads else 0, facts.intermediate}
    if facts.moe is not None:
        dense = facts.moe.layers < facts.layers
        inner = {facts.heads * facts.head_dim, facts.moe.intermediate} | ({facts.intermediate} if dense else set())
    if facts.groups and facts.groups[0].kind == "mla":
        inner.discard(facts.heads * facts.head_dim)
    return tuple(sorted(size for size in inner if size))
