"""Fake Anthropic, Gemini and Triton, and the faults that every fake can be asked for by the model's name."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from gateway_fakes import OPENAI_TEXT, OPENAI_USAGE, Answer, Close, Fake, openai_chunk
from gateway_fakes import openai as openai_plain

if TYPE_CHECKING:
    import openai

ANTHROPIC_TEXT = "a-claude-text"
GEMINI_TEXT = "g-gemini-text"
TRITON_TEXT = "t-triton-text"
ANTHROPIC_USAGE = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 12304,
    "cache_read_input_tokens": 0,
    "output_tokens": 550,
}
GEMINI_USAGE = {
    "promptTokenCount": 300000,
    "cachedContentTokenCount": 100000,
    "candidatesTokenCount": 900,
    "thoughtsTokenCount": 100,
    "totalTokenCount": 301000,
}
CITY = {"city": "Kyoto", "unit": "C"}
CITIES = [CITY, {"city": "Oslo", "unit": "F"}]
DIALECTS = ["openai", "anthropic", "gemini"]
UPSTREAM_KEYS = {
    "K_OPENAI": "sk-up-openai-01234567",
    "K_ANTHROPIC": "sk-ant-up-012345678",
    "K_GEMINI": "AIzaUp01234567890",
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "hi"}]
TEXT = {"openai": OPENAI_TEXT, "anthropic": ANTHROPIC_TEXT, "gemini": GEMINI_TEXT, "triton": TRITON_TEXT}

ERRORS: dict[str, tuple[int, dict[str, str]]] = {
    "fault-400": (400, {}),
    "fault-401": (401, {}),
    "fault-404": (404, {}),
    "fault-429": (429, {"retry-after": "7"}),
    "fault-500": (500, {}),
    "fault-529": (529, {}),
}


# How an answer ends, by the model's name, in each provider's word.
ENDINGS: dict[str, dict[str, str]] = {
    "end-length": {"openai": "length", "anthropic": "max_tokens", "gemini": "MAX_TOKENS"},
    "end-filter": {"openai": "content_filter", "anthropic": "refusal", "gemini": "SAFETY"},
    "end-sequence": {"openai": "stop", "anthropic": "stop_sequence", "gemini": "STOP"},
}


def ending(model: str) -> str:
    return next((name for name in ENDINGS if model.endswith(name)), "")


def _error_body(dialect: str, status: int) -> Any:
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": "some_error", "message": f"anthropic says {status}"}}
    if dialect == "gemini":
        return {"error": {"code": status, "message": f"gemini says {status}", "status": "X"}}
    if dialect == "triton":
        return {"error": f"triton says {status}"}
    return {"error": {"message": f"openai says {status}", "type": "x", "code": None, "param": None}}


def fault(dialect: str, model: str, answer: Answer) -> bool:
    """Answer with the fault that the model's name asks for."""
    for name, (status, headers) in ERRORS.items():
        if model.endswith(name):
            answer.whole(status, _error_body(dialect, status), headers)
            return True
    if model.endswith("fault-stall"):
        deadline = time.monotonic() + 20
        while not answer.gone() and time.monotonic() < deadline:
            time.sleep(0.01)
        raise Close
    if model.endswith("fault-garbage"):
        answer.whole(200, b"<html>not json</html>")
        return True
    if model.endswith("fault-error200"):
        answer.whole(200, _error_body(dialect, 500))
        return True
    return False


# ---- what a model would do, the same behind every wire format ----


