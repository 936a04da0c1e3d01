"""Machines described in words, and processors, memory and AMD cards from the kernel's files."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.hardware import amd
from llmops.hardware.cards import CARDS, find_card
from llmops.hardware.cpu import cpu_quota, free_cores, memory_limit
from llmops.hardware.paper import host_from_gpus, read_host
from llmops.units import GIB


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("A100-40GB", "a100-40gb"), ("a100 80gb", "a100-80gb"), ("NVIDIA H100 80GB HBM3", "h100-80gb"), ("H100", "h100-80gb"),
        ("RTX4090", "rtx-4090-24gb"), ("rtx 4090", "rtx-4090-24gb"), ("NVIDIA GeForce RTX 3090", "rtx-3090-24gb"),
        ("4090", "rtx-4090-24gb"), ("Tesla T4", "t4-16gb"), ("L4", "l4-24gb"), ("L40S", "l40s-48gb"), ("H200", "h200-141gb"),
        ("V100 16GB", "v100-16gb"), ("A10G", "a10g-24gb"), ("MI300X", "mi300x-192gb"), ("B200", "b200-180gb"),
        ("RTX A6000", "rtx-a6000-48gb"), ("H100 80GB", "h100-80gb"), ("H100-80GB-HBM3", "h100-80gb"),
    ],
)  # fmt: skip
def test_people_write_cards_in_many_ways(text, key):
    assert find_card(text).key == key


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.key)
def test_every_card_is_found_by_its_key_and_its_name(card):
    assert find_card(card.key) == card
    assert find_card(card.name) == card
    assert 0.8 < card.total_gib / float(card.key.rpartition("-")[2].removesuffix("gb")) < 1.02


@pytest.mark.parametrize(("text", "words"), [("A100", "a100-40gb"), ("H100X", "no GPU"), ("", "names no GPU")])
def test_unclear_cards_are_refused_with_a_hint(text, words):
    with pytest.raises(UsageError) as caught:
        host_from_gpus(text)
    assert words in caught.value.message


def test_lists_of_cards():
    host = host_from_gpus("A100-40GB*4,nvlink")
    assert len(host.gpus) == 4
    assert host.islands() == ((0, 1, 2, 3),)
    assert host_from_gpus("A100-40GB*4,pcie").islands() == ((0,), (1,), (2,), (3,))
    mixed = host_from_gpus("A100-40GB*2,RTX4090 x 2")
    assert [gpu.name for gpu in mixed.gpus] == ["NVIDIA A100-SXM4-40GB"] * 2 + ["NVIDIA GeForce RTX 4090"] * 2
    assert mixed.islands() == ((0, 1), (2,), (3,))
    assert host_from_gpus("L4:20GiB").gpus[0].total_bytes == 20 * GIB
    assert host_from_gpus("none").gpus == ()


@pytest.mark.parametrize("text", ["A100-40GB*0", "A100-40GB*1000", "A100-40GB**2", "nvlink,pcie,L4", "L4:huge", ",,"])
def test_nonsense_lists_are_refused(text):
    with pytest.raises(UsageError):
        host_from_gpus(text)


def test_host_files(tmp_path):
    path = tmp_path / "host.yaml"
    path.write_text("name: node7\ngpus: RTX4090*8\ncores: 32\nmemory: 256GiB\n")
    host = read_host(path)
    assert (host.name, len(host.gpus), host.cpu.free, host.memory.total_bytes) == ("node7", 8, 32, 256 * GIB)
    for text in (
        "gpu: L4",
        "gpus: [L4]",
        "- a",
        "gpus: L4\ncores: many",
        "{",
        "cpu: {model: x}",
        "data: {host: {cpu: 3}}",
    ):
        path.write_text(text)
        with pytest.raises(UsageError):
            read_host(path)
    with pytest.raises(UsageError, match="there is no file"):
        read_host(tmp_path / "none.yaml")


def test_host_files_do_not_construct_objects(tmp_path):
    path = tmp_path / "host.yaml"
    path.write_text('gpus: !!python/object/apply:os.system ["touch owned"]')
    with pytest.raises(UsageError):
        read_host(path)


def test_host_and_gpu_exclude_each_other(llmops, tmp_path):
    result = llmops("gpus", "--host", "x", "--gpu", "L4")
    assert result.code == 2
    assert "exclude each other" in result.stderr


def test_this_machine_is_described(llmops):
    document = llmops("gpus", "--json").json
    host = document["data"]["host"]
    assert host["source"] == "detected"
    assert 1 <= host["cpu"]["free"] <= host["cpu"]["allowed"] <= host["cpu"]["logical"]
    assert 0 < host["memory"]["available_bytes"] <= host["memory"]["total_bytes"]
    assert {disk["purpose"] for disk in host["disks"]} == {"model cache", "temporary files", "working directory"}


@given(st.integers(1, 256), st.one_of(st.none(), st.floats(0.1, 300)), st.floats(0, 500), st.floats(0, 500))
def test_free_cores_stay_within_what_is_granted(allowed, quota, load, busy):
    cores = free_cores(allowed, quota, load, busy)
    assert 1 <= cores <= allowed
    if quota is not None:
        assert cores <= max(1, round(quota))
    if load == 0:
        assert cores == max(1, round(min(allowed, quota) if quota else allowed))


def test_free_cores_need_load_and_use_to_agree():
    assert free_cores(8, None, 6.0, 0.1) == 8  # a load that has just ended
    assert free_cores(8, None, 0.1, 6.0) == 8  # a burst of this moment
    assert free_cores(8, None, 6.0, 5.0) == 3
    assert free_cores(64, 2.5, 0.0, 0.0) == 2


def _tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_cgroup_v2_takes_the_tightest_limit_above(tmp_path):
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
        },
    )
    assert cpu_quota(tmp_path) == 1.5
    assert memory_limit(tmp_path) == (8 * GIB, 2 * GIB)


def test_cgroup_v1_and_its_way_of_saying_unlimited(tmp_path):
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) == (None, 0)
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(f"{4 * GIB}\n")
    assert cpu_quota(tmp_path) == 4.0
    assert memory_limit(tmp_path)[0] == 4 * GIB


def test_amd_cards_from_the_kernel(tmp_path):
    card = "sys/class/drm/card1/device/"
    _tree(
        tmp_path,
        {
            "dev/kfd": "",
            card + "vendor": "0x1002\n",
            card + "mem_info_vram_total": f"{192 * GIB}\n",
            card + "mem_info_vram_used": f"{2 * GIB}\n",
            card + "product_name": "AMD Instinct MI300X\n",
            "sys/class/drm/card0/device/vendor": "0x10de\n",
            "sys/class/drm/card1-DP-1/device/vendor": "0x1002\n",
        },
    )
    (gpu,) = amd.probe(tmp_path)
    assert (gpu.name, gpu.vendor, gpu.total_bytes, gpu.free_bytes) == (
        "AMD Instinct MI300X",
        "amd",
        192 * GIB,
        190 * GIB,
    )
    (tmp_path / "dev/kfd").unlink()
    assert amd.probe(tmp_path) == ()


def test_islands_leave_out_what_cannot_be_used():
    host = host_from_gpus("H100*4")
    broken = replace(host, gpus=(replace(host.gpus[0], problem="lost"), *host.gpus[1:]))
    assert broken.islands() == ((1, 2, 3),)
    assert len(broken.usable_gpus) == 3


def test_the_paper_host_survives_json(tmp_path, llmops):
    document = llmops("gpus", "--gpu", "A100-40GB*2,nvlink", "--json").stdout
    (tmp_path / "h.json").write_text(document)
    assert read_host(tmp_path / "h.json").gpus == host_from_gpus("A100-40GB*2,nvlink").gpus
    assert json.loads(document)["data"]["host"]["source"] == "paper"
