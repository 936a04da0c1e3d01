"""The quickstart's real model behind a real Triton: the same tokens as transformers chooses, over HTTP, gRPC and as a stream."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from triton_process import running

pytestmark = pytest.mark.slow
PROMPTS = ("The capital of France is", "The three primary colours are red,")
TURNS = [{"role": "user", "content": "Name one colour."}]
TOKENS = 12

REFERENCE = """
import json, sys, torch, transformers
path, texts, turns, tokens = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
out = []
for text in texts:
    ids = tokenizer(text, return_tensors="pt")
    done = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    out.append(tokenizer.decode(done[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
done = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0, ids["input_ids"].shape[1]:]
print(json.dumps([*out, ids["input_ids"].shape[1], tokenizer.decode(done, skip_special_tokens=True)]))
"""


@pytest.fixture(scope="module")
def reference(small_model):
    """What transformers writes, greedily."""
    done = subprocess.run([sys.executable, "-c", REFERENCE, small_model, json.dumps(PROMPTS), json.dumps(TURNS), str(TOKENS)],
                          capture_output=True, text=True, check=True, timeout=600)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def serving(triton_python, small_model_onnx, tmp_path_factory):
    work = tmp_path_factory.mktemp("real")
    with running(work, small_model_onnx("causal-lm-cache")[0], "--name", "gemma", "--repository", work / "repo",
                 "--threads", "2") as found:  # fmt: skip
        yield found


def test_text_to_text_is_what_transformers_writes(serving, reference, triton_python):
    for prompt, want in zip(PROMPTS, reference, strict=False):
        body = {"text_input": prompt, "max_tokens": TOKENS, "temperature": 0}
        assert serving.post("/v2/models/gemma/generate", **body).json()["text_output"] == want
        body = {"text": prompt, "max_tokens": TOKENS, "temperature": 0}
        assert serving.post("/v2/models/gemma_ensemble/generate", **body).json()["output"] == want
    program = Path(__file__).with_name("ask_grpc.py")
    argv = [triton_python, program, serving.ready["grpc"], "gemma_ensemble", "gemma", PROMPTS[0]]
    answer = json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=240, check=True).stdout)
    assert reference[0].startswith(answer["plain"].rstrip("\ufffd"))
    assert "".join(answer["pieces"]) == answer["plain"]


def test_a_conversation_goes_through_the_models_template(serving, reference):
    body = {"messages": json.dumps(TURNS), "max_tokens": TOKENS, "temperature": 0}
    answer = serving.post("/v2/models/gemma/generate", **body).json()
    assert (answer["num_input_tokens"], answer["text_output"]) == tuple(reference[-2:])


def test_it_streams_over_http(serving, reference):
    url, body = (
        serving.ready["url"] + "/v2/models/gemma/generate_stream",
        {"text_input": PROMPTS[0], "max_tokens": TOKENS},
    )
    with httpx.stream("POST", url, json=body | {"stream": True, "temperature": 0}, timeout=240) as answer:
        events = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert "".join(event["text_output"] for event in events) == reference[0]
    assert len(events) >= TOKENS // 2
