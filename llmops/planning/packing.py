"""Several models on one machine: which GPUs each gets."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError
from llmops.hardware.host import Host
from llmops.planning.candidates import Request, evaluate, prepare
from llmops.planning.parallel import Split, splits
from llmops.planning.types import PlanSpec

Wanted = tuple[ModelFacts, PlanSpec]


def pack(wanted: Sequence[Wanted], host: Host) -> list[tuple[int, ...]]:
    """GPUs for each model in the order given. A model never shares a card with another.

    The model that needs most GPUs chooses first, on cards of one kind and in one island where it can; what is left over
    is shared out evenly among the models that can use it.

    Raises:
        MachineError: There are fewer GPUs than models.
    """
    if not wanted:
        return []
    pools = _pools(host)
    every = tuple(gpu.index for gpu in host.usable_gpus)
    if len(wanted) == 1:
        return [_best_pool(wanted[0], host, pools)]
    if len(wanted) > len(every):
        raise MachineError(f"{len(wanted)} models need a GPU each, {len(every)} can be used", "serve fewer models here")
    needs = [_smallest(item, host, pools) for item in wanted]
    given: dict[int, list[int]] = {}
    free = list(every)
    for place in sorted(range(len(wanted)), key=lambda i: -needs[i].size):
        given[place] = _take(wanted[place], needs[place], host, free)
        free = [index for index in free if index not in given[place]]
    _share_rest(wanted, host, given, free)
    return _tidy(wanted, host, given, {place: need.size for place, need in enumerate(needs)})


def _pools(host: Host) -> list[tuple[int, ...]]:
    """Usable GPUs by kind, most memory in all first: a replica never mixes kinds."""
    kinds: dict[tuple[str, int], list[int]] = {}
    for gpu in host.usable_gpus:
        kinds.setdefault((gpu.name, gpu.total_bytes), []).append(gpu.index)
    return [tuple(members) for _, members in sorted(kinds.items(), key=lambda item: -item[0][1] * len(item[1]))]


def _best_pool(item: Wanted, host: Host, pools: list[tuple[int, ...]]) -> tuple[int, ...]:
    """All GPUs of the kind on which the model needs fewest; of equals, the pool with most memory."""
    needed: list[tuple[int, int]] = []
    for place, pool in enumerate(pools):
        request = _request(item, host, pool)
        fitting = (split for split in _ways(item, host, pool) if evaluate(request, split).shortfall_gib is None)
        if split := next(fitting, None):
            needed.append((split.size, place))
    return pools[min(needed)[1]] if needed else pools[0]


def _smallest(item: Wanted, host: Host, pools: list[tuple[int, ...]]) -> Split:
    """The smallest split in which the model fits, on whichever kind needs the fewest GPUs."""
    found: list[Split] = []
    for pool in pools:
        request = _request(item, host, pool)
        fitting = (split for split in _ways(item, host, pool) if evaluate(request, split).shortfall_gib is None)
        if split := next(fitting, None):
            found.append(split)
    return min(found, key=lambda split: split.size, default=Split(1, 1, (), island=True))


def _take(item: Wanted, need: Split, host: Host, free: list[int]) -> list[int]:
    """The free GPUs that waste least: the weakest kind that still holds the model, inside one island."""
    pools = [tuple(index for index in pool if index in free) for pool in reversed(_pools(host))]
    for pool in (pool for pool in pools if pool):
        request = _request(item, host, pool)
        for split in _ways(item, host, pool):
            if evaluate(request, split).shortfall_gib is None:
                return list(split.gpus)
    return free[: max(1, need.size)]


def _share_rest(wanted: Sequence[Wanted], host: Host, given: dict[int, list[int]], free: list[int]) -> None:
    """Add replicas in turn, to models on the same kind of card, while whole replicas are left."""
    kind = {gpu.index: (gpu.name, gpu.total_bytes) for gpu in host.usable_gpus}
    sizes = {place: len(gpus) for place, gpus in given.items()}
    progress = True
    while progress:
        progress = False
        for place in sorted(given, key=lambda i: len(given[i]) / sizes[i]):
            spec = wanted[place][1]
            if spec.replicas and len(given[place]) >= spec.replicas * sizes[place]:
                continue
            same = [index for index in free if kind[index] == kind[given[place][0]]]
            if len(same) >= sizes[place]:
                given[place] += same[: sizes[place]]
                free = [index for index in free if index not in given[place]]
                progress = True
                break


def _tidy(
    wanted: Sequence[Wanted], host: Host, given: dict[int, list[int]], sizes: dict[int, int]
) -> list[tuple[int, ...]]:
    """The same numbers of the same cards, but each model's GPUs side by side."""
    kind = {gpu.index: (gpu.name, gpu.total_bytes) for gpu in host.usable_gpus}
    free = [gpu.index for gpu in host.usable_gpus]
    tidy: dict[int, tuple[int, ...]] = {}
    for place in sorted(given, key=lambda i: -sizes[i]):
        same = [index for index in free if kind[index] == kind[given[place][0]]]
        chosen: list[int] = []
        while len(chosen) < len(given[place]):
            left = [index for index in same if index not in chosen]
            chosen += _take(wanted[place], Split(sizes[place], 1, (), island=True), host, left)
        tidy[place] = tuple(chosen[: len(given[place])])
        free = [index for index in free if index not in tidy[place]]
    return [tidy[place] for place in range(len(wanted))]


def _ways(item: Wanted, host: Host, pool: tuple[int, ...]) -> list[Split]:
    facts, spec = item
    return list(splits(facts, host, pool, tensor=spec.tensor_parallel, pipeline=spec.pipeline_parallel))


def _request(item: Wanted, host: Host, pool: tuple[int, ...]) -> Request:
    return prepare(item[0], item[1], host, pool)
