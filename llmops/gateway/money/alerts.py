"""Telling a webhook that a budget is nearly or wholly used. A thread of its own; nothing waits for it."""

from __future__ import annotations

import hmac
import json
import logging
import os
import queue
import threading
import time
from dataclasses import asdict
from hashlib import sha256
from typing import Final

from llmops.gateway.money.budgets import Notice
from llmops.masking import mask
from llmops.units import format_usd

TRIES: Final = 4
_WAIT_S: Final = 1.0
_MAX_WAITING: Final = 1000
_log = logging.getLogger(__name__)


class Alerts:
    """Posts notices as JSON: the notice's fields, and ``text`` for chat services that show only that.

    Args:
        default_url: For budgets without a webhook of their own; None only logs.
        url_of: Budget name -> its own webhook.
        secret_env: Variable with the secret for the header ``x-llmops-signature: sha256=HMAC(body)``.
    """

    def __init__(self, default_url: str | None, url_of: dict[str, str], secret_env: str | None = None) -> None:
        self._default_url = default_url
        self._url_of = url_of
        self._secret = os.environ.get(secret_env, "").encode() if secret_env else b""
        self._waiting: queue.Queue[Notice | None] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def tell(self, notice: Notice) -> None:
        """Log it now, post it soon. Dropped when a thousand wait: a dead webhook must not fill the memory."""
        _log.warning("%s", sentence(notice))
        if self._url(notice) is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="budget-webhooks", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(notice)
        except queue.Full:
            _log.error("too many budget notifications wait for the webhook; one was dropped")

    def close(self, timeout_s: float = 5.0) -> None:
        """Post what waits, for a while, then give up."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout_s)
            self._closing.set()
            self._thread.join(timeout_s)

    def _url(self, notice: Notice) -> str | None:
        return self._url_of.get(notice.budget, self._default_url)

    def _run(self) -> None:
        while (notice := self._waiting.get()) is not None:
            url = self._url(notice)
            assert url is not None
            for attempt in range(TRIES):
                if self._post(url, notice) or self._closing.wait(_WAIT_S * 2**attempt):
                    break
            else:
                _log.error("the webhook of budget %r did not take a notification in %d tries", notice.budget, TRIES)

    def _post(self, url: str, notice: Notice) -> bool:
        import httpx

        body = json.dumps({**asdict(notice), "text": sentence(notice), "at": int(time.time())}, default=str).encode()
        headers = {"content-type": "application/json"}
        if self._secret:
            headers["x-llmops-signature"] = "sha256=" + hmac.new(self._secret, body, sha256).hexdigest()
        try:
            answer = httpx.post(url, content=body, headers=headers, timeout=5.0, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # The URL often contains a token: it is never logged.
            _log.warning("the webhook of budget %r failed: %s", notice.budget, mask(type(error).__name__))
            return False
        return answer.status_code < 300


def sentence(notice: Notice) -> str:
    """One plain sentence for a log or a chat."""
    what = "has refused a request" if notice.refused else f"has reached {notice.percent} %"
    when = f", until {notice.resets_at}" if notice.resets_at else ""
    return (
        f"budget {notice.budget!r} ({notice.counter}) {what}: {format_usd(notice.spent_usd)} of "
        f"{format_usd(notice.limit_usd)} per {notice.period} is spent{when}"
    )
