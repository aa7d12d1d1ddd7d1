"""Commands for operators: list the mails of exports, send mails again, and preview them."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from email.utils import make_msgid
from operator import attrgetter
from pathlib import Path

import click
import msgspec

from guard.terminal import echo
from languages.choice import LANGUAGES
from service.backends.database import Pool, connect, open_pool
from service.backends.mail_addresses import parse_mail_from
from service.bookkeeping.exports import ExportRepository
from service.bookkeeping.mails import MailFilter, MailSummary, Notification, NotificationRepository
from service.bookkeeping.outbox import EntryState
from service.branding.brand import Brand, load_brand
from service.cli.options import (
    Age,
    choice_of,
    env_file_option,
    limit_option,
    load_settings,
    open_database,
    since_option,
    user_id_of,
)
from service.cli.output import echo_found, json_option
from service.documents.datasets import Dataset, load_datasets
from service.mails import resending
from service.mails.messages import compose
from service.mails.own_templates import find_own_templates
from service.mails.recipients import find_recipient
from service.mails.samples import SAMPLES
from service.settings import Settings
from service.user_ids import parse_user_id

COLUMNS = {
    "job_id": "export",
    "user_id": "user",
    "kind": "kind",
    "state": "state",
    "attempts": "attempts",
    "created_at": "wanted",
    "next_attempt_at": "next attempt",
    "ended_at": "ended",
    "last_reply": "last reply",
}
SAMPLE_RECIPIENT = "user@example.com"
SOURCE = "CARRYOUT_SOURCE_DATABASE_URL"


class AddressedMail(MailSummary, frozen=True, kw_only=True):
    address: str | None


@click.group()
def mails() -> None:
    """List the mails of exports, send them again, and preview them."""


@mails.command("list")
@click.option("--user", help="Only mails to this user.")
@click.option("--state", type=choice_of(EntryState), help="Only mails in this state.")
@since_option
@limit_option("Maximum number of mails; the newest are shown.")
@click.option("--addresses", is_flag=True, help="Also show the user's address, as the application has it now.")
@json_option
@env_file_option
def list_mails(  # noqa: PLR0913 (a command's options)
    *,
    user: str | None,
    state: str | None,
    since: float | None,
    limit: int,
    addresses: bool,
    as_json: bool,
    env_file: Path | None,
) -> None:
    """List mails with their states, attempts and the mail server's last reply, newest first."""
    settings = load_settings(env_file)
    wanted = MailFilter(
        user_id=user_id_of(settings, user),
        state=EntryState(state) if state else None,
        since_seconds=since,
        limit=limit,
    )

    async def show() -> None:
        async with open_database(settings) as connection:
            found: AsyncGenerator[MailSummary] = _repository(settings).iterate_latest(connection, wanted)
            if addresses:
                found = _add_addresses(settings, found)
            columns = COLUMNS | ({"address": "address"} if addresses else {})
            await echo_found(found, columns.values(), attrgetter(*columns), as_json=as_json)

    asyncio.run(show())


@mails.command("resend")
@click.argument("job_id", type=click.UUID, required=False)
@click.option(
    "--failed-since",
    type=Age(),
    help="Resend all that failed in this time, for example 24h, and all that wait for their next attempt.",
)
@env_file_option
def resend_mails(job_id: uuid.UUID | None, failed_since: float | None, env_file: Path | None) -> None:
    """Send the mail of the export JOB_ID again, or all that failed lately.

    A mail that waits for its next attempt is tried at once. One that was sent doesn't change. An ambiguous mail may
    have arrived: before you name it, look for its Message-ID in the mail server's log.
    """
    if (job_id is None) == (failed_since is None):
        raise click.UsageError("Give either JOB_ID or --failed-since.")
    settings = load_settings(env_file)

    async def resend() -> list[Notification]:
        exports, repository = ExportRepository(lease_seconds=settings.lease_seconds), _repository(settings)
        async with open_database(settings) as connection:
            if job_id is not None:
                return await resending.resend(connection, exports, repository, job_id)
            assert failed_since is not None  # checked above
            return await resending.resend_failed(connection, exports, repository, since_seconds=failed_since)

    resent = asyncio.run(resend())
    if resent:
        echo(f"mails to send again: {len(resent)} (a worker does it within seconds)")
    else:
        echo("nothing to resend: each such mail was sent, or is due")


@mails.command("preview")
@click.option("--language", type=click.Choice(list(LANGUAGES)), help="Default: each.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("mail-preview"),
    show_default=True,
    help="Folder for the files.",
)
@env_file_option
def preview_mails(*, language: str | None, output: Path, env_file: Path | None) -> None:
    """Write what would be sent: each kind of mail with sample facts, whole (.eml) and its HTML for a browser."""
    settings = load_settings(env_file)
    sender = parse_mail_from(settings.mail_from)
    brand = load_brand(settings)
    own = find_own_templates(settings.templates_dir, brand)
    output.mkdir(parents=True, exist_ok=True)
    for tag in [language] if language else LANGUAGES:
        for kind, (facts, *_) in SAMPLES.items():
            mail = compose(
                kind,
                sender=sender,
                recipient=SAMPLE_RECIPIENT,
                message_id=make_msgid(domain=sender.domain),
                facts=facts,
                language=tag,
                brand=brand,
                own=own,
            )
            html = mail.get_body(("html",))
            assert html is not None  # every mail has both parts
            target = output / f"{kind}.{tag}.eml"
            target.write_bytes(mail.as_bytes())
            target.with_suffix(".html").write_text(_with_logo(html.get_content(), brand), encoding="utf-8")
            echo(str(target))


def _with_logo(html: str, brand: Brand) -> str:
    """A browser has no parts of a mail to look for the logo in."""
    return html.replace(brand.mail_logo, brand.embedded_logo) if brand.mail_logo else html


async def _add_addresses(settings: Settings, found: AsyncGenerator[MailSummary]) -> AsyncGenerator[AddressedMail]:
    async with _open_source(settings) as (source, profile), aclosing(found):
        async for mail in found:
            found_one = await find_recipient(
                source,
                profile,
                parse_user_id(mail.user_id, settings.user_id_type),
                since=mail.export_created_at,
                acquire_timeout_seconds=settings.acquire_timeout_seconds,
            )
            yield AddressedMail(**msgspec.structs.asdict(mail), address=found_one and found_one.address)


@asynccontextmanager
async def _open_source(settings: Settings) -> AsyncIterator[tuple[Pool, Dataset]]:
    async with connect(settings.source_database_url, name=SOURCE, own_search_path=True) as connection:
        datasets = await load_datasets(
            connection,
            Path(settings.datasets_dir),
            user_id_type=settings.user_id_type,
            forbidden=settings.forbidden_columns,
        )
    async with open_pool(
        settings.source_database_url, size=1, application_name="carryout-source", own_search_path=True
    ) as source:
        yield source, datasets[0]


def _repository(settings: Settings) -> NotificationRepository:
    return NotificationRepository(parse_mail_from(settings.mail_from).domain)
