"""SHA-256 of the source, computed beside the conversion: "how was this file made?" has an answer in the file.

The output's header is written first and the digest known last, so the header holds a place of the same
length until then. Reading runs along with the conversion's own and mostly finds the data in the
system's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

from .errors import SourceError

CHUNK = 4 << 20
CHECK_SECONDS = 0.2


def reserved_place(number: int) -> str:
    """What stands in the header for the digest of file ``number`` until it is known: 64 characters, like a digest."""
    return f"digest of file {number} ".ljust(64, ".")


@contextlib.contextmanager
def digests(files: Sequence[Path], check: Callable[[], None]) -> Iterator[Callable[[], list[str]]]:
    """Hash files on a thread within the block; the function given waits for all and returns hexadecimal digests.

    While it waits it calls ``check``, which may raise to cancel. Leaving the block early stops the thread.
    """
    stop = threading.Event()
    with futures.ThreadPoolExecutor(1, thread_name_prefix="nvfp4-studio-digest") as pool:
        future = pool.submit(lambda: [_sha256(path, stop) for path in files])

        def wait() -> list[str]:
            while not future.done():
                check()
                futures.wait([future], timeout=CHECK_SECONDS)
            return future.result()

        try:
            yield wait
        finally:
            stop.set()


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if stop.is_set():
                    break
                digest.update(chunk)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error}); check the disk or copy it.") from error
    return digest.hexdigest()
