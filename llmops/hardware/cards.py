"""Current GPUs on paper: memory as programs see it, compute capability, and how cards of a kind are linked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from llmops.errors import UsageError, did_you_mean
from llmops.hardware.host import LinkKind, Vendor


@dataclass(frozen=True, slots=True)
class Card:
    """One product.

    Attributes:
        name: As the driver names it.
        total_gib: Memory that a program can have, as CUDA reports it; less than the product name says.
        capability: Compute capability; None for other vendors.
        nvlink: Whether several of them in one server are usually linked by NVLink (or the vendor's own link).
        lanes: NVLinks a card.
    """

    key: str
    name: str
    total_gib: float
    capability: tuple[int, int] | None
    nvlink: bool = False
    lanes: int = 0
    vendor: Vendor = "nvidia"


# Memory: what CUDA's own out-of-memory messages and engine start-up logs state for each card ("total capacity of …").
_CARDS: Final = (
    Card("b300-288gb", "NVIDIA B300", 267.69, (10, 3), nvlink=True, lanes=18),
    Card("gb200-186gb", "NVIDIA GB200", 184.31, (10, 0), nvlink=True, lanes=18),
    Card("b200-180gb", "NVIDIA B200", 178.35, (10, 0), nvlink=True, lanes=18),
    Card("gh200-144gb", "NVIDIA GH200 144G HBM3e", 139.81, (9, 0), lanes=18),
    Card("gh200-96gb", "NVIDIA GH200 480GB", 94.50, (9, 0), lanes=18),
    Card("h200-141gb", "NVIDIA H200", 139.80, (9, 0), nvlink=True, lanes=18),
    Card("h200-nvl-141gb", "NVIDIA H200 NVL", 139.80, (9, 0), nvlink=True, lanes=18),
    Card("h100-80gb", "NVIDIA H100 80GB HBM3", 79.19, (9, 0), nvlink=True, lanes=18),
    Card("h100-pcie-80gb", "NVIDIA H100 PCIe", 79.19, (9, 0)),
    Card("h100-nvl-94gb", "NVIDIA H100 NVL", 93.12, (9, 0), nvlink=True, lanes=12),
    Card("h800-80gb", "NVIDIA H800", 79.11, (9, 0), nvlink=True, lanes=8),
    Card("h20-96gb", "NVIDIA H20", 95.00, (9, 0), nvlink=True, lanes=18),
    Card("a100-80gb", "NVIDIA A100-SXM4-80GB", 79.15, (8, 0), nvlink=True, lanes=12),
    Card("a100-pcie-80gb", "NVIDIA A100 80GB PCIe", 79.15, (8, 0)),
    Card("a800-80gb", "NVIDIA A800-SXM4-80GB", 79.15, (8, 0), nvlink=True, lanes=8),
    Card("a100-40gb", "NVIDIA A100-SXM4-40GB", 39.39, (8, 0), nvlink=True, lanes=12),
    Card("a100-pcie-40gb", "NVIDIA A100-PCIE-40GB", 39.39, (8, 0)),
    Card("a40-48gb", "NVIDIA A40", 44.43, (8, 6)),
    Card("a30-24gb", "NVIDIA A30", 23.50, (8, 0)),
    Card("a16-16gb", "NVIDIA A16", 14.54, (8, 6)),
    Card("a10g-24gb", "NVIDIA A10G", 22.06, (8, 6)),
    Card("a10-24gb", "NVIDIA A10", 22.06, (8, 6)),
    Card("a2-16gb", "NVIDIA A2", 14.54, (8, 6)),
    Card("l40s-48gb", "NVIDIA L40S", 44.40, (8, 9)),
    Card("l40-48gb", "NVIDIA L40", 44.40, (8, 9)),
    Card("l20-48gb", "NVIDIA L20", 44.40, (8, 9)),
    Card("l4-24gb", "NVIDIA L4", 22.03, (8, 9)),
    Card("t4-16gb", "Tesla T4", 14.57, (7, 5)),
    Card("v100-32gb", "Tesla V100-SXM2-32GB", 31.73, (7, 0), nvlink=True, lanes=6),
    Card("v100-16gb", "Tesla V100-SXM2-16GB", 15.77, (7, 0), nvlink=True, lanes=6),
    Card("p100-16gb", "Tesla P100-PCIE-16GB", 15.89, (6, 0)),
    Card("p40-24gb", "Tesla P40", 22.38, (6, 1)),
    Card("rtx-pro-6000-96gb", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 94.97, (12, 0)),
    Card("rtx-6000-ada-48gb", "NVIDIA RTX 6000 Ada Generation", 47.41, (8, 9)),
    Card("rtx-5000-ada-32gb", "NVIDIA RTX 5000 Ada Generation", 31.47, (8, 9)),
    Card("rtx-a6000-48gb", "NVIDIA RTX A6000", 47.41, (8, 6)),
    Card("rtx-a5000-24gb", "NVIDIA RTX A5000", 23.57, (8, 6)),
    Card("rtx-a4000-16gb", "NVIDIA RTX A4000", 15.60, (8, 6)),
    Card("dgx-spark-128gb", "NVIDIA GB10", 119.70, (12, 1)),
    Card("rtx-5090-32gb", "NVIDIA GeForce RTX 5090", 31.36, (12, 0)),
    Card("rtx-5080-16gb", "NVIDIA GeForce RTX 5080", 15.48, (12, 0)),
    Card("rtx-5070-ti-16gb", "NVIDIA GeForce RTX 5070 Ti", 15.48, (12, 0)),
    Card("rtx-5070-12gb", "NVIDIA GeForce RTX 5070", 11.50, (12, 0)),
    Card("rtx-5060-ti-16gb", "NVIDIA GeForce RTX 5060 Ti", 15.48, (12, 0)),
    Card("rtx-4090-24gb", "NVIDIA GeForce RTX 4090", 23.53, (8, 9)),
    Card("rtx-4080-16gb", "NVIDIA GeForce RTX 4080", 15.70, (8, 9)),
    Card("rtx-4070-ti-12gb", "NVIDIA GeForce RTX 4070 Ti", 11.60, (8, 9)),
    Card("rtx-4060-ti-16gb", "NVIDIA GeForce RTX 4060 Ti", 15.60, (8, 9)),
    Card("rtx-3090-24gb", "NVIDIA GeForce RTX 3090", 23.68, (8, 6)),
    Card("rtx-3080-10gb", "NVIDIA GeForce RTX 3080", 9.77, (8, 6)),
    Card("rtx-3060-12gb", "NVIDIA GeForce RTX 3060", 11.65, (8, 6)),
    Card("rtx-2080-ti-11gb", "NVIDIA GeForce RTX 2080 Ti", 10.75, (7, 5)),
    Card("titan-rtx-24gb", "NVIDIA TITAN RTX", 23.65, (7, 5)),
    Card("mi355x-288gb", "AMD Instinct MI355X", 287.98, None, nvlink=True, vendor="amd"),
    Card("mi325x-256gb", "AMD Instinct MI325X", 255.98, None, nvlink=True, vendor="amd"),
    Card("mi300x-192gb", "AMD Instinct MI300X", 191.98, None, nvlink=True, vendor="amd"),
    Card("mi250x-64gb", "AMD Instinct MI250X (one die)", 63.98, None, nvlink=True, vendor="amd"),
)  # fmt: skip
CARDS: Final = {card.key: card for card in _CARDS}
_NOISE: Final = re.compile(r"\b(?:nvidia|geforce|tesla|quadro|amd|instinct|gpu|sxm\d?|hbm\d?e?|generation|edition)\b")


def find_card(text: str) -> Card:
    """The card that a user means by ``A100-40GB``, ``rtx 4090`` or ``NVIDIA H100 80GB HBM3``.

    Raises:
        UsageError: It is none of the table, or it is several (an A100 has 40 or 80 GB).
    """
    exact = next((card for card in _CARDS if card.name.lower() == text.strip().lower()), None)
    if exact:
        return exact
    words = _words(text)
    matches = [card for card in _CARDS if words <= _words(card.key)]
    # "h100-80gb" is also part of "h100-pcie-80gb": the key with the fewest further words is meant.
    fewest = min((len(_words(card.key)) for card in matches), default=0)
    matches = [card for card in matches if len(_words(card.key)) == fewest]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"{text!r} may be {' or '.join(card.key for card in matches)}", "name its memory too")
    raise UsageError(f"{text!r} is no GPU in the table", did_you_mean("-".join(sorted(words)), CARDS) or _hint())


def _hint() -> str:
    return "known: " + ", ".join(sorted({re.sub(r"-\d+gb$", "", key) for key in CARDS}))


def _words(text: str) -> frozenset[str]:
    plain = _NOISE.sub(" ", re.sub(r"[-_/()]", " ", text.lower()))
    plain = re.sub(r"(\d+)\s*gi?b?\b", r"\1gb", plain)
    plain = re.sub(r"\brtx(?=[\da-z])", "rtx ", plain)
    return frozenset(plain.split())


def link_between(card: Card, *, nvlink: bool | None) -> LinkKind:
    """How two cards of one kind in one server reach each other."""
    linked = card.nvlink if nvlink is None else nvlink
    return "nvlink" if linked else "pcie-host"
