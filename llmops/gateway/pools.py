"""Which connections a provider gets: the own pool, or httpx for forward proxies and HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops.gateway.tls import session_context
from llmops.gateway.upstream import Pool, PoolOptions

if TYPE_CHECKING:
    from llmops.gateway.config import Provider as ProviderForm
    from llmops.http1 import Origin


def make_pool(origin: Origin, options: PoolOptions, form: ProviderForm) -> Pool:
    """The pool of a provider. A proxy in the environment that covers the origin means httpx, which knows proxies."""
    if form.http != "pool" or needs_proxy(origin):
        from llmops.gateway.upstream_httpx import HttpxPool

        return HttpxPool(origin, options, http2=form.http == "http2", ca_file=form.ca_file)
    tls = session_context(str(form.ca_file) if form.ca_file else None) if origin.secure else None
    return Pool(origin, options, tls=tls)


def needs_proxy(origin: Origin) -> bool:
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY send this origin through a proxy."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if not (proxies.get(origin.scheme) or proxies.get("all")):
        return False
    return not proxy_bypass(origin.host)
