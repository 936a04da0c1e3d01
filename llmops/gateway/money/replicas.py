"""Budgets over several replicas: atomic scripts in Redis over each replica's own counters.

Every replica keeps its own counters (``counters.py``) as before; they hold what *it* spent. A reservation must fit there
and in Redis, where all replicas' spending meets. Settling goes to Redis in the background: until it arrives the larger,
reserved amount stands, so no one can overspend meanwhile.

When Redis is lost the stated policy holds: ``local`` gives each of N replicas an Nth of every hard budget to spend by
itself, ``refuse`` refuses. What was settled meanwhile is added when Redis is back. A Redis that comes back empty is
noticed by its missing epoch, and every replica adds again what its own counters hold.

A replica that dies leaves reservations behind; after their lease they count as spent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal

from llmops.gateway.money.account import Account
from llmops.gateway.money.budgets import BudgetExceeded, Budgets
from llmops.gateway.money.counters import Claim
from llmops.gateway.money.values import Bill, Outcome, Payer, Purchase, Reservation, Settled
from llmops.gateway.state.redis_link import link
from llmops.masking import mask
from llmops.prices import Usage

_PREFIX: Final = "{llmops}:budget:"
_PENDING: Final = "{llmops}:pending"
_EPOCH: Final = "{llmops}:epoch"
_KEEP_S: Final = 40 * 86_400
_RETRY_S: Final = 1.0
_SWEEP_S: Final = 5.0
_log = logging.getLogger(__name__)

# KEYS: counters. ARGV: nano, reservation id, its deadline, seconds to keep, epoch, then a limit for each key (-1: soft).
# Answer: 0 when reserved, the index of the counter that is full, or -1 when the data is not the epoch's.
_RESERVE: Final = """
if redis.call('GET', '{llmops}:epoch') ~= ARGV[5] then return -1 end
local nano = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[5 + i])
  if limit >= 0 then
    local held = redis.call('HMGET', key, 's', 'r')
    if tonumber(held[1] or 0) + tonumber(held[2] or 0) + nano > limit then return i end
  end
end
for _, key in ipairs(KEYS) do
  redis.call('HINCRBY', key, 'r', ARGV[1])
  redis.call('EXPIRE', key, ARGV[4])
end
redis.call('ZADD', '{llmops}:pending', ARGV[3], ARGV[2])
redis.call('HINCRBY', '{llmops}:pending:' .. ARGV[2], 'nano', ARGV[1])
redis.call('HSET', '{llmops}:pending:' .. ARGV[2], 'keys', table.concat(KEYS, '\\n'))
redis.call('EXPIRE', '{llmops}:pending:' .. ARGV[2], ARGV[4])
return 0
"""
# ARGV: id, nano spent ('' for the whole reservation). Does nothing where the reservation is gone: settled before.
_SETTLE: Final = """
local pending = '{llmops}:pending:' .. ARGV[1]
local held = redis.call('HMGET', pending, 'nano', 'keys')
redis.call('ZREM', '{llmops}:pending', ARGV[1])
if not held[1] then return 0 end
local spent = ARGV[2]
if spent == '' then spent = held[1] end
for key in string.gmatch(held[2], '[^\\n]+') do
  redis.call('HINCRBY', key, 's', spent)
  if held[1] ~= '0' then redis.call('HINCRBY', key, 'r', '-' .. held[1]) end
