"""Answers to questions that mean the same, for routes that ask for it. Off by default; better no hit than a wrong one.

The way of a request through this package, in the order of ``request.py`` (between guard and route)::

    ask = ask_of(tenant, body, config)                  # None: not a request that may be answered from here
    hit = await cache.lookup(ask)                       # embeds off the event loop, and only where a candidate exists
    if hit is not None and cache.serves(hit):           # False in shadow mode, and for the share that is checked
        return hit.answer                               # with x-llmops-cache: semantic and its score
    ... forward ...
    cache.store(ask, answer, text)                      # a whole, successful answer; embeds later, in its thread
    if hit is not None:
        cache.checked(hit.text, text)                   # shadow mode: was the kept answer the same?
    ... cache.stats                                     # lookups, hits, checked, false_hits for the metrics

The key is tenant, model, system prompt, parameters and every earlier turn, exactly; only the last user turn is compared by
meaning. A candidate must be near enough *and* agree in numbers, dates, names and their order, negation, quoted strings,
ids and content words (``lexical.py``): embeddings alone hold "Does Alice report to Bob?" and "Does Bob report to Alice?"
to be the same (0.988).
"""

from llmops.gateway.cache_semantic.ask import Ask, ask_of
from llmops.gateway.cache_semantic.cache import Hit, SemanticCache, Stats
from llmops.gateway.cache_semantic.config import SemanticCacheConfig
from llmops.gateway.cache_semantic.embedder import Embedder, OnnxMiniLm

__all__ = ["Ask", "Embedder", "Hit", "OnnxMiniLm", "SemanticCache", "SemanticCacheConfig", "Stats", "ask_of"]
