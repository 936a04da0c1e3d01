"""Numbers for fixes: each function takes what a log says and returns what a flag needs, through the planner's limits.

A function raises KeyError, ValueError or ArithmeticError when the log does not say enough; the fix is then left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from llmops.planning import limits

Values = Mapping[str, str]
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|sec\w*|m|min\w*|h|hours?)(?![a-z])")
_SECONDS: Final = {"ms": 0.001, "mi": 60.0, "m": 60.0, "s": 1.0, "h": 3600.0}
# A warm-up batch that fails is tried again with a quarter of the sequences: memory falls in proportion.
_FEWER: Final = 4


def number(text: str) -> float:
    """``1,024`` or ``71.24`` as a number."""
    return float(text.replace(",", "").replace("_", "").rstrip("."))


def utilization(values: Values) -> Values:
    """The largest share of the card that the start check accepts with what is free now."""
    share = limits.largest_utilization(number(values["free"]), number(values["total"]))
    if share < 0.05:
        raise ValueError("nothing to speak of is free")
    return {"utilization_fits": f"{share:.2f}"}


def model_len(values: Values) -> Values:
    """The largest max_model_len that the KV cache holds: said by the log, or in proportion to the memory."""
    if "fits_len" in values:
        tokens = int(number(values["fits_len"]))
        return {"length_fits": str(tokens)}
    if "pool_tokens" in values:
        tokens = int(number(values["pool_tokens"]))
    else:
        tokens = int(number(values["asked_len"]) * number(values["available"]) / number(values["needed"]))
    length = limits.largest_model_len(tokens)
    if length <= 0:
        raise ValueError("no block fits")
    return {"length_fits": str(length)}


def derived_len(values: Values) -> Values:
    """What the model was made for."""
    length = int(number(values["derived_len"]))
    if length <= 0:
        raise ValueError("not a length")
    return {"length_fits": str(length)}


def fewer_seqs(values: Values) -> Values:
    """A quarter of the sequences, as a power of two."""
    seqs = int(number(values["seqs"])) // _FEWER
    return {"seqs_fit": str(max(1, 2 ** int(math.log2(seqs))))}


def tensor_parallel(values: Values) -> Values:
    """Degrees that divide the heads (or the size) that the message names, largest at most the one asked for first."""
    size = int(number(values.get("heads") or values["size"]))
    asked = int(number(values["tp"]))
    heads = size if "heads" in values else 0
    fitting = [
        degree
        for degree in limits.valid_tensor_parallel(heads=heads, kv_heads=0, limit=max(8, asked))
        if size % degree == 0 and degree != asked
    ]
    below = [degree for degree in fitting if degree < asked]
    return {"tp_valid": ", ".join(map(str, fitting)), "tp_fits": str((below or fitting)[-1])}


def visible_gpus(values: Values) -> Values:
    """As many GPUs as the process sees."""
    return {"gpus_seen": str(max(1, int(number(values["visible"]))))}


def lora_rank(values: Values) -> Values:
    """The next rank that the engine is compiled for."""
    rank = limits.next_lora_rank(int(number(values["rank"])))
    if rank is None:
        raise ValueError("above every allowed rank")
    return {"rank_allowed": str(rank)}


def cpu_kv(values: Values) -> Values:
    """Half of the free main memory, in whole GiB."""
    return {"kv_fits": str(max(1, int(number(values["free_host"]) / 2)))}


def wait(values: Values) -> Values:
    """Seconds from ``try again in 6m0s``, ``20s``, ``852ms`` or a Retry-After header, rounded up."""
    text = values["wait"].lower()
    parts = _DURATION.findall(text)
    seconds = sum(float(n) * (_SECONDS.get(unit[:2]) or _SECONDS[unit[0]]) for n, unit in parts)
    if not parts:
        seconds = number(text)
    return {"wait_s": str(max(1, math.ceil(seconds)))}


def over_limit(values: Values) -> Values:
    """By how many tokens a request is too large."""
    limit, requested = int(number(values["limit"])), int(number(values["requested"]))
    if requested <= limit:
        raise ValueError("the request is within the limit")
    return {"excess": str(requested - limit), "limit_tokens": str(limit)}


def context_room(values: Values) -> Values:
    """Tokens that may be asked for beside a prompt in a context."""
    room = int(number(values["context"])) - int(number(values["prompt"]))
    if room <= 0:
        raise ValueError("the prompt alone is too long")
    return {"completion_fits": str(room)}


def prompt_cut(values: Values) -> Values:
    """By how much a prompt must shrink."""
    over = int(number(values["requested"])) - int(number(values["context"]))
    if over <= 0:
        raise ValueError("it fits")
    return {"cut": str(over)}


def if_sglang(values: Values) -> Values:
    """Only for SGLang."""
    if values.get("engine") != "sglang":
        raise ValueError("another engine")
    return {}


def not_sglang(values: Values) -> Values:
    """Any engine but SGLang."""
    if values.get("engine") == "sglang":
        raise ValueError("SGLang has another flag")
    return {}


COMPUTE: Final[dict[str, Callable[[Values], Values]]] = {
    function.__name__: function
    for function in (
        utilization, model_len, derived_len, fewer_seqs, tensor_parallel, visible_gpus, lora_rank, cpu_kv, wait, over_limit,
        context_room, prompt_cut, if_sglang, not_sglang,
    )
}  # fmt: skip
