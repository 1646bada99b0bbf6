"""The machine as the kernel's files describe it: those of this machine, and those of others by sample."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdc import machine
from kdc.errors import KdcError
from kdc.record import Cpu

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm asimddp i8mm bf16
CPU implementer\t: 0x41
"""
APPLE = """machdep.cpu.brand_string: Apple M2
hw.optional.floatingpoint: 1
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_BF16: 0
"""


def test_x86() -> None:
    assert machine._from_cpuinfo(X86) == (
        "Intel(R) Xeon(R) Platinum 8480+",
        ["avx2", "avx512f", "amx_tile", "avx512_vnni", "amx_int8", "avx512_bf16", "amx_bf16"],
    )


def test_arm() -> None:
    assert machine._from_cpuinfo(ARM) == ("", ["asimd", "asimddp", "i8mm", "bf16"])


def test_apple() -> None:
    assert machine._from_sysctl(APPLE) == ("Apple M2", ["asimd", "asimddp"])


@pytest.mark.parametrize(
    ("flags", "int8", "bf16"),
    [
        (["avx2"], False, False),
        (["avx2", "avx_vnni"], True, False),
        (["avx512f", "avx512_vnni", "avx512_bf16"], True, True),
        (["asimd"], False, False),
        (["asimd", "asimddp"], True, False),
    ],
)
def test_what_flags_mean(monkeypatch: pytest.MonkeyPatch, flags: list[str], int8: bool, bf16: bool) -> None:
    monkeypatch.setattr(machine, "cpu", lambda: Cpu(model="x", cores=1, flags=flags))
    assert (machine.has_int8_dot(), machine.has_bf16()) == (int8, bf16)


def test_another_processor_may_be_compressed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu", lambda: Cpu(model="x", cores=1, flags=["avx512_vnni", "avx512_bf16"]))
    assert machine.target_flags() == ["avx512_vnni", "avx512_bf16"]
    monkeypatch.setenv("KDC_CPU_FLAGS", "avx2, amx_bf16")
    assert machine.target_flags() == ["avx2", "amx_bf16"]
    assert (machine.has_int8_dot(), machine.has_bf16(["avx2"]), machine.has_bf16()) == (False, False, True)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_limits_of_cgroup_2_hold_at_every_level(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/pod/container/memory.max": "4294967296\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
        },
    )
    assert machine._cpu_quota(tmp_path) == 2.5
    assert machine._memory_limit(tmp_path) == 4 * 2**30


def test_limits_of_cgroup_1(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1000000\n",
        },
    )
    assert machine._cpu_quota(tmp_path) == 1.5
    assert machine._memory_limit(tmp_path) == 1_000_000


def test_no_cgroups_no_limits(tmp_path: Path) -> None:
    assert machine._cpu_quota(tmp_path) is None
    assert machine._memory_limit(tmp_path) is None


def test_a_quota_bounds_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_quota", lambda root: 0.5)
    assert machine.threads() == machine.physical_cores() == 1


def _nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(machine, "gpus", machine.gpus.__wrapped__)


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, "echo 'NVIDIA H200, 143771, 580.1'; echo 'NVIDIA GB10, [N/A], 580.1'", monkeypatch)
    assert machine.gpus() == [
        {"name": "NVIDIA H200", "memory_bytes": 143771 * 2**20, "driver": "580.1"},
        {"name": "NVIDIA GB10", "memory_bytes": None, "driver": "580.1"},
    ]


def test_a_driver_that_fails_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, "echo 'cannot reach the driver' >&2; exit 9", monkeypatch)
    assert machine.gpus() == []


def test_environment_of_this_machine() -> None:
    found = machine.environment()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "onnxruntime"} <= found.packages.keys()
    assert 1 <= found.cpu.cores <= found.threads
    assert found.cpu.model
    assert machine.memory_bytes() > 2**28
    assert machine.fingerprint() == machine.fingerprint()


def test_fingerprint_tells_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.fingerprint()
    monkeypatch.setattr(machine, "cpu", lambda: Cpu(model="another", cores=1, flags=[]))
    assert machine.fingerprint() != before


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, kdc.machine; kdc.machine.environment(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False False\n"


def test_cores_are_shared_unless_the_user_chose_and_never_while_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KDC_SHARES_CORES")
    plain = {name: value for name, value in os.environ.items() if name not in ours}
    monkeypatch.setattr(os, "environ", dict(plain))
    machine.share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert machine.unshared_environment() == plain

    for chosen in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        monkeypatch.setattr(os, "environ", dict(chosen))
        machine.share_cores()
        assert machine.unshared_environment() == chosen


def test_the_processor_to_compress_for_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.cpu().flags
    for told, has_dot in (("avx2", False), ("avx2, avx_vnni", True), ("", False)):
        monkeypatch.setenv(machine.TARGET, told)
        assert machine.has_int8_dot() is has_dot
        assert machine.cpu().flags == here, "this one stays what it is"
    monkeypatch.setenv(machine.TARGET, "avx_vni")
    with pytest.raises(KdcError, match="KDC_CPU_FLAGS: 'avx_vni' is no flag that matters here; did you mean"):
        machine.has_int8_dot()
