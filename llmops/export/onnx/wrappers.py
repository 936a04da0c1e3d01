"""The models as functions of tensors, with every input named and no state of their own. Needs torch; runs in the worker."""

from __future__ import annotations

from typing import Any

import torch


class CausalLm(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Token ids, mask and positions to logits, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any) -> Any:
        """Logits of every position."""
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).logits


class CausalLmCache(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The same with keys and values of the past as inputs, and of past and present as outputs.

    Every layer keeps its whole past, sliding layers too: their window is in the mask. That costs memory at long texts and
    keeps the graph's shapes the same for each layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:
        """Logits, then key and value of each layer in turn."""
        from transformers import DynamicCache

        done = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=DynamicCache([(key, value) for key, value in past]),
            use_cache=True,
        )
        return (done.logits, *[each for layer in done.past_key_values.layers for each in (layer.keys, layer.values)])


class Embedding(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Token ids and mask to token vectors and one pooled vector a row."""

    def __init__(self, model: Any, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.model, self.pooling, self.normalize = model, pooling, normalize

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """``last_hidden_state`` and ``sentence_embedding``."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden, pool(hidden, attention_mask, self.pooling, self.normalize)


class Classification(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Token ids, mask and, where the model has them, segment ids to logits of the classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """Logits of each class."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits


def pool(hidden: Any, mask: Any, pooling: str, normalize: bool) -> Any:
    """One vector a row. ``last`` takes the last unmasked token, wherever the padding is."""
    if pooling == "mean":
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        vector = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    else:
        positions = torch.arange(mask.shape[1], device=mask.device)
        marked = torch.where(mask > 0, positions, positions.new_full((), -1 if pooling == "last" else 1 << 30))
        index = marked.max(1).values if pooling == "last" else marked.min(1).values
        index = index.clamp(min=0, max=mask.shape[1] - 1)
        vector = hidden.gather(1, index.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])).squeeze(1)
    return torch.nn.functional.normalize(vector, p=2.0, dim=1) if normalize else vector
