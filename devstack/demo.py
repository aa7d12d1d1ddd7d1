"""`make demo`: run every kind of export against real servers, and check and show each step."""

import asyncio
import csv
import email
import email.policy
import hashlib
import itertools
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import aiohttp
import msgspec

from devstack.dev import CARRYOUT, DATASETS, open_service
from devstack.pictures import LOST, NAMES, STORES, create_pictures, upload_pictures, write_datasets
from devstack.ports import keep_port
from devstack.sample import ADA, USER_50000, load_sample
from devstack.stack import Stack, open_stack
from guard.files import open_private
from guard.terminal import echo
from service.access.api_keys import KeyRepository, Scope
from service.access.tokens import create_token
from service.backends.database import connect
from service.backends.storage import open_storage
from service.errors import ServiceError
from service.settings import Settings

TOKEN_TTL_SECONDS: Final = 3_600
SHOWN_LINES: Final = 3
SHOWN_CHARACTERS: Final = 116
WATCH_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 120
# A part of every password hash in the sample.
SECRET: Final = b"canary-never-exported"
# With the names of forbidden columns, which only a package tells: it says what is left out.
FORBIDDEN: Final = (SECRET, b"password_hash", b"internal_id")


class DemoError(ServiceError):
    """The demo found a difference from the README's promises."""


async def run_demo(data_dir: Path) -> None:
    """Raises DemoError, or the error of a step, so that the command's exit status shows the result."""
    started = time.monotonic()
    again = {"CARRYOUT_EXPORTS_PER_HOUR": "1000", "CARRYOUT_KEPT_FILES": "1000"}  # the demo may be run again
    datasets = data_dir / "datasets"
    bucket = os.environ.get("CARRYOUT_S3_BUCKET", "carryout")
    pictures = {DATASETS: str(datasets), "CARRYOUT_FILE_STORES": STORES.format(bucket=bucket)}
    environ = dict(os.environ) | again | pictures
    echo("Starting PostgreSQL, Redis, S3, a mail server, the API and a worker; loading the sample application")
    async with open_stack(data_dir, environ) as stack:
        write_datasets(datasets)
        await load_sample(stack.admin_url)
        await create_pictures(stack.admin_url, ADA)
        port = keep_port(data_dir / "run" / "api.port")
        async with open_service(stack, port) as settings, aiohttp.ClientSession() as session:
            echo(f"  ready after {time.monotonic() - started:.1f} s: {settings.public_url}")
            files = data_dir / "files"
            files.mkdir(mode=0o700, exist_ok=True)
            await _Demo(stack, settings, session, files).run()
    echo("", f"Done in {time.monotonic() - started:.1f} s. The files are in {files}")


