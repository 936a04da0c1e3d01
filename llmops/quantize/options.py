"""Options that are wrong whatever the model and the machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from llmops.errors import UsageError, did_you_mean
from llmops.quantize.methods import GROUP_SIZES, METHODS, TARGETS, Method
from llmops.quantize.refusals import Refusal
from llmops.quantize.spec import GateSpec, QuantizeSpec

FLOOR_TOKENS: Final = 32 * 256
LEAST_ROW: Final = 32


def known_method(name: str) -> Method:
    """Look a method up.

    Raises:
        UsageError: There is none of that name.
    """
    found = METHODS.get(name)
    if found is None:
        raise UsageError(f"there is no method {name!r}", did_you_mean(name, METHODS))
    return found


def check_options(spec: QuantizeSpec, method: Method) -> Iterator[Refusal]:
    """Values that no model and no machine could make right."""
    if spec.bits is not None and spec.bits not in method.bits:
        can = " or ".join(map(str, method.bits))
        yield Refusal("bits", f"--bits {spec.bits}: {method.name} stores {can} bit", f"use --bits {can}")
    if method.grouped and spec.group_size is not None and spec.group_size not in GROUP_SIZES:
        yield Refusal(
            "group-size",
            f"--group-size {spec.group_size}: serving engines have kernels for 32, 64, 128 and -1 only",
            "use --group-size 128, or 32 for better quality",
        )
    if spec.target is not None and spec.target not in TARGETS:
        yield Refusal("target", f"--target {spec.target}: not known", did_you_mean(spec.target, TARGETS) or "use vllm")
    if spec.desc_act and method.name != "gptq":
        yield Refusal("desc-act", f"--desc-act has no meaning for {method.name}", "leave it out, or use --method gptq")
    numbers = (("--threads", spec.threads), ("--samples", spec.samples), ("--seq-len", spec.seq_len))
    for name, value in (*numbers, *(("--tensor-parallel", degree) for degree in spec.tensor_parallel)):
        if value is not None and value < 1:
            yield Refusal("number", f"{name} {value}: at least 1", f"leave {name} out for the default")
    yield from check_amount(spec, method)
    yield from check_device(spec.device)
    yield from check_gate(spec.quality)


def check_device(device: str) -> Iterator[Refusal]:
    """A device that cannot be meant."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        yield Refusal("device", f"--device {device}: not known", "use auto, cpu or cuda:0")


def check_amount(spec: QuantizeSpec, method: Method) -> Iterator[Refusal]:
    """Calibration that cannot suffice because too little of it is asked for."""
    tokens = spec.samples * spec.seq_len
    if method.calibrated and tokens < FLOOR_TOKENS:
        yield Refusal(
            "calibration-too-short",
            f"--samples {spec.samples} × --seq-len {spec.seq_len} is {tokens} tokens of calibration; "
            f"below {FLOOR_TOKENS} the result is noise",
            "use at least --samples 32 --seq-len 256",
        )
    elif method.calibrated and 1 <= spec.seq_len < LEAST_ROW:
        yield Refusal(
            "seq-len",
            f"--seq-len {spec.seq_len}: rows of fewer than {LEAST_ROW} tokens have no context to learn from",
            "use --seq-len 512",
        )


def check_gate(spec: GateSpec) -> Iterator[Refusal]:
    """Values of the comparison."""
    if spec.chunks < 2 or spec.chunk_tokens < 32:
        yield Refusal(
            "chunks",
            f"--chunks {spec.chunks} of --chunk-tokens {spec.chunk_tokens}: too little to measure anything",
            "use at least 2 chunks of 32 tokens",
        )
    if spec.min_agreement is not None and not 0 <= spec.min_agreement <= 1:
        yield Refusal(
            "min-agreement", f"--min-agreement {spec.min_agreement:g}: a share of 0 to 1", "write 0.9 for 90 %"
        )
    for name, value in (("--max-kl", spec.max_kl), ("--max-ppl-ratio", spec.max_ppl_ratio)):
        if value is not None and value <= 0:
            yield Refusal("threshold", f"{name} {value:g}: above 0", f"leave {name} out for the default")
