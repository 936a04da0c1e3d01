"""Plans in Ray's words, and what is read of a cluster; nothing is started."""

import pytest

from llmops.deploy.ray_cluster import Application, Cluster, Deployment, _others, failure
from llmops.errors import UsageError
from llmops.planning.ray import accelerator_of, engine_kwargs


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA RTX A6000", None),
    ],
)
def test_gpus_that_ray_has_a_name_for(name, known):
    assert accelerator_of(name) == known


def test_flags_become_engine_arguments():
    argv = ("--served-model-name", "m", "--max-model-len", "8192", "--enforce-eager", "--dtype=float16",
            "--gpu-memory-utilization", "0.9", "--seed", "1", "--lora-modules", "a=/a")  # fmt: skip
    assert engine_kwargs(argv) == {
        "max_model_len": 8192, "enforce_eager": True, "dtype": "float16", "gpu_memory_utilization": 0.9, "seed": 1,
    }  # fmt: skip


DETAILS = {
    "applications": {
        "mine": {"status": "RUNNING", "deployed_app_config": {"name": "mine", "route_prefix": "/"}},
        "theirs": {"status": "RUNNING", "deployed_app_config": {"name": "theirs", "route_prefix": "/other"}},
        "going": {"status": "DELETING", "deployed_app_config": {"name": "going", "route_prefix": "/going"}},
    }
}


def test_other_applications_are_sent_along():
    kept = _others(DETAILS, {"mine": {"route_prefix": "/"}})
    assert [each["name"] for each in kept] == ["theirs"]


def test_a_route_that_is_another_applications_is_refused():
    with pytest.raises(UsageError, match="'theirs' already has the route /other"):
        _others(DETAILS, {"new": {"route_prefix": "/other"}})


def test_a_failure_is_told_by_its_cause():
    said = (
        "The deployment failed to start 3 times in a row. Error:\nray::ServeReplica...\n"
        "  Value error, User-specified max_model_len (4096) is greater than the derived max_model_len "
        "(max_position_embeddings=2048 or model_max_length=None in model's config.json)."
    )
    found = Application("site", "DEPLOY_FAILED", "/", (Deployment("LLMServer:m", "DEPLOY_FAILED", 0, 1, said),))
    error = failure(found)
    assert "site does not start" in error.message
    assert "max_model_len" in error.message + str(error.hint)
    wrong = (
        "Traceback\nRuntimeError: Failed to create vLLM engine config: 1 validation error for ModelConfig\nseed\n"
        "  Input should be a valid integer, unable to parse string as an integer [type=int_parsing, input_value='none', "
        "input_type=str]\n    For further information visit https://errors.example/int_parsing\n"
    )
    named = failure(Application("site", "DEPLOY_FAILED", "/", (), wrong)).message
    assert named.endswith("ModelConfig: seed: Input should be a valid integer, unable to parse string as an integer")
    silent = failure(Application("site", "DEPLOY_FAILED", "/", (), "Traceback\nFooError: no such thing\n"))
    assert "FooError: no such thing" in silent.message


@pytest.mark.parametrize("address", ["8265", "ftp://host", "http://", "file:///etc/passwd"])
def test_an_address_that_is_none(address):
    with pytest.raises(UsageError, match="is no dashboard"):
        Cluster(address)
