"""Standard streams that cannot be written; `run/test_processes.py` closes a terminal."""

import subprocess
import sys

import pytest

PRINTING = """
import sys
from seer_jax import output
with output.lossy():
    for _ in range(3):
        print("für" * 5000, flush=True)
    print("an error: ü", file=sys.stderr)
    print("the end")
sys.exit(3)
"""


def start(**streams):
    return subprocess.Popen([sys.executable, "-c", PRINTING], text=True, **streams)


@pytest.mark.parametrize("broken", ["disk", "pipe"])
def test_output_that_cannot_be_written_is_lost_with_one_warning(broken):
    with open("/dev/full", "w") as full:
        process = start(stdout=full if broken == "disk" else subprocess.PIPE, stderr=subprocess.PIPE)
    if broken == "pipe":
        process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 3
    process.stderr.close()
    reason = {"disk": "No space left on device", "pipe": "Broken pipe"}[broken]
    assert error == f"the standard output cannot be written ({reason}); the rest is lost\nan error: ü\n"


def test_errors_that_cannot_be_written_do_not_change_the_exit_code():
    with open("/dev/full", "w") as full:
        process = start(stdout=full, stderr=full)
    assert process.wait() == 3


def test_character_that_the_encoding_lacks_is_escaped(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, error = process.communicate()
    assert process.returncode == 3
    assert printed.splitlines()[0].startswith(r"f\xfcrf\xfcr")
    assert printed.splitlines()[-1] == "the end"
    assert error == "an error: \\xfc\n"
