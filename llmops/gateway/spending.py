"""Money on a request's way: reserved before a target is asked, settled when the request is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmops.gateway.money import BudgetExceeded, Outcome, Payer, Purchase, prompt_bound
from llmops.gateway.refusal import Refusal

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.targets import Target

# What an answer without a stated limit can be at most; a budget reserves as much.
UNSTATED_OUTPUT: Final = 16_384
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def reserve(call: Call, target: Target) -> None:
    """Reserve what this target can cost at most; a second target in place of the first.

    Raises:
        Refusal: 402 or 429: a budget does not allow it.
    """
    account = call.site.account
    if account is None:
        return
    provider = target.provider
    purchase = Purchase(
        call.ask.model,
        provider.prices_as or (provider.name if provider.local else None),
        call.model_sent,
        local=provider.local,
        server=provider.name,
    )
    try:
        if call.reservation is not None:
            account.retarget(call.reservation, purchase)
            return
        identity = call.caller.identity
        payer = Payer(identity.tenant, identity.team, identity.key)
        call.reservation = account.reserve(
            call.id, payer, purchase, prompt_bound(call.request.body), _output_bound(call)
        )
    except BudgetExceeded as exceeded:
        raise Refusal(
            exceeded.status, exceeded.message, code=exceeded.code, retry_after_s=exceeded.retry_after_s
        ) from None


def settle(call: Call, now_ns: int) -> None:
    """Turn the reservation into what was used, or give it back. Exactly once."""
    account, held = call.site.account, call.reservation
    if account is None or held is None:
        return
    call.reservation = None
    started = call.request.started_ns
    outcome = Outcome(call.status, (now_ns - started) / 1e6, (call.first_ns - started) / 1e6 if call.first_ns else None)
    usage = call.usage or call.estimate
    if usage is None:
        account.release(held, outcome)
    else:
        account.settle(held, usage, outcome)


def _output_bound(call: Call) -> int:
    if call.request.surface.name in ("embeddings", "count_tokens"):
        return 0
    ask = call.ask
    for name in _LIMITS:
        limit = ask.value(name)
        if isinstance(limit, int) and limit >= 0:
            break
    else:
        limit = UNSTATED_OUTPUT
    answers = ask.value("n")
    return limit * (answers if isinstance(answers, int) and answers > 0 else 1)
