"""The memory of one GPU under vLLM, term by term. Each term says its formula and where its coefficient comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmops.checkpoint.facts import ModelFacts, Share
from llmops.planning.cache import KV_BYTES, CacheLayout, layout
from llmops.planning.calibration import Measured
from llmops.planning.coefficients import RESERVE_GIB, Coefficients
from llmops.planning.limits import padded_vocab
from llmops.planning.types import MemoryPlan, Term
from llmops.units import GIB

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_GRAPH_BASE_GIB, _GRAPH_LAYER_GIB, _GRAPH_PARALLEL_GIB = 0.35, 0.012, 0.4


@dataclass(frozen=True, slots=True)
class Setting:
    """The decisions that memory depends on."""

    tensor_parallel: int
    pipeline_parallel: int
    dtype: str
    kv_cache_dtype: str
    online_quantization: str | None
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    utilization: float
    enforce_eager: bool
    lora_rank: int = 0
    lora_count: int = 0
    weights_gib: float | None = None


def account(
    facts: ModelFacts, setting: Setting, total_gib: float, row: Coefficients, measured: Measured | None = None
) -> tuple[MemoryPlan, CacheLayout]:
    """Add up one GPU's memory on the stage that has least left for the cache.

    ``measured`` replaces formulas by what the same start logged on this machine before.
    """
    weights, weight_terms = weights_per_gpu(facts, setting)
    activation, activation_terms = activation_peak(facts, setting, row)
    non_torch = non_torch_term(setting, row)
    graphs = graphs_term(facts, setting)
    lora = lora_term(facts, setting)
    if measured is not None:
        weights, weight_terms = measured.weights_gib, (_logged("weights", measured.weights_gib),)
        activation, activation_terms = measured.activation_gib, (_logged("activation", measured.activation_gib),)
        non_torch, lora = _logged("non-torch", measured.non_torch_gib), None
        graphs = graphs if measured.cudagraph_gib is None else _logged("CUDA graphs", measured.cudagraph_gib)
    budget = setting.utilization * total_gib
    taken = weights + activation + non_torch.value + (lora.value if lora else 0)
    if row.graphs_subtracted:
        taken += graphs.value
    kv_dtype = setting.dtype if setting.kv_cache_dtype == "auto" else setting.kv_cache_dtype
    cache = layout(
        facts,
        tensor_parallel=setting.tensor_parallel,
        pipeline_parallel=setting.pipeline_parallel,
        kv_bytes=KV_BYTES.get(kv_dtype, 2.0),
    )
    cache_gib = budget - taken
    subtracted = " - CUDA graphs" if row.graphs_subtracted else ""
    terms = (
        Term("total", total_gib, "GiB", "memory that CUDA reports for the card", "the card or its table"),
        Term("budget", budget, "GiB", f"{setting.utilization:g} x {total_gib:.2f}", "gpu_memory_utilization"),
        *weight_terms,
        *((lora,) if lora else ()),
        *activation_terms,
        non_torch,
        graphs,
        Term("KV cache", cache_gib, "GiB", f"budget - weights - activation - non-torch{subtracted}", "vLLM's own sum"),
        Term(
            "reserve",
            RESERVE_GIB,
            "GiB",
            "of the cache, where the plan chooses the context",
            "largest miss of 30 logged starts",
        ),
        Term("KV bytes a token", cache.bytes_per_token, "B", cache.formula, "vLLM's cache layout"),
    )
    plan = MemoryPlan(
        total_gib=round(total_gib, 4),
        budget_gib=round(budget, 4),
        weights_gib=round(weights + (lora.value if lora else 0), 4),
        activation_gib=round(activation, 4),
        non_torch_gib=round(non_torch.value, 4),
        cudagraph_gib=round(graphs.value, 4),
        kv_cache_gib=round(cache_gib, 4),
        kv_bytes_per_token=round(cache.bytes_per_token),
        terms=terms,
    )
    return plan, cache


def _logged(name: str, value: float) -> Term:
    return Term(name, value, "GiB", "as the same start logged it here before", "measured on this machine")


def weights_per_gpu(facts: ModelFacts, setting: Setting) -> tuple[float, tuple[Term, ...]]:
    """GiB of weights on the fullest GPU, from tensor sizes or as the user states them for one GPU."""
    if setting.weights_gib is not None:
        stated = Term("weights", setting.weights_gib, "GiB", "as given for one GPU", "--weights-gib")
        return setting.weights_gib, (stated,)
    tp, pp = setting.tensor_parallel, setting.pipeline_parallel
    width = FLOAT_BYTES[setting.dtype]
    linear = _online_bytes(setting.online_quantization, width)
    weights = facts.weights
    kv_split = min(tp, facts.kv_heads) if facts.kv_heads else tp
    layers = (
        weights.split.size_bytes(linear) / tp
        + weights.kv.size_bytes(linear) / kv_split
        + weights.replicated.size_bytes(width)
    ) / pp
    layers *= math.ceil(facts.layers / pp) * pp / facts.layers if facts.layers else 1.0
    vocabulary = padded_vocab(facts.vocab) / facts.vocab / tp if facts.vocab else 1.0
    first = weights.embedding.size_bytes(width) * vocabulary + weights.vision.size_bytes(width) / _vision_split(
        facts, tp
    )
    head = weights.embedding if facts.tied_embeddings and pp > 1 else weights.lm_head
    last = head.size_bytes(width) * vocabulary
    ends = first + last if pp == 1 else max(first, last)
    rope = facts.rotary_elements * width
    extra = padding_bytes(facts, tp) / pp + absorbed_bytes(facts, width) / tp / pp
    layers += extra
    total = (layers + ends + rope) / GIB
    how = f"layers {layers / GIB:.2f} + embedding, head and encoders {ends / GIB:.2f} + rotary tables {rope / GIB:.2f}"
    where = "tensor sizes" if facts.exact_sizes else "tensor sizes computed from config.json"
    split = f", TP {tp}" if tp > 1 else ""
    stages = f", PP {pp} (the fullest stage)" if pp > 1 else ""
    return total, (Term("weights", total, "GiB", how + split + stages, where),)


def padding_bytes(facts: ModelFacts, tensor_parallel: int) -> float:
    """Bytes a GPU by which vLLM's MXFP4 kernels pad experts: rows to 256, the split inner size to 64."""
    quantization = facts.quantization
    if quantization is None or quantization.quant_method != "mxfp4" or facts.moe is None:
        return 0.0
    part = facts.moe.intermediate / tensor_parallel
    wider = math.ceil(facts.hidden / 256) * 256 / facts.hidden * (math.ceil(part / 64) * 64 / part)
    return facts.weights.split.fixed_bytes / tensor_parallel * (wider - 1)


