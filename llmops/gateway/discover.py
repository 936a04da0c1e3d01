"""Routes for what a running server says it serves: ``discover: true`` of a provider, as for ``llmops serve``."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmops.gateway.config import Route, Target
from llmops.gateway.dialects.wire import UNREADABLE
from llmops.gateway.upstream import PoolFullError
from llmops.http1 import TransferError

if TYPE_CHECKING:
    from llmops.gateway.site import Site
    from llmops.gateway.targets import Provider

_log = logging.getLogger("llmops.gateway")
_EVERY_S: Final = 10.0
_FIRST_S: Final = 0.5
_TIMEOUT_NS: Final = 5_000_000_000


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def keep_discovering(site: Site, provider: Provider) -> None:
    """Ask for the list of models for ever; soon again while the server is not there yet."""
    known: tuple[str, ...] = ()
    while True:
        names = await models_of(provider)
        if names is not None and names != known:
            known = names
            site.discovered[provider.name] = [
                Route(match=name, targets=(Target(provider=provider.name, model=name),)) for name in names
            ]
            site.rebuild()
            _log.info("provider %s serves %s", provider.name, ", ".join(names))
        await asyncio.sleep(_EVERY_S if known else _FIRST_S)


async def models_of(provider: Provider) -> tuple[str, ...] | None:
    """Names of the models that a server lists; None when it does not answer."""
    try:
        deadline = time.monotonic_ns() + _TIMEOUT_NS
        exchange = await provider.get(provider.path("/models"), deadline)
        body = await exchange.whole()
        if exchange.status != 200:
            return None
        rows = msgspec.json.decode(body, type=_Models).data
    except (TransferError, PoolFullError, *UNREADABLE):
        return None
    # Patterns in a served name must stay a plain name here.
    return tuple(sorted(row.id for row in rows if row.id and not set("*?[") & set(row.id)))
