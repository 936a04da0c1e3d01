"""The adapter that generates with transformers: ``python -m llmops.bench.offline_transformers ORDER.json``.

Prints one JSON line of facts, then one a repeat. Decoding steps are timed in a stopping criterion, which transformers
calls once a step.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from llmops import extras
from llmops.bench.offline_child import run, say


def work(order: dict[str, Any]) -> None:
    """Load the model once, then generate for each batch size: one unmeasured run, then the repeats."""
    torch = extras.require("torch", "measuring with transformers")
    transformers = extras.require("transformers", "measuring with transformers")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(order["model"], dtype="auto").to(device).eval()
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    say({"versions": versions, "device": name})
    torch.manual_seed(order["seed"])
    for batch in order["batches"] or (1, 2, 4):
        ids = torch.randint(10, model.config.get_text_config().vocab_size - 10, (batch, order["input_tokens"]))
        for number in range(order["repeats"] + 1):
            row = _generate(model, ids.to(device), order["output_tokens"], torch)
            if number:
                say({"batch": batch, "input_tokens": order["input_tokens"], **row})


def _generate(model: Any, ids: Any, tokens: int, torch: Any) -> dict[str, Any]:
    # A batch has no streamer in transformers, so a criterion that never stops notes the steps instead.
    at: list[float] = []

    def note(_ids: Any, _scores: Any, **_kwargs: Any) -> Any:
        at.append(time.perf_counter())
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

    if ids.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=[note],
        )
    if ids.is_cuda:
        torch.cuda.synchronize()
    ended = time.perf_counter()
    steps = [(b - a) * 1000 for a, b in itertools.pairwise(at)]
    return {
        "output_tokens": tokens,
        "first_ms": (at[0] - began) * 1000,
        "total_ms": (ended - began) * 1000,
        "step_ms": steps,
    }


if __name__ == "__main__":
    run(work)