def absorbed_bytes(facts: ModelFacts, width: float) -> float:
    """Bytes of the up-projections that MLA keeps unpacked beside their quantised form; views of it otherwise."""
    if facts.quantization is None or not facts.groups or facts.groups[0].kind != "mla":
        return 0.0
    both = [linear for linear in facts.linears if linear.name.endswith("kv_b_proj")]
    return sum(linear.in_features * linear.out_features for linear in both) * width


def activation_peak(facts: ModelFacts, setting: Setting, row: Coefficients) -> tuple[float, tuple[Term, ...]]:
    """GiB that the warm-up needs at its peak: the sampler's or the forward pass's, whichever is larger."""
    tokens = setting.max_num_batched_tokens
    if row.profile_whole_context:
        tokens = max(tokens, 2048)
    width = FLOAT_BYTES[setting.dtype]
    hidden, moe = width * tokens * facts.hidden / GIB, moe_workspace_gib(facts, setting, tokens)
    # Encoders' outputs of the largest batch of images stay during the warm-up, in the cache and as input.
    encoders = 2 * hidden if facts.multimodal else 0.0
    kept = moe if row.experts_kept else 0.0
    sampler = (row.sampler_bytes + width) * setting.max_num_seqs * facts.vocab / GIB + hidden + kept + encoders
    inner = facts.intermediate / setting.tensor_parallel
    per_hidden, per_inner, base = row.forward
    forward = width * tokens * (per_hidden * facts.hidden + per_inner * inner) / GIB + base + moe + encoders
    peak = max(sampler, forward)
    chosen = "the sampler's peak" if sampler >= forward else "the forward pass's peak"
    term = Term(
        "activation",
        peak,
        "GiB",
        f"{chosen}: max of sampler {sampler:.2f} = {row.sampler_bytes + width:g} B x {setting.max_num_seqs} sequences x "
        f"{facts.vocab} + {width} B x {tokens} tokens x {facts.hidden}, and forward {forward:.2f} = {width} B x {tokens} x "
        f"({per_hidden:g} x {facts.hidden} + {per_inner:g} x {inner:g}) + {base}"
        + (f"; experts' workspace {moe:.2f}" if moe else "")
        + (f"; encoders' outputs {encoders:.2f}" if encoders else ""),
        row.source,
    )
    return peak, (term,)


