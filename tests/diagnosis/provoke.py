"""Real failures of real libraries, provoked in a process of their own: ``provoke.py NAME MODEL_DIRECTORY WORK_DIRECTORY``.

Each function breaks one thing and lets the library say what it says. Nothing here prints a message of its own.
"""

import http.server
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

NOT_ALLOWED = 77  # the exit code where mounting, or making a control group, is refused


def _copy(model: Path, work: Path, config: dict | None = None, drop: tuple[str, ...] = ()) -> Path:
    out = work / "model"
    shutil.copytree(model, out)
    for name in drop:
        (out / name).unlink(missing_ok=True)
    if config:
        path = out / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return out


def _load(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def weights_truncated(model, work):
    out = _copy(model, work)
    with (out / "model.safetensors").open("r+b") as file:
        file.truncate(200_000)
    _load(out)


def weights_of_another_shape(model, work):
    _load(_copy(model, work, {"hidden_size": 32, "head_dim": 16}))


def no_such_directory(_model, _work):
    _load("/models/no-such-model")


def hub_is_offline(_model, _work):
    _load("meta-llama/Llama-3.1-8B")


def unknown_architecture(model, work):
    _load(_copy(model, work, {"model_type": "llama99", "architectures": ["Llama99ForCausalLM"]}))


def no_tokenizer(model, work):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(_copy(model, work, drop=("tokenizer.json", "tokenizer_config.json")))


def no_chat_template(model, work):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_copy(model, work, drop=("chat_template.jinja",)))
    tokenizer.chat_template = None
    tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])


def no_cuda_in_torch(model, _work):
    _load(model).to("cuda")


def port_is_taken(_model, _work):
    import uvicorn

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        uvicorn.run(lambda *_: None, host="127.0.0.1", port=taken.getsockname()[1])


def too_many_files(_model, work):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept = [(work / f"{number}").open("w") for number in range(100)]
    del kept


def disk_is_full(model, _work):
    import torch

    state = _load(model).state_dict()
    with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123 - unbuffered, as libraries write
        file.writelines(value.numpy().tobytes() for value in state.values())
    torch.save(state, "/dev/full")


def small_tmpfs(model, work):
    small = work / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", small], check=False).returncode:
        sys.exit(NOT_ALLOWED)
    try:
        _load(model).save_pretrained(small)
    finally:
        subprocess.run(["umount", small], check=True)


def memory_cgroup(_model, _work):
    """A container's memory limit: the kernel ends the process, and its log says so."""
    try:
        group, limit, unlimited = _cgroup(f"llmops-{os.getpid()}")
        limit.write_text(str(400 * 2**20))
    except OSError:
        sys.exit(NOT_ALLOWED)
    shell = f"echo $$ > {group}/cgroup.procs; {sys.executable} -c 'import torch; torch.ones(2**29)'; echo exit code $?"
    try:
        subprocess.run(["bash", "-c", shell], check=True)
    finally:
        limit.write_text(unlimited)
        group.rmdir()
    kernel = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout.splitlines()
    print(*(line for line in kernel[-60:] if "oom" in line.lower() or "Killed process" in line), sep="\n", flush=True)
    sys.exit(137)


def _cgroup(name):
    old = Path("/sys/fs/cgroup/memory")
    group = (old if old.is_dir() else old.parent) / name
    group.mkdir()
    if old.is_dir():
        return group, group / "memory.limit_in_bytes", "-1"
    return group, group / "memory.max", "max"


def memory_limit(_model, _work):
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    torch.empty(64 * 2**30, dtype=torch.uint8)


def gguf_truncated(_model, work):
    from gguf import GGUFWriter

    _write_gguf(GGUFWriter, work / "m.gguf", "llama")
    with (work / "m.gguf").open("r+b") as file:
        file.truncate(300)
    _llama(work / "m.gguf")


def gguf_of_unknown_architecture(_model, work):
    from gguf import GGUFWriter

    _write_gguf(GGUFWriter, work / "m.gguf", "llama99")
    _llama(work / "m.gguf")


def ggml_of_old(_model, work):
    (work / "m.bin").write_bytes(b"tjgg" + (3).to_bytes(4, "little") + bytes(1000))
    _llama(work / "m.bin")


def _write_gguf(writer_class, path, architecture):
    import numpy as np

    writer = writer_class(path, architecture)
    writer.add_context_length(128)
    writer.add_tensor("token_embd.weight", np.zeros((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama(path):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    xllamacpp.Server(params)


def wrong_quantisation_type(model, _work):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="int4")
    AutoModelForCausalLM.from_pretrained(model, quantization_config=config, device_map="cpu")


def onnx_is_no_onnx(_model, work):
    import onnxruntime

    (work / "m.onnx").write_bytes(b"\x08\x07 this is no protobuf of a model")
    onnxruntime.InferenceSession(work / "m.onnx")


def nobody_listens(_model, _work):
    import openai

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0).models.list()


def answer_is_slow(_model, _work):
    import openai

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=0.5).models.list()


def _api(status: int, body: dict) -> str:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def key_is_wrong(_model, _work):
    import openai

    body = {"error": {"message": "Incorrect API key provided: none.", "code": "invalid_api_key"}}
    openai.OpenAI(base_url=_api(401, body), api_key="none", max_retries=0).models.list()


def _die(_item):
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def worker_is_killed(_model, _work):
    from torch.utils.data import DataLoader

    for _ in DataLoader(list(range(8)), num_workers=1, collate_fn=_die):
        pass


def module_is_missing(_model, work):
    (work / "old_package.py").write_text("from transformers.modeling_utils import no_init_weights\n")
    sys.path.insert(0, str(work))
    __import__("old_package")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
