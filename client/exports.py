"""A user's export: asked for, waited for, downloaded, checked."""

import asyncio
from typing import NamedTuple

from client.api import Api, Export
from client.console import Console
from client.downloads import Download, RemoteFile
from client.errors import ExportFailedError, InProgressError, RefusedError
from client.http import safe_target
from client.outputs import Output

RUNNING = frozenset({"pending", "processing"})


class Job(NamedTuple):
    """An export to wait for; the server advises to look at it after `wait_seconds`."""

    id: str
    wait_seconds: float = 0


async def request_export(api: Api, format_: str, console: Console, *, wait: bool) -> Job:
    """A new export or, with `wait`, the one in progress; without, that one is an InProgressError."""
    try:
        accepted = await api.create_export(format_)
    except InProgressError as error:
        if error.job_id is None or not wait:
            raise
        console.say(f"An export is already in progress, waiting for it: job {error.job_id}")
        return Job(error.job_id)
    console.say(f"The export is job {accepted.job_id}")
    return Job(accepted.job_id, accepted.wait_seconds)


async def wait_for(api: Api, job: Job, format_: str | None, console: Console) -> Export:
    """The export, completed. Raises ExportFailedError, and InProgressError if it is in another format than that."""
    export = await api.show_export(job.id)
    if format_ not in {None, export.format}:
        raise InProgressError(f"Job {job.id} is an export as {export.format}, not {format_}")
    if export.status in RUNNING:
        wait_seconds = min(job.wait_seconds, api.backoff.max_seconds)  # an estimate of hours must not hide progress
        export = await _watch(api, export, wait_seconds, console)
    if export.status == "failed":
        raise ExportFailedError(f"The export failed: {export.error_message} (job {job.id})")
    return export


async def _watch(api: Api, export: Export, wait_seconds: float, console: Console) -> Export:
    """The export once it has ended; looked at after `wait_seconds`, then at growing intervals."""
    delays = api.backoff.delays()
    with console.progress("Waiting", "records", export.progress.records_total) as advance:
        while export.status in RUNNING:
            advance(export.progress.records_done)
            await asyncio.sleep(max(wait_seconds, next(delays)))
            wait_seconds = 0
            export = await api.show_export(export.job_id)
        advance(export.progress.records_done)
    return export


async def download_export(api: Api, export: Export, output: Output, console: Console) -> None:
    """Raises ChecksumError, or IncompleteError after all tries."""
    if export.download_url is None or export.size_bytes is None or export.sha256 is None:
        raise RefusedError(f"The file is gone: it expired or was deleted (job {export.job_id})")
    file = RemoteFile(safe_target(api.url, export.download_url), export.size_bytes, export.sha256)
    with console.progress("Downloading", "bytes", file.size_bytes) as advance:
        await Download(api.session, file, output, api.retry(), advance).run()


async def stream_export(api: Api, format_: str, output: Output, console: Console) -> None:
    """Straight from the server's database, with no job: what breaks can only begin again, so nothing of it is kept."""
    try:
        with console.progress("Receiving", "bytes") as advance:
            async with api.open_document("api/export/stream", {"format": format_}) as response:
                async for chunk in response.content.iter_any():
                    output.write(chunk)
                    advance(output.size_bytes)
    except BaseException:
        output.discard()
        raise
    output.finish()