class _Demo:
    def __init__(self, stack: Stack, settings: Settings, session: aiohttp.ClientSession, files: Path) -> None:
        self._stack = stack
        self._settings = settings
        self._session = session
        self._files = files

    async def run(self) -> None:
        csv_records = await self._small("csv")
        json_records = await self._small("json")
        _require(csv_records == json_records, "CSV and JSON hold different numbers of records")
        await self._queued()
        await self._package()
        await self._stream("csv")
        await self._stream("json")
        await self._operators()

    async def _small(self, format_: str) -> int:
        """An export of fewer than 1,000 records: the file exists when the response arrives."""
        with _step(f"Small {format_.upper()} export: POST /api/export, then its signed link"):
            export = await self._call("POST", "/api/export", ADA, body={"format": format_}, wanted=201)
            path = self._files / f"small.{format_}"
            await self._download(export["download_url"], path)
            await self._check(path, ADA, export)
        return cast(int, export["record_count"])

    async def _queued(self) -> None:
        """A larger export: queued, polled, and announced by a mail; its link needs no credentials."""
        with _step("Queued CSV export of 50,000 records: POST /api/export, progress, mail"):
            asked = await self._call("POST", "/api/export", USER_50000, body={"format": "csv"}, wanted=202)
            echo(f"  202 {asked['status']}, {asked['estimated_records']:,} records expected")
            export = await self._watch(asked["job_id"], USER_50000)
            mail = await self._find_mail(asked["job_id"])
            body = mail.get_body(("plain",))
            text = body.get_content() if body else ""
            echo(f"  mail to {mail['To']}: {mail['Subject']}")
            echo(*(f"  │ {line}" for line in text.strip().splitlines()))
            link = re.search(r"https?://\S+/download\?\S+", text)
            _require(link is not None, "the mail has no link")
            path = self._files / "queued.csv"
            await self._download(link[0] if link else "", path)
            await self._check(path, USER_50000, export)

    async def _package(self) -> None:
        """A ZIP to read and keep, with the user's pictures; one of them is lost, and the package says so."""
        with _step("Package with pictures: POST /api/export, carryout verify, unpacked"):
            async with open_storage(self._settings) as storage:
                await upload_pictures(storage, ADA)
            asked = await self._call("POST", "/api/export", ADA, body={"format": "zip"}, wanted=202)
            export = await self._watch(asked["job_id"], ADA)
            _require(export["files"] == {"included": len(NAMES), "missing": 1}, f"it has {export['files']}")
            path, folder = self._files / "package.zip", self._files / "package"
            await self._download(export["download_url"], path)
            await _verify(path)
            shutil.rmtree(folder, ignore_errors=True)
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            _require(LOST in (folder / "pictures-files.html").read_text(), "it is silent about the lost picture")
            _require('"content.html#row-1"' in (folder / "pictures.html").read_text(), "no picture leads to its text")
            for file in filter(Path.is_file, folder.rglob("*")):
                _require(SECRET not in file.read_bytes(), f"{file.name} contains {SECRET.decode()}")
            echo(f"  {folder / 'index.html'}: open it in a browser · no forbidden data in it")

    async def _watch(self, job_id: str, user_id: UUID) -> dict[str, Any]:
        shown = -1
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                export = await self._call("GET", f"/api/export/{job_id}", user_id)
                progress = export["progress"]
                if progress["records_done"] != shown:
                    shown = progress["records_done"]
                    echo(f"  {export['status']}: {shown:,} of {progress['records_total']:,}")
                _require(export["status"] != "failed", f"the export failed: {export['error_message']}")
                if export["status"] == "completed":
                    return export
                await asyncio.sleep(WATCH_SECONDS)

    async def _find_mail(self, job_id: str) -> EmailMessage:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for path in sorted(self._stack.mail_dir.glob("*.eml"), reverse=True):
                    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                    body = mail.get_body(("plain",))
                    if body and job_id in body.get_content():
                        return mail
                await asyncio.sleep(WATCH_SECONDS)

    async def _stream(self, format_: str) -> None:
        with _step(f"Live {format_.upper()} stream of 50,000 records: GET /api/export/stream"):
            path = self._files / f"stream.{format_}"
            url = f"{self._settings.public_url}/api/export/stream?format={format_}"
            await self._download(url, path, self._headers(USER_50000))
            await self._check(path, USER_50000, None)

    async def _operators(self) -> None:
        """The steps of an operator's script: create a key, download the list of all users."""
        with _step("Operators' CSV of all users: carryout keys create, GET /api/v1/users/export-full"):
            async with connect(self._settings.database_url) as connection:
                name = f"demo-{time.time_ns()}"
                _, key = await KeyRepository().create(
                    connection, name=name, scopes=[Scope.USERS_EXPORT_FULL], expires_in_days=1
                )
            path = self._files / self._settings.users_full_filename
            url = f"{self._settings.public_url}/api/v1/users/export-full?format=csv"
            await self._download(url, path, {"X-API-Key": key})
            await self._check(path, ADA, None)

    async def _call(
        self, method: str, path: str, user_id: UUID, *, body: dict[str, str] | None = None, wanted: int = 200
    ) -> dict[str, Any]:
        async with self._session.request(
            method, self._settings.public_url + path, headers=self._headers(user_id), json=body
        ) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
        _require(response.status == wanted, f"{method} {path} answered {response.status}: {answer.get('detail')}")
        return answer

    def _headers(self, user_id: UUID) -> dict[str, str]:
        return {"Authorization": f"Bearer {create_token(self._settings, str(user_id), TOKEN_TTL_SECONDS)}"}

    async def _download(self, url: str, path: Path, headers: dict[str, str] | None = None) -> None:
        async with self._session.get(url, headers=headers) as response:
            _require(response.status == 200, f"the download answered {response.status}")  # noqa: PLR2004 (OK)
            with os.fdopen(open_private(path), "r+b") as file:
                file.truncate()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    file.write(chunk)

    async def _check(self, path: Path, user_id: UUID, export: dict[str, Any] | None) -> None:
        """Check that the file is complete, matches the export's row, and has no forbidden data."""
        content = path.read_bytes()
        records = _count_records(path)
        for forbidden in FORBIDDEN:
            _require(forbidden not in content, f"{path.name} contains {forbidden.decode()}")
        if export:
            _require(records == export["record_count"], f"{path.name} holds {records} records")
            row = await self._call("GET", f"/api/export/{export['job_id']}", user_id)
            _require(hashlib.sha256(content).hexdigest() == row["sha256"], f"{path.name} has another checksum")
        echo(f"  {path} · {records:,} records · {len(content):,} bytes · no forbidden data in it")
        for line in itertools.islice(content.decode().splitlines(), SHOWN_LINES):
            echo(f"  │ {line[:SHOWN_CHARACTERS]}{'…' if len(line) > SHOWN_CHARACTERS else ''}")


def _count_records(path: Path) -> int:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    document = msgspec.json.decode(path.read_bytes())
    return 1 + sum(len(section) for section in document.values() if isinstance(section, list))


async def _verify(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(*CARRYOUT, "verify", path, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    _require(process.returncode == 0, f"carryout verify {path.name} ended with status {process.returncode}")
    echo(*(f"  │ {line}" for line in out.decode().splitlines()))


@contextmanager
def _step(title: str) -> Iterator[None]:
    echo("", title)
    started = time.monotonic()
    yield
    echo(f"  took {time.monotonic() - started:.2f} s")


def _require(true: bool, otherwise: str) -> None:  # noqa: FBT001 (reads like assert, which -O would drop)
    if not true:
        raise DemoError(otherwise)
