"""What TensorRT's log lines mean. Errors come through its logger and a None or False; exceptions say little. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmops.causes import Cause, Found, fill, find
from llmops.errors import ExitCode, LlmopsError
from llmops.units import format_size

CAUSES: Final = (
    Cause("trt-onnx-corrupt", r"MODEL_DESERIALIZE_FAILED|Failed to parse the ONNX model",
          "the ONNX file is damaged or cut off", "compare its hash with the source, or export it again", ExitCode.USAGE,
          "(deserializeOnnxModel): MODEL_DESERIALIZE_FAILED: Assertion failed: model->ParseFromCodedStream(&codedInput): Failed"),
    Cause("trt-onnx-missing", r"Input file cannot be found",
          "the ONNX file cannot be found", "check the path", ExitCode.USAGE,
          "(parseFromFile): INVALID_VALUE: Assertion failed: stat(onnxModelFile, &sb) == 0: Input file cannot be found, or is"),
    Cause("trt-external-weights", r"(?i)external (?:weights|data)|Failed to open file: (\S+\.data)|WeightsContext",
          "the weights file beside the ONNX file is missing or cannot be read", "keep model.onnx and model.onnx.data together",
          ExitCode.USAGE, "[weightsContext] Failed to open file: /m/model.onnx.data"),
    Cause("trt-unsupported-operator",
          r"operator: (\S+) \((?:checkFallbackPluginImporter|importFallbackPlugin\w*)\)|Plugin not found|No importer registered for op: (\S+?)[.\s]",
          "TensorRT has no importer and no plugin for an operator of the graph: {1}",
          "llmops inspect FILE.onnx lists such operators; rewrite them, or run the model with ONNX Runtime", ExitCode.OUTSIDE,
          'In node 0 with name:  and operator: FancyOp (checkFallbackPluginImporter): INVALID_NODE: creator && "Plugin not found'),
    Cause("trt-profile-missing-input", r"Dynamic input tensor (\S+) is missing dimensions in profile (\d+)",
          "the input {1} has no shapes in profile {2}", "--min NAME:… --opt NAME:… --max NAME:… for every dynamic input",
          ExitCode.USAGE,
          "Error Code 4: API Usage Error (Dynamic input tensor input_ids is missing dimensions in profile 0. In validate at"),
    Cause("trt-profile-rank", r"input tensor (\S+) has (\d+) dimensions but profile",
          "the input {1} has {2} dimensions in the graph, its profile has another number", "write its shapes with {2} numbers",
          ExitCode.USAGE,
          "Error Code 4: API Usage Error (Dynamic-shaped input tensor input_ids has 2 dimensions but profile 0 has 3 dimensions. In"),
    Cause("trt-profile-order", r"(?i:invalid optimization profiles?)(?: for input tensors? ([^,\s]+))?",
          "the profile's shapes are not in ascending order for the input {1}", "MIN <= OPT <= MAX in every dimension",
          ExitCode.USAGE, "IOptimizationProfile::isValid: Error Code 4: API Usage Error (Invalid optimization profiles for input "
          "tensors input_ids, please ensure that the optimization profiles satisfy MIN<=OPT<=MAX. In"),
    Cause("trt-profile-invalid", r"(kOPT|kMIN|kMAX) (?:values|dimensions)[^.]*(?:violate|do not satisfy|profile)",
          "the {1} shapes of the profile contradict the graph", "every input must be consistent at min, at opt and at max: "
          "llmops build tensorrt --dry-run shows them", ExitCode.USAGE,
          "IBuilder::buildSerializedNetwork: Error Code 4: Internal Error (kOPT values for profile 0 violate shape constraints: "),
    Cause("trt-types", r"(?i)(?:elementwise|matrix\w*|layer \S+).{0,120}(?:must have (?:the )?same types?|incompatible types?|"
          r"types? (?:mismatch|are (?:in)?compatible))|must have same input types",
          "the graph mixes types, and TensorRT casts nothing by itself", "export with one --dtype, or --precision as-is",
          ExitCode.USAGE,
          "ITensor::getDimensions: Error Code 4: API Usage Error (/Add: IElementWiseLayer must have same input types. But they "
          "are of types Half and Float.)"),
    Cause("trt-lean-runtime", r"Unable to load library: (libnvinfer_(?:lean|dispatch)\S*?):",
          "the lean runtime that a version-compatible engine carries is not installed ({1})",
          "leave --version-compatible out, or install the lean runtime of the same version", ExitCode.MACHINE,
          "Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.1: libnvinfer_lean.so.1: cannot open shared"),
    Cause("trt-no-cuda", r"CHECK\(status == CUDA_SUCCESS\) failed|cudaError 35|CUDA initialization failure with error: (\d+)|CUDA driver version is insufficient|no CUDA-capable device",
          "there is no usable GPU or NVIDIA driver on this machine", "build with --backend rtx, or use a machine with a GPU",
          ExitCode.MACHINE, "CUDA initialization failure with error: 35"),
    Cause("trt-workspace-budget", r"Exceeded mem budget of (\d+)\. Need (\d+)",
          "a layer needs {2} of workspace, and {1} were allowed", "raise --workspace", ExitCode.MACHINE,
          "(foreignNode) [pass.cpp:2417: run_passes] Exceeded mem budget of 1075085632. Need 1388118016"),
    Cause("trt-workspace", r"(?i)insufficient workspace|within workspace limit|requested (?:amount of )?GPU memory|"
          r"workspace.{0,40}(?:too small|insufficient)",
          "a layer needs more workspace than was allowed", "raise --workspace", ExitCode.MACHINE,
          "Tactic Device request: 23MB Available: 16MB. Device memory is insufficient to use tactic. insufficient workspace"),
    Cause("trt-out-of-memory", r"(?i)out of memory|OutOfMemory|cuMemAlloc|cudaErrorMemoryAllocation",
          "memory ran out while the engine was built", "lower --workspace or the largest shapes, or free the GPU", ExitCode.MACHINE,
          "Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"),
    Cause("trt-no-implementation", r"Could not find any implementation for node (\S+)",
          "no kernel for {1} fits the GPU, the types and the workspace", "raise --workspace, or change --precision",
          ExitCode.MACHINE, "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[a...b]}.)"),
    Cause("trt-unsupported-gpu", r"(?i)(?:SM|compute capability) ?\S* (?:is )?not supported|unsupported (?:SM|compute capability|GPU)|Target GPU SM",
          "this version of TensorRT does not know that GPU", "see the support matrix of the installed version; "
          "RTX covers SM 75 to 89 and 120", ExitCode.MACHINE, "Target GPU SM 61 is not supported by this TensorRT release."),
    Cause("trt-engine-version", r"(?i)(?:version tag|stdVersionRead|Serialization assertion|serialized engine version|plan file)",
          "the engine was made by another version of TensorRT, or it is damaged", "build it again on this machine", ExitCode.USAGE,
          "Error Code 1: Serialization (Serialization assertion plan.header.size == blobSize failed. In parsePlan"),
    Cause("trt-loop-shape", r"(?i)(?:data-dependent|shape tensor).{0,80}(?:not supported|unsupported)",
          "a shape in the graph depends on data, which a profile cannot bound", "export with fixed shapes there", ExitCode.OUTSIDE,
          "Error Code 9: API Usage Error (data-dependent shape tensor is not supported for this layer)"),
)  # fmt: skip
_PREFIX: Final = re.compile(r"^\s*(?:\[?\w+\.cpp[:\w]*\]?:?\s*)?")


def explain(lines: Iterable[str], fallback: str, *, backend: str) -> LlmopsError:
    """The error for a failed call: the first known cause among ``lines``, else their first that is an error.

    Args:
        lines: The logger's error lines, the parser's errors and an exception's text, in order.
        fallback: What failed, where nothing was logged.
        backend: Name of the module, shown in the message.
    """
    said = [line for line in lines if line.strip()]
    found = find(CAUSES, said)
    if found is not None:
        return _known(found, said, backend)
    first = _first_sentence(said[0]) if said else fallback
    return LlmopsError(f"{backend}: {first}", "-vv shows its whole log", exit_code=ExitCode.OUTSIDE)


def _known(found: Found, lines: list[str], backend: str) -> LlmopsError:
    cause, named = found.cause, list(found.named)
    if cause.rule == "trt-workspace-budget":
        named = [format_size(int(size)) for size in named]
    text, hint = (fill(said, named, _operator(lines)) for said in (cause.message, cause.hint))
    if cause.rule == "trt-no-cuda" and backend == "tensorrt_rtx":
        hint = "leave out what needs one (--refit, --strip, --layer-info), or use a machine with a GPU"
    return LlmopsError(text.rstrip(": "), hint, exit_code=cause.code)


def _operator(lines: list[str]) -> str:
    """The operator that the parser was at, which it names in another line than the error itself."""
    for line in lines:
        found = re.search(r"operator: (\S+) \(|While parsing node number \d+ \[(\S+) ->", line)
        if found:
            return next(group for group in found.groups() if group)
    return ""


def _first_sentence(line: str) -> str:
    return _PREFIX.sub("", line).strip()[:300]
