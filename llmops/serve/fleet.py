"""Several models on one machine: planned together, started one after the other, each restarted on its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from llmops.errors import ExitCode
from llmops.findings import Finding
from llmops.hardware import detect
from llmops.progress import Progress
from llmops.report.files import write_whole
from llmops.serve.decide import Decision, decide_all
from llmops.serve.explain import EngineFailedError
from llmops.serve.fleet_spec import read_fleet
from llmops.serve.freed import wait_until_freed
from llmops.serve.heal import MOST_HEALS
from llmops.serve.registry import encode_fleet
from llmops.serve.running import RunningServer, describe_findings, start
from llmops.serve.serve import RESTART_WAIT_S, STABLE_S
from llmops.serve.spec import ServeSpec

POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What was served, or with ``--dry-run`` would be.

    Attributes:
        restarts: After crashes, by model name.
        stopped_by: Signal number that ended it; 0 for a dry run.
    """

    ok: bool
    findings: tuple[Finding, ...]
    decisions: tuple[Decision, ...]
    restarts: dict[str, int] = field(default_factory=dict)
    stopped_by: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """As a shell expects of a program that a signal ended."""
        return ExitCode.OK if not self.stopped_by else ExitCode(128 + self.stopped_by)

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        models = [
            {"model": one.launch.model_name, "engine": one.engine, "reason": one.choice.reason, **one.launch.data()}
            for one in self.decisions
        ]
        return {"models": models, "restarts": self.restarts, "stopped_by": self.stopped_by or None}


@dataclass(slots=True)
class Slot:
    """One model's place: its server now, and how to end it."""

    server: RunningServer
    stack: ExitStack
    since: float
    restarts: int = 0


def serve_fleet(
    file: Path,
    progress: Progress,
    *,
    dry_run: bool = False,
    ready_file: Path | None = None,
    heal: bool = True,
    gateway: Path | None = None,
) -> FleetReport:
    """Serve all models of a file in the foreground.

    Args:
        file: The YAML file.
        progress: Told of each phase.
        dry_run: Only decide.
        ready_file: Gets a JSON object with all servers once each answers; removed at the end.
        heal: Try again with advised flags, and restart a crashed engine, at most three times each.
        gateway: Gets a config for ``llmops gateway`` that routes each name to its server.

    Raises:
        UsageError, MachineError: Before anything is started.
        OutsideError: One engine died for good; the others were stopped.
    """
    specs = read_fleet(file)
    progress.phase(f"planning {len(specs)} models")
    decisions = decide_all(specs, detect())
    findings = tuple(finding for one in decisions for finding in one.plan_findings)
    if dry_run:
        return FleetReport(True, findings, decisions)
    heals = MOST_HEALS if heal else 0
    slots: list[Slot] = []
    try:
        with ExitStack() as stack:
            for spec, decision in zip(specs, decisions, strict=True):
                slots.append(_enter(stack, spec, progress, heals, decision))
            _announce(slots, progress, ready_file, gateway)
            while True:
                _mend(slots, stack, progress, heals)
                time.sleep(POLL_S)
    except KeyboardInterrupt as stop:
        counted = {slot.server.model_name: slot.restarts for slot in slots}
        return FleetReport(True, findings, decisions, counted, int(getattr(stop, "signum", 2)))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def _enter(outer: ExitStack, spec: ServeSpec, progress: Progress, heals: int, decision: Decision | None = None) -> Slot:
    own = outer.enter_context(ExitStack())
    server = own.enter_context(start(spec, progress, heals=heals, decision=decision))
    progress.note(f"{server.model_name}: {server.url}/v1 ({server.engine}, ready after {server.ready_s:.1f} s)")
    for line in describe_findings(server):
        progress.note(f"{server.model_name}: {line}")
    return Slot(server, own, time.monotonic())


def _mend(slots: list[Slot], outer: ExitStack, progress: Progress, heals: int) -> None:
    """Restart what has died, at its address; raise when it has died too often."""
    for index, slot in enumerate(slots):
        if slot.server.wait(0) is None:
            continue
        error: EngineFailedError = slot.server.why_ended()
        restarts = 1 if time.monotonic() - slot.since > STABLE_S else slot.restarts + 1
        if restarts > heals:
            raise error
        progress.note(f"{slot.server.model_name}: {error.message}; starting again ({restarts} of {heals})")
        slot.stack.close()
        time.sleep(RESTART_WAIT_S * 2 ** (restarts - 1))
        wait_until_freed(slot.server.decision.plan, progress)
        spec = slot.server.spec.model_copy(update={"port": slot.server.port})
        slots[index] = _enter(outer, spec, progress, heals)
        slots[index].restarts = restarts


def _announce(slots: list[Slot], progress: Progress, ready_file: Path | None, gateway: Path | None) -> None:
    servers = [slot.server for slot in slots]
    if gateway is not None:
        write_whole(gateway, yaml.safe_dump(gateway_config(servers), sort_keys=False))
        progress.note(f"one front for all: llmops gateway run -c {gateway}")
    progress.phase(f"serving {len(slots)} models; stop: Ctrl-C")
    if ready_file is not None:
        write_whole(ready_file, encode_fleet([(one.model_name, one.url, str(one.log_path)) for one in servers]))


def gateway_config(servers: Sequence[RunningServer]) -> dict[str, Any]:
    """A gateway that routes each model's names, and those of its adapters, to its server. Pure."""
    providers: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    for one in servers:
        key = {"key_env": one.spec.api_key_env} if one.spec.api_key_env else {}
        providers[one.model_name] = {"base_url": f"{one.url}/v1", "local": True, **key}
        alias = {"alias": list(one.spec.alias)} if one.spec.alias else {}
        names = (one.model_name, *(lora.name for lora in one.spec.loras))
        routes += [
            {"match": name, **(alias if name == one.model_name else {}), "targets": [_target(one, name)]}
            for name in names
        ]
    return {"providers": providers, "routes": routes}


def _target(server: RunningServer, name: str) -> dict[str, str]:
    return {"provider": server.model_name, "model": name}
