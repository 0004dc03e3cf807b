"""Memory that is freed and needed again is not paged in anew."""

import platform
import subprocess
import sys

import pytest

from mtrl_fairgrad.utils import malloc

SCRIPT = """
import resource, runpy, sys

if sys.argv[1] == "keep":
    assert runpy.run_path(sys.argv[2])["keep_freed_memory"]()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        blocks = [b"x" * 2**20 for _ in range(100)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_are_reused_without_page_faults():
    def faults(word):
        command = [sys.executable, "-c", SCRIPT, word, malloc.__file__]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert faults("keep") < 500
    assert faults("return") > 2_000
