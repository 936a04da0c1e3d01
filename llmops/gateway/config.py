"""The form of ``gateway.yaml``. Names of keys and providers stand here, never their secrets."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.errors import AccessError, UsageError
from llmops.gateway.access.config import AccessConfig
from llmops.gateway.cache_semantic.config import SemanticCacheConfig
from llmops.gateway.config_paths import relative_to
from llmops.gateway.guard.config import GuardConfig
from llmops.gateway.money.config import MoneyConfig
from llmops.gateway.state.config import ReplicasConfig
from llmops.http1 import Origin
from llmops.recipes import Yaml, load_yaml, validate
from llmops.sites import gateway_document

Dialect = Literal["openai", "anthropic", "gemini", "triton"]
Strategy = Literal["ordered", "weighted", "least_busy", "lowest_latency", "prefix_affinity", "cheapest"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Form(BaseModel):
    """Unknown keys are errors; nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Form):
    """Rate limits; an absent one does not limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrent)


class Listen(Form):
    """Where the gateway is reached; ``busy_poll_ms`` is for how long after traffic a worker stays awake for more."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: str = "127.0.0.1"
    max_body_mib: Positive = 64.0
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    busy_poll_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0


class Key(Form):
    """A caller's key: its value comes from the environment or a file, or only its SHA-256 is written here."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    env: str | None = None
    file: Path | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "default"
    models: tuple[str, ...] = ("*",)
    admin: bool = False
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(each is not None for each in (self.env, self.file, self.sha256)) != 1:
            raise ValueError("give exactly one of env, file and sha256")
        return self


class Timeouts(Form):
    """Seconds. ``first_byte_s`` is a whole generation when the answer is not streamed."""

    connect_s: Positive = 5.0
    first_byte_s: Positive = 600.0
    idle_s: Positive = 120.0


class Health(Form):
    """Active checks of a provider: GET ``path`` each ``every_s``; ``fails`` failures in a row take its targets out."""

    path: Annotated[str, Field(pattern=r"^/")]
    every_s: Positive = 10.0
    timeout_s: Positive = 2.0
    fails: Count = 2


class Batching(Form):
    """Gather requests with equal parameters for upstreams that do not batch by themselves."""

    max_size: Annotated[int, Field(ge=1, le=1024)] = 16
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 100.0


class Provider(Form):
    """A server: where it is, what it speaks, and where its key comes from.

    ``local``: by its address where it is not said. ``region`` is told by ``llmops gateway check``.
    """

    dialect: Dialect = "openai"
    base_url: str
    region: str | None = None
    key_env: str | None = None
    key_file: Path | None = None
    key_vault: str | None = None
    forward_key: bool = False
    local: bool | None = None
    prices_as: str | None = None
    responses: bool = False
    stream_usage: bool = True
    http: Literal["pool", "httpx", "http2"] = "pool"
    ca_file: Path | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    health: Health | None = None
    max_connections: Count = 256
    discover: bool = False
    batching: Batching | None = None
    triton_input: str = "text_input"
    triton_output: str = "text_output"
    # An input that takes a conversation's turns as JSON: the model then applies its own chat template.
    triton_messages: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        Origin.of(self.base_url)
        if sum(each is not None for each in (self.key_env, self.key_file, self.key_vault)) > 1:
            raise ValueError("give one of key_env, key_file and key_vault")
        return self


class When(Form):
    """Conditions under which a target is considered."""

    max_input_tokens: Count | None = None
    min_input_tokens: Count | None = None
    images: bool | None = None
    tools: bool | None = None
    stream: bool | None = None


class Target(Form):
    """A model at a provider. ``model`` None: the name the caller used. ``tier``: how good it is; larger is better."""

    provider: str
    model: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    tier: Annotated[int, Field(ge=0)] = 1
    when: When = When()
    limits: Limits = Limits()


class Retry(Form):
    """How often and how long a request is tried; see ``resilience.py``."""

    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    base_ms: Positive = 250.0
    max_ms: Positive = 8000.0
    deadline_s: Positive = 600.0
    budget: Annotated[float, Field(ge=0, le=1)] = 0.2


class RouteCache(Form):
    """Exact caching of a route. ``always`` caches answers at any temperature, not only at 0."""

    enabled: bool = True
    always: bool = False
    ttl_s: Positive = 3600.0


class Route(Form):
    """Names of models, and the targets that answer for them.

    ``tier`` is the least that ``strategy: cheapest`` may choose; ``guard`` stands in place of the file's.
    """

    match: Annotated[str, Field(min_length=1)]
    alias: tuple[str, ...] = ()
    strategy: Strategy = "ordered"
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    tier: Annotated[int, Field(ge=0)] = 1
    retry: Retry | None = None
    cache: RouteCache | None = None
    semantic_cache: SemanticCacheConfig | None = None
    guard: GuardConfig | None = None
    untranslatable: Literal["refuse", "drop"] | None = None


class Cache(Form):
    """The answer cache: in this process, or a Redis server by URL."""

    enabled: bool = False
    max_mib: Positive = 64.0
    redis: str | None = None


class Breaker(Form):
    """When a target is left alone: after ``failures`` in a row, or a share of failures within ``window_s``."""

    failures: Count = 5
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_requests: Count = 10
    window_s: Positive = 30.0
    open_s: Positive = 5.0
    max_open_s: Positive = 60.0


class Tracing(Form):
    """OpenTelemetry spans to a collector (OTLP over HTTP): ``share`` of the traces whose caller has not decided."""

    endpoint: str
    service: Annotated[str, Field(min_length=1)] = "llmops-gateway"
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    header_env: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        Origin.of(self.endpoint)
        return self


class Gateway(Form):
    """The whole file."""

    listen: Listen = Listen()
    keys: tuple[Key, ...] = ()
    providers: Annotated[dict[str, Provider], Field(min_length=1)]
    routes: tuple[Route, ...] = ()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    cache: Cache = Cache()
    untranslatable: Literal["refuse", "drop"] = "refuse"
    prices: Path | None = None
    access_log: Path | Literal["stderr"] | None = None
    tracing: Tracing | None = None
    cost_comment: bool = False
    access: AccessConfig | None = None
    money: MoneyConfig | None = None
    guard: GuardConfig | None = None
    replicas: ReplicasConfig | None = None

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for route in self.routes:
            for target in route.targets:
                if target.provider not in self.providers:
                    known = ", ".join(sorted(self.providers))
                    raise ValueError(f"route {route.match!r} names the provider {target.provider!r}; there are {known}")
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have the same name")
        return self


def load(path: Path) -> Gateway:
    """Read and check a config.

    Raises:
        UsageError: With file:line.
        AccessError: It would listen beyond this machine without keys.
    """
    document = gateway_document(load_yaml(path))
    config = validate(Gateway, document)
    config = config.model_copy(update=relative_to(config, path.parent))
    refuse_open(config, document)
    return config


def pass_through(upstream: str, *, host: str, port: int, workers: int = 1) -> Gateway:
    """The config of ``--upstream URL``: every model goes to that server, with the caller's own key.

    Raises:
        UsageError: The URL is none.
    """
    try:
        origin, _ = Origin.of(upstream)
    except ValueError as error:
        raise UsageError(f"--upstream: {error}", "for example --upstream http://127.0.0.1:8000/v1") from error
    local = is_loopback(origin.host)
    return Gateway(
        listen=Listen(host=host, port=port, workers=workers),
        providers={"upstream": Provider(base_url=upstream, forward_key=True, local=local)},
        routes=(Route(match="*", targets=(Target(provider="upstream"),)),),
    )


def refuse_open(config: Gateway, document: Yaml | None = None) -> None:
    """Never serve strangers by accident.

    Raises:
        AccessError: Not bound to this machine only, and no keys.
    """
    guarded = config.keys or (config.access is not None and (config.access.callers or config.access.jwt))
    if guarded or is_loopback(config.listen.host):
        return
    where = f"{document.file}:{document.line(('listen', 'host'))}: " if document else ""
    raise AccessError(
        f"{where}listening on {config.listen.host} without keys would serve anyone who reaches it",
        "add keys to the config, or listen on 127.0.0.1",
    )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
