"""Detection through the real NVML binding, over a small library compiled here that plays a driver."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stub of libnvidia-ml is compiled with gcc")

PROBE = """
import json, msgspec, sys
from pathlib import Path
from llmops.hardware.detect import detect
sys.stdout.write(msgspec.json.encode(detect(Path(sys.argv[1]), sample_s=0)).decode())
"""


@pytest.fixture(scope="session")
def stubs(tmp_path_factory) -> dict[str, Path]:
    """Directories with a current and an old libnvidia-ml."""
    found = {}
    for kind, flags in {"current": [], "old": ["-DOLD_DRIVER"]}.items():
        found[kind] = tmp_path_factory.mktemp(f"nvml-{kind}")
        source = Path(__file__).with_name("nvml_stub.c")
        out = found[kind] / "libnvidia-ml.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", *flags, "-o", out, source], check=True)
    return found


@pytest.fixture
def detected(stubs, tmp_path):
    """Detect in a process of its own, with a scene for the stub."""

    def run(library="current", root=None, **scene):
        base = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")}
        path = {"LD_LIBRARY_PATH": str(stubs[library])} if library else {}
        env = (
            base
            | path
            | {name.upper() if name != "visible" else "CUDA_VISIBLE_DEVICES": str(v) for name, v in scene.items()}
        )
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(root or "/")], env=env, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("count", [1, 4, 8])
def test_healthy_cards(detected, count):
    host = detected(stub_count=count, stub_nvlink=1)
    assert len(host["gpus"]) == count
    first = host["gpus"][0]
    assert first["name"] == "NVIDIA H100 80GB HBM3"
    assert first["compute_capability"] == [9, 0]
    # The driver keeps 500 MiB for itself, which programs never get.
    assert first["total_bytes"] == (81559 - 500) * 2**20
    assert first["free_bytes"] == (81559 - 500) * 2**20
    assert (host["driver"]["version"], host["driver"]["cuda"]) == ("580.95.05", [13, 0])
    assert len(host["links"]) == count * (count - 1) // 2
    assert all(link["kind"] == "nvlink" and link["lanes"] == 12 for link in host["links"])
    assert not [finding for finding in host["findings"] if finding["severity"] == "error"]


def test_cards_linked_in_pairs_make_two_islands(detected):
    import msgspec

    from llmops.hardware.host import Host

    host = msgspec.convert(detected(stub_count=4, stub_nvlink=2), Host)
    assert host.islands() == ((0, 1), (2, 3))
    assert {link.kind for link in host.links if (link.a, link.b) == (0, 2)} == {"numa"}


def test_topology_without_nvlink(detected):
    kinds = {(link["a"], link["b"]): link["kind"] for link in detected(stub_count=8)["links"]}
    assert kinds[0, 1] == "numa"
    assert kinds[0, 7] == "system"


def test_mig_instances_stand_for_their_parent(detected):
    gpus = detected(stub_count=2, stub_mig=1)["gpus"]
    assert [gpu["uuid"] for gpu in gpus] == ["MIG-0000-0000", "MIG-0000-0001", "GPU-00000001-aaaa"]
    assert [gpu["index"] for gpu in gpus] == [0, 1, 2]
    assert gpus[0]["mig_profile"] == "3g.40gb"
    assert gpus[0]["parent_uuid"] == "GPU-00000000-aaaa"
    assert gpus[0]["total_bytes"] < gpus[2]["total_bytes"]


def test_processes_and_used_memory(detected):
    gpu = detected(stub_pid=os.getpid(), stub_used=2048)["gpus"][0]
    assert gpu["processes"][0]["pid"] == os.getpid()
    assert gpu["processes"][0]["used_bytes"] == 2**30
    assert gpu["free_bytes"] == (81559 - 500 - 2048) * 2**20


def test_a_lost_card_is_an_error_and_the_others_stay(detected):
    host = detected(stub_count=4, stub_lost=2)
    assert [gpu["problem"] for gpu in host["gpus"]] == [None, None, "has fallen off the bus", None]
    error = next(finding for finding in host["findings"] if finding["severity"] == "error")
    assert error["rule"] == "gpu-lost"
    assert "GPU 2" in error["message"]


@pytest.mark.parametrize(
    ("code", "rule"), [(18, "driver-mismatch"), (9, "driver-not-loaded"), (4, "driver-permission"), (999, "nvml-error")]
)
def test_a_driver_that_does_not_start_says_why(detected, code, rule):
    host = detected(stub_init=code)
    assert not host["gpus"]
    assert [finding["rule"] for finding in host["findings"] if finding["severity"] == "error"] == [rule]


def test_an_old_driver_lacks_functions_and_still_works(detected):
    gpu = detected("old", stub_count=2)["gpus"][0]
    assert gpu["total_bytes"] == 81559 * 2**20
    assert gpu["processes"] == []


def test_no_library_and_no_card_is_a_machine_without_gpu(detected, tmp_path):
    host = detected(None, root=tmp_path)
    assert host["gpus"] == []
    assert not [finding for finding in host["findings"] if finding["severity"] == "error"]


def test_device_files_without_the_library_are_a_container_lacking_a_capability(detected, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    host = detected(None, root=tmp_path)
    assert "container-without-nvml" in [finding["rule"] for finding in host["findings"]]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("1,3", [1, 3]), ("GPU-00000002", [2]), ("", []), ("-1", []), ("0,9,1", [0]), ("MIG-0000", [])],
)
def test_visible_devices(detected, visible, expected):
    host = detected(stub_count=4, visible=visible)
    assert [gpu["index"] for gpu in host["gpus"] if gpu["visible"]] == expected
    complaint = [finding["rule"] for finding in host["findings"] if finding["rule"] == "visible-devices"]
    assert bool(complaint) == (visible in ("0,9,1", "MIG-0000"))


def test_the_command_shows_the_cards(llmops, stubs):
    env = {
        "LD_LIBRARY_PATH": str(stubs["current"]),
        "STUB_COUNT": "4",
        "STUB_NVLINK": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    shown = llmops("gpus", env=env)
    assert shown.code == 0
    assert shown.stdout.count("NVIDIA H100 80GB HBM3") == 4
    assert shown.stdout.count("hidden") == 2
    assert "NVLink joins 0, 1" in shown.stdout


def test_a_mismatch_is_answered_with_1(llmops, stubs):
    result = llmops("gpus", "--json", env={"LD_LIBRARY_PATH": str(stubs["current"]), "STUB_INIT": "18"})
    assert result.code == 1
    assert result.json["findings"][0]["rule"] == "driver-mismatch"


def test_the_output_describes_the_machine_elsewhere(llmops, stubs, tmp_path):
    env = {"LD_LIBRARY_PATH": str(stubs["current"]), "STUB_COUNT": "8", "STUB_NVLINK": "1"}
    (tmp_path / "host.json").write_text(llmops("gpus", "--json", env=env).stdout)
    again = llmops("gpus", "--host", tmp_path / "host.json", "--json").json["data"]["host"]
    assert len(again["gpus"]) == 8
    assert again["source"] == "host.json"
