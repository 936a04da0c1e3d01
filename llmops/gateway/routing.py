"""From a model's name to the targets that may answer, in the order in which they are tried. Pure."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from llmops.gateway.config import Gateway, Retry, RouteCache, When
from llmops.gateway.config import Route as RouteForm
from llmops.gateway.config import Target as TargetForm

if TYPE_CHECKING:
    from llmops.gateway.cache_semantic import SemanticCache
    from llmops.gateway.guard import Guard
    from llmops.gateway.targets import Target

_WILD: Final = frozenset("*?[")


@dataclass(frozen=True)
class Route:
    """What a name resolves to.

    Attributes:
        label: Its pattern, a bounded label for metrics.
        exact: Whether it is a plain name; a pattern otherwise.
        only: Its target, where it has one and that one takes every request: nothing is to be chosen.
    """

    label: str
    strategy: str
    targets: tuple[Target, ...]
    retry: Retry
    cache: RouteCache | None
    drop: bool
    exact: bool = True
    tier: int = 1
    guard: Guard | None = None
    semantic: SemanticCache | None = None
    only: list[Target] = field(default_factory=list)

    def available(self, now: float) -> bool:
        """Whether any of its targets may be asked now."""
        return any(target.blocked_s(now) == 0 for target in self.targets)


class Facts:
    """What conditions and strategies look at."""

    def __init__(self, input_tokens: int, images: bool, tools: bool, stream: bool, prefix: bytes = b"") -> None:
        self.input_tokens = input_tokens
        self.images = images
        self.tools = tools
        self.stream = stream
        self.prefix = prefix


@dataclass
class Table:
    """Routes by exact name or alias, then by pattern: the most specific (longest literal start) first."""

    exact: dict[str, Route] = field(default_factory=dict)
    patterns: list[tuple[str, Route]] = field(default_factory=list)

    def resolve(self, model: str) -> Route | None:
        """The route of a model name."""
        found = self.exact.get(model)
        if found is not None:
            return found
        for pattern, route in self.patterns:
            if pattern == "*" or fnmatchcase(model, pattern):
                return route
        return None

    def routes(self) -> list[Route]:
        """Each route once."""
        return list({id(each): each for each in (*self.exact.values(), *(row[1] for row in self.patterns))}.values())

    def names(self) -> list[str]:
        """Names that a client may ask for, patterns excluded."""
        return sorted(self.exact)


Watch = tuple["Guard | None", "SemanticCache | None"]


def build(
    config: Gateway,
    target_of: Callable[[TargetForm], Target],
    discovered: Sequence[RouteForm] = (),
    watch_of: Callable[[RouteForm], Watch] = lambda _form: (None, None),
) -> Table:
    """The table of a config; what a provider was discovered to serve comes after what is written."""
    table = Table()
    for form in (*config.routes, *discovered):
        watch, semantic = watch_of(form)
        targets = tuple(target_of(each) for each in form.targets)
        alone = len(targets) == 1 and not targets[0].conditional and form.strategy != "cheapest"
        route = Route(
            label=form.match,
            strategy=form.strategy,
            targets=targets,
            retry=form.retry or config.retry,
            cache=form.cache or (RouteCache() if config.cache.enabled else None),
            drop=(form.untranslatable or config.untranslatable) == "drop",
            exact=not _WILD & set(form.match),
            tier=form.tier,
            guard=watch,
            semantic=semantic,
            only=list(targets) if alone else [],
        )
        for name in (form.match, *form.alias):
            if _WILD & set(name):
                table.patterns.append((name, route))
            else:
                table.exact.setdefault(name, route)
    table.patterns.sort(key=lambda row: -_literal_start(row[0]))
    return table


def _literal_start(pattern: str) -> int:
    return min((pattern.index(char) for char in _WILD if char in pattern), default=len(pattern))


def meets(when: When, facts: Facts) -> bool:
    """Whether a request satisfies a target's conditions."""
    if when.max_input_tokens is not None and facts.input_tokens > when.max_input_tokens:
        return False
    if when.min_input_tokens is not None and facts.input_tokens < when.min_input_tokens:
        return False
    wanted = ((when.images, facts.images), (when.tools, facts.tools), (when.stream, facts.stream))
    return all(want is None or want == is_so for want, is_so in wanted)


def order(route: Route, facts: Facts, draw: Callable[[], float] = random.random) -> list[Target]:
    """The targets to try, first choice first."""
    if len(route.targets) == 1:
        only = route.targets[0]
        return [only] if not only.conditional or meets(only.form.when, facts) else []
    fit = [target for target in route.targets if not target.conditional or meets(target.form.when, facts)]
    return _STRATEGIES[route.strategy](fit, facts, draw)


def _ordered(targets: list[Target], _facts: Facts, _draw: Callable[[], float]) -> list[Target]:
    return targets


def _weighted(targets: list[Target], _facts: Facts, draw: Callable[[], float]) -> list[Target]:
    """A draw without replacement, by weight: each target's key is u^(1/w) (Efraimidis and Spirakis, 2006)."""
    return sorted(targets, key=lambda target: draw() ** (1 / target.form.weight), reverse=True)


def _least_busy(targets: list[Target], _facts: Facts, draw: Callable[[], float]) -> list[Target]:
    return sorted(targets, key=lambda target: (target.in_flight / target.form.weight, draw()))


def _lowest_latency(targets: list[Target], _facts: Facts, draw: Callable[[], float]) -> list[Target]:
    """By a moving average; one request in twenty goes elsewhere, so that a target that became quick is noticed."""
    ranked = sorted(targets, key=lambda target: target.latency_s)
    if len(ranked) > 1 and draw() < 0.05:
        ranked.insert(0, ranked.pop(1 + int(draw() * (len(ranked) - 1))))
    return ranked


def _prefix_affinity(targets: list[Target], facts: Facts, _draw: Callable[[], float]) -> list[Target]:
    """Rendezvous hashing of the prompt's start, so that a conversation meets its warm prefix cache again.

    A replica with twice the mean load and more than four requests gives way: a cold cache beats a long queue.
    """

    def score(target: Target) -> bytes:
        return hashlib.blake2b(facts.prefix + target.name.encode(), digest_size=8).digest()

    ranked = sorted(targets, key=score, reverse=True)
    mean = sum(target.in_flight for target in ranked) / max(len(ranked), 1)
    hot = [target for target in ranked if target.in_flight > max(4, 2 * mean)]
    return [target for target in ranked if target not in hot] + hot


_STRATEGIES: Final[dict[str, Callable[[list[Target], Facts, Callable[[], float]], list[Target]]]] = {
    "ordered": _ordered,
    "weighted": _weighted,
    "least_busy": _least_busy,
    "lowest_latency": _lowest_latency,
    "prefix_affinity": _prefix_affinity,
}
