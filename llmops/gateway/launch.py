"""``llmops gateway run``: from options to a running gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import UsageError
from llmops.gateway.config import Gateway, load, pass_through, refuse_open

if TYPE_CHECKING:
    from llmops.gateway.server import ServedReport
    from llmops.progress import Progress


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The options of ``gateway run``; None leaves what the config says."""

    config: Path | None
    upstream: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    prices: Path | None = None


def run(spec: RunSpec, progress: Progress) -> ServedReport:
    """Serve until a signal.

    Raises:
        UsageError: The options or the config are wrong.
        AccessError: It would be open to strangers, or a key is missing.
        MachineError: The port is taken.
    """
    config = settle(spec)
    if config.listen.workers > 1:
        from llmops.gateway.workers import run_workers

        return run_workers(config, spec, progress)
    from llmops.gateway.server import run_gateway

    return run_gateway(config, progress, source=spec.config)


def settle(spec: RunSpec) -> Gateway:
    """The config with the options over it."""
    if (spec.config is None) == (spec.upstream is None):
        raise UsageError("give either -c FILE or --upstream URL", "llmops gateway run -c configs/gateway.yaml")
    if spec.config is not None:
        config = load(spec.config)
    else:
        assert spec.upstream is not None
        config = pass_through(spec.upstream, host=spec.host or "127.0.0.1", port=8080)
    changes = {"host": spec.host, "port": spec.port, "workers": spec.workers}
    listen = config.listen.model_copy(update={name: value for name, value in changes.items() if value is not None})
    config = config.model_copy(update={"listen": listen} | ({"prices": spec.prices} if spec.prices else {}))
    refuse_open(config)
    return config
