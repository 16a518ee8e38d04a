"""Every story in examples/ runs on a fresh bank, and prints what is committed beside it.

PGTELLER_WRITE_EXAMPLES=1 writes the output that it saw instead of comparing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.embedded import find_binaries
from service.installation import ROOT
from tests.conftest import Bank

EXAMPLES = ROOT / "examples"
STORIES = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".sql", ".py"))
PSQL = find_binaries() / "psql"  # comes with the embedded PostgreSQL


def _run(story: Path, url: str) -> str:
    """Run a story as its README says; return what it prints, errors included."""
    command = [sys.executable] if story.suffix == ".py" else [str(PSQL), "-Xq", "-v", "SHOW_CONTEXT=never", url, "-f"]
    environment = {**os.environ, "DATABASE_URL": url, "PGCLIENTENCODING": "UTF8", "LC_ALL": "C"}
    done = subprocess.run(
        [*command, story.name],
        cwd=EXAMPLES,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_story_prints_what_is_committed(bank: Bank, story: Path) -> None:
    committed = story.with_name(f"{story.name}.out")
    printed = _run(story, bank.app_url)
    if os.environ.get("PGTELLER_WRITE_EXAMPLES"):
        committed.write_text(printed)
    assert printed == committed.read_text()
    with bank.connect() as app:
        assert app.execute("select * from bank.verify(null)").fetchall() == []


def test_every_story_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [story.name for story in STORIES if f"({story.name})" not in readme] == []
