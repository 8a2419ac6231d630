"""Proof that whoever runs a job elsewhere sees the directory that its checkpoints go to."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mdcm.errors import MdcmError
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import CHECKPOINTS, PROOF

__all__ = ["refuse_unshared", "shown"]


@contextmanager
def shown(run: Folder) -> Iterator[str]:
    """Keep a file beside the checkpoints of a run, which nobody sees who has another directory of that path.

    Yields:
        Its name, for :func:`refuse_unshared`.

    Raises:
        OSError: If it cannot be written.
    """
    folder = run / CHECKPOINTS
    folder.make()
    secret = secrets.token_hex(16)
    name = f"shared-{secret}"
    with folder.replacing(name) as stream:
        stream.write(secret.encode())
    try:
        yield name
    finally:
        with suppress(OSError):
            folder.remove(name)
            folder.remove_if_empty()


def refuse_unshared(files: Folder, proof: str) -> None:
    """Refuse to write checkpoints of a job where whoever gave it does not see them.

    Args:
        files: Where they go: a directory beside the file.
        proof: What :func:`shown` returned.

    Raises:
        MdcmError: If the file is not there.
    """
    folder = Folder(files.root, files.parts[:-1])
    try:
        content = folder.read(proof, 100).decode(errors="replace")
    except OSError:
        content = ""
    match = PROOF.fullmatch(proof)
    if match is None or match[1] != content:
        raise MdcmError(
            f"the worker on {platform.node()} does not see {folder.path}, where the checkpoints of this training go: "
            "save the run in a directory that all machines of the cluster share"
        )