def calls_for(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The tools that are called: as many as are offered where they are about the weather, else the chosen or first one."""
    tools = body.get("tools") or []
    if tools and "functionDeclarations" in tools[0]:
        tools = tools[0]["functionDeclarations"]
    rows = [tool.get("function") or tool for tool in tools]
    if not rows or _answers_a_tool(body):
        return []
    if all(row["name"].startswith("weather") for row in rows):
        return [("weather", args) for args in CITIES[: len(rows)]]
    schemas = ("parameters", "input_schema", "parametersJsonSchema")
    row = next((row for row in rows if json.dumps(row["name"]) in json.dumps(_choice(body))), rows[0])
    return [(row["name"], instance(next((row[key] for key in schemas if key in row), {}), body))]


def _choice(body: dict[str, Any]) -> Any:
    return body.get("tool_choice") or body.get("toolConfig") or ""


def _answers_a_tool(body: dict[str, Any]) -> bool:
    """Whether the last turn is the result of a tool."""
    last = (body.get("messages") or body.get("contents") or [{}])[-1]
    text = json.dumps(last)
    return last.get("role") == "tool" or '"tool_result"' in text or '"functionResponse"' in text


def structured(body: dict[str, Any]) -> str | None:
    """JSON for a request that asks for it."""
    form = (body.get("response_format") or {}).get("json_schema")
    config = (body.get("output_config") or {}).get("format")
    generation = body.get("generationConfig") or {}
    schema = (form or config or {}).get("schema") or generation.get("responseJsonSchema")
    if schema is not None:
        return json.dumps(CITY if set(schema.get("properties", ())) == {"city", "unit"} else instance(schema, body))
    if body.get("response_format") or generation.get("responseMimeType"):
        return json.dumps({"setup": "Why?", "punchline": "Because."})
    return None


def instance(schema: dict[str, Any], body: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """Something that fits a JSON schema; text is what the last turn puts in quotation marks."""
    root = schema if root is None else root
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return instance((root.get("$defs") or root.get("definitions"))[name], body, root)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return instance(schema[key][0], body, root)
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: instance(each, body, root) for name, each in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [instance(schema.get("items") or {}, body, root)]
    if kind == "string":
        quoted = re.findall(
            r"'([^']+)'", json.dumps((body.get("messages") or body.get("contents"))[-1], ensure_ascii=False)
        )
        return quoted[0] if quoted else "some words"
    return {"integer": 3, "number": 3.5, "boolean": True}.get(kind)


# ---- OpenAI with tools and faults ----


def openai(server: Fake, body: dict[str, Any], answer: Answer) -> None:
    if fault("openai", body.get("model", ""), answer):
        return
    model = body.get("model", "")
    wanted, data = calls_for(body), structured(body)
    if not wanted:
        if body.get("stream") and "fault-stream" in model:
            _openai_broken(model, answer)
        elif data is not None:
            _openai_text(body, answer, data, "stop")
        elif ending(model):
            _openai_text(body, answer, OPENAI_TEXT, ENDINGS[ending(model)]["openai"])
        else:
            openai_plain(server, body, answer)
        return
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
        for i, (name, args) in enumerate(wanted)
    ]
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": calls}}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "usage": OPENAI_USAGE}
        answer.whole(200, {**whole, "choices": [{**choice, "finish_reason": "tool_calls"}]})
        return
    answer.stream_head()
    answer.event(openai_chunk({"role": "assistant", "content": None}))
    for i, call in enumerate(calls):
        head = {"index": i, "id": call["id"], "type": "function", "function": {**call["function"], "arguments": ""}}
        answer.event(openai_chunk({"tool_calls": [head]}))
        text = call["function"]["arguments"]
        for piece in (text[:5], text[5:]):
            answer.event(openai_chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]}))
    answer.event(openai_chunk({}, "tool_calls"))
    answer.event({**openai_chunk({}), "choices": [], "usage": OPENAI_USAGE})
    answer.event(b"[DONE]")
    answer.stream_end()


def _openai_text(body: dict[str, Any], answer: Answer, text: str, finish: str) -> None:
    if body.get("stream"):
        answer.stream_head()
        answer.event(openai_chunk({"role": "assistant", "content": ""}))
        for piece in (text[:6], text[6:]):
            answer.event(openai_chunk({"content": piece}))
        answer.event(openai_chunk({}, finish))
        answer.event(b"[DONE]")
        answer.stream_end()
        return
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "usage": OPENAI_USAGE}
    answer.whole(200, {**whole, "choices": [choice]})


def _openai_broken(model: str, answer: Answer) -> None:
    answer.stream_head()
    answer.event(openai_chunk({"role": "assistant", "content": ""}))
    if model.endswith("fault-stream-early-error"):
        answer.event({"error": {"message": "engine died", "type": "server_error", "code": 500}})
        answer.stream_end()
        return
    answer.event(openai_chunk({"content": "o-three"}))
    if model.endswith("fault-stream-late-error"):
        answer.event({"error": {"message": "engine died", "type": "server_error", "code": 500}})
        answer.stream_end()
        return
    raise Close  # cut in the middle


# ---- Anthropic ----


def anthropic(server: Fake, body: dict[str, Any], answer: Answer) -> None:
    if fault("anthropic", body.get("model", ""), answer):
        return
    if server.seen[-1].path.endswith("/count_tokens"):
        answer.whole(200, {"input_tokens": 4321})
        return
    blocks: list[dict[str, Any]] = []
    if body.get("thinking", {}).get("type") == "enabled":
        blocks.append({"type": "thinking", "thinking": "hm, well", "signature": "sig-anthropic-1"})
    wanted, data = calls_for(body), structured(body)
    if wanted:
        blocks += [
            {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": args}
            for i, (name, args) in enumerate(wanted)
        ]
    elif data is not None:
        blocks.append({"type": "text", "text": data})
    else:
        blocks.append({"type": "text", "text": ANTHROPIC_TEXT})
    end = ending(body["model"])
    reason = "tool_use" if wanted else ENDINGS[end]["anthropic"] if end else "end_turn"
    message = {
        "id": "msg_fake_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "stop_reason": reason,
        "stop_sequence": "END" if end == "end-sequence" else None,
    }
    if not body.get("stream"):
        answer.whole(200, {**message, "content": blocks, "usage": ANTHROPIC_USAGE}, {"request-id": "req_anthropic_1"})
        return
    answer.stream_head()
    start_usage = {**ANTHROPIC_USAGE, "output_tokens": 1}
    started = {**message, "stop_reason": None, "content": [], "usage": start_usage}
    answer.event({"type": "message_start", "message": started}, "message_start")
    answer.event({"type": "ping"}, "ping")
    for index, block in enumerate(blocks):
        _anthropic_block(index, block, answer)
    if body["model"].endswith("fault-stream-late-error"):
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        answer.event(error, "error")
        answer.stream_end()
        return
    delta = {"stop_reason": reason, "stop_sequence": message["stop_sequence"]}
    answer.event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 550}}, "message_delta")
    answer.event({"type": "message_stop"}, "message_stop")
    answer.stream_end()


def _anthropic_block(index: int, block: dict[str, Any], answer: Answer) -> None:
    empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
    answer.event(
        {"type": "content_block_start", "index": index, "content_block": {**block, **empty[block["type"]]}},
        "content_block_start",
    )
    deltas: list[dict[str, Any]] = []
    if block["type"] == "text":
        text = block["text"]
        deltas = [{"type": "text_delta", "text": piece} for piece in (text[:3], text[3:])]
    elif block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    else:
        raw = json.dumps(block["input"])
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", raw[:7], raw[7:])]
    for delta in deltas:
        answer.event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")
    answer.event({"type": "content_block_stop", "index": index}, "content_block_stop")


# ---- Gemini ----


def gemini(server: Fake, body: dict[str, Any], answer: Answer) -> None:
    path = server.seen[-1].path
    model = path.rpartition("/models/")[2].partition(":")[0]
    if fault("gemini", model, answer):
        return
    if path.endswith(":countTokens"):
        answer.whole(200, {"totalTokens": 777})
        return
    if path.endswith(":batchEmbedContents"):
        answer.whole(200, {"embeddings": [{"values": [9.0, 0.25]} for _ in body["requests"]]})
        return
    parts: list[dict[str, Any]] = []
    wanted, data = calls_for(body), structured(body)
    generation = body.get("generationConfig", {})
    if generation.get("thinkingConfig"):
        parts.append({"text": "gemini ponders", "thought": True})
    if wanted:
        parts += [{"functionCall": {"name": name, "args": args}} for name, args in wanted]
        parts[-len(wanted)]["thoughtSignature"] = "c2lnLWdlbWluaQ=="
    elif data is not None:
        parts.append({"text": data})
    else:
        parts.append({"text": GEMINI_TEXT})
    head = {"responseId": "gem-1", "modelVersion": model}

    def candidate(some: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
        row = {"content": {"role": "model", "parts": some}, "index": 0}
        return {**head, "candidates": [row | ({"finishReason": finish} if finish else {})]}

    finish = ENDINGS[ending(model)]["gemini"] if ending(model) else "STOP"
    if ":streamGenerateContent" not in path:
        whole = candidate(parts, finish)
        if generation.get("responseLogprobs"):
            row = {"token": "g", "logProbability": -0.25}
            whole["candidates"][0]["logprobsResult"] = {
                "chosenCandidates": [row],
                "topCandidates": [{"candidates": [row, {"token": "h", "logProbability": -1.5}]}],
            }
        answer.whole(200, {**whole, "usageMetadata": GEMINI_USAGE})
        return
    answer.stream_head()
    for part in parts[:-1]:
        answer.event(candidate([part], None))
    last = parts[-1]
    if "text" in last and not last.get("thought"):
        answer.event(candidate([{"text": last["text"][:4]}], None))
        last = {"text": last["text"][4:]}
    if model.endswith("fault-stream-late-error"):
        answer.event({"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}})
        answer.stream_end()
        return
    answer.event({**candidate([last], finish), "usageMetadata": GEMINI_USAGE})
    answer.stream_end()


# ---- Triton ----


def triton(server: Fake, body: dict[str, Any], answer: Answer) -> None:
    path = server.seen[-1].path
    model = path.split("/models/")[1].split("/")[0]
    if fault("triton", model, answer):
        return
    if path.endswith("/infer"):
        texts = body["inputs"][0]["data"]
        data = [value for text in texts for value in (float(len(text)), 0.125)]
        output = {"name": "text_output", "datatype": "FP32", "shape": [len(texts), 2], "data": data}
        answer.whole(200, {"model_name": model, "outputs": [output]})
    elif path.endswith("/generate"):
        answer.whole(200, {"model_name": model, "model_version": "1", "text_output": TRITON_TEXT})
    else:
        answer.stream_head()
        for piece in (TRITON_TEXT[:2], TRITON_TEXT[2:]):
            answer.event({"model_name": model, "model_version": "1", "text_output": piece})
        if model.endswith("fault-stream-late-error"):
            answer.event({"error": "the model instance died"})
        answer.stream_end()


HANDLERS = {"openai": openai, "anthropic": anthropic, "gemini": gemini, "triton": triton}


def responded(client: openai.OpenAI, stream: bool, **request: Any) -> Any:
    """The answer of ``/v1/responses``, asked for whole or put together from the stream by the SDK itself."""
    if not stream:
        return client.responses.create(**request)
    with client.responses.stream(**request) as events:
        for _ in events:
            pass
        return events.get_final_response()
