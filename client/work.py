"""The commands' work: copy documents from the service to the output."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from client import verification
from client.api import ALL, Api, Selection
from client.console import Console
from client.exports import Job, download_export, find_last, request_export, stream_export, wait_for
from client.http import open_session
from client.lists import CsvLayout, ListDownload, create_layout, download_whole, user_id_of
from client.options import Service, Target
from client.outputs import STANDARD_OUTPUT, open_output
from client.retries import Backoff
from client.words import files, gettext, ngettext, records, rows, size, users

PACKAGE = "zip"
MAX_PAGE_SIZE = 100
XLSX = "xlsx"  # its file is compressed as a whole, so it can't go on behind a row
LISTS = {"simple": "api/v1/users/export", "full": "api/v1/users/export-full"}


async def export(  # noqa: PLR0913 (the command's options)
    target: Target,
    format_: str | None,
    job_id: str | None,
    *,
    wait: bool,
    selection: Selection = ALL,
    since_last: bool = False,
) -> None:
    console = target.console
    with open_output(target.path, force=target.force, resume=job_id is not None) as output:
        async with _open_api(target) as api:
            if since_last:
                selection = await _since_last(api, selection, console)
            job = (
                Job(job_id)
                if job_id
                else await request_export(api, format_ or "csv", console, wait=wait, selection=selection)
            )
            console.resume_hint = target.resume_command("export", "--job", job.id)
            made = await wait_for(api, job, format_, console)
            await download_export(api, made, output, console)
        sentence = gettext(
            "%(path)s: %(records)s, %(size)s, checked",
            path=target.path,
            records=records(made.record_count or 0),
            size=size(output.size_bytes),
        )
        console.say(sentence)
        if made.format == PACKAGE and str(target.path) != STANDARD_OUTPUT:
            verify(target.path, console)


def verify(path: Path, console: Console) -> None:
    """Check a package against its manifest, and say what it holds. Raises ChecksumError and OutputError."""
    found = verification.verify(path, console)
    sentence = gettext(
        "%(path)s: %(files)s, %(size)s, all as the manifest says",
        path=path,
        files=files(found.files),
        size=size(found.size_bytes),
    )
    console.say(sentence)
    if found.missing:
        missing = ngettext(
            "%(number)s attachment could not be included; index.html says why",
            "%(number)s attachments could not be included; index.html says why",
            found.missing,
        )
        console.say(missing)


async def _since_last(api: Api, selection: Selection, console: Console) -> Selection:
    last = await find_last(api, selection)
    if last:
        console.say(gettext("Exporting what is new since job %(job_id)s", job_id=last))
    else:
        console.say(gettext("No earlier export has a file: exporting all"))
    return msgspec.structs.replace(selection, since=last)


async def export_live(target: Target, format_: str, selection: Selection = ALL) -> None:
    with open_output(target.path, force=target.force, resume=False) as output:
        async with _open_api(target) as api:
            await stream_export(api, format_, output, target.console, selection)
        target.console.say(gettext("%(path)s: %(size)s", path=target.path, size=size(output.size_bytes)))


async def list_users(target: Target, which: str, email: str | None, *, resume: bool) -> None:
    filters = {} if email is None else {"email": email}
    options = [f"--{name}={text}" for name, text in filters.items()]
    target.console.resume_hint = target.resume_command("users", which, *options, "--resume")
    with (
        open_output(target.path, force=target.force, resume=resume) as output,
        target.console.progress(gettext("Receiving"), users) as advance,
    ):
        async with _open_api(target) as api:
            query, layout = {"format": "csv", **filters}, CsvLayout(user_id_of)
            count = await ListDownload(api, LISTS[which], query, layout, output=output, advance=advance).run()
        sentence = gettext(
            "%(path)s: %(users)s, %(size)s", path=target.path, users=users(count), size=size(output.size_bytes)
        )
        target.console.say(sentence)


async def create_request(service: Service, body: Mapping[str, object], idempotency_key: str) -> dict[str, object]:
    async with _open_api(service) as api:
        job_id = await api.create_request(body, idempotency_key)
    sentence = gettext("The request is job %(job_id)s; its link will be mailed to the user", job_id=job_id)
    service.console.say(sentence)
    return {"job_id": job_id}


async def show_request(service: Service, job_id: str) -> dict[str, object]:
    async with _open_api(service) as api:
        return await api.show_request(job_id)


async def list_requests(service: Service, limit: int) -> list[dict[str, object]]:
    """The newest `limit` requests, newest first."""
    found: list[dict[str, object]] = []
    async with _open_api(service) as api:
        after: dict[str, str] = {}
        while len(found) < limit:
            page = await api.list_requests({"limit": str(min(MAX_PAGE_SIZE, limit - len(found))), **after})
            found += page.requests
            if page.next is None or not page.requests:
                break
            after = {"after": str(page.requests[-1]["job_id"])}
    return found


async def download_list(
    target: Target, name: str, format_: str, parameters: Mapping[str, str], *, resume: bool
) -> None:
    path, query = f"api/v1/lists/{name}", {"format": format_, **parameters}
    target.console.resume_hint = _resume_list(target, name, format_, parameters)
    with (
        open_output(target.path, force=target.force, resume=resume and format_ != XLSX) as output,
        target.console.progress(gettext("Receiving"), size if format_ == XLSX else rows) as advance,
    ):
        async with _open_api(target) as api:
            key = await api.find_list_key(name)
            if format_ == XLSX:
                await download_whole(api, path, query, output, advance)
                target.console.say(gettext("%(path)s: %(size)s", path=target.path, size=size(output.size_bytes)))
                return
            layout = create_layout(format_, name, key)
            count = await ListDownload(api, path, query, layout, output=output, advance=advance).run()
        sentence = gettext(
            "%(path)s: %(rows)s, %(size)s", path=target.path, rows=rows(count), size=size(output.size_bytes)
        )
        target.console.say(sentence)


def _resume_list(target: Target, name: str, format_: str, parameters: Mapping[str, str]) -> str:
    if format_ == XLSX:
        return ""
    options = [f"--param={name}={text}" for name, text in parameters.items()]
    return target.resume_command("list", name, f"--format={format_}", *options, "--resume")


@asynccontextmanager
async def _open_api(service: Service) -> AsyncIterator[Api]:
    async with open_session() as session:
        yield Api(session, service.url, service.credentials, backoff=Backoff(), say=service.console.say)
