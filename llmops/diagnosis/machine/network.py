"""Checks of what lies beyond the machine, and of its own ports: the Hub, the token for it, ports that engines take."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from llmops.diagnosis.machine.state import Check
from llmops.hardware import Host

PORTS: Final = (8000, 8001, 8002, 8080)


def hub(_host: Host) -> Check:
    """Whether the Hub can be reached, with its certificate."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            return Check(
                "hub", "note", f"{name} is set: nothing will be downloaded", f"unset {name}", causes=("hub-reach",)
            )
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return Check("hub", "skipped", "a proxy is set; whether it leads to the Hub was not tried")
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host, port = address.hostname or "huggingface.co", address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), timeout=4) as plain:
            if address.scheme == "https":
                ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        remedy = "export REQUESTS_CA_BUNDLE=… SSL_CERT_FILE=… (the proxy's authority)"
        return Check(
            "hub", "warning", f"{host} shows a certificate that is not trusted: {error.verify_message}", remedy
        )
    except OSError as error:
        return Check(
            "hub",
            "note",
            f"{host} cannot be reached: {error}",
            "serve from local directories, or set HF_ENDPOINT",
            causes=("hub-reach",),
        )
    return Check("hub", "ok", f"{host} answers", clears=("hub-reach",))


def hub_token(_host: Host) -> Check:
    """Whether a token for gated models is there. Its value is never read out."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    kept = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if os.environ.get("HF_TOKEN") or kept.is_file():
        return Check("hub-token", "ok", "a token is set")
    return Check(
        "hub-token", "note", "no token: gated models cannot be downloaded", "export HF_TOKEN=…", causes=("hub-token",)
    )


def ports(_host: Host) -> Check:
    """Ports that engines listen on by default."""
    taken = [port for port in PORTS if not _free(port)]
    if taken:
        text = f"already taken: {', '.join(map(str, taken))}"
        return Check("ports", "note", text, f'ss -ltnp "sport = :{taken[0]}"', causes=("port-taken",))
    return Check("ports", "ok", f"free: {', '.join(map(str, PORTS))}", clears=("port-taken",))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
