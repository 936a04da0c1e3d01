"""Machines described in words: ``A100-40GB*4,nvlink`` and ``--host FILE``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError
from llmops.hardware.cards import Card, find_card, link_between
from llmops.hardware.host import Cpu, Driver, Gpu, Host, Limits, Link, Memory
from llmops.units import GIB, parse_size

_ITEM: Final = re.compile(r"^(?P<name>[^*:]+?)(?::(?P<memory>[\d.]+\s*[a-zA-Z]+))?(?:\s*[*x]\s*(?P<count>\d{1,3}))?$")
_WORDS: Final = ("nvlink", "pcie")
_MAX_GPUS: Final = 128


def host_from_gpus(text: str, *, cores: int = 64, memory_bytes: int = 512 * GIB, name: str | None = None) -> Host:
    """A machine from a list such as ``A100-40GB*4,nvlink`` or ``RTX4090*8`` or ``L4:22GiB*2,L40S``.

    ``nvlink`` or ``pcie`` holds for all cards of the list; without it each card's usual link is assumed. ``none`` is a
    machine without GPUs. A memory after a colon replaces the table's.

    Raises:
        UsageError: A card is not known, or the text has another form.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    wanted = {item.lower() for item in items if item.lower() in _WORDS}
    nvlink = {frozenset({"nvlink"}): True, frozenset({"pcie"}): False}.get(frozenset(wanted))
    if len(wanted) > 1:
        raise UsageError("--gpu: nvlink and pcie exclude each other", "keep one of the two")
    cards: list[Card] = []
    for item in items:
        if item.lower() not in (*_WORDS, "none"):
            cards += _parse(item)
    if not items or (not cards and "none" not in text.lower()):
        raise UsageError(f"--gpu {text!r} names no GPU", "write it as 'A100-40GB*4,nvlink', or none")
    if len(cards) > _MAX_GPUS:
        raise UsageError(f"--gpu {text!r} names {len(cards)} GPUs", f"at most {_MAX_GPUS}")
    links = tuple(
        Link(
            a, b, link_between(cards[a], nvlink=nvlink) if cards[a].key == cards[b].key else "pcie-host", cards[a].lanes
        )
        for a in range(len(cards))
        for b in range(a + 1, len(cards))
    )
    links = tuple(link if link.kind == "nvlink" else replace(link, lanes=0) for link in links)
    return Host(
        name=name or text,
        source="paper",
        os="Linux",
        cpu=Cpu("on paper", cores, cores, cores, None, 0.0, cores),
        memory=Memory(memory_bytes, memory_bytes, None),
        limits=Limits(),
        gpus=tuple(_gpu(index, card) for index, card in enumerate(cards)),
        links=links,
        driver=Driver(cuda=(13, 0)) if cards else Driver(),
    )


def read_host(path: Path) -> Host:
    """A machine from a file: the JSON of ``llmops gpus --json``, or a short YAML or JSON description.

    The short form has ``gpus: "A100-40GB*4,nvlink"`` and optionally ``name``, ``cores`` and ``memory``.

    Raises:
        UsageError: The file does not describe a machine.
    """
    found = _load(path)
    inner = found.get("data") if isinstance(found.get("data"), dict) else None
    full = (inner or {}).get("host", inner) or found
    if isinstance(full, dict) and isinstance(full.get("cpu"), dict):
        return _full(path, full)
    known = {"gpus", "name", "cores", "memory"}
    unknown = sorted(set(found) - known)
    if unknown or not isinstance(found.get("gpus", "none"), str):
        what = f"the key {unknown[0]!r} is not known" if unknown else "gpus is no text"
        raise UsageError(f"{path}: {what}", "keys: gpus, name, cores, memory; or the output of llmops gpus --json")
    cores, memory = found.get("cores", 64), found.get("memory", "512GiB")
    if not isinstance(cores, int) or cores < 1:
        raise UsageError(f"{path}: cores is no positive number", "write cores: 64")
    return replace(
        host_from_gpus(
            str(found.get("gpus", "none")),
            cores=cores,
            memory_bytes=parse_size(str(memory)),
            name=str(found.get("name", path.stem)),
        ),
        source=path.name,
    )


def _parse(item: str) -> list[Card]:
    match = _ITEM.match(item)
    if match is None:
        raise UsageError(f"--gpu: {item!r} is not a GPU", "write it as 'A100-40GB*4,nvlink'")
    card = find_card(match["name"])
    if match["memory"]:
        card = replace(card, total_gib=parse_size(match["memory"]) / GIB)
    count = int(match["count"] or 1)
    if not 1 <= count <= _MAX_GPUS:
        raise UsageError(f"--gpu: {item!r} asks for {count} GPUs", f"between 1 and {_MAX_GPUS}")
    return [card] * count


def _gpu(index: int, card: Card) -> Gpu:
    size = round(card.total_gib * GIB)
    return Gpu(index, card.name, f"GPU-paper-{index}", size, size, card.capability, card.vendor)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "make one with: llmops gpus --json > host.json")
    if path.stat().st_size > 2**22:
        raise UsageError(f"{path} is too large to describe a machine", "check the path")
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is neither YAML nor JSON: {error}", "check the file") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not describe a machine", "write at least: gpus: A100-40GB*4")
    return found


def _full(path: Path, found: dict[str, Any]) -> Host:
    import msgspec

    try:
        host = msgspec.convert(found, Host, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}", "make it again with: llmops gpus --json > host.json") from error
    return replace(host, source=path.name)
