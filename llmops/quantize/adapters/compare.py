"""Compare a model with its original on held-out text: perplexity, KL divergence, top-1 agreement, a greedy sample.

The method is that of llama.cpp's ``--kl-divergence``: the text is cut into chunks, and the second half of each is
scored, so that every scored token has half a chunk of context. Logits are not stored (512 tokens of a 262k vocabulary
are half a gigabyte): the last hidden states are, and both heads are applied to a few tokens at a time.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calibration import load_tokenizer
from .job import Channel, RefusedError, device_peak_bytes, seed_everything, versions
from .loading import load_model
from .statistics import Scores, summarise
from .texts import Document, begin, plain_text, read_documents
from .with_bitsandbytes import quieten


@dataclass
class Chunk:
    """Token ids of one chunk, and the language of its text."""

    ids: list[int]
    group: str


@dataclass
class Task:
    """What both models are run on."""

    chunks: list[Chunk]
    tokenizer: Any
    job: dict[str, Any]
    channel: Channel


@dataclass
class Measured:
    """What one model said: the last hidden states of each chunk's scored half, its head, and greedy continuations."""

    hidden: list[Any]
    head: Any
    finish: Any
    samples: list[str]
    forward_s: float


def main(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Measure ``job["model"]`` against ``job["base"]``."""
    quieten()
    channel.phase("Tokenising the held-out text")
    tokenizer = load_tokenizer(job["base"])
    chunks = cut(read_documents(Path(job["text"])), tokenizer, job["chunks"], job["chunk_tokens"])
    if len(chunks) < job["least_chunks"]:
        raise RefusedError(
            "evaluation-too-short",
            f"the evaluation text gives {len(chunks)} chunks of {job['chunk_tokens']} tokens; "
            f"at least {job['least_chunks']} are needed",
            "give a longer --eval-text, or a smaller --chunk-tokens",
        )
    seed_everything(job["seed"], job["threads"])
    task = Task(chunks, tokenizer, job, channel)
    base = measure("original", job["base"], task)
    model = measure("quantised model", job["model"], task)
    channel.phase("Comparing the two distributions token by token")
    scores: list[Scores] = []
    for i, chunk in enumerate(chunks):
        scores.append(score(base, model, i, chunk))
        channel.progress(i + 1, len(chunks))
    return {
        "quality": summarise(scores),
        "groups": {
            name: summarise([s for s in scores if s.group == name])
            for name in sorted({s.group for s in scores})
            if name
        },
        "chunks": len(chunks),
        "samples": [
            {"prompt": prompt, "base": was, "model": now}
            for prompt, was, now in zip(job["prompts"], base.samples, model.samples, strict=True)
        ],
        "forward_s": {"base": base.forward_s, "model": model.forward_s},
        "device_peak_bytes": device_peak_bytes(job["device"]),
        "versions": versions("torch", "transformers", "gptqmodel", "optimum", "bitsandbytes", "compressed-tensors"),
    }


def cut(documents: list[Document], tokenizer: Any, count: int, length: int) -> list[Chunk]:
    """Chunks of ``length`` tokens, each beginning with the model's begin-of-text token; languages take turns."""
    start = begin(tokenizer)
    body = length - len(start)
    waiting: dict[str, list[list[int]]] = {}
    for group in sorted({str(d.get("lang", "")) for d in documents}):
        text = "\n\n".join(plain_text(d) for d in documents if str(d.get("lang", "")) == group)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        waiting[group] = [start + ids[i : i + body] for i in range(0, len(ids) - body + 1, body)]
    chunks: list[Chunk] = []
    while len(chunks) < count and any(waiting.values()):
        for group, rows in waiting.items():
            if rows and len(chunks) < count:
                chunks.append(Chunk(rows.pop(0), group))
    return chunks


def measure(what: str, path: str, task: Task) -> Measured:
    """Load a model, run every chunk, let it continue the prompts, and keep only its head."""
    import torch

    chunks, job, channel = task.chunks, task.job, task.channel
    channel.phase(f"Loading the {what}")
    model = load_model(path, job)
    model.eval()
    head, finish = model.get_output_embeddings(), finisher(model.config)
    channel.phase(f"Running the {what} on {len(chunks)} chunks")
    hidden: list[Any] = []
    began = time.monotonic()
    with torch.inference_mode():
        for i, chunk in enumerate(chunks):
            states, last = forward(model, torch.tensor([chunk.ids], device=job["device"]))
            if i == 0:
                require_same(finish(head(states[-1:]).float())[0], last, type(model).__name__)
            hidden.append(states[len(chunk.ids) // 2 : -1].clone())
            channel.progress(i + 1, len(chunks))
        forward_s = time.monotonic() - began
        samples = [continuation(model, task.tokenizer, prompt, job) for prompt in job["prompts"]]
    del model
    gc.collect()
    return Measured(hidden, head, finish, samples, forward_s)


def forward(model: Any, ids: Any) -> tuple[Any, Any]:
    """Last hidden states of every position, and the model's own logits of the last one.

    The whole model is called, not its body: some quantised formats unpack themselves in a hook on the top module.
    """
    kept: dict[str, Any] = {}
    body = getattr(model, model.base_model_prefix)
    hook = body.register_forward_hook(lambda _module, _inputs, output: kept.__setitem__("states", output[0]))
    try:
        output = model(input_ids=ids, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return kept["states"][0], output.logits[0, -1].float()


def finisher(config: Any) -> Any:
    """What an architecture does with its logits after the head: soft-capping (Gemma 2) or scaling (Cohere, Granite)."""
    text = config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    times = getattr(text, "logit_scale", None)
    over = getattr(text, "logits_scaling", None)

    def finish(logits: Any) -> Any:
        if times:
            logits = logits * times
        if over:
            logits = logits / over
        return (logits / cap).tanh() * cap if cap else logits

    return finish


def require_same(ours: Any, theirs: Any, architecture: str) -> None:
    """Refuse to measure when re-projection does not give the model's own logits."""
    scale = float(theirs.abs().max()) or 1.0
    if float((ours - theirs).abs().max()) > 0.02 * scale:
        raise RefusedError(
            "evaluation-head",
            f"{architecture} does something to its logits that the comparison does not know",
            "quantise with --no-gate, and compare the models with a task of your own",
        )


def continuation(model: Any, tokenizer: Any, prompt: str, job: dict[str, Any]) -> str:
    """What the model writes after ``prompt``, greedily."""
    import torch

    ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    inputs = torch.tensor([begin(tokenizer) + ids], device=job["device"])
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=job["sample_tokens"],
        do_sample=False,
        top_k=None,
        top_p=None,
        temperature=None,
    )
    new = output[0, inputs.shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


def score(base: Measured, model: Measured, index: int, chunk: Chunk) -> Scores:
    """Per-token figures of one chunk's second half."""
    import torch

    half = len(chunk.ids) // 2
    targets = torch.tensor(chunk.ids[half + 1 :], device=base.hidden[index].device)
    # About 64 MB a slice of float32 logits, whatever the vocabulary.
    step = max(8, 16_000_000 // base.head.weight.shape[0])
    result = Scores(chunk.group)
    with torch.inference_mode():
        for i in range(0, len(targets), step):
            wanted = targets[i : i + step]
            was = log_probabilities(base, index, slice(i, i + step))
            now = log_probabilities(model, index, slice(i, i + step))
            rows = torch.arange(len(wanted), device=wanted.device)
            result.nll_base += (-was[rows, wanted]).tolist()
            result.nll += (-now[rows, wanted]).tolist()
            result.same_top += (was.argmax(-1) == now.argmax(-1)).tolist()
            now.sub_(was).neg_()
            result.kl += (was.exp_() * now).sum(-1).tolist()
    return result


def log_probabilities(model: Measured, index: int, part: slice) -> Any:
    """Log-probabilities of the next token, float32."""
    return model.finish(model.head(model.hidden[index][part]).float()).log_softmax(-1)
