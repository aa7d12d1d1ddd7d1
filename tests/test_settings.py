"""Settings come from the environment alone, are right or named, and stand in the README as they are."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from service.errors import ConfigurationError
from service.settings import PREFIX, SQL_DIR, Settings, from_env
from worker.main import work

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"
SECRET = "0123456789abcdef0123456789abcdef"
REQUIRED = {
    "CARRYOUT_DATABASE_URL": "postgresql://localhost/carryout",
    "CARRYOUT_REDIS_URL": "redis://localhost",
    "CARRYOUT_S3_BUCKET": "exports",
    "CARRYOUT_SMTP_URL": "smtp://localhost",
    "CARRYOUT_MAIL_FROM": "carryout@example.com",
    "CARRYOUT_PUBLIC_URL": "https://exports.example.com",
    "CARRYOUT_LINK_SECRETS": SECRET,
    "CARRYOUT_JWT_SECRET": SECRET,
}


def settings_table() -> str:
    """The README's table: `python -m tests.test_settings` prints it."""
    rows = [
        f"| `{PREFIX}{field.name.upper()}` | {_default(field)} | {_meaning(field)} |"
        for field in msgspec.structs.fields(Settings)
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""])


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    text = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
    return f"`{text.removeprefix(f'{SQL_DIR.parent}/')}`" if text else ""


def _meaning(field: msgspec.structs.FieldInfo) -> str:
    (meta,) = [extra for extra in get_args(field.type) if isinstance(extra, msgspec.Meta) and extra.description]
    return str(meta.description)


def test_readme_has_the_table() -> None:
    _, _, rest = README.read_text().partition(BEGIN)
    table, end, _ = rest.partition(END)
    assert end
    assert table.strip() == settings_table().strip()


def test_required_ones_suffice() -> None:
    settings = from_env(REQUIRED | {"PATH": "/bin"})
    assert settings.source_database_url == settings.database_url
    assert settings.jwt_algorithms == ("HS256",)
    assert (settings.small_export_records, settings.max_export_records) == (1_000, 100_000)
    assert settings.export_ttl_seconds == 7 * 24 * 60 * 60


@pytest.mark.parametrize("name", sorted(REQUIRED.keys() - {"CARRYOUT_JWT_SECRET"}))
@pytest.mark.parametrize("text", [None, "", "  "])
def test_a_missing_one_is_named(name: str, text: str | None) -> None:
    given = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(ConfigurationError, match=f"^{name} is not set$"):
        from_env(given if text is None else given | {name: text})


