"""Runs as a child process: a GGUF file to a Hugging Face directory through transformers' reader.

Started as ``python convert_child.py JOB``; JOB is a JSON object with ``source``, ``out``, ``dtype``, ``chat_template``,
``add_bos``.
Prints one JSON object a line: ``{"phase": text}`` while it works, at the end ``{"done": {...}}`` or ``{"error": text}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Convert, and say how it went on the original stdout; libraries print to stderr."""
    job = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        say(done=convert(job, say))
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        say(error=f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    return 0


def convert(job: dict[str, Any], say: Any) -> dict[str, Any]:
    """Read tokenizer and weights, cast, and save both."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, out = Path(job["source"]), Path(job["out"])
    dtype = getattr(torch, job["dtype"])
    say(phase="Building the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if job["add_bos"] and tokenizer.bos_token_id is not None:
        _begin_with(tokenizer, tokenizer.bos_token, tokenizer.bos_token_id)
    added = not tokenizer.chat_template
    if added:
        tokenizer.chat_template = job["chat_template"]
    say(phase="Reading the weights")
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=dtype)
    # The reader marks the model as quantised although its weights are now dense, and would refuse to save it.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model = model.to(dtype)
    model.config.dtype = dtype
    model.config._name_or_path = ""  # noqa: SLF001 - else the path of this machine goes into config.json
    say(phase="Writing safetensors")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"chat_template_added": added, "parameters": sum(p.numel() for p in model.parameters())}


def _begin_with(tokenizer: Any, bos: str, bos_id: int) -> None:
    """Every text begins with ``bos``, as the file asks; the reader forgets it, and models answer badly without it."""
    if tokenizer("a").input_ids[:1] == [bos_id]:
        return
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)]
    )


if __name__ == "__main__":
    raise SystemExit(main())
