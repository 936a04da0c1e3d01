"""Google Gemini's generateContent: requests written, answers and streams read."""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.anthropic_write import arguments_of
from llmops.gateway.dialects.ir import (
    Answer,
    Audio,
    Begin,
    Chat,
    Close,
    Event,
    Fail,
    File,
    Finish,
    Image,
    Message,
    More,
    Open,
    Part,
    Refused,
    StopReason,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolResult,
)
from llmops.gateway.dialects.usage import gemini_usage
from llmops.gateway.dialects.wire import error_in_200
from llmops.prices import Usage

STOP: Final[dict[str, StopReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "filter",
    "RECITATION": "filter",
    "BLOCKLIST": "filter",
    "PROHIBITED_CONTENT": "filter",
    "SPII": "filter",
    "IMAGE_SAFETY": "filter",
    "LANGUAGE": "filter",
}
# Google's own word for "this call comes from another model": accepted in place of a thought signature.
_FOREIGN: Final = "skip_thought_signature_validator"
_BUDGETS: Final = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS: Final = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_ids = itertools.count(1)


def write_request(chat: Chat, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request in this dialect, and what it cannot say."""
    lost: dict[str, Any] = {}
    names = {part.id: part.name for turn in chat.messages for part in turn.parts if isinstance(part, ToolCall)}
    signed = "gemini-3" in model
    contents = [_content(turn, names, signed=signed) for turn in chat.messages]
    body: dict[str, Any] = {"contents": [content for content in contents if content["parts"]]}
    if chat.system:
        body["systemInstruction"] = {"parts": [{"text": part.text} for part in chat.system]}
    if chat.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in chat.tools]}]
    if chat.tool_choice is not None and chat.tools:
        kind, _, name = chat.tool_choice.partition(":")
        choice: dict[str, Any] = {"mode": {"auto": "AUTO", "none": "NONE"}.get(kind, "ANY")}
        if name:
            choice["allowedFunctionNames"] = [name]
        body["toolConfig"] = {"functionCallingConfig": choice}
    generation = _generation(chat, model)
    if generation:
        body["generationConfig"] = generation
    if chat.parallel is False and chat.tools:
        lost["parallel_tool_calls"] = False
    if chat.user:
        lost["user"] = chat.user
    return body, lost


def _generation(chat: Chat, model: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "maxOutputTokens": chat.max_tokens,
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "topK": chat.top_k,
        "stopSequences": chat.stop or None,
        "seed": chat.seed,
        "presencePenalty": chat.presence,
        "frequencyPenalty": chat.frequency,
        "thinkingConfig": _thinking(chat, model),
    }
    if chat.logprobs is not None:
        made["responseLogprobs"] = True
        made["logprobs"] = chat.logprobs or None
    if chat.format is not None:
        made["responseMimeType"] = "application/json"
        made["responseJsonSchema"] = chat.format.schema
    return {name: value for name, value in made.items() if value is not None}


def _thinking(chat: Chat, model: str) -> dict[str, Any] | None:
    if chat.thinking is not None:
        kind, budget = chat.thinking.get("type"), chat.thinking.get("budget_tokens")
        if kind == "disabled":
            return {"thinkingBudget": 0}
        return {"includeThoughts": True, **({"thinkingBudget": budget} if isinstance(budget, int) else {})}
    if chat.effort is None:
        return None
    if "gemini-2" in model:
        return {"thinkingBudget": _BUDGETS.get(chat.effort, -1)}
    return {"thinkingLevel": _LEVELS.get(chat.effort, "HIGH")}


def _declaration(tool: Tool) -> dict[str, Any]:
    made: dict[str, Any] = {"name": tool.name, "parametersJsonSchema": tool.schema}
    if tool.description is not None:
        made["description"] = tool.description
    return made


def _content(turn: Message, names: dict[str, str], *, signed: bool) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    needs_one = signed and not any(isinstance(part, ToolCall) and part.signature for part in turn.parts)
    for part in turn.parts:
        if isinstance(part, ToolResult):
            parts += _result(part, names)
            continue
        row = _part(part)
        if isinstance(part, ToolCall) and needs_one:
            row["thoughtSignature"] = _FOREIGN
            needs_one = False
        if row:
            parts.append(row)
    return {"role": "model" if turn.role == "assistant" else "user", "parts": parts}


def _result(part: ToolResult, names: dict[str, str]) -> list[dict[str, Any]]:
    text = "\n".join(each.text for each in part.parts if isinstance(each, Text))
    answer: dict[str, Any] = {"error": text} if part.error else {"result": text}
    response = {"id": part.call_id, "name": names.get(part.call_id, part.call_id), "response": answer}
    rest = [_part(each) for each in part.parts if not isinstance(each, Text)]
    return [{"functionResponse": response}, *rest]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, (Text, Refused)):
        return {"text": part.text} if part.text else {}
    if isinstance(part, (Image, File)):
        if part.url is not None:
            media = part.media or ("application/pdf" if isinstance(part, File) else "image/*")
            return {"fileData": {"fileUri": part.url, "mimeType": media}}
        return {"inlineData": {"mimeType": part.media, "data": part.data}}
    if isinstance(part, Audio):
        return {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
    if isinstance(part, ToolCall):
        row: dict[str, Any] = {"functionCall": {"id": part.id, "name": part.name, "args": arguments_of(part)}}
        if part.signature:
            row["thoughtSignature"] = part.signature
        return row
    return {}  # thoughts go back only by their signatures


# ---- answers ----


def read_response(body: dict[str, Any]) -> Answer:
    """A whole answer; its first candidate."""
    candidate = (body.get("candidates") or [{}])[0]
    parts: list[Part] = [_read_part(part) for part in (candidate.get("content") or {}).get("parts") or ()]
    stop, refusal = _stop_of(body, candidate, any(isinstance(part, ToolCall) for part in parts))
    if refusal and not parts:
        parts.append(Refused(refusal))
    usage = gemini_usage(body["usageMetadata"]) if body.get("usageMetadata") else None
    logprobs = _logprobs(candidate.get("logprobsResult"))
    return Answer(body.get("responseId", ""), body.get("modelVersion", ""), parts, stop, usage, logprobs=logprobs)


def _read_part(part: dict[str, Any]) -> Part:
    if "functionCall" in part:
        return _read_call(part)
    if part.get("thought"):
        return Thought(part.get("text", ""), part.get("thoughtSignature"))
    if "inlineData" in part:
        data = part["inlineData"]
        return Image(media=data.get("mimeType"), data=data.get("data"))
    return Text(part.get("text", ""))


def _read_call(part: dict[str, Any]) -> ToolCall:
    call = part["functionCall"]
    arguments = msgspec.json.encode(call.get("args") or {}).decode()
    call_id = call.get("id") or f"call_{next(_ids)}_{call.get('name', '')}"
    return ToolCall(call_id, call.get("name", ""), arguments, part.get("thoughtSignature"))


def _stop_of(body: dict[str, Any], candidate: dict[str, Any], called: bool) -> tuple[StopReason, str]:
    blocked = (body.get("promptFeedback") or {}).get("blockReason")
    if blocked:
        return "filter", f"the provider blocked the prompt ({blocked})"
    reason = candidate.get("finishReason") or "STOP"
    stop = STOP.get(reason, "filter")
    if stop == "stop" and called:
        return "tool", ""
    said = candidate.get("finishMessage") or f"the provider stopped the answer ({reason})"
    return stop, said if stop == "filter" else ""


def _logprobs(result: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if not result:
        return None
    tops = result.get("topCandidates") or []

    def row(each: dict[str, Any]) -> dict[str, Any]:
        token = each.get("token", "")
        return {"token": token, "logprob": each.get("logProbability", 0.0), "bytes": list(token.encode())}

    return [
        row(chosen) | {"top_logprobs": [row(top) for top in (tops[i].get("candidates") or [] if i < len(tops) else [])]}
        for i, chosen in enumerate(result.get("chosenCandidates") or ())
    ]


class Reader:
    """From streamed generateContent answers to neutral events."""

    def __init__(self, estimate: Usage) -> None:
        self._estimate = estimate
        self._begun = self._called = False
        self._kind = ""
        self._usage: Usage | None = None
        self._stop: StopReason | None = None
        self.done = False

    def read(self, _name: bytes | None, data: bytes) -> list[Event]:
        """One event of the upstream."""
        body = msgspec.json.decode(data)
        if isinstance(body, list):
            body = body[0] if body else {}
        if body.get("error") is not None:
            return [Fail(error_in_200(body["error"]))]
        out: list[Event] = []
        if body.get("usageMetadata"):
            self._usage = gemini_usage(body["usageMetadata"])
        if not self._begun:
            self._begun = True
            out.append(Begin(body.get("responseId", ""), body.get("modelVersion", ""), self._usage or self._estimate))
        candidate = (body.get("candidates") or [{}])[0]
        for part in (candidate.get("content") or {}).get("parts") or ():
            self._part(part, out)
        if candidate.get("finishReason") or body.get("promptFeedback", {}).get("blockReason"):
            self._stop, refusal = _stop_of(body, candidate, self._called)
            if refusal and not self._kind and not self._called:
                out += [Open("refusal"), More(refusal)]
                self._kind = "refusal"
        return out

    def end(self) -> list[Event]:
        """Gemini ends a stream by ending it: good when a finish reason has come."""
        if self._stop is None or self.done:
            return []
        self.done = True
        out: list[Event] = []
        self._close(out)
        out.append(Finish(self._stop, self._usage))
        return out

    def _part(self, part: dict[str, Any], out: list[Event]) -> None:
        read = _read_part(part)
        if isinstance(read, ToolCall):
            self._close(out)
            self._called = True
            out += [Open("call", id=read.id, name=read.name, signature=read.signature), More(read.arguments), Close()]
            return
        if not isinstance(read, (Text, Thought)) or not read.text:
            return
        kind = "thought" if isinstance(read, Thought) else "text"
        if self._kind != kind:
            self._close(out)
            self._kind = kind
            out.append(Open("thought" if kind == "thought" else "text"))
        out.append(More(read.text))

    def _close(self, out: list[Event]) -> None:
        if self._kind:
            out.append(Close())
            self._kind = ""