end
redis.call('DEL', pending)
return 1
"""


class ReplicaAccount:
    """An ``Account`` whose hard budgets hold over replicas. The same calls, ``reserve`` and ``retarget`` awaited.

    Args:
        account: The books of this worker.
        url: ``redis://…``; never logged.
        on_loss: What holds while Redis cannot be reached.
        replicas: How many there are at most: with ``local`` each may spend that part of a hard budget by itself.
        lease_s: How long a reservation of a dead replica is held before it counts as spent.
    """

    def __init__(
        self,
        account: Account,
        url: str,
        *,
        on_loss: Literal["local", "refuse"] = "local",
        replicas: int = 2,
        lease_s: float = 900.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self._redis, self._errors = link(url, "budgets over replicas")
        self._reserve_script = self._redis.register_script(_RESERVE)
        self._settle_script = self._redis.register_script(_SETTLE)
        self._on_loss = on_loss
        self._share = 1 / replicas
        self._lease_s = lease_s
        self._now = now
        self._epoch = ""
        self.connected = False
        self._remote: set[str] = set()  # reservations that Redis holds
        self._to_settle: dict[str, int] = {}  # those of them that are settled: reservation -> nano
        self._unsent: dict[str, int] = {}  # counter -> nano spent by requests that Redis never saw
        self._seen: dict[str, Claim] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and begin sending what is settled."""
        await self._connect()
        self._task = asyncio.create_task(self._run())

    async def reserve(
        self, request_id: str, payer: Payer, purchase: Purchase, input_bound: int, output_bound: int
    ) -> Reservation:
        """As ``Account.reserve``, over all replicas.

        Raises:
            BudgetExceeded: It does not fit; or Redis is lost and the policy refuses.
        """
        held = self.account.reserve(request_id, payer, purchase, input_bound, output_bound)
        try:
            refused = await self._reserve(held, held.nano)
        except BaseException:
            self.account.release(held, Outcome(503))
            raise
        if refused is not None:
            self.account.release(held, Outcome(429))
            raise held.budgets.refusal(refused, held.nano)[0]
        return held

    async def retarget(self, held: Reservation, purchase: Purchase) -> None:
        """As ``Account.retarget``: what is more is added to the reservation.

        Raises:
            BudgetExceeded: As ``reserve``; the old reservation stays.
        """
        before, old = held.nano, held.purchase
        self.account.retarget(held, purchase)
        more = held.nano - before
        if more <= 0:
            return
        refused = await self._reserve(held, more)
        if refused is not None:
            self.account.retarget(held, old)
            raise held.budgets.refusal(refused, more)[0]

    def settle(self, held: Reservation, usage: Usage, outcome: Outcome, bill: Bill | None = None) -> Settled | None:
        """As ``Account.settle``; Redis hears of it soon."""
        settled = self.account.settle(held, usage, outcome, bill)
        if settled is not None:
            amount = settled.amount_pico
            self._later(held, held.nano if amount is None else -(-amount // 1000))
        return settled

    def release(self, held: Reservation, outcome: Outcome) -> None:
        """As ``Account.release``."""
        if held.open:
            self.account.release(held, outcome)
            self._later(held, 0)

    async def close(self) -> None:
        """Send what waits, where Redis is there, and end."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=5)
            self._task.cancel()
        if self.connected:
            await self._send()
        await self._redis.aclose()

    # ---- Redis ----

    async def _reserve(self, of: Reservation, nano: int) -> Claim | None:
        name, claims = of.request_id, of.claims
        if not claims:
            return None
        keys = [_key(claim, of.budgets) for claim in claims]
        self._seen.update(zip(keys, claims, strict=True))
        if self.connected:
            limits = [claim.limit if claim.hard else -1 for claim in claims]
            deadline = self._now() + self._lease_s
            try:
                full = await self._reserve_script(keys, [nano, name, deadline, _KEEP_S, self._epoch, *limits])
            except self._errors as error:
                self._lost(error)
            else:
                if full == 0:
                    self._remote.add(name)
                if full >= 0:
                    return claims[full - 1] if full else None
                self._lost(RuntimeError("its data is gone"))
        return self._locally(claims)

    def _locally(self, claims: Sequence[Claim]) -> Claim | None:
        """While Redis is away: whether this replica's share still holds. The reservation is in its counters already."""
        hard = [claim for claim in claims if claim.hard]
        if hard and self._on_loss == "refuse":
            raise BudgetExceeded(503, "budgets_unavailable", "budgets cannot be checked at the moment", _RETRY_S * 5)
        for claim in hard:
            state = self.account.budgets.counters.read(claim)
            if state.spent + state.reserved > int(claim.limit * self._share):
                return replace(claim, limit=int(claim.limit * self._share))
        return None

    def _later(self, held: Reservation, nano: int) -> None:
        if not held.claims:
            return
        if held.request_id in self._remote:
            self._remote.discard(held.request_id)
            self._to_settle[held.request_id] = nano
        elif nano:
            for claim in held.claims:
                key = _key(claim, held.budgets)
                self._unsent[key] = self._unsent.get(key, 0) + nano
        self._wake.set()

    def _lost(self, error: Exception) -> None:
        if self.connected:
            _log.error("budgets of other replicas cannot be seen: %s", mask(type(error).__name__))
        self.connected = False
        self._wake.set()

    async def _connect(self) -> None:
        try:
            await self._redis.set(_EPOCH, secrets.token_hex(8), nx=True)
            epoch = await self._redis.get(_EPOCH)
            if self._epoch != epoch:
                # The first connection, or Redis came back empty: it must know what this replica has spent.
                await self._tell_all(epoch, first=not self._epoch)
        except self._errors as error:
            self._lost(error)
            return
        self._epoch = epoch
        self.connected = True

    async def _tell_all(self, epoch: str, *, first: bool) -> None:
        if first:
            return
        async with self._redis.pipeline(transaction=True) as pipe:
            for key, claim in self._seen.items():
                state = self.account.budgets.counters.read(claim)
                pipe.hincrby(key, "s", state.spent)
                pipe.expire(key, _KEEP_S)
            await pipe.execute()
        # The reservations went with the data; bills until now are in the counters just told, later ones are sent alone.
        self._to_settle.clear()
        self._unsent.clear()
        self._remote.clear()
        _log.warning(
            "the budgets' Redis came back empty (epoch %s); this replica's spending was added again", epoch[:8]
        )

    async def _run(self) -> None:
        swept = 0.0
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _RETRY_S)
            self._wake.clear()
            if not self.connected:
                await asyncio.sleep(_RETRY_S / 4)
                await self._connect()
            if not self.connected:
                continue
            try:
                await self._send()
                if time.monotonic() - swept > _SWEEP_S:
                    swept = time.monotonic()
                    await self._sweep()
            except self._errors as error:
                self._lost(error)

    async def _send(self) -> None:
        if await self._redis.get(_EPOCH) != self._epoch:
            self._lost(RuntimeError("its data is gone"))
            return
        for name, nano in list(self._to_settle.items()):
            await self._settle_script([], [name, nano])
            self._to_settle.pop(name, None)
        for key, nano in list(self._unsent.items()):
            await self._redis.hincrby(key, "s", nano)
            self._unsent[key] -= nano  # more may have come meanwhile
            if not self._unsent[key]:
                del self._unsent[key]

    async def _sweep(self) -> None:
        """Reservations beyond their lease count as spent."""
        for name in await self._redis.zrangebyscore(_PENDING, "-inf", self._now(), start=0, num=100):
            await self._settle_script([], [name, ""])


def _key(claim: Claim, budgets: Budgets) -> str:
    rule = budgets.rules[claim.rule]
    return f"{_PREFIX}{rule.name}:{claim.period}:{claim.name}"
