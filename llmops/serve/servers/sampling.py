"""Choosing tokens for each request of a batch by its own rules: temperature, top-p, top-k, penalties, its own seed.

The library's batch samples for all requests alike and without seeds. Here the batch is set to greedy, and this
processor leaves each sampled row with one possible token: the one it drew. A request's draw depends on its seed and
its position alone, so it is the same whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

# Enough candidates to hold almost every nucleus; a wider one is sorted whole.
_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request chooses.

    Attributes:
        temperature: 0 takes the most probable token.
        top_k: 0 takes all.
        seed: Two requests with the same one and the same prompt get the same text.
        bias: Added to the logits of these tokens.
        banned_until: Tokens (ends of text) that may not come before so many were generated.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: dict[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    banned_until: int = 0

    @property
    def plain(self) -> bool:
        """Greedy with untouched logits: nothing to do."""
        return (
            self.temperature == 0
            and not (self.presence or self.frequency or self.bias or self.banned_until)
            and self.repetition == 1.0
        )


class PerRequestSampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # the library has no types
    """The processor. ``sampling`` travels with each request as its keyword argument of that name."""

    supported_kwargs: dict[str, type] = {"sampling": Sampling}  # noqa: RUF012 - the library reads it from the class
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._rows: list[tuple[Sampling, Sequence[int], Sequence[int]]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Nothing of it is read from the tensor."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Keep the rows' requests; the library calls this just before the step, in the order of the rows."""
        self._rows = [
            (
                request.state.logit_processor_kwargs.get("sampling", Sampling(temperature=0)),
                request.state.initial_tokens,
                request.state.generated_tokens,
            )
            for request in requests_with_new_token
        ]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - its interface
        """Adjust the rows."""
        for row, (rules, prompt, generated) in enumerate(self._rows):
            if not rules.plain:
                scores[row] = choose(scores[row], rules, prompt, generated)
        return scores


def choose(logits: torch.Tensor, rules: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> torch.Tensor:
    """Logits of one row after the rules; when sampling, all but the drawn token are impossible."""
    logits = penalise(logits, rules, prompt, generated)
    if rules.temperature == 0:
        return logits
    token = draw(logits, rules, position=len(prompt) + len(generated))
    only = torch.full_like(logits, float("-inf"))
    only[token] = 0.0
    return only


def penalise(logits: torch.Tensor, rules: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> torch.Tensor:
    """OpenAI's presence and frequency penalties (over generated tokens), the repetition penalty of Keskar et al. 2019
    (over all tokens), the bias, and no end before ``banned_until``.
    """
    logits = logits.clone()
    if generated and (rules.presence or rules.frequency):
        counts = torch.bincount(torch.tensor(list(generated)), minlength=logits.numel())
        logits -= rules.frequency * counts + rules.presence * (counts > 0)
    if rules.repetition != 1.0:
        seen = torch.tensor(sorted({*prompt, *generated}))
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / rules.repetition, values * rules.repetition)
    for token, value in rules.bias.items():
        if 0 <= token < logits.numel():
            logits[token] += value
    if rules.banned and len(generated) < rules.banned_until:
        logits[list(rules.banned)] = float("-inf")
    return logits


def draw(logits: torch.Tensor, rules: Sampling, position: int) -> int:
    """Sample one token."""
    scaled = logits.float() / rules.temperature
    values, tokens = _candidates(scaled, rules)
    generator = torch.Generator().manual_seed((rules.seed * 1_000_003 + position) % 2**63)
    drawn = int(torch.multinomial(torch.softmax(values, dim=-1), 1, generator=generator).item())
    return drawn if tokens is None else int(tokens[drawn].item())


def _candidates(scaled: torch.Tensor, rules: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tokens that top-k and top-p leave, most probable first; None as tokens means all, in their own order."""
    size = scaled.numel()
    wanted = min(rules.top_k, size) if rules.top_k > 0 else size
    if rules.top_p >= 1:
        return (scaled, None) if wanted == size else torch.topk(scaled, wanted)
    # top-p is a share of what top-k leaves, so its total is over those.
    values, tokens = torch.topk(scaled, min(wanted, _CANDIDATES))
    total = torch.logsumexp(values if wanted <= _CANDIDATES else scaled, dim=-1)
    before = torch.cumsum(torch.exp(values - total), dim=-1) - torch.exp(values - total)
    if wanted > _CANDIDATES and before[-1] < rules.top_p:
        values, tokens = torch.topk(scaled, wanted)
        total = torch.logsumexp(values, dim=-1)
        before = torch.cumsum(torch.exp(values - total), dim=-1) - torch.exp(values - total)
    keep = max(1, int((before < rules.top_p).sum().item()))
    return values[:keep], tokens[:keep]
