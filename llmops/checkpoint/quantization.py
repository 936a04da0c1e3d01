"""The quantisation that config.json, a sidecar file or the tensors themselves state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmops.checkpoint.config import number, section, word
from llmops.checkpoint.facts import Quantization

_MAX_IGNORE = 20_000


def read_quantization(config: Mapping[str, Any]) -> Quantization | None:
    """The scheme in ``quantization_config`` (or ``compression_config``), None when there is none."""
    found = section(config, "quantization_config", "compression_config") or section(
        section(config, "text_config"), "quantization_config"
    )
    if not found:
        return None
    method = word(found, "quant_method", "quant_algo").lower()
    if not method:
        method = "compressed-tensors" if "config_groups" in found else _bitsandbytes_or_unknown(found)
    readers = {
        "gptq": _packed, "awq": _packed, "gptq_marlin": _packed, "awq_marlin": _packed, "auto-round": _packed,
        "intel/auto-round": _packed, "bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed,
        "modelopt": _modelopt, "modelopt_fp4": _modelopt, "fp8": _fp8, "fbgemm_fp8": _fp8, "mxfp4": _mxfp4,
        "hqq": _packed, "quark": _quark,
    }  # fmt: skip
    read = readers.get(method)
    return read(method, found) if read else Quantization(method, method, number(found, "bits", "w_bit", default=8))


def is_ignored(name: str, quantization: Quantization) -> bool:
    """Whether a module stays in full precision by the scheme's list of names and ``re:`` patterns."""
    for entry in quantization.ignore:
        if entry.startswith("re:"):
            if _matches(entry[3:], name):
                return True
        elif name == entry or name.endswith("." + entry) or f".{entry}." in f".{name}.":
            return True
    return False


def _matches(pattern: str, name: str) -> bool:
    # The pattern comes with the model: few repetitions only, so that none can run for ever on a crafted name.
    if len(pattern) > 300 or sum(pattern.count(mark) for mark in "*+{") > 4:
        return False
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


def _names(found: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    for key in keys:
        value = found.get(key)
        if isinstance(value, list):
            return tuple(str(item) for item in value[:_MAX_IGNORE])
    return ()


def _bitsandbytes_or_unknown(found: Mapping[str, Any]) -> str:
    return "bitsandbytes" if "load_in_4bit" in found or "load_in_8bit" in found else "unknown"


def _packed(method: str, found: Mapping[str, Any]) -> Quantization:
    group = found.get("group_size", found.get("q_group_size"))
    short = "gptq" if "auto-round" in method else method.removesuffix("_marlin")
    symmetric = found.get("sym")
    if symmetric is None and "zero_point" in found:
        symmetric = not found["zero_point"]
    return Quantization(
        method=short,
        quant_method=method,
        bits=number(found, "bits", "w_bit", "nbits", default=4),
        group_size=group if type(group) is int and group > 0 else None,
        symmetric=symmetric if isinstance(symmetric, bool) else None,
        ignore=_names(found, "modules_to_not_convert") or ("lm_head",),
        detail=word(found, "checkpoint_format", "version", "format") or None,
    )


def _bitsandbytes(method: str, found: Mapping[str, Any]) -> Quantization:
    skip = _names(found, "llm_int8_skip_modules") or ("lm_head",)
    if found.get("load_in_8bit"):
        return Quantization("int8", method, 8, ignore=skip)
    kind = word(found, "bnb_4bit_quant_type", default="fp4")
    nested = found.get("bnb_4bit_use_double_quant") is True
    return Quantization(kind, method, 4, 64, ignore=skip, detail="double quantised" if nested else None)


def _compressed(method: str, found: Mapping[str, Any]) -> Quantization:
    groups = section(found, "config_groups")
    first = next((group for group in groups.values() if isinstance(group, dict)), {})
    weights, inputs = section(first, "weights"), section(first, "input_activations")
    bits, kind = number(weights, "num_bits", default=8), word(weights, "type", default="int")
    group = number(weights, "group_size") or None
    form = word(first, "format") or word(found, "format")
    name = _scheme_name(bits, kind, group, bool(inputs), form)
    cache = section(found, "kv_cache_scheme")
    return Quantization(
        method=name,
        quant_method=method,
        bits=bits,
        group_size=group,
        symmetric=weights.get("symmetric") if isinstance(weights.get("symmetric"), bool) else None,
        ignore=_names(found, "ignore"),
        kv_cache=f"fp{number(cache, 'num_bits')}" if word(cache, "type") == "float" else None,
        detail=form or None,
    )


def _scheme_name(bits: int, kind: str, group: int | None, activations: bool, form: str) -> str:
    if kind == "float" and bits == 4:
        return "mxfp4" if group == 32 or "mxfp4" in form else "nvfp4"
    if kind == "float":
        return "fp8"
    return f"w{bits}a8" if activations and bits == 8 else f"w{bits}a{8 if activations else 16}"


def _modelopt(method: str, found: Mapping[str, Any]) -> Quantization:
    inner = section(found, "quantization") or found
    algorithm = word(inner, "quant_algo", default="FP8").lower()
    cache = word(inner, "kv_cache_quant_algo").lower() or None
    ignore = _names(inner, "exclude_modules", "ignore") or ("lm_head",)
    if "fp4" in algorithm:
        return Quantization("nvfp4", method, 4, number(inner, "group_size", default=16), ignore=ignore, kv_cache=cache)
    return Quantization("fp8", method, 8, ignore=ignore, kv_cache=cache, detail=algorithm)


def _fp8(method: str, found: Mapping[str, Any]) -> Quantization:
    block = found.get("weight_block_size")
    detail = f"blocks of {block[0]}x{block[1]}" if isinstance(block, list) and len(block) == 2 else None
    return Quantization(
        "fp8",
        method,
        8,
        ignore=_names(found, "modules_to_not_convert", "ignored_layers") or ("lm_head",),
        detail=detail,
    )


def _mxfp4(method: str, found: Mapping[str, Any]) -> Quantization:
    return Quantization("mxfp4", method, 4, 32, ignore=_names(found, "modules_to_not_convert"))


def _quark(method: str, found: Mapping[str, Any]) -> Quantization:
    weight = section(section(found, "global_quant_config"), "weight")
    kind = word(weight, "dtype", default="fp8")
    bits = 4 if "4" in kind.partition("e")[0] else 8
    name = "mxfp4" if bits == 4 and "fp" in kind else ("fp8" if "fp8" in kind else f"w{bits}a8")
    return Quantization(name, method, bits, number(weight, "group_size") or None, ignore=_names(found, "exclude"))
