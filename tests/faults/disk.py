"""A small disk of our own, which can be made full."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.scene import SECONDS
from tests.http_server import wait_for

SIZE_BYTES = int((1024 + SECONDS) * 2**20)


class Disk:
    """A file system in memory. It takes no more of it than is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no page free: the disk becomes as small as what is on it."""
        wait_for(self._shrunk, "the disk is full")

    def free(self) -> None:
        """Make it as large as it was."""
        assert self._resized(SIZE_BYTES)

    def _shrunk(self) -> bool:
        """Return whether it could be made so small; not when something was written meanwhile."""
        found = os.statvfs(self.path)
        return self._resized((found.f_blocks - found.f_bfree) * found.f_frsize)

    def _resized(self, size_bytes: int) -> bool:
        command = ["mount", "-o", f"remount,size={size_bytes}", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk() -> Iterator[Disk | None]:
    """Mount one until the end of the block; give None, and print why, where that is not permitted."""
    with tempfile.TemporaryDirectory(prefix="pgteller-disk-") as directory:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=755", "tmpfs", directory]
        try:
            subprocess.run(command, capture_output=True, check=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"\nNo disk is made full: {getattr(error, 'stderr', '') or error}")
            yield None
            return
        try:
            yield Disk(Path(directory))
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)
