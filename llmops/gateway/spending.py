"""Money on a request's way: reserved before a target is asked, settled when the request is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmops.errors import MachineError
from llmops.gateway.money import BudgetExceeded, LedgerFullError, Outcome, Payer, Purchase, prompt_bound
from llmops.gateway.refusal import Refusal

if TYPE_CHECKING:
    from llmops.gateway.cache.exact import Entry
    from llmops.gateway.call import Call
    from llmops.gateway.targets import Target

# What an answer without a stated limit can be at most; a budget reserves as much.
UNSTATED_OUTPUT: Final = 16_384
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_DEARER: Final = (b'"priority"', b'"fast"')
_RETRY_S: Final = 5.0


async def reserve(call: Call, target: Target) -> None:
    """Reserve what this target can cost at most; a second target in place of the first.

    Raises:
        Refusal: 402 or 429: a budget does not allow it. 503: the request could not be accounted for.
    """
    account, replica = call.site.account, call.site.replica_account
    if account is None:
        return
    purchase = purchase_of(target, call.ask.model, call.model_sent)
    asked = call.ask.fields.get("service_tier")
    if asked is not None and bytes(asked) in _DEARER:
        purchase = msgspec.structs.replace(purchase, tier=bytes(asked).decode().strip('"'))
    try:
        held = call.reservation
        if held is not None:
            if replica is not None:
                await replica.retarget(held, purchase)
            else:
                account.retarget(held, purchase)
            return
        payer, into, out = payer_of(call), prompt_bound(call.request.body), output_bound(call)
        if replica is not None:
            call.reservation = await replica.reserve(call.id, payer, purchase, into, out)
        else:
            call.reservation = account.reserve(call.id, payer, purchase, into, out)
    except BudgetExceeded as exceeded:
        raise Refusal(
            exceeded.status, exceeded.message, code=exceeded.code, retry_after_s=exceeded.retry_after_s
        ) from None
    except (LedgerFullError, MachineError):  # said once by the ledger's own thread, not by every request
        message = "requests cannot be accounted for at the moment"
        raise Refusal(503, message, code="ledger_unavailable", retry_after_s=_RETRY_S) from None


def settle(call: Call, now_ns: int) -> None:
    """Turn the reservation into what was used, or give it back. Exactly once."""
    account, held = call.site.replica_account or call.site.account, call.reservation
    if account is None or held is None:
        return
    call.reservation = None
    outcome = _outcome(call, now_ns)
    usage = call.usage or call.estimate
    if usage is None:
        account.release(held, outcome)
    else:
        account.settle(held, usage, outcome, call.bill)


def cached(call: Call, entry: Entry) -> None:
    """A row for an answer that a cache gave: it cost nothing, and saved what it once used."""
    account = call.site.account
    if account is None or entry.usage is None:
        return
    target = next((each for each in call.route.targets if each.name == entry.target), call.route.targets[0])
    purchase = purchase_of(target, call.ask.model, target.model or call.ask.model)
    kind = "semantic" if call.cache == "semantic" else "exact"
    account.cached(
        call.id, payer_of(call), purchase, entry.usage, cache=kind, outcome=_outcome(call, time.monotonic_ns())
    )


def payer_of(call: Call) -> Payer:
    """Who pays for a call."""
    caller = call.caller
    if caller.payer is None:
        identity = caller.identity
        caller.payer = Payer(identity.tenant, identity.team, identity.key)
    return caller.payer


def purchase_of(target: Target, model: str, model_sent: str) -> Purchase:
    """What is bought from a target."""
    last = target.purchase
    if last is not None and last.model == model and last.target == model_sent:
        return last
    provider = target.provider
    prices_as = provider.prices_as or (provider.name if provider.local else None)
    made = target.purchase = Purchase(model, prices_as, model_sent, local=provider.local, server=provider.name)
    return made


def output_bound(call: Call) -> int:
    """The most tokens that the answer can have."""
    if call.request.surface.name in ("embeddings", "count_tokens"):
        return 0
    ask = call.ask
    limit = UNSTATED_OUTPUT
    for name in _LIMITS:
        if name in ask.fields:
            raw = bytes(ask.fields[name])
            if len(raw) < 19 and raw.isdigit():
                limit = int(raw)
                break
            said = ask.value(name)
            if isinstance(said, int) and said >= 0:
                limit = said
                break
    answers = ask.value("n") if "n" in ask.fields else 1
    return limit * (answers if isinstance(answers, int) and answers > 0 else 1)


def _outcome(call: Call, now_ns: int) -> Outcome:
    started = call.request.started_ns
    ttft_ms = (call.first_ns - started) / 1e6 if call.first_ns else None
    return Outcome(call.status, (now_ns - started) / 1e6, ttft_ms)
