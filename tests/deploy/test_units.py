"""The systemd units: valid, closed, and in step with the settings of the service."""

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli import main
from service.config import Settings
from service.installation import ROOT

DEPLOY = ROOT / "deploy"
SERVICES = ("pgteller.service", "pgteller-migrate.service")
EXPOSURE_MAX = 1.5
"""Of 10. docs/deployment.md shows what each has."""


class Unit(configparser.RawConfigParser):
    """A unit file, in which a key may stand more than once: the last one counts here."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, comment_prefixes="#", delimiters="=")
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read(DEPLOY / name)


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: no unit was verified")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_units_are_valid(tmp_path: Path) -> None:
    """But for where they find the program: it need not be installed here."""
    program = shutil.which("true") or "/bin/true"
    for path in DEPLOY.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/pgteller/bin/pgteller", program))
    verified = systemd_analyze("verify", *(str(path) for path in sorted(tmp_path.iterdir())))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_a_unit_with_a_fault_is_found(tmp_path: Path) -> None:
    """So that the test above can fail."""
    faulty = (DEPLOY / "pgteller.service").read_text().replace("PrivateTmp=yes", "PrivateTmpp=yes")
    (tmp_path / "faulty.service").write_text(faulty)
    assert "PrivateTmpp" in systemd_analyze("verify", str(tmp_path / "faulty.service")).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed(name: str) -> None:
    threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    secured = systemd_analyze("security", "--offline=true", "--no-pager", threshold, str(DEPLOY / name))
    assert secured.returncode == 0, secured.stdout
    [found] = re.findall(r"exposure level for \S+: ([0-9.]+)", secured.stdout)
    [shown] = re.findall(rf"^\| `{name}` \| ([0-9.]+) \|$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)
    if "systemd 252 " in systemd_analyze("--version").stdout:
        assert found == shown


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_a_command_of_ours_with_a_file_of_its_own(name: str) -> None:
    service = Unit(name)["Service"]
    program, command = service["ExecStart"].split()
    assert Path(program).name == "pgteller"
    assert command in main.commands
    assert service["EnvironmentFile"] == f"/etc/pgteller/{command}.env"


def test_the_socket_is_where_the_service_would_listen() -> None:
    settings = Settings()
    assert Unit("pgteller.socket")["Socket"]["ListenStream"] == f"{settings.host}:{settings.port}"


def test_the_service_is_given_longer_to_stop_than_requests_in_flight_are_to_finish() -> None:
    assert int(Unit("pgteller.service")["Service"]["TimeoutStopSec"]) >= Settings().graceful_timeout_seconds + 5


def test_the_service_may_open_as_many_files_as_it_may_have_connections() -> None:
    limit = Unit("pgteller.service")["Service"]["LimitNOFILE"]
    script = f"""if True:
        import json, resource
        from service.config import Settings
        from service.worker import connections_that_fit
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        print(json.dumps([connections_that_fit(Settings()), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
    """
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [Settings().connections_max, int(limit)]
