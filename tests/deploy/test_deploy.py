"""A site rendered for Kubernetes, Compose and Ray: valid, complete, and refused with file:line when it cannot be."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
HYBRID = REPO / "configs" / "hybrid.yaml"


def objects(directory):
    return [each for path in sorted(directory.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text()) if each]


def of_kind(directory, kind):
    return {each["metadata"]["name"]: each for each in objects(directory) if each["kind"] == kind}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory, llmops):
    out = tmp_path_factory.mktemp("deploy") / "k8s"
    result = llmops("deploy", "kubernetes", "-c", HYBRID, "-o", out, "--json")
    assert result.code == 0, result.stderr
    return out


def test_the_site_passes_the_schemas_of_kubernetes(manifests, llmops):
    pytest.importorskip("kubernetes_validate")
    result = llmops("check", "kubernetes", manifests, "--json")
    assert result.code == 0, result.stdout
    assert result.json["data"]["with_schema"] >= 25
    assert result.json["findings"] == []


def test_every_model_has_what_it_needs(manifests):
    deployments, services = of_kind(manifests, "Deployment"), of_kind(manifests, "Service")
    names = {"llama-3-1-70b", "llama-3-1-8b", "mistral-7b", "bert-base-japanese"}
    assert names | {"gateway", "redis"} == set(deployments) == set(services)
    assert names <= set(of_kind(manifests, "PodDisruptionBudget")) & set(of_kind(manifests, "NetworkPolicy"))
    assert set(of_kind(manifests, "ScaledObject")) == {"llama-3-1-8b", "mistral-7b"}
    assert "replicas" not in deployments["llama-3-1-8b"]["spec"]  # the autoscaler owns it


def test_a_70b_over_four_gpus(manifests):
    pod = of_kind(manifests, "Deployment")["llama-3-1-70b"]["spec"]["template"]["spec"]
    engine = pod["containers"][0]
    assert engine["resources"]["requests"]["nvidia.com/gpu"] == engine["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod["nodeSelector"] == {"gpu-type": "a100"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    command = " ".join(engine["args"])
    assert "--tensor-parallel-size 4" in command
    assert "--max-model-len 4096" in command
    assert "--host" not in command
    # 131 GiB at 100 MiB/s, twice (download, load), and ten minutes.
    start = engine["startupProbe"]
    assert 3000 <= start["failureThreshold"] * start["periodSeconds"] <= 4000


def test_no_secret_stands_in_any_file(manifests):
    for each in objects(manifests):
        assert each["kind"] != "Secret"
    text = "".join(path.read_text() for path in manifests.iterdir())
    assert text.count("secretKeyRef") >= 8


def test_the_gateway_knows_every_model_and_its_config_is_valid(manifests, llmops, tmp_path):
    config = of_kind(manifests, "ConfigMap")["gateway"]["data"]["gateway.yaml"]
    (tmp_path / "gateway.yaml").write_text(config)
    data = yaml.safe_load(config)
    assert {"llama-3.1-70b", "llama-3.1-8b", "mistral-7b", "bert-base-japanese"} <= set(data["providers"])
    assert data["providers"]["llama-3.1-70b"]["base_url"] == "http://llama-3-1-70b:8000/v1"
    keys = dict.fromkeys(("TECHPACK_GATEWAY_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "k" * 24)
    result = llmops("gateway", "check", "-c", "gateway.yaml", cwd=tmp_path, env=keys)
    assert result.code == 0, result.stderr


def test_compose_is_bound_to_this_machine_and_gives_each_model_its_gpus(llmops, tmp_path):
    result = llmops("deploy", "compose", "-c", HYBRID, "-o", tmp_path / "c")
    assert result.code == 0, result.stderr
    services = yaml.safe_load((tmp_path / "c" / "compose.yaml").read_text())["services"]
    given = [
        device
        for service in services.values()
        for each in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        for device in each["device_ids"]
    ]
    assert given == ["0", "1", "2", "3", "4", "5"]
    assert services["gateway"]["ports"] == ["127.0.0.1:8080:8080"]
    assert "ANTHROPIC_API_KEY=${ANTHROPIC_API_KEY:?set it in the environment}" in services["gateway"]["environment"]


def test_ray_takes_the_same_decisions(llmops, tmp_path):
    result = llmops("deploy", "ray", "-c", HYBRID, "-o", tmp_path / "r")
    assert result.code == 0, result.stderr
    serve = yaml.safe_load((tmp_path / "r" / "serve.yaml").read_text())
    configs = {c["model_loading_config"]["model_id"]: c for c in serve["applications"][0]["args"]["llm_configs"]}
    assert configs["llama-3.1-70b"]["engine_kwargs"]["tensor_parallel_size"] == 4
    assert configs["llama-3.1-8b"]["deployment_config"]["autoscaling_config"]["max_replicas"] == 4
    assert serve["http_options"]["host"] == "127.0.0.1"
    large, small, light = configs["llama-3.1-70b"], configs["llama-3.1-8b"], configs["bert-base-japanese"]
    assert large["accelerator_type"] == "A100"
    assert large["placement_group_config"] == {"bundle_per_worker": {"CPU": 1, "GPU": 1}}
    assert large["deployment_config"]["ray_actor_options"] == {"num_cpus": 12, "memory": 160 * 2**30}
    # Ray has no name for this card, and the site has another kind: a resource says which machines are meant.
    assert small["placement_group_config"]["bundle_per_worker"]["rtx4090"] > 0
    assert light["accelerator_config"] == {"kind": "cpu"}
    # A replica has a part of its machine: its threads are not tied to the same cores as those of the next one.
    variables = light["runtime_env"]["env_vars"]
    assert (variables["OMP_NUM_THREADS"], variables["VLLM_CPU_OMP_THREADS_BIND"]) == ("8", "nobind")
    assert """--resources '{"rtx4090": 1}'""" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("node: a100", "node: b200", "the model 'llama-3.1-70b' runs on 'b200'"),
        ("tensor_parallel: 4", "tensor_paralel: 4", "unknown key 'tensor_paralel' in models.llama-3.1-70b"),
        ("tensor_parallel: 4", "tensor_parallel: 1\n    pipeline_parallel: 1", "llama-3.1-70b does not fit on a100"),
        ("tensor_parallel: 4", "tensor_parallel: 3", "3"),
        ("tensor_parallel: 4", "tensor_parallel: 8", "8 GPUs are asked for; there are 1 machine of 4 GPUs"),
        ("    count: 8\n", "    count: 2\n", "rtx4090 has 2 GPUs and its models ask for 3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "some/unknown-model", "the shape of some/unknown-model is not known"),
        ("A100-40GB*4,nvlink", "A1000-40GB*4", "A1000-40GB"),
        ("{min: 2, max: 4, waiting: 4}", "{min: 5, max: 4}", "min is larger than max"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_leaves_nothing(llmops, tmp_path, old, new, error):
    text = HYBRID.read_text()
    assert old in text
    (tmp_path / "site.yaml").write_text(text.replace(old, new))
    result = llmops("deploy", "kubernetes", "-c", "site.yaml", "-o", "out", cwd=tmp_path)
    assert result.code == 2, result.stderr
    assert error in result.error_lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]


@pytest.mark.parametrize(
    ("change", "args"),
    [
        ("tensor_parallel: 4\n    pipeline_parallel: 2", "--tensor-parallel-size 4 --pipeline-parallel-size 2"),
        ("tensor_parallel: 8", "--tensor-parallel-size 8"),
        (
            "max_num_seqs: 16\n    dtype: float32",
            "--pipeline-parallel-size 2",
        ),  # 262 GiB of weights: it takes two machines
    ],
)
def test_one_replica_over_two_machines_is_a_leader_worker_set(llmops, tmp_path, change, args):
    text = HYBRID.read_text().replace("tensor_parallel: 4", change)
    text = text.replace('gpu: "A100-40GB*4,nvlink"', 'gpu: "A100-40GB*4,nvlink"\n    count: 2')
    (tmp_path / "site.yaml").write_text(text)
    result = llmops("deploy", "kubernetes", "-c", "site.yaml", "-o", "out", cwd=tmp_path)
    assert result.code == 0, result.stderr
    group = of_kind(tmp_path / "out", "LeaderWorkerSet")["llama-3-1-70b"]["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    for template in (group["leaderTemplate"], group["workerTemplate"]):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    (leader,) = group["leaderTemplate"]["spec"]["containers"]
    assert args in " ".join(leader["args"]) or change.startswith("max_num_seqs")
    assert llmops("check", "kubernetes", tmp_path / "out").code == 0


def test_an_hpa_where_the_site_asks_for_one(llmops, tmp_path):
    (tmp_path / "site.yaml").write_text(HYBRID.read_text().replace("max: 4, waiting: 4}", "max: 4, by: hpa}"))
    assert llmops("deploy", "kubernetes", "-c", "site.yaml", "-o", "out", cwd=tmp_path).code == 0
    assert set(of_kind(tmp_path / "out", "HorizontalPodAutoscaler")) == {"llama-3-1-8b", "mistral-7b"}
    checked = llmops("check", "kubernetes", tmp_path / "out", "--json")
    assert checked.code == 0, checked.stdout


def test_force_replaces_only_what_llmops_wrote(llmops, tmp_path):
    deploy = ("deploy", "ray", "-c", HYBRID, "-o", "out")
    assert llmops(*deploy, cwd=tmp_path).code == 0
    assert llmops(*deploy, cwd=tmp_path).code == 2
    assert llmops(*deploy, "--force", cwd=tmp_path).code == 0
    (tmp_path / "out" / "mine.txt").write_text("keep")
    refused = llmops(*deploy, "--force", cwd=tmp_path)
    assert refused.code == 2
    assert "mine.txt" in refused.error_lines[0]
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "out.partial").exists()


def test_dry_run_writes_nothing(llmops, tmp_path):
    result = llmops("deploy", "kubernetes", "-c", HYBRID, "-o", "out", "--dry-run", "--json", cwd=tmp_path)
    assert result.code == 0
    assert {each["name"] for each in result.json["data"]["models"]} >= {"llama-3.1-70b"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "rule"),
    [
        ("model-mistral-7b.yaml", r"claimName: model-cache", "claimName: other", "missing-claim"),
        ("model-mistral-7b.yaml", r"(limits:\n\s+memory: 32Gi\n\s+nvidia.com/gpu: )'1'", r"\g<1>'2'", "gpu-request"),
        ("model-mistral-7b.yaml", r"image: (\S+):v[\d.]+", r"image: \1:latest", "image-tag"),
        ("model-mistral-7b.yaml", r"port: http\n", "port: https\n", "probe-port"),
        ("model-mistral-7b.yaml", r"- name: shm\n(\s+)emptyDir", r"- name: shn\n\1emptyDir", "missing-volume"),
        ("gateway.yaml", r"(kind: Service\n[\s\S]*?selector:\n\s+app.kubernetes.io/name: )gateway", r"\1gw", "selects-nothing"),
        ("namespace.yaml", r"kind: Namespace", "kind: Namespace\nbogus: {", "invalid-yaml"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_manifest_is_found(manifests, llmops, tmp_path, file, pattern, replacement, rule):
    broken = tmp_path / "broken"
    shutil.copytree(manifests, broken)
    text, count = re.subn(pattern, replacement, (broken / file).read_text(), count=1)
    assert count == 1
    (broken / file).write_text(text)
    result = llmops("check", "kubernetes", broken, "--json")
    assert result.code == 1
    assert rule in {finding["rule"] for finding in result.json["findings"]}
    found = next(finding for finding in result.json["findings"] if finding["rule"] == rule)
    assert found["file"].endswith(file)


def test_a_directory_without_manifests_is_a_usage_error(llmops, tmp_path):
    assert llmops("check", "kubernetes", tmp_path).code == 2
    assert llmops("check", "kubernetes", tmp_path / "none").code == 2


@pytest.mark.parametrize("explain", [False, True])
def test_plan_reads_the_same_site(llmops, explain):
    result = llmops("plan", "-c", HYBRID, "--json", *(["--explain"] if explain else []))
    assert result.code == 0, result.stderr
    models = {each["name"]: each for each in result.json["data"]["models"]}
    assert (models["llama-3.1-70b"]["tensor_parallel"], models["llama-3.1-70b"]["node"]) == (4, "a100")
    assert models["bert-base-japanese"]["gpus"] == []
    assert models["mistral-7b"]["memory"]["kv_cache_gib"] > 5
    shown = llmops("plan", "-c", HYBRID, *(["--explain"] if explain else [])).stdout
    assert "llama-3.1-70b" in shown
    assert ("gpu_memory_utilization" in shown) == explain


def test_a_site_that_does_not_fit_is_answered_with_1_by_plan(llmops, tmp_path):
    fixed = "tensor_parallel: 1\n    pipeline_parallel: 1"
    (tmp_path / "site.yaml").write_text(HYBRID.read_text().replace("tensor_parallel: 4", fixed))
    result = llmops("plan", "-c", tmp_path / "site.yaml", "--json")
    assert result.code == 1
    assert [finding["rule"] for finding in result.json["findings"]] == ["does-not-fit"]
    assert llmops("plan", "model", "-c", HYBRID).code == 2


KEYS = dict.fromkeys(("TECHPACK_GATEWAY_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "k" * 24)


def test_the_gateway_reads_the_same_site(llmops, tmp_path):
    result = llmops("gateway", "check", "-c", HYBRID, "--json", env=KEYS)
    assert result.code == 0, result.stderr
    assert "http://llama-3-1-8b.techpack-llm.svc:8000/v1" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "line_of", "error"),
    [
        ("    providers:\n", "    provider:\n", "    provider:", "unknown key 'provider'"),
        ('match: "gpt*", targets: [{provider: openai', 'match: "gpt*", targets: [{provider: opnai', "", "opnai"),
        ("alias: [llama-8b]", "alias: [llama-8b, 3]", "", ""),
        ("gateway:\n", "gatewy:\n", "", "describes no gateway"),
    ],
)
def test_mistakes_in_the_gateways_part_are_named_with_the_lines_of_the_site(llmops, tmp_path, old, new, line_of, error):
    text = HYBRID.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    (tmp_path / "site.yaml").write_text(text)
    result = llmops("gateway", "check", "-c", "site.yaml", cwd=tmp_path, env=KEYS)
    assert (result.code == 2) == bool(error), result.stderr
    assert error in result.stderr
    if line_of:
        assert f"site.yaml:{text.splitlines().index(line_of) + 1}:" in result.stderr
