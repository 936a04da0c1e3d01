"""TLS to upstreams: verified, with the last session of each host resumed."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any


class _SessionContext(ssl.SSLContext):
    """A client context that resumes the last TLS session of each host."""

    _last: dict[Any, ssl.SSLObject]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As the parent's, with the saved session."""
        previous = self._last.pop(server_hostname, None)
        if previous is not None:
            with contextlib.suppress(ValueError, AttributeError):
                session = previous.session
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        self._last[server_hostname] = made  # its session is whole only once the server's tickets have come
        return made


def session_context(cafile: str | None = None) -> ssl.SSLContext:
    """A verifying context (certificates, host names) that resumes sessions; one for each pool."""
    context = _SessionContext(ssl.PROTOCOL_TLS_CLIENT)
    context._last = {}  # noqa: SLF001 - SSLContext's __new__ takes no further argument
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cafile is not None:
        context.load_verify_locations(cafile)
    else:
        context.load_default_certs()
    return context
