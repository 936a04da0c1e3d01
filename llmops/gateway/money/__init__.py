"""What requests cost: budgets reserved before, a ledger written after, and reports over it.

The way of a request through this package, in the order of ``request.py``::

    # admit: identity is known, the first target is chosen
    bound = prompt_bound(body)                                   # an upper bound of the prompt's tokens
    reservation = account.reserve(
        request_id, Payer(tenant, team, key), Purchase(model, provider, target_model), bound, max_tokens
    )                                                            # raises BudgetExceeded: .status, .message, .retry_after_s
    # forward: a fallback goes to a dearer target
    account.retarget(reservation, Purchase(model, other_provider, other_model))   # BudgetExceeded too
    # settle, exactly once, whatever happened (a second call is ignored)
    settled = account.settle(reservation, usage, Outcome(status=200, duration_ms=…, ttft_ms=…))
    account.release(reservation, Outcome(status=502))            # nothing was billed
    # a cached answer instead of a reservation
    account.cached(request_id, payer, purchase, usage, cache="exact", outcome=Outcome(200))

One ``Account`` per worker process, opened *after* the fork: ``Account.open(config, price_book)``; ``close()`` at the end.
``reserve`` and ``settle`` never wait for a disk or a network: rows go to a memory-mapped spool, from which a thread
moves them into the ledger; budgets are counters in a file that all workers map. What a killed worker had in its spool is
found by the others or at the next start. Nothing here knows HTTP: the frame shapes ``BudgetExceeded`` for the caller's
dialect.
"""

from llmops.gateway.money.account import Account
from llmops.gateway.money.bounds import prompt_bound
from llmops.gateway.money.budgets import BudgetExceeded
from llmops.gateway.money.config import BudgetConfig, MoneyConfig
from llmops.gateway.money.ledger import LedgerFullError
from llmops.gateway.money.values import Outcome, Payer, Purchase, Reservation, Settled

__all__ = [
    "Account",
    "BudgetConfig",
    "BudgetExceeded",
    "LedgerFullError",
    "MoneyConfig",
    "Outcome",
    "Payer",
    "Purchase",
    "Reservation",
    "Settled",
    "prompt_bound",
]
