"""What can be known to fail before anything is started."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

import psutil

from llmops.checkpoint import ModelFacts, read_model
from llmops.engines.recipe import installed_version
from llmops.errors import MachineError, UsageError
from llmops.planning.coefficients import BITSANDBYTES_LEFT, parse_version
from llmops.planning.types import LoraSpec
from llmops.serve.spec import Engine, ServeSpec
from llmops.units import format_size

# A log of a start that fails has some hundred lines.
LEAST_ROOM_BYTES: Final = 256 * 1024
# Brings what vLLM had of its own before 0.28.
BNB_PLUGIN: Final = "vllm-bnb-plugin"


def check_files(spec: ServeSpec, facts: ModelFacts) -> None:
    """Refuse damaged weights, a template that is not there, and a key that is not set.

    Raises:
        UsageError: One of them.
    """
    damage = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if damage is not None:
        raise UsageError(f"{facts.path}: {damage.message}", damage.remedy or f"llmops inspect {facts.path}")
    if not facts.complete:
        raise UsageError(f"{facts.path}: the weights are not complete", f"llmops inspect {facts.path}")
    if spec.chat_template is not None and not spec.chat_template.is_file():
        raise UsageError(f"--chat-template: there is no file {spec.chat_template}", "give a jinja file")
    if spec.api_key_env is not None and not os.environ.get(spec.api_key_env):
        raise UsageError(f"the variable {spec.api_key_env} is not set", f"export {spec.api_key_env}=…")


def check_options(spec: ServeSpec, engine: Engine) -> None:
    """Refuse what an engine has no way to do.

    Raises:
        UsageError: One of the options.
    """
    if spec.loras and engine != "vllm":
        raise UsageError(f"the engine {engine} serves no LoRA adapters from files", "--engine vllm")
    if spec.api_key_env is not None and engine in ("ray", "trtllm"):
        raise UsageError(
            f"the engine {engine} asks its clients for no key",
            "leave --api-key-env out, and put llmops gateway before it",
        )
    if spec.image is not None and engine != "vllm":
        raise UsageError(f"the engine {engine} is not run from an image", "--engine vllm --image IMAGE")
    if spec.replicas is not None and engine != "ray":
        raise UsageError(f"the engine {engine} runs one copy of a model", "--engine ray runs several")


def check_plugin(spec: ServeSpec, facts: ModelFacts, engine: Engine, python: Path, version: str | None) -> None:
    """Refuse bitsandbytes on a vLLM that has it as a plugin only, where that is not installed.

    Raises:
        MachineError: It is not.
    """
    stored = facts.quantization.quant_method if facts.quantization else None
    wanted = "bitsandbytes" in (spec.quantization, stored)
    if engine not in ("vllm", "ray") or not wanted or spec.image is not None or version is None:
        return
    if parse_version(version) >= BITSANDBYTES_LEFT and installed_version(python.parent.parent, BNB_PLUGIN) is None:
        raise MachineError(
            f"vLLM {version} has no bitsandbytes of its own, and {BNB_PLUGIN} is not installed beside it",
            f"{python} -m pip install {BNB_PLUGIN}, or --engine transformers, or quantise first: llmops quantize",
        )


def largest_rank(loras: tuple[LoraSpec, ...]) -> int | None:
    """The rank that an engine must make room for; None without adapters.

    Raises:
        UsageError: One of them is no adapter, or is damaged.
    """
    ranks = []
    for lora in loras:
        path = Path(lora.path)
        facts = read_model(path) if path.exists() else None
        if facts is None or facts.lora is None:
            raise UsageError(f"--lora {lora.name}: there is no adapter in {path}", "give a PEFT adapter's directory")
        damage = next((finding for finding in facts.findings if finding.severity == "error"), None)
        if damage is not None:
            raise UsageError(f"--lora {lora.name}: {damage.message}", damage.remedy or f"llmops inspect {path}")
        ranks.append(facts.lora.rank)
    return max(ranks, default=None)


def check_log_room(directory: Path) -> None:
    """Refuse a directory without space for an engine's log: the engine would end at its first line, and leave none.

    Raises:
        MachineError: There is none, or the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = error.strerror or str(error)
        raise MachineError(f"no directory {directory} for the log: {what}", "--log FILE on another disk") from error
    if full := full_disk(directory):
        raise MachineError(f"no space for the log: {full}", "free some, or --log FILE on another disk")


def full_disk(directory: Path) -> str | None:
    """That a file system is full; None when it is not, or cannot be asked."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    free = disk.f_bavail * disk.f_frsize
    return f"the disk of {directory} is full ({format_size(free)} free)" if free < LEAST_ROOM_BYTES else None


def free_port(host: str, port: int) -> int:
    """The port itself when it can be bound, or any free one for 0.

    Raises:
        UsageError: ``host`` is no address of this machine.
        MachineError: The port is taken, or needs rights.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last owner has just ended can be taken again at once.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise UsageError(f"--host {host}: no such address", "127.0.0.1 for this machine only") from error
        except OSError as error:
            raise _cannot_bind(host, port, error) from error
        return int(probe.getsockname()[1])


def _cannot_bind(host: str, port: int, error: OSError) -> MachineError | UsageError:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        return MachineError(f"port {port} is taken{f' by {owner}' if owner else ''}", "--port 0 picks a free one")
    if error.errno == errno.EACCES:
        return MachineError(f"port {port} needs root", "choose one above 1023, or --port 0")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {host} is not an address of this machine", "127.0.0.1 for this machine only")
    return MachineError(f"cannot listen on {host}:{port}: {error.strerror}", "--port 0 picks a free one")


def port_owner(port: int) -> str | None:
    """``name (pid N)`` of the process that listens on a port, where this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return None
    return None
