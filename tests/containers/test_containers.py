"""The image and the compose file on a real engine, where there is one; see run.py for what is done."""

import shutil
import subprocess
import sys

import pytest

from tests.containers.run import ROOT, SKIPPED, missing


def registry_answers() -> bool:
    """Whether base images can be pulled."""
    command = ["docker", "pull", "--quiet", "postgres:18"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=300).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.timeout(1800)
def test_the_image_and_compose_work_on_a_real_engine() -> None:
    why = missing()
    if why is not None:
        pytest.skip(f"no container was run: {why}")
    options = [] if registry_answers() else ["--stand-in"]
    if options and shutil.which("debootstrap") is None:
        pytest.skip("no container was run: the registry does not answer, and debootstrap is not installed")
    command = [sys.executable, "-m", "tests.containers.run", *options]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_where_no_engine_is_at_hand_the_script_says_so() -> None:
    environment = {"PATH": "/nowhere"}
    command = [sys.executable, "-m", "tests.containers.run"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == SKIPPED
    assert ended.stdout == "SKIPPED, nothing was tested: docker is not installed\n"
