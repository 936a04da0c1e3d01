"""Usage and cost exports of providers, CSV or JSON, read into rows of one form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError

MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class BilledRow:
    """What a provider says about a day and a model. None where the export does not say.

    Attributes:
        day: UTC date, ``2026-11-01``.
        input_tokens: The whole input, cached and cache-written tokens included.
    """

    day: str
    model: str
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None


# Our field -> the names that exports use for it, in CSV headers and JSON members. Input is the sum of its parts.
_MODEL: Final = ("model", "model_version", "snapshot_id", "line_item", "description")
_REQUESTS: Final = ("num_model_requests", "n_requests", "requests", "request_count")
_OUTPUT: Final = (
    "output_tokens",
    "usage_output_tokens",
    "n_generated_tokens_total",
    "completion_tokens",
)
_WHOLE_INPUT: Final = ("input_tokens", "n_context_tokens_total", "prompt_tokens")
_INPUT_PARTS: Final = (
    "uncached_input_tokens",
    "usage_input_tokens_no_cache",
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation.ephemeral_5m_input_tokens",
    "cache_creation.ephemeral_1h_input_tokens",
)
_COST: Final = ("cost_usd", "amount_value", "amount.value", "cost", "total_cost_usd")
_DAY: Final = (
    "day",
    "date",
    "usage_date_utc",
    "usage_date",
    "start_time_iso",
    "start_time",
    "starting_at",
    "timestamp",
)


def read_export(path: Path) -> tuple[BilledRow, ...]:
    """The rows of an export of OpenAI's or Anthropic's usage or cost pages or APIs.

    Raises:
        UsageError: It cannot be read, or nothing in it says what was used on which day by which model.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path} is larger than 256 MiB", "export a shorter time")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", "export it as CSV or JSON") from error
    records = list(_json_records(path, text) if text.lstrip()[:1] in "{[" else csv.DictReader(io.StringIO(text)))
    rows = [row for record in records if (row := _row(path, _flat(record))) is not None]
    if not rows:
        known = ", ".join(sorted({key for record in records[:5] for key in _flat(record)})[:12]) or "nothing"
        raise UsageError(f"{path}: no row says a day, a model and what was used; it has {known}")
    return tuple(rows)


def _json_records(path: Path, text: str) -> Iterable[Mapping[str, Any]]:
    """Results of buckets, with the bucket's time; or plain lists of records; one document or one a line."""
    try:
        documents = [json.loads(text)]
    except ValueError:
        try:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise UsageError(f"{path} is neither JSON nor CSV: {error}") from error
    for document in documents:
        pages = document if isinstance(document, list) else [document]
        for page in pages:
            yield from _page_records(page)


def _page_records(page: Any) -> Iterable[Mapping[str, Any]]:
    if not isinstance(page, dict):
        return
    if isinstance(page.get("data"), list):
        for bucket in page["data"]:
            yield from _page_records(bucket)
    elif isinstance(page.get("results"), list):
        times = {name: page[name] for name in ("start_time", "starting_at", "start_time_iso") if name in page}
        # A cost report of Anthropic states cents, and has a currency but no "value".
        for result in page["results"]:
            if isinstance(result, dict):
                yield {**times, **result}
    else:
        yield page


def _row(path: Path, record: Mapping[str, Any]) -> BilledRow | None:
    model = next((str(record[name]) for name in _MODEL if record.get(name)), "")
    day = next((_day(record[name]) for name in _DAY if record.get(name) not in (None, "")), None)
    if day is None:
        return None
    try:
        whole = [_number(record[name]) for name in _WHOLE_INPUT if record.get(name) not in (None, "")]
        parts = [_number(record[name]) for name in _INPUT_PARTS if record.get(name) not in (None, "")]
        output = [_number(record[name]) for name in _OUTPUT if record.get(name) not in (None, "")]
        requests = [_number(record[name]) for name in _REQUESTS if record.get(name) not in (None, "")]
        cost = _cost(record)
    except (ValueError, InvalidOperation) as error:
        raise UsageError(f"{path}: a figure of {day} {model} cannot be read: {error}") from error
    into = whole[0] if whole else sum(parts) if parts else None
    if into is None and not output and cost is None:
        return None
    return BilledRow(day, model, requests[0] if requests else None, into, output[0] if output else None, cost)


def _cost(record: Mapping[str, Any]) -> Decimal | None:
    for name in _COST:
        if record.get(name) not in (None, ""):
            return Decimal(str(record[name]).replace(",", "").lstrip("$"))
    if isinstance(record.get("amount"), (str, int, float)) and str(record.get("currency", "")).upper() == "USD":
        return Decimal(str(record["amount"])) / 100  # lowest units of the currency
    return None


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Members of nested objects by dotted name; names in small letters."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        key = str(name).strip().lower()
        if isinstance(value, dict):
            flat |= {f"{key}.{inner.lower()}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def _number(value: Any) -> int:
    return int(Decimal(str(value).replace(",", "")))


def _day(value: Any) -> str:
    text = str(value)
    if text.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(text), UTC).strftime("%Y-%m-%d")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text[:10]
    return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y-%m-%d")
