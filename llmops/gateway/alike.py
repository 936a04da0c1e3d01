"""The semantic cache on a request's way: look for an answer to a question that means the same, keep what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.gateway import spending
from llmops.gateway.cache.exact import Entry
from llmops.gateway.cache_semantic import ask_of
from llmops.gateway.cached import entry_of
from llmops.gateway.money.values import Bill
from llmops.http1 import event_data

if TYPE_CHECKING:
    from llmops.gateway.cache_semantic import SemanticCache
    from llmops.gateway.call import Call

_SURFACES: Final = ("chat", "messages")
_STREAM: Final = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_JSON: Final = b"content-type: application/json\r\n"
_GOOD_ENDS: Final = ("stop", "end_turn", "stop_sequence")
_decode: Final = msgspec.json.decode


async def look_alike(call: Call) -> bool:
    """Answer with what was said to a question that means the same; whether that was done.

    In shadow mode, and for the share of hits that is checked, the model is asked all the same and ``keep_alike`` compares.
    """
    cache = call.route.semantic
    if cache is None or call.request.surface.name not in _SURFACES:
        return False
    control = call.request.header(b"cache-control")
    if control is not None and (b"no-store" in control or b"no-cache" in control):
        return False
    # A stream cannot stand in for a whole answer, nor one dialect for another: they are kept apart like tenants.
    owner = "\0".join((call.caller.tenant, call.request.surface.name, str(call.ask.stream), call.route.label))
    ask = ask_of(owner, call.request.body, cache.config)
    if ask is None:
        return _count(call, "unfit")
    hit = await cache.lookup(ask)
    call.alike = ask, hit
    if call.ask.stream and call.capture is None:
        call.capture = []
    if hit is None:
        call.cache = "miss"
        return _count(call, "miss")
    call.score = f"{hit.score:.3f}"
    if not cache.serves(hit):
        call.cache = "shadow"
        return _count(call, "shadow")
    call.cache = "semantic"
    _count(call, "hit")
    _replay(call, msgspec.msgpack.decode(hit.answer, type=Entry))
    return True


def keep_alike(call: Call, body: bytes) -> None:
    """Keep a whole, good answer, and compare it with the one that would have been served."""
    cache, asked = call.route.semantic, call.alike
    if cache is None or asked is None:
        return
    text = stream_text(body) if call.ask.stream else whole_text(body)
    if text is None:
        return
    ask, hit = asked
    if hit is not None:
        _check(call, cache, hit.text, text)
    cache.store(ask, msgspec.msgpack.encode(entry_of(call, body)), text)


def _check(call: Call, cache: SemanticCache, kept: str, came: str) -> None:
    wrong = not cache.checked(kept, came)
    metrics = call.site.metrics
    metrics.count("llm_semantic_cache_checked_total", call.route.label)
    if wrong:
        metrics.count("llm_semantic_cache_false_hits_total", call.route.label)


def _replay(call: Call, entry: Entry) -> None:
    call.status = 200
    call.bill = Bill(0, "cache")
    if entry.stream:
        call.reply.start(200, _STREAM + call.headers(), entry.body)
        call.reply.end()
    else:
        call.reply.whole(200, _JSON + call.headers(), entry.body)
    spending.cached(call, entry)


def _count(call: Call, result: str) -> bool:
    call.site.metrics.count("llm_semantic_cache_requests_total", f"{call.route.label}|{result}")
    return False


def whole_text(body: bytes) -> str | None:
    """The text of a whole answer (OpenAI or Anthropic) that ended well and is nothing but text; else None."""
    answer = _decode(body)
    if answer.get("type") == "message":
        blocks = answer.get("content") or []
        plain = all(block.get("type") == "text" for block in blocks)
        return "".join(block["text"] for block in blocks) if plain and answer.get("stop_reason") in _GOOD_ENDS else None
    choices = answer.get("choices") or []
    if len(choices) != 1 or choices[0].get("finish_reason") not in _GOOD_ENDS:
        return None
    message = choices[0].get("message") or {}
    text = message.get("content")
    return text if isinstance(text, str) and not message.get("tool_calls") and not message.get("refusal") else None


def stream_text(body: bytes) -> str | None:
    """The text of a stream that was kept whole; None as for ``whole_text``."""
    texts: list[str] = []
    end = ""
    for block in body.split(b"\n\n"):
        data = event_data(block)
        if data is None or data == b"[DONE]":
            continue
        more, reason = _of_event(_decode(data))
        if more is None:
            return None
        texts.append(more)
        end = reason or end
    return "".join(texts) if end in _GOOD_ENDS else None


def _of_event(event: dict[str, Any]) -> tuple[str | None, str]:
    """(text, why it ended) of one event; the text is None where there is more than text."""
    if "type" in event:
        delta = event.get("delta") or {}
        if event["type"] == "content_block_start" and event.get("content_block", {}).get("type") != "text":
            return None, ""
        return str(delta.get("text") or ""), str(delta.get("stop_reason") or "")
    choices = event.get("choices") or []
    if not choices:
        return "", ""
    delta = choices[0].get("delta") or {}
    if delta.get("tool_calls") or delta.get("refusal") or len(choices) > 1:
        return None, ""
    return str(delta.get("content") or ""), str(choices[0].get("finish_reason") or "")
