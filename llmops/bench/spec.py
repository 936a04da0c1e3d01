"""What to measure, as the command line and recipes say it; everything is checked before anything is sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from llmops.bench.schedule import Arrival
from llmops.bench.slo import Slo
from llmops.bench.slo import parse as parse_slo
from llmops.errors import UsageError
from llmops.units import parse_duration_s

_LENGTH_FORM: Final = "write a length as 128, or as 100-500 for a uniform choice"


def _seconds(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_duration_s(value)
        except UsageError as error:
            raise ValueError(f"{error.message} ({error.hint})") from None
    return value


def _length(value: object) -> object:
    """``128`` or ``100-500`` as a pair."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        low, dash, high = value.partition("-")
        if low.strip().isdigit() and (not dash or high.strip().isdigit()):
            return (int(low), int(high or low))
        raise ValueError(_LENGTH_FORM)
    return value


def _levels(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(gt=0)]
Length = Annotated[tuple[int, int], BeforeValidator(_length, json_schema_input_type=int | str | tuple[int, int])]


class BenchSpec(BaseModel):
    """One measurement of one endpoint.

    The load is one of: ``concurrency`` users (closed loop), ``rate`` requests a second (open loop), a ``trace``, a
    ``sweep`` over either, or with ``find_max`` a search for the most that still meets the SLOs. Durations may be written ``60s``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="The server, with or without /v1")
    model: str | None = Field(None, description="Name sent in requests; the server's only model when left out")
    api: Literal["chat", "completions", "messages"] = "chat"
    api_key_env: str | None = Field(None, description="Environment variable that holds the API key")
    headers: tuple[str, ...] = Field((), description="Further headers, each 'Name: value'")
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="Fields merged into each request; null removes"
    )
    ignore_eos: bool = Field(
        False, description="Ask for the full output length (vLLM, SGLang; others refuse the field)"
    )
    stream: bool = True

    requests: int | None = Field(None, ge=1)
    duration: Seconds | None = None
    concurrency: int | None = Field(None, ge=1, le=20_000, description="Users; with a rate or a trace, the cap")
    rate: float | None = Field(None, gt=0, le=100_000, description="Requests a second")
    arrival: str = Field("poisson", description="constant, poisson or gamma:BURSTINESS")
    ramp: Seconds | None = Field(None, description="Grow to the load over this time, which is not measured")
    trace: Path | None = Field(None, description="JSON lines: when to send what")
    trace_speed: float = Field(1.0, gt=0)
    sweep: Annotated[tuple[float, ...], BeforeValidator(_levels, json_schema_input_type=str | tuple[float, ...])] = (
        Field((), description="Levels of the load")
    )
    find_max: bool = Field(False, description="Search the most that holds the SLOs, from concurrency or rate upwards")
    cold: bool = Field(False, description="A new connection for each request, inside its latency")

    input_tokens: Length = Field((128, 128), description="128, or 100-500")
    output_tokens: Length = Field((128, 128), description="128, or 100-500")
    language: Literal["en", "ja"] = "en"
    dataset: Path | None = Field(None, description="ShareGPT JSON, JSON lines or a text file of prompts")
    turns: int = Field(1, ge=1, le=100, description="Requests of one conversation")
    think: Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(ge=0)] = Field(
        0.0, description="Pause between turns"
    )
    prefix_groups: int = Field(0, ge=0, description="How many different shared prefixes")
    prefix_tokens: int = Field(0, ge=0, description="Length of a shared prefix")

    warmup: int | None = Field(None, ge=0, description="Requests before the clock; 0 sends nothing but what is asked")
    seed: int = 0
    workers: int | None = Field(None, ge=1, le=64, description="Processes; chosen by the load when left out")
    timeout: Seconds = Field(600.0, description="For the first byte and for the whole answer")
    confidence: float = Field(0.99, gt=0.5, lt=1, description="Of SLO tests")

    slo: tuple[str, ...] = Field((), description="Objectives such as ttft.p99<500ms")
    baseline: Path | None = Field(None, description="An earlier JSON report to compare with")
    max_regression: float = Field(0.05, gt=0, lt=1)
    gpu_hour_cost: Decimal | None = Field(None, ge=0, description="What the serving machine costs an hour, in dollars")
    provider: str | None = Field(None, description="Whose price of the model to use")
    allow_invalid: bool = Field(False, description="Let an INVALID run without gates count as a success")
    energy: bool = Field(True, description="Read the local GPUs' energy counters where the server is local")
    raw: Path | None = Field(None, description="Write one JSON line a request")

    @field_validator("slo", mode="before")
    @classmethod
    def _slo_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("arrival")
    @classmethod
    def _process(cls, value: str) -> str:
        try:
            Arrival.parse(value)
        except UsageError as error:
            raise ValueError(f"{error.message}: {error.hint}") from None
        return value

    @field_validator("max_regression", mode="before")
    @classmethod
    def _percent(cls, value: object) -> object:
        if isinstance(value, str) and value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in (self._load_problem(), self._length_problem(), self._other_problem()):
            if problem:
                raise ValueError(problem)
        return self

    def _load_problem(self) -> str | None:
        if self.trace and (self.rate or self.requests or self.duration):
            return "a trace says itself when and how much is sent: leave out rate, requests and duration"
        if self.find_max + (self.trace is not None) + bool(self.sweep) > 1:
            return "choose one of sweep, find_max and trace"
        if self.find_max and not self.slo:
            return "find_max needs at least one slo to hold"
        if any(level <= 0 for level in self.sweep):
            return "each sweep level is a number above 0"
        if self.sweep and not self.rate and any(level != int(level) for level in self.sweep):
            return "sweep levels of concurrency are whole numbers; give rate too to sweep the rate"
        return None

    def _length_problem(self) -> str | None:
        for name, (low, high) in (("input_tokens", self.input_tokens), ("output_tokens", self.output_tokens)):
            if not 1 <= low <= high <= 10_000_000:
                return f"{name}: {_LENGTH_FORM}"
        if bool(self.prefix_groups) != bool(self.prefix_tokens):
            return "prefix_groups and prefix_tokens go together"
        if self.dataset and self.prefix_groups:
            return "shared prefixes are for synthetic prompts, not for a dataset"
        return None

    def _other_problem(self) -> str | None:
        for header in self.headers:
            if ":" not in header:
                return f"the header {header!r} is not 'Name: value'"
        if self.warmup == 0 and self.model is None:
            return "with warmup 0 nothing but the asked requests is sent, so the model must be named"
        if self.turns > 1 and not self.stream and self.api == "completions":
            return "conversations need the chat or messages api"
        for text in self.slo:
            try:
                parse_slo(text)
            except UsageError as error:
                return error.message + (f" ({error.hint})" if error.hint else "")
        return None

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent by a schedule, whatever the answers do."""
        return self.rate is not None or self.trace is not None

    @property
    def objectives(self) -> tuple[Slo, ...]:
        """The parsed SLOs."""
        return tuple(parse_slo(text) for text in self.slo)


def bench_spec(**given: Any) -> BenchSpec:
    """A spec from options, those that are None left out.

    Raises:
        UsageError: A value is wrong, or the values do not go together; one line.
    """
    from pydantic import ValidationError

    try:
        return BenchSpec(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"][:1]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"--{place}: {message}" if place else message, "llmops bench --help") from None
