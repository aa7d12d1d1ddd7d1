"""The commands of the desk: `carryout requests`, which asks a running Carryout for exports on users' behalf."""

import uuid

import click
import msgspec

from client.cli import EXIT_CODES, run
from client.options import Service, service_options
from guard.records import echo_columns, echo_json
from guard.terminal import echo

COLUMNS = {
    "job_id": "job",
    "user_id": "user",
    "status": "status",
    "requested_by": "requested by",
    "received_at": "received",
    "due_at": "due",
    "answered_at": "answered",
    "reason": "reason",
}
key_options = service_options("key", "CARRYOUT_API_KEY", lambda key: {"X-API-Key": key})


@click.group()
def requests() -> None:
    """Ask for exports on users' behalf, and list the requests, with the API key in CARRYOUT_API_KEY."""


@requests.command("create", epilog=EXIT_CODES)
@key_options
@click.option("--user-id", help="The user's id, as in their token.")
@click.option("--email", help="The user's e-mail address, instead of --user-id.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "json", "ndjson", "xlsx", "zip"]),
    default="zip",
    show_default=True,
)
@click.option("--section", "sections", multiple=True, metavar="NAME", help="Only this section; may be repeated.")
@click.option("--from", "start", metavar="TIME", help="Only from this date (2025-01-31) or RFC 3339 time on.")
@click.option("--to", "end", metavar="TIME", help="Only before this date or time.")
@click.option("--since", metavar="JOB_ID", help="Only what is new since this export of the user.")
@click.option("--reason", required=True, help="Why you ask, in one line. The user reads it.")
@click.option("--received-at", metavar="TIME", help="When the user's request arrived. Default: now.")
@click.option("--idempotency-key", help="Repeat a request with the same key, and none is made twice within a day.")
def create(  # noqa: PLR0913 (its options)
    service: Service,
    *,
    user_id: str | None,
    email: str | None,
    format_: str,
    sections: tuple[str, ...],
    start: str | None,
    end: str | None,
    since: str | None,
    reason: str,
    received_at: str | None,
    idempotency_key: str | None,
) -> None:
    """Ask for an export on a user's behalf, and print its job. The link is mailed to the user.

    The key needs the scope requests:create.
    """
    from client import work  # noqa: PLC0415 (aiohttp takes longer to load than `--help` should)

    given = {
        "user_id": user_id,
        "email": email,
        "format": format_,
        "sections": sections or None,
        "from": start,
        "to": end,
        "since": since,
        "reason": reason,
        "received_at": received_at,
    }
    body = {name: value for name, value in given.items() if value is not None}
    made = run(service, work.create_request(service, body, idempotency_key or str(uuid.uuid4())))
    echo(str(made["job_id"]))


@requests.command("list", epilog=EXIT_CODES)
@key_options
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Maximum number of requests.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_requests(service: Service, *, limit: int, as_json: bool) -> None:
    """List the requests, newest first: who asked for whom, why, and until when.

    The key needs the scope requests:read.
    """
    from client import work  # noqa: PLC0415 (likewise)

    found = run(service, work.list_requests(service, limit))
    if as_json:
        echo_json(found)
    else:
        echo_columns([list(COLUMNS.values()), *([_cell(one.get(name)) for name in COLUMNS] for one in found)])


@requests.command("show", epilog=EXIT_CODES)
@key_options
@click.argument("job_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(service: Service, *, job_id: uuid.UUID, as_json: bool) -> None:
    """Show the request JOB_ID.

    The key needs the scope requests:read.
    """
    from client import work  # noqa: PLC0415 (likewise)

    found = run(service, work.show_request(service, str(job_id)))
    if as_json:
        echo_json([found])
    else:
        echo_columns([[name, _cell(value)] for name, value in found.items()])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
