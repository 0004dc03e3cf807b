"""Free memory is the machine's, within the limits of every control group around the process."""

import pytest

from mtrl_fairgrad.utils.free_memory import free_memory

GIB = 2**30
MEMINFO = f"MemTotal: {32 * 2**20} kB\nMemFree: 100 kB\nMemAvailable:   {20 * 2**20} kB\n"


def system(root, files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group_v2(folder, limit, usage, cached=0):
    base = f"sys/fs/cgroup{folder}"
    return {
        f"{base}/memory.max": f"{limit}\n",
        f"{base}/memory.current": f"{usage}\n",
        f"{base}/memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 7\n",
    }


def group_v1(folder, limit, usage, cached=0):
    base = f"sys/fs/cgroup/memory{folder}"
    return {
        f"{base}/memory.limit_in_bytes": f"{limit}\n",
        f"{base}/memory.usage_in_bytes": f"{usage}\n",
        f"{base}/memory.stat": f"inactive_file 3\ntotal_inactive_file {cached}\n",
    }


V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"
V1_JOINED = "5:hugetlb,memory:/docker/abc\n"
V2 = "0::/user.slice/job\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "gib"),
    [
        ("", {}, 20),
        ("0::/\n", {}, 20),
        (V2, group_v2("/user.slice/job", "max", 5 * GIB), 20),
        (V2, group_v2("/user.slice/job", 8 * GIB, 5 * GIB), 3),
        (V2, group_v2("/user.slice/job", 8 * GIB, 5 * GIB, cached=2 * GIB), 5),
        (V2, group_v2("/user.slice", 8 * GIB, 5 * GIB), 3),
        (V2, group_v2("", 8 * GIB, 9 * GIB), 0),
        (V2, group_v2("/user.slice/job", 64 * GIB, 5 * GIB), 20),
        (V1, group_v1("/docker/abc", 4 * GIB, 3 * GIB, cached=GIB), 2),
        (V1_JOINED, group_v1("/docker/abc", 4 * GIB, 3 * GIB), 1),
        (V1, group_v1("", 4 * GIB, 3 * GIB), 1),  # a container that sees the host's path
        (V1, group_v1("", 9223372036854771712, 3 * GIB), 20),
        ("what?\n", group_v2("", "?", "?"), 20),
    ],
)
def test_the_tightest_limit_counts(cgroup, files, gib, tmp_path):
    system(tmp_path, {"proc/self/cgroup": cgroup, **files})
    assert free_memory(tmp_path) == gib * GIB


def test_without_proc_it_is_the_whole_memory_or_unknown(tmp_path, monkeypatch):
    assert free_memory(tmp_path) > 2**20
    monkeypatch.delattr("os.sysconf")
    assert free_memory(tmp_path) is None
