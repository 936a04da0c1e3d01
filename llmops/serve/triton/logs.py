"""Read the server's log: the first line that is a real error, and what it means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmops.causes import Cause, Found, fill, find
from llmops.errors import ExitCode

_ERROR: Final = re.compile(r"^E\d{4} [\d:.]+ \d+ (?P<place>\S+?)\] \"?(?P<text>.*?)\"?\s*$")
_PLAIN: Final = re.compile(
    r"^(?:error: |Error: |docker: |podman: |Error response from daemon: |(?=Cannot connect to )|\S*tritonserver: |"
    r"I\d{4}.*failed to )(?P<text>.*)$"
)
# Said on every machine without a GPU.
_HARMLESS: Final = ("CudaDriverHelper", "unable to create stream", "pinned memory", "cudaGetDevice", "failed to load 'cublas'",
                    "CUDA driver version", "Unable to allocate pinned", "dcgm", "DCGM", "libdcgm")  # fmt: skip

_OF_MODELS: Final = ("not healthy", "ModuleNotFoundError")

CAUSES: Final = (
    Cause("triton-config", r"Error parsing text-format inference\.ModelConfig: (\d+:\d+: .*)|failed to read text proto from (\S+)",
          "a config.pbtxt cannot be read: {1}", "llmops check triton DIR names the file, the line and the right word", ExitCode.USAGE,
          'E1122 08:00:00.000000 1 model_repository_manager.cc:1460] "Error parsing text-format inference.ModelConfig: 3:5: Message type'),
    Cause("triton-ensemble-model", r"ensemble (\S+) contains models that are not available|in ensemble \S+, (.*)",
          "an ensemble names a model that is not there: {1}", "llmops check triton DIR", ExitCode.USAGE,
          'E1122 08:00:00.000000 1 m.cc:1] "Invalid argument: ensemble llama contains models that are not available: postprocessor"'),
    Cause("triton-backend-missing", r"unable to find backend library for backend '?([\w-]+)|unable to find '?libtriton_(\w+)\.so|backend (\S+) (?:not|is not) found",
          "the server has no backend {1}", "llmops check triton DIR --backends lists what a server must have; --triton-backend python",
          ExitCode.MACHINE, 'E1122 08:00:00.000000 1 model_lifecycle.cc:654] "failed to load \'m\': Invalid argument: unable to find '
          "backend library for backend 'tensorrt', try specifying runtime on the model configuration.\""),
    Cause("triton-python-module", r"ModuleNotFoundError: No module named '([\w.]+)'",
          "the Python backend's environment has no package {1}", "llmops engines install triton --again", ExitCode.MACHINE,
          "E1122 08:00:00.000000 1 pb_stub.cc:402] \"Failed to initialize Python stub: ModuleNotFoundError: No module named 'tokenizers'\""),
    Cause("triton-port", r"failed to (?:listen on|bind)|Socket '[^']*' already in use|errors? in UV.*address already in use|Address already in use",
          "a port of the server is taken", "choose others: --port, --grpc-port, --metrics-port; 0 picks a free one", ExitCode.MACHINE,
          "E1122 08:00:00.000000 1 main.cc:1] \"failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001' already in use\""),
    Cause("triton-option", r"unrecognized option '(\S+)'", "tritonserver has no option {1}", "tritonserver --help lists them",
          ExitCode.USAGE, "/opt/tritonserver/bin/tritonserver: unrecognized option '--no-such-flag'"),
    Cause("triton-container-daemon", r"(?i)cannot connect to the docker daemon|docker daemon socket|cannot connect to podman",
          "the container engine does not run, or this user may not use it", "start it (systemctl start docker), or without a "
          "container: llmops engines install triton", ExitCode.MACHINE,
          "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"),
    Cause("triton-image", r"(?i)unable to find image '(\S+)'|pull access denied for ([^,\s]+)|manifest (?:for (\S+) not found|unknown)|"
          r"short-name \"(\S+)\" did not resolve|dial tcp: (lookup [^:]+)|: (unauthorized)",
          "the container image cannot be had: {1}", "--image names one that this machine can pull (nvcr.io wants docker login)",
          ExitCode.OUTSIDE, "docker: Error response from daemon: pull access denied for my/triton, repository does not exist"),
    Cause("triton-container-name", r"(?i)container name \"?(\S+?)\"? is already in use",
          "a container of an earlier run is still there: {1}", "remove it: docker rm --force NAME, or take another --port",
          ExitCode.MACHINE, 'docker: Error response from daemon: Conflict. The container name "/llmops-triton-8000" is already in use by'),
    Cause("triton-container-mount", r"bind source path does not exist: (\S+)|statfs (\S+): no such file",
          "the container engine does not see the directory {1}", "a repository on a file system of the machine that runs the "
          "engine: --repository DIR", ExitCode.MACHINE,
          'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /x.'),
    Cause("triton-container-gpu", r"could not select device driver|nvidia-container-cli|unknown or invalid runtime name: nvidia",
          "the container engine cannot give the GPU to a container", "install the NVIDIA Container Toolkit", ExitCode.MACHINE,
          'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].'),
    Cause("triton-no-repository", r"failed to stat file|(?:repository|directory) (?:path )?.*(?:does not exist|not found)|--model-repository must be specified",
          "the model repository is not there", "check the path", ExitCode.USAGE,
          'E1122 08:00:00.000000 1 server.cc:1] "Internal: failed to stat file /nowhere"'),
    Cause("triton-libpython", r"libpython[\d.]+so[\d.]*: cannot open shared object file",
          "the Python backend does not find libpython", "install the package libpython3.11 of the system", ExitCode.MACHINE,
          "E1122 08:00:00.000000 1 a.cc:1] error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file"),
    Cause("triton-library", r"error while loading shared libraries: (\S+?): cannot open shared object file",
          "the process of a Python model does not find the library {1}", "install it where the server runs, or name its directory in "
          "LD_LIBRARY_PATH", ExitCode.MACHINE, "/opt/tritonserver/backends/python/triton_python_backend_stub: error while loading "
          "shared libraries: libcudart.so.12: cannot open shared object file: No such file or directory"),
    Cause("triton-stub", r"Stub process '?(\S+?)'? is not healthy",
          "the process of the Python model {1} died", "its last lines are in the log; numpy 2 in its environment does this: "
          "llmops engines install triton --again", ExitCode.OUTSIDE, "Stub process 'tokenizer_0_0' is not healthy."),
    Cause("triton-onnx", r"(?:ONNXRuntimeError|onnxruntime\S*)[^\n]*?: (.*)", "ONNX Runtime refuses the model: {1}",
          "llmops inspect the .onnx file", ExitCode.OUTSIDE,
          'E1122 08:00:00.000000 1 pb_stub.cc:402] "Failed: [ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model failed'),
    Cause("triton-engine-version", r"(?i)(?:version tag|serialized engine|plan file|deserializ\w*engine)",
          "the TensorRT engine was made by another version, or for another GPU", "build it with the version of the server: "
          "llmops build tensorrt", ExitCode.USAGE, 'E1122 08:00:00.000000 1 logging.cc:40] "IRuntime::deserializeCudaEngine: Error Code 1: Serialization'),
    Cause("triton-memory", r"(?i)out of memory|std::bad_alloc|failed to allocate", "memory ran out", "fewer instances or a smaller type",
          ExitCode.MACHINE, 'E1122 08:00:00.000000 1 a.cc:1] "CUDA error: out of memory"'),
    Cause("triton-shm", r"(?i)shared memory|No space left on device.*shm|Failed to (?:initialize|increase) the shared memory",
          "the Python backend has too little shared memory", "docker run --shm-size=1g, or enlarge /dev/shm", ExitCode.MACHINE,
          "E1122 08:00:00.000000 1 a.cc:1] \"Failed to increase the shared memory pool size for key 'triton_python_backend_shm'\""),
)  # fmt: skip


def error_lines(lines: Iterable[str]) -> list[str]:
    """The lines of severity E, without their prefix and without what is said on every machine that has no GPU."""
    found = []
    for line in lines:
        match = _ERROR.match(line) or _PLAIN.match(line)
        text = match["text"] if match else line.strip() if "cannot open shared object" in line else ""
        if text and not any(word in line for word in _HARMLESS):
            found.append(text)
    return found


def find_cause(lines: Iterable[str]) -> Found | None:
    """The first known cause: among the real error lines, then among what a dead model's own process said."""
    listed = list(lines)
    return find(CAUSES, [*error_lines(listed), *(each for each in listed if any(sign in each for sign in _OF_MODELS))])


def hopeless(lines: Iterable[str]) -> Found | None:
    """Why a model can never get ready although the server goes on waiting for it: its own process cannot be started."""
    return find(CAUSES, [line for line in lines if "error while loading shared libraries" in line])


def describe(found: Found) -> str:
    """The cause's message with what its line names; the whole line where it names nothing."""
    return fill(found.cause.message, found.named, found.line)
