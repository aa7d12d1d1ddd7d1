"""Requests a user's export, waits for it, downloads and checks it."""

import asyncio
from typing import NamedTuple

from client.api import ALL, Api, Export, Selection
from client.console import Console
from client.downloads import Download, RemoteFile
from client.errors import ExportFailedError, InProgressError, RefusedError
from client.http import safe_target
from client.outputs import Output
from client.words import gettext, records, size

RUNNING = frozenset({"pending", "processing"})


class Job(NamedTuple):
    """An export to wait for; the server advises to check it after `wait_seconds`."""

    id: str
    wait_seconds: float = 0


async def find_last(api: Api, selection: Selection) -> str | None:
    """The newest export of the same sections whose file works."""
    for export in await api.list_exports():
        if export.download_url and export.filter.sections == selection.sections:
            return export.job_id
    return None


async def request_export(api: Api, format_: str, console: Console, *, wait: bool, selection: Selection = ALL) -> Job:
    """A new export or, with `wait`, the one in progress. Without `wait`, raises InProgressError for that one."""
    try:
        accepted = await api.create_export(format_, selection)
    except InProgressError as error:
        if error.job_id is None or not wait:
            raise
        if selection != (await api.show_export(error.job_id)).filter:
            other = gettext("An export of another part of the data is in progress")
            raise InProgressError(other, job_id=error.job_id) from None
        console.say(gettext("An export is already in progress, waiting for it: job %(job_id)s", job_id=error.job_id))
        return Job(error.job_id)
    console.say(gettext("The export is job %(job_id)s", job_id=accepted.job_id))
    return Job(accepted.job_id, accepted.wait_seconds)


async def wait_for(api: Api, job: Job, format_: str | None, console: Console) -> Export:
    """The export, completed. Raises ExportFailedError, and InProgressError if it has another format."""
    export = await api.show_export(job.id)
    if format_ not in {None, export.format}:
        sentence = gettext(
            "Job %(job_id)s has the format %(format)s, not %(wanted)s",
            job_id=job.id,
            format=export.format,
            wanted=format_,
        )
        raise InProgressError(sentence)
    if export.status in RUNNING:
        wait_seconds = min(job.wait_seconds, api.backoff.max_seconds)  # an estimate of hours must not hide progress
        export = await _watch(api, export, wait_seconds, console)
    if export.status == "failed":
        failed = gettext("The export failed: %(reason)s (job %(job_id)s)", reason=export.error_message, job_id=job.id)
        raise ExportFailedError(failed)
    return export


async def _watch(api: Api, export: Export, wait_seconds: float, console: Console) -> Export:
    """The ended export; polled after `wait_seconds`, then with exponential backoff. Attachments follow the records."""
    delays = api.backoff.delays()

    async def poll(export: Export) -> Export:
        nonlocal wait_seconds
        await asyncio.sleep(max(wait_seconds, next(delays)))
        wait_seconds = 0
        return await api.show_export(export.job_id)

    with console.progress(gettext("Waiting"), records, export.progress.records_total) as advance:
        while export.status in RUNNING and not export.progress.bytes_done:
            advance(export.progress.records_done)
            export = await poll(export)
        advance(export.progress.records_done)
    if export.status in RUNNING:
        with console.progress(gettext("Attachments"), size, export.progress.bytes_total) as advance:
            while export.status in RUNNING:
                advance(export.progress.bytes_done)
                export = await poll(export)
            advance(export.progress.bytes_done)
    return export


async def download_export(api: Api, export: Export, output: Output, console: Console) -> None:
    """Raises ChecksumError, or IncompleteError when the retry budget is used up."""
    if export.download_url is None or export.size_bytes is None or export.sha256 is None:
        gone = gettext("The file is gone: it expired or was deleted (job %(job_id)s)", job_id=export.job_id)
        raise RefusedError(gone)
    file = RemoteFile(safe_target(api.url, export.download_url), export.size_bytes, export.sha256)
    with console.progress(gettext("Downloading"), size, file.size_bytes) as advance:
        await Download(api.session, file, output, api.retry(), advance).run()


async def stream_export(api: Api, format_: str, output: Output, console: Console, selection: Selection = ALL) -> None:
    """Stream from the server's database. A broken stream can't be resumed, so its bytes are discarded."""
    try:
        with console.progress(gettext("Receiving"), size) as advance:
            async with api.open_document("api/export/stream", {"format": format_, **selection.query}) as response:
                async for chunk in response.content.iter_any():
                    output.write(chunk)
                    advance(output.size_bytes)
    except BaseException:
        output.discard()
        raise
    output.finish()
