"""``strategy: cheapest``: the cheapest target that is good enough and fits what the caller's budgets have left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from llmops.gateway.money import prompt_bound
from llmops.gateway.money.choose import Candidate, choose
from llmops.gateway.money.rates import PICO_IN_NANO
from llmops.gateway.routing import meets
from llmops.gateway.spending import output_bound, payer_of

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.targets import Target

# What a reservation says of a target that the budget does not allow: a cheaper one may still fit.
TOO_DEAR: Final = frozenset({"budget_exceeded", "unknown_price"})


def cheapest(call: Call) -> list[Target]:
    """Targets in the order in which they are tried: those of the route's tier that fit, by what this request may cost.

    Where none fits, the cheapest local ones; where none of those does either, the cheapest of all, whose reservation
    then says what is exceeded.
    """
    route, account = call.route, call.site.account
    fit = [target for target in route.targets if not target.conditional or meets(target.form.when, call.facts)]
    into, out = prompt_bound(call.request.body), output_bound(call)
    candidates = {_candidate(call, target, number, (into, out)): target for number, target in enumerate(fit)}
    left = None if account is None else account.left_nano(payer_of(call), call.ask.model)
    decision = choose(tuple(candidates), route.tier, None if left is None else left * PICO_IN_NANO)
    if decision.fell_back:
        call.site.metrics.count("llm_budget_fallbacks_total", route.label)
    chosen = [candidates[each] for each in decision.order]
    if chosen:
        return chosen
    good = [each for each in candidates if each.tier >= route.tier] or list(candidates)
    return [candidates[each] for each in sorted(good, key=lambda each: each.worst_pico or 0)]


def _candidate(call: Call, target: Target, number: int, tokens: tuple[int, int]) -> Candidate:
    """``number`` keeps two targets of one name apart."""
    rates = call.site.rates(target, target.model or call.ask.model)
    worst = None if rates is None else rates.bound_pico(*tokens)
    available = target.blocked_s(time.monotonic()) == 0
    return Candidate(f"{target.name}#{number}", target.form.tier, worst, target.provider.local, available)
