"""`pipelines doctor bundle`: what the checks found and the evidence, in one file without secrets."""

import io
import os
import tarfile
import time
from pathlib import Path

from pipelines_client.commands.doctor import looking, told
from pipelines_client.doctor.catalogue import chosen
from pipelines_client.doctor.evidence import collected
from pipelines_client.doctor.redaction import Redactor
from pipelines_client.doctor.report import document
from pipelines_client.doctor.running import RUN_SECONDS
from pipelines_client.documents import Bundled
from pipelines_client.errors import Code, Misused
from pipelines_client.screen import Screen

FOLDER = "pipelines-doctor"


def bundle(screen: Screen, file: str, *, url: str | None, context: str | None, namespace: str | None) -> Code:
    """Write it. It is this user's alone to read, and never replaces a file. OK also where a check failed."""
    path = Path(file)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise Misused(f"{file} cannot be written: {exc.strerror}", hint="name a file that is not there yet") from exc
    with (
        looking(url=url, context=context, namespace=namespace) as (sights, sides),
        os.fdopen(made, "wb") as out,
        tarfile.open(fileobj=out, mode="w:gz") as archive,
    ):
        screen.note("making the checks, then reading objects, events and logs …")
        report = document(told(sights, chosen(before=False, sides=sides), ends=time.monotonic() + RUN_SECONDS))
        files = []
        for name, text in collected(sights, sides, report.model_dump(mode="json"), Redactor()):
            content = text.encode()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
            files.append(name)
    shown = Bundled(file=str(path), bytes=path.stat().st_size, files=files, success=report.success)
    text = f"{len(files)} files, {shown.bytes / 1024:.0f} KiB: {path}"
    screen.show(shown, lambda: screen.line(f"{text}\nlook through it before you hand it on: tar -xzf {path}"))
    return Code.OK