def moe_workspace_gib(facts: ModelFacts, setting: Setting, tokens: int) -> float:
    """The experts' two work buffers, kept after first use: tokens x experts a token x the widest row, and x the inner size."""
    if facts.moe is None:
        return 0.0
    inner = facts.moe.intermediate / setting.tensor_parallel
    rows = tokens * facts.moe.experts_per_token
    return FLOAT_BYTES[setting.dtype] * rows * (max(2 * inner, facts.hidden) + inner) / GIB


def non_torch_term(setting: Setting, row: Coefficients) -> Term:
    """Memory outside PyTorch: more when GPUs talk through NCCL."""
    alone, tensor, pipeline = row.non_torch_gib
    if setting.tensor_parallel > 1:
        return Term("non-torch", tensor, "GiB", "constant with tensor parallelism", row.source)
    if setting.pipeline_parallel > 1:
        return Term("non-torch", pipeline, "GiB", "constant with pipeline parallelism", row.source)
    return Term("non-torch", alone, "GiB", "constant on one GPU", row.source)


def graphs_term(facts: ModelFacts, setting: Setting) -> Term:
    """The pool of CUDA graphs. Rough: the same model varies by half a GiB between starts."""
    if setting.enforce_eager:
        return Term("CUDA graphs", 0.0, "GiB", "none with enforce_eager", "vLLM")
    layers = math.ceil(facts.layers / setting.pipeline_parallel)
    parallel = _GRAPH_PARALLEL_GIB if setting.tensor_parallel > 1 else 0.0
    value = _GRAPH_BASE_GIB + _GRAPH_LAYER_GIB * layers + parallel
    formula = f"{_GRAPH_BASE_GIB} + {_GRAPH_LAYER_GIB} x {layers} layers" + (
        f" + {parallel} with TP" if parallel else ""
    )
    return Term("CUDA graphs", value, "GiB", formula, "estimates in vLLM 0.19.0 logs, +- 0.4 GiB")


def lora_term(facts: ModelFacts, setting: Setting) -> Term | None:
    """Buffers for adapters: rank x (in + out) of every adapted matrix, for each adapter that is on the GPU at once."""
    if not setting.lora_rank:
        return None
    both = sum(
        (linear.in_features + linear.out_features) * linear.copies
        for linear in facts.linears
        if linear.part in ("attention", "mlp")
    )
    value = setting.lora_count * setting.lora_rank * both * 2 / setting.tensor_parallel / GIB
    formula = f"{setting.lora_count} adapters x rank {setting.lora_rank} x {both} (in + out) x 2 B"
    return Term("LoRA buffers", value, "GiB", formula, "vLLM allocates them at the largest rank")


def _online_bytes(method: str | None, width: int) -> float:
    """Bytes of a linear weight that the engine quantises while it loads."""
    # bitsandbytes: 4 bit and an fp32 scale for 64; gptq: 4 bit, a 16-bit scale and a 4-bit zero point for 128.
    known = {"fp8": 1.0, "bitsandbytes": 0.5 + 4 / 64, "int8": 1.0, "gptq": (4 + 20 / 128) / 8}
    return known.get(method or "", float(width))


def _vision_split(facts: ModelFacts, tensor_parallel: int) -> int:
    return tensor_parallel if facts.multimodal else 1


def total_weight_bytes(facts: ModelFacts, width: float) -> float:
    """Bytes of all weights on one device with plain floats of ``width`` bytes."""
    shares: list[Share] = [getattr(facts.weights, role) for role in type(facts.weights).__slots__]
    return sum(share.size_bytes(width) for share in shares)