def test_all_missing_ones_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_env({"CARRYOUT_S3_BUCKET": "exports", "CARRYOUT_PUBLIC_URL": "https://exports.example.com"})
    assert str(caught.value) == (
        "CARRYOUT_DATABASE_URL, CARRYOUT_REDIS_URL, CARRYOUT_SMTP_URL, CARRYOUT_MAIL_FROM, CARRYOUT_LINK_SECRETS and "
        "CARRYOUT_JWT_SECRET (or CARRYOUT_JWT_PUBLIC_KEY_FILE or CARRYOUT_JWT_JWKS_URL) are not set"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CARRYOUT_MAX_EXPORT_RECORD", "1"),
        ("CARRYOUT_MAX_EXPORT_RECORDS", "many"),
        ("CARRYOUT_MAX_EXPORT_RECORDS", "0"),
        ("CARRYOUT_SMALL_EXPORT_RECORDS", "100001"),
        ("CARRYOUT_DRAIN_SECONDS", "-1"),
        ("CARRYOUT_WORKER_POLL_SECONDS", "60"),  # its probe would call the worker stuck
        ("CARRYOUT_WORKER_POLL_SECONDS", "1e-9"),
        ("CARRYOUT_WORKER_GRACE_SECONDS", "inf"),
        ("CARRYOUT_DRAIN_SECONDS", "inf"),
        ("CARRYOUT_DRAIN_SECONDS", "nan"),
        ("CARRYOUT_SHUTDOWN_GRACE_SECONDS", "86400"),
        ("CARRYOUT_SWEEP_SECONDS", "0.001"),
        ("CARRYOUT_ACQUIRE_TIMEOUT_SECONDS", "0"),
        ("CARRYOUT_ACQUIRE_TIMEOUT_SECONDS", "30"),  # as with the poll
        ("CARRYOUT_DOWNLOAD_MODE", "stream"),
        ("CARRYOUT_USER_ID_TYPE", "int"),
        ("CARRYOUT_LOG_LEVEL", "INFO"),
        ("CARRYOUT_DATABASE_URL", "mysql://localhost/carryout"),
        ("CARRYOUT_REDIS_URL", "localhost:6379"),
        ("CARRYOUT_SMTP_URL", "http://localhost"),
        ("CARRYOUT_SOURCE_DATABASE_URL", "mysql://localhost/app"),
        ("CARRYOUT_PUBLIC_URL", "exports.example.com"),
        ("CARRYOUT_PUBLIC_URL", "https://exports.example.com?tenant=1"),
        ("CARRYOUT_PUBLIC_URL", "https://exports.example.com#tenant"),
        ("CARRYOUT_PUBLIC_URL", "https://exports.example.com\nCARRYOUT_X=1"),
        ("CARRYOUT_SMTP_URL", "smtp://mail server"),
        ("CARRYOUT_OTLP_ENDPOINT", "collector:4318"),
        ("CARRYOUT_TRUSTED_PROXIES", "10.0.0.0/8,ingress"),
        ("CARRYOUT_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CARRYOUT_LINK_SECRETS", "short"),
        ("CARRYOUT_LINK_SECRETS", f"{SECRET},short"),
        ("CARRYOUT_LINK_SECRETS", "a" * 32),
        ("CARRYOUT_JWT_SECRET", "short"),
        ("CARRYOUT_JWT_SECRET", ""),
        ("CARRYOUT_JWT_JWKS_URL", "https://idp.example.com/jwks"),
    ],
)
def test_a_wrong_one_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b"):
        from_env(REQUIRED | {name: text})


@pytest.mark.parametrize(("jobs", "pool"), [("9", ""), ("", "3")])
async def test_every_export_of_a_worker_has_a_connection(jobs: str, pool: str) -> None:
    settings = from_env(REQUIRED | {"CARRYOUT_WORKER_JOBS": jobs, "CARRYOUT_POOL_SIZE": pool})
    sentence = rf"^CARRYOUT_WORKER_JOBS \({jobs or 4}\) must not exceed CARRYOUT_POOL_SIZE \({pool or 8}\)$"
    with pytest.raises(ConfigurationError, match=sentence):
        await work(settings)


@pytest.mark.parametrize(
    "text", ['"*password*,*_hash"', "'*password*'", "*password*\n*_hash", "\ufeff*password*", "*_hash # ours"]
)
def test_what_would_be_part_of_a_name_is_refused(text: str) -> None:
    """As `docker run --env-file` and Secrets pass it on: the columns would no longer be forbidden."""
    with pytest.raises(
        ConfigurationError, match=r"^CARRYOUT_FORBIDDEN_COLUMNS (is in quotes|has a (line break|comment))"
    ):
        from_env(REQUIRED | {"CARRYOUT_FORBIDDEN_COLUMNS": text})


def test_quotes_within_are_left_alone() -> None:
    sender = '"Ada, at work" <ada@example.com>'
    assert from_env(REQUIRED | {"CARRYOUT_MAIL_FROM": sender}).mail_from == sender


def test_a_secret_is_never_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_env(REQUIRED | {"CARRYOUT_LINK_SECRETS": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_lists_are_separated_by_commas() -> None:
    other = SECRET[::-1]
    assert from_env(REQUIRED | {"CARRYOUT_LINK_SECRETS": f" {SECRET}, {other},"}).link_secrets == (SECRET, other)


def test_an_empty_one_has_its_default() -> None:
    assert from_env(REQUIRED | {"CARRYOUT_EXPORTS_PER_HOUR": ""}).exports_per_hour == 10


def test_a_base_ends_without_a_slash() -> None:
    assert (
        from_env(REQUIRED | {"CARRYOUT_PUBLIC_URL": "https://example.com/data/"}).public_url
        == "https://example.com/data"
    )


if __name__ == "__main__":
    print(settings_table(), end="")  # noqa: T201 (what it is for)
