"""How far the outputs of two runs are apart. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

# Positions that are compared together: each has a row as wide as the vocabulary.
_AT_ONCE: Final = 64


def compare(task: str, want: Any, got: Any, mask: Any) -> dict[str, Any]:
    """Largest difference, and agreement: the share of equal most likely tokens or classes, or the least cosine of embeddings.

    Masked positions do not count: what a model computes there means nothing. Anything that is not finite agrees with nothing.
    """
    import numpy as np

    finite, difference, equal, seen, least = True, 0.0, 0, 0, 1.0
    for left, right in _pieces(task, want, got, mask):
        seen += len(left)
        finite = finite and bool(np.isfinite(right).all())
        if not finite:
            continue
        difference = max(difference, float(np.abs(left - right).max(initial=0.0)))
        if task == "embedding":
            scale = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
            least = min(least, float(((left * right).sum(-1) / np.maximum(scale, 1e-12)).min()))
        else:
            equal += int((left.argmax(-1) == right.argmax(-1)).sum())
    agreement = least if task == "embedding" else equal / max(1, seen)
    return {
        "agreement": agreement if finite else 0.0, "max_difference": difference if finite else None, "finite": finite,
        "positions": seen if want.ndim == 2 else int(mask.sum()),
    }  # fmt: skip


def _pieces(task: str, want: Any, got: Any, mask: Any) -> Iterator[tuple[Any, Any]]:
    """Both sides in float32, of text generators only unmasked positions, some at a time: each holds a whole vocabulary."""
    import numpy as np

    if not task.startswith("causal-lm"):
        yield want, got.astype(np.float32)
        return
    flat_want, flat_got = want.reshape(-1, want.shape[-1]), got.reshape(-1, got.shape[-1])
    places = np.flatnonzero(mask.reshape(-1) > 0)
    for at in range(0, len(places), _AT_ONCE):
        part = places[at : at + _AT_ONCE]
        yield flat_want[part], flat_got[part].astype(np.float32)


def summary(rows: list[dict[str, Any]], greedy: list[dict[str, Any]]) -> dict[str, Any]:
    """One agreement (weighted by positions; the least one for embeddings is among the rows) and the largest difference."""
    total = sum(row["positions"] for row in rows)
    differences = [row["max_difference"] for row in rows]
    return {
        "agreement": sum(row["agreement"] * row["positions"] for row in rows) / max(1, total),
        "max_difference": None if None in differences else max(differences),
        "finite": all(row["finite"] for row in rows),
        "greedy_agrees": all(row["agree"] for row in greedy) if greedy else None,
    }
