"""Finds or starts the service that `pgteller import` posts to, and runs the import."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from service.config import Settings
from service.http_service import HttpService, base_url, claim_port, local_address, port_is_open
from service.import_file import ImportFile
from service.import_report import ImportProgress, report
from service.importer import ImportOptions, ImportStoppedError, Tally, run_import
from service.local import LocalBank, development_key_file
from service.terminal import say


@dataclass(frozen=True)
class Target:
    """Where to post, and with what key; None for what this machine has."""

    url: str | None
    key: str | None
    key_file: Path | None


def import_file(settings: Settings, file: ImportFile, target: Target, options: ImportOptions) -> bool:
    """Post the file and print the summary; return whether every row is in the ledger as the file has it.

    options: url and key are filled in from the target.
    Raises ImportStoppedError, HttpServiceError, EmbeddedPostgresError.
    """
    tally = Tally()
    survey = file.survey()
    with _service(settings, target.url) as url:
        options = replace(options, url=url, key=_key(settings, target))
        progress = ImportProgress(survey.rows, tally)
        try:
            with progress.shown():
                run_import(file, survey, options, tally, progress.update)
        except KeyboardInterrupt:
            raise ImportStoppedError("interrupted; run it again, and it goes on where it stopped") from None
        finally:
            report(tally, progress)
    return tally.failed == 0


@contextmanager
def _service(settings: Settings, url: str | None) -> Iterator[str]:
    """Give the URL of a service; when none was named and none answers, run one for the duration."""
    if url is not None:
        yield url
        return
    if port_is_open(local_address(settings)):
        yield base_url(settings)
        return
    say(f"Nothing answers at {base_url(settings)}: starting the service for the import", err=True)
    bank = None if settings.database_url else LocalBank(settings)
    with nullcontext() if bank is None else bank.running(create=True):
        if bank is not None:
            bank.install()
            bank.prepare_service()
            settings = replace(settings, database_url=bank.service_url)
        service = HttpService(claim_port(replace(settings, host="127.0.0.1", port=0, log_level="warning")))
        try:
            service.start()
            service.await_ready()
            yield service.url
        finally:
            service.stop()


def _key(settings: Settings, target: Target) -> str:
    if target.key is not None:
        return target.key
    file = target.key_file or development_key_file(settings)
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ImportStoppedError(
            f"no API key: {file}: {error.strerror}. Give --key or --key-file, see `pgteller keys`"
        ) from None
