"""A site on a real Ray cluster of two nodes, both on this machine's CPU. Slow: two copies of vLLM start.

The replicas run vLLM's CPU build through ``ray.serve.llm``, as they would run its CUDA build on GPUs.
"""

import contextlib
import functools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from serve_process import serving, until

pytestmark = pytest.mark.slow
PROMPT = "The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine and the rain begins."


TOKEN = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(scope="session")
def llmops(llmops):
    """With the cluster's token."""
    return functools.partial(llmops, env=TOKEN)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def ray_python(ray_environment) -> Path:
    return Path(ray_environment["LLMOPS_ENGINES_DIR"]) / "ray" / "bin"


@pytest.fixture(scope="module")
def cluster(ray_python, tmp_path_factory):
    """Two nodes, each of which has room for one replica; the dashboard's address."""
    tmp = tmp_path_factory.mktemp("ray")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", **TOKEN}
    environment["PATH"] = f"{ray_python}:{os.environ['PATH']}"
    gcs, dashboard = free_port(), free_port()
    common = ("--num-cpus", "4", "--memory", str(8 * 2**30), "--object-store-memory", str(100 * 2**20), "--block")
    head = (str(ray_python / "ray"), "start", "--head", "--port", str(gcs), "--dashboard-port", str(dashboard), *common)
    nodes = []
    try:
        nodes.append(start(head, tmp / "head.log", environment))
        until(lambda: answers(f"http://127.0.0.1:{dashboard}/api/version"), 90)
        url = f"http://127.0.0.1:{dashboard}"
        until(lambda: nodes_of(url), 90)
        address = nodes_of(url)[0]["ip"]
        worker = (str(ray_python / "ray"), "start", "--address", f"{address}:{gcs}", *common)
        nodes.append(start(worker, tmp / "worker.log", environment))
        until(lambda: len(nodes_of(url)) == 2, 90)
        yield url
    finally:
        for node in reversed(nodes):
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


def nodes_of(url: str) -> list[dict]:
    return json.loads(get(url + "/nodes?view=summary"))["data"]["summary"]


def start(command, log: Path, environment) -> subprocess.Popen:
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)


def get(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def answers(url: str) -> bool:
    try:
        get(url)
    except (OSError, urllib.error.URLError):
        return False
    return True


@pytest.fixture(scope="module")
def site(tiny_llama, tmp_path_factory):
    file = tmp_path_factory.mktemp("site") / "site.yaml"
    file.write_text(f"""\
site: 1
name: two-nodes
gateway: null
ray: {{port: {free_port()}}}
nodes:
  cpu: {{count: 2, cpus: 4, memory: 16GiB}}
models:
  tiny:
    model: {tiny_llama}
    node: cpu
    replicas: 2
    cpus: 3
    memory: 3Gi
    kv_cache_gib: 1
    max_model_len: 512
""")
    return file


def engines(url: str) -> list[dict]:
    """The running replicas of the model, with their processes and nodes."""
    details = json.loads(get(url + "/api/serve/applications/"))["applications"]["two-nodes"]["deployments"]
    found = [one for name, each in details.items() if "tiny" in name for one in each["replicas"]]
    return [one for one in found if one["state"] == "RUNNING"]


class Load:
    """Requests one after another on several threads until it is left; counts what was answered and what was not."""

    def __init__(self, base: str, threads: int = 2) -> None:
        self.answered, self.failed = [], []
        self.ending = threading.Event()
        self.base = base
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]

    def run(self) -> None:
        with openai.OpenAI(base_url=self.base, api_key="none", max_retries=0, timeout=120) as client:
            while not self.ending.is_set():
                try:
                    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, temperature=0)
                    self.answered.append(time.monotonic())
                    self.ending.wait(0.5)  # leaves the replica that starts anew some of a small machine's cores
                except openai.APIError as error:
                    self.failed.append((time.monotonic(), str(error)[:200]))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()


def test_a_site_is_sent_serves_survives_a_killed_replica_and_is_taken_away(cluster, site, llmops):
    sent = llmops("deploy", "ray", "-c", site, "--address", cluster, "--json", timeout=900)
    assert sent.code == 0, sent.stderr
    (application,) = sent.json["data"]["applications"]
    assert application["status"] == "RUNNING"
    assert llmops("deploy", "status", "--address", cluster).code == 0
    replicas = engines(cluster)
    assert len({one["node_id"] for one in replicas}) == 2, "one replica on each node"

    with Load(sent.json["data"]["url"]) as load:
        until(lambda: len(load.answered) >= 20, 120)
        assert not load.failed
        victim = replicas[0]
        killed = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)
        # What was in its hands may fail; after that every request is answered by the other one.
        until(lambda: len([at for at in load.answered if at > killed]) >= 40, 180)
        # Serve notices it, and starts another in its place.
        until(lambda: victim["pid"] not in {one["pid"] for one in engines(cluster)}, 120)
        until(lambda: len(engines(cluster)) == 2, 400)
        back = time.monotonic()
        until(lambda: len([at for at in load.answered if at > back]) >= 20, 180)
    assert len(load.failed) <= len(load.threads), load.failed[:5]
    assert llmops("deploy", "status", "--address", cluster).code == 0

    again = llmops("deploy", "teardown", "nobody", "--address", cluster)
    assert again.code == 2
    assert "there are: two-nodes" in again.stderr
    gone = llmops("deploy", "teardown", "two-nodes", "--address", cluster, timeout=300)
    assert gone.code == 0, gone.stderr
    assert llmops("deploy", "status", "--address", cluster, "--json").json["data"]["applications"] == []


def test_what_cannot_start_is_explained_with_the_replicas_own_words(cluster, site, llmops, tmp_path):
    text = site.read_text().replace("max_model_len: 512", "max_model_len: 512\n    args: [--seed, none]")
    (tmp_path / "site.yaml").write_text(text.replace("replicas: 2", "replicas: 1"))
    failed = llmops("deploy", "ray", "-c", tmp_path / "site.yaml", "--address", cluster, "--timeout", 300, timeout=600)
    assert failed.code == 5, failed.stderr
    error, hint = failed.error_lines
    assert "two-nodes does not start" in error
    assert "seed" in error + hint
    llmops("deploy", "teardown", "two-nodes", "--address", cluster, timeout=300)


def test_serve_runs_a_ray_of_its_own_and_leaves_nothing(tiny_llama, tmp_path, ray_environment):
    before = set(Path("/tmp").glob("llmops-ray-*"))
    with serving(
        tmp_path, tiny_llama, "--engine", "ray", "--name", "tiny", "--kv-cache-gib", "1", "--max-model-len", "512",
        env=ray_environment, seconds=600,
    ) as served:  # fmt: skip
        with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            text = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, temperature=0)
            assert text.usage.completion_tokens == 8
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left(60)
    assert set(Path("/tmp").glob("llmops-ray-*")) <= before, "Ray's scratch directory stays"


def test_a_cluster_asks_for_its_token(cluster, llmops):
    refused = llmops("deploy", "status", "--address", cluster, env={"RAY_AUTH_TOKEN": "0" * 64})
    assert refused.code == 4, refused.stderr
    assert "refuses the token" in refused.stderr
    assert "0000" not in refused.stderr


def test_a_cluster_that_is_not_there(llmops, site):
    refused = llmops("deploy", "ray", "-c", site, "--address", f"http://127.0.0.1:{free_port()}")
    assert refused.code == 5
    assert "does not answer" in refused.stderr
    assert llmops("deploy", "status", "--address", "nowhere").code == 2
