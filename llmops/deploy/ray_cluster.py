"""A running Ray cluster: send it a site, ask how it is, take the site away again. Speaks the dashboard's REST interface.

Ray replaces the whole list of applications with what it is sent, so others' applications are read first and sent along.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from llmops.diagnosis import diagnose_text
from llmops.errors import AccessError, OutsideError, UsageError
from llmops.progress import Progress

PATH: Final = "/api/serve/applications/"
POLL_S: Final = 1.0
TOKEN_PATH_VARIABLE: Final = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - likewise
TOKEN_VARIABLE: Final = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable, not a token
_FAILED: Final = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of an application.

    Attributes:
        running: Replicas that answer.
        wanted: Replicas that should.
    """

    name: str
    status: str
    running: int
    wanted: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Application:
    """One application as Ray sees it."""

    name: str
    status: str
    route_prefix: str | None
    deployments: tuple[Deployment, ...]
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether it runs with all of its replicas."""
        return self.status == "RUNNING"


class Cluster:
    """The dashboard of one cluster.

    Args:
        address: As ``http://127.0.0.1:8265``.

    Raises:
        UsageError: It is no such address.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--address {address!r} is no dashboard", "write it as http://127.0.0.1:8265")
        self.address = f"{parts.scheme}://{parts.netloc}"

    def applications(self) -> tuple[Application, ...]:
        """All that are deployed, in order of names.

        Raises:
            OutsideError: The dashboard does not answer.
        """
        found: Mapping[str, Any] = self._details().get("applications") or {}
        return tuple(_application(name, data) for name, data in sorted(found.items()))

    def submit(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Deploy the applications of a Serve config beside those that are there; returns notes for people.

        Raises:
            OutsideError: Ray refuses it.
            UsageError: Another application has the same route.
        """
        details = self._details()
        mine = {each["name"]: each for each in config["applications"]}
        others = _others(details, mine)
        self._ask("PUT", {**config, "applications": [*others, *mine.values()]})
        there = details.get("http_options") or {}
        wanted = config["http_options"]
        if details.get("applications") and (there.get("host"), there.get("port")) != (wanted["host"], wanted["port"]):
            return (f"Serve already listens on {there.get('host')}:{there.get('port')} and keeps that address",)
        return ()

    def remove(self, name: str) -> None:
        """Take one application away and leave the others.

        Raises:
            UsageError: There is none of that name.
            OutsideError: Ray refuses.
        """
        details = self._details()
        known = details.get("applications") or {}
        if name not in known:
            raise UsageError(f"there is no application {name!r}", f"there are: {', '.join(sorted(known)) or 'none'}")
        others = _others(details, {name: {}})
        if others:
            kept = {key: details[key] for key in ("proxy_location", "http_options") if details.get(key)}
            self._ask("PUT", {**kept, "applications": others})
        else:
            self._ask("DELETE", None)

    def _token(self) -> str | None:
        """From the variable, or where Ray keeps it; a kept one is not sent in clear to another machine."""
        if given := os.environ.get(TOKEN_VARIABLE):
            return given
        parts = urlsplit(self.address)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            return None
        kept = Path(os.environ.get(TOKEN_PATH_VARIABLE) or Path.home() / ".ray" / "auth_token")
        try:
            return kept.read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def _details(self) -> dict[str, Any]:
        return self._ask("GET", None)

    def _ask(self, method: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx

        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = httpx.request(
                method, self.address + PATH, json=body, headers=headers, timeout=60, follow_redirects=False
            )
        except httpx.HTTPError as error:
            raise OutsideError(
                f"the Ray dashboard {self.address} does not answer: {type(error).__name__}",
                "ray start --head shows its address; it must be reachable from here",
            ) from error
        if answer.status_code in (401, 403):
            refused = "refuses the token" if token else "asks for a token"
            raise AccessError(
                f"the Ray dashboard {self.address} {refused}",
                f"export {TOKEN_VARIABLE}=…; ray get-auth-token shows it on a machine of the cluster",
            )
        if answer.status_code >= 400:
            last = (answer.text.strip().splitlines() or [""])[-1]
            raise OutsideError(f"Ray refuses ({answer.status_code}): {last[:300]}", "check the site with --dry-run")
        try:
            found = json.loads(answer.text or "{}")
        except ValueError:
            raise OutsideError(f"{self.address} is no Ray dashboard: it answers no JSON") from None
        return found if isinstance(found, dict) else {}


def wait_until_running(cluster: Cluster, name: str, progress: Progress, *, limit_s: float) -> Application:
    """Poll until an application runs.

    Raises:
        OutsideError: It fails, with the cause from Ray's own words; or the time is up.
    """
    deadline = time.monotonic() + limit_s
    shown = ""
    while True:
        found = next((each for each in cluster.applications() if each.name == name), None)
        if found is not None:
            now = ", ".join(f"{each.name} {each.running}/{each.wanted}" for each in found.deployments)
            if now != shown:
                progress.phase(f"{found.status.lower()}: {now or 'no deployment yet'}")
                shown = now
            if found.ok:
                return found
            if found.status in _FAILED:
                raise failure(found)
        if time.monotonic() > deadline:
            state = found.status.lower() if found else "absent"
            raise OutsideError(
                f"{name} is still {state} after {limit_s:.0f} s ({shown or 'no deployment'})",
                f"llmops deploy status --address {cluster.address}; ray status shows what waits for machines",
            )
        time.sleep(POLL_S)


def failure(found: Application) -> OutsideError:
    """Why an application does not run: the diagnosis of what Ray says, else its own last line."""
    said = "\n".join(filter(None, (found.message, *(each.message for each in found.deployments))))
    cause = diagnose_text("ray", said).top
    if cause is not None:
        evidence = f' ("{" ".join(cause.evidence[0].text.split())[:160]}")' if cause.evidence else ""
        fix = cause.fixes[0] if cause.fixes else None
        advice = f"{fix.title}{f': {fix.command}' if fix.command else ''}" if fix else "see the replica's log"
        return OutsideError(f"{found.name} does not start: {cause.title}{evidence}", advice)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if "Error" in line]
    last = lines[errors[-1]] if errors else (lines or ["Ray gives no reason"])[-1]
    if "validation error" in last and errors:
        # Pydantic's next two lines name the argument and what is wrong with it.
        last += ": " + ": ".join(lines[errors[-1] + 1 : errors[-1] + 3]).partition(" [type=")[0]
    return OutsideError(
        f"{found.name} does not start: {last[:300]}", "ray logs, or the dashboard, have the replica's log"
    )


def _others(details: Mapping[str, Any], mine: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for name, data in (details.get("applications") or {}).items():
        config = data.get("deployed_app_config")
        if name in mine or data.get("status") == "DELETING" or not config:
            continue
        if config.get("route_prefix", "/") in {each.get("route_prefix") for each in mine.values()}:
            raise UsageError(
                f"the application {name!r} already has the route {config.get('route_prefix', '/')}",
                "give this site another: ray: {route_prefix: /llm}",
            )
        kept.append(config)
    return kept


def _application(name: str, data: Mapping[str, Any]) -> Application:
    deployments = tuple(
        Deployment(
            name=each,
            status=str(one.get("status")),
            running=sum(replica.get("state") == "RUNNING" for replica in one.get("replicas") or ()),
            wanted=int(one.get("target_num_replicas") or 0),
            message=str(one.get("message") or ""),
        )
        for each, one in sorted((data.get("deployments") or {}).items())
    )
    return Application(
        name, str(data.get("status")), data.get("route_prefix"), deployments, str(data.get("message") or "")
    )
