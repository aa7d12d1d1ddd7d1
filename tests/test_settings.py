"""Settings come from the environment alone, are right or named, and stand in the README as they are."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from service.backends.smtp import Mailer
from service.errors import ConfigurationError
from service.settings import DATABASES, PREFIX, SQL_DIR, Settings, from_env
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
    text = "" if field.default is None else text
    text = text.lower() if isinstance(field.default, bool) else text
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


WRONG_WEBHOOK_SECRET = (
    "CARRYOUT_WEBHOOK_SECRETS needs whsec_ and 24 to 64 random bytes in base64 for each secret, but entry 2 differs"
)
WEBHOOK = {"CARRYOUT_WEBHOOK_URL": "https://app.example.org/hook", "CARRYOUT_WEBHOOK_SECRETS": f"whsec_{'A' * 32}"}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"CARRYOUT_WEBHOOK_URL": "http://app.example.org"}, "CARRYOUT_WEBHOOK_URL must begin with https://"),
        ({"CARRYOUT_WEBHOOK_SECRETS": ""}, "CARRYOUT_WEBHOOK_SECRETS is needed with CARRYOUT_WEBHOOK_URL"),
        *(
            (
                {"CARRYOUT_WEBHOOK_SECRETS": f"whsec_{'A' * 32},{secret}"},
                WRONG_WEBHOOK_SECRET,
            )
            for secret in ("A" * 32, f"whsec_{'A' * 28}", f"whsec_{'?' * 32}", f"whsec_{'A' * 88}")
        ),
    ],
)
def test_wrong_settings_of_the_webhook(given: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_env(REQUIRED | WEBHOOK | given)
    assert str(caught.value) == fault


def test_a_receiver_inside_the_network_may_do_without_tls() -> None:
    inside = {"CARRYOUT_WEBHOOK_URL": "http://app:8080/hook", "CARRYOUT_WEBHOOK_ALLOW_PRIVATE": "true"}
    assert from_env(REQUIRED | WEBHOOK | inside).webhook_allow_private


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
        ("CARRYOUT_REDIS_URL", "redis://:57#hunter2@localhost:6379/0"),  # its password's digits pass for a port
        ("CARRYOUT_REDIS_URL", "redis://:57/hunter2@localhost:6379/0"),
        ("CARRYOUT_REDIS_URL", "redis://:hunter2+/=@localhost:6379/0"),
        ("CARRYOUT_DATABASE_URL", "postgresql://user:hunt#er2@localhost/carryout"),
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
        ("CARRYOUT_LINK_SECRETS", f"{SECRET};{SECRET[::-1]}"),
        ("CARRYOUT_LINK_SECRETS", f"{SECRET[::-1]}, {SECRET} {SECRET[::-1]}"),
        ("CARRYOUT_JWT_SECRET", f"{SECRET}|{SECRET[::-1]}"),
        ("CARRYOUT_JWT_SECRET", f"{SECRET},short"),
        ("CARRYOUT_LINK_SECRETS", "short"),
        ("CARRYOUT_LINK_SECRETS", f"{SECRET},short"),
        ("CARRYOUT_LINK_SECRETS", "a" * 32),
        ("CARRYOUT_JWT_SECRET", "short"),
        ("CARRYOUT_JWT_SECRET", ""),
        ("CARRYOUT_JWT_REQUIRED_CLAIMS", "access"),
        ("CARRYOUT_JWT_REQUIRED_CLAIMS", "type=access,scope="),
        ("CARRYOUT_JWT_REQUIRED_CLAIMS", "=access"),
        ("CARRYOUT_JWT_TOKEN_TYPES", ","),
        ("CARRYOUT_JWT_AUDIENCE_CLAIM", "client_id"),
        ("CARRYOUT_CORS_ORIGINS", "*"),
        ("CARRYOUT_CORS_ORIGINS", "null"),
        ("CARRYOUT_CORS_ORIGINS", "app.example.org"),
        ("CARRYOUT_CORS_ORIGINS", "https://app.example.org/app"),
        ("CARRYOUT_CORS_ORIGINS", "https://app.example.org,https://*.example.org/"),
        ("CARRYOUT_CORS_ORIGINS", "https://user@app.example.org"),
        ("CARRYOUT_CORS_ORIGINS", "https://app.example.org:port"),
        ("CARRYOUT_JWT_JWKS_URL", "https://idp.example.com/jwks"),
        ("CARRYOUT_OIDC_ISSUER", "https://id.example.com"),
        ("CARRYOUT_OIDC_CLIENT_ID", "page"),
        ("CARRYOUT_SIGN_IN_URL", "javascript:alert(1)"),
        ("CARRYOUT_SIGN_IN_URL", "/login"),
        ("CARRYOUT_FILE_STORES", "uploads"),
        ("CARRYOUT_FILE_STORES", "s3://uploads/photos"),
        ("CARRYOUT_FILE_STORES", "Uploads=s3://uploads"),
        ("CARRYOUT_FILE_STORES", "uploads=https://uploads.example.org"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://uploads/../exports"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://uploads//photos"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://uploads/{user}"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://uploads/{user_id}/{user_id}"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://a,uploads=s3://b"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://exports"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://exports/exports"),
        ("CARRYOUT_FILE_STORES", "uploads=s3://exports/{user_id}"),
        ("CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL", "https://s3.example.org"),
        ("CARRYOUT_MAX_EXPORT_BYTES", "0"),
    ],
)
def test_a_wrong_one_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b"):
        from_env(REQUIRED | {name: text})


@pytest.mark.parametrize("url", ["redis://:57#hunter2@localhost", "redis://:hunter2?@localhost"])
def test_what_a_password_holds_is_to_be_encoded(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^CARRYOUT_REDIS_URL is not a URL: percent-encode what is special in "
    ):
        from_env(REQUIRED | {"CARRYOUT_REDIS_URL": url})


def test_stores_have_options_of_their_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    given = {
        "CARRYOUT_FILE_STORES": "uploads=s3://shop.uploads/photos, avatars=s3://exports/avatars/{user_id}/",
        "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL": "https://s3.example.org",
        "CARRYOUT_FILE_STORE_UPLOADS_ACCESS_KEY_ID": "key",
        "CARRYOUT_FILE_STORE_UPLOADS_SECRET_ACCESS_KEY_FILE": str(secret),
    }
    uploads, avatars = from_env(REQUIRED | given).file_stores
    assert (uploads.bucket, uploads.prefix, uploads.endpoint_url) == (
        "shop.uploads",
        "photos/",
        "https://s3.example.org",
    )
    assert (uploads.access_key_id, uploads.secret_access_key) == ("key", "hidden")
    assert (avatars.bucket, avatars.prefix, avatars.access_key_id) == ("exports", "avatars/{user_id}/", "")
    assert "hidden" not in repr(uploads)


@pytest.mark.parametrize("option", ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"])
def test_a_store_has_both_halves_of_a_key(option: str) -> None:
    given = {"CARRYOUT_FILE_STORES": "uploads=s3://uploads", f"CARRYOUT_FILE_STORE_UPLOADS_{option}": "hunter2"}
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_FILE_STORE_UPLOADS_SECRET_ACCESS_KEY and .* go together$"):
        from_env(REQUIRED | given)


@pytest.mark.parametrize("url", ["ftp://s3", "s3.example.org", "https://s3?x=1"])
def test_the_endpoint_of_a_store_is_named(url: str) -> None:
    given = {"CARRYOUT_FILE_STORES": "uploads=s3://uploads", "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL": url}
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL "):
        from_env(REQUIRED | given)


@pytest.mark.parametrize(("jobs", "pool"), [("9", ""), ("", "3")])
async def test_every_export_of_a_worker_has_a_connection(jobs: str, pool: str) -> None:
    settings = from_env(REQUIRED | {"CARRYOUT_WORKER_JOBS": jobs, "CARRYOUT_POOL_SIZE": pool})
    sentence = rf"^CARRYOUT_WORKER_JOBS \({jobs or 4}\) must not exceed CARRYOUT_POOL_SIZE \({pool or 8}\)$"
    with pytest.raises(ConfigurationError, match=sentence):
        await work(settings)


@pytest.mark.parametrize(
    "text", ['"*password*,*_hash"', "'*password*'", "*password*\n*_hash", "\ufeff*password*", "*_hash # ours"]
)
def test_quotes_and_comments_around_column_names_are_refused(text: str) -> None:
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CARRYOUT_LOG_LEVEL", "hunter2"),
        ("CARRYOUT_MAX_EXPORT_RECORDS", "hunter2"),
        ("CARRYOUT_TRUSTED_PROXIES", "10.0.0.0/8,hunter2"),
        ("CARRYOUT_JWT_REQUIRED_CLAIMS", "type=access,hunter2"),
        ("CARRYOUT_LOG_PROBES", "hunter2"),
        ("CARRYOUT_REDIS_URL", "hunter2"),
    ],
)
def test_no_value_is_shown(name: str, text: str, tmp_path: Path) -> None:
    """A file's name may be that of a secret."""
    file = tmp_path / "value"
    file.write_text(text)
    given = {key: value for key, value in REQUIRED.items() if key != name}
    for environ in ({name: text}, {f"{name}_FILE": str(file)}):
        with pytest.raises(ConfigurationError, match=rf"^{name} ") as caught:
            from_env(given | environ)
        assert "hunter2" not in str(caught.value)


class TestFiles:
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_each_can_be_in_a_file(self, tmp_path: Path, ending: str) -> None:
        in_files = {}
        for name, text in REQUIRED.items():
            path = tmp_path / name
            path.write_bytes((text + ending).encode())
            in_files[f"{name}_FILE"] = str(path)
        assert from_env(in_files) == from_env(REQUIRED)

    def test_not_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(SECRET)
        with pytest.raises(
            ConfigurationError, match=r"^Set either CARRYOUT_JWT_SECRET or CARRYOUT_JWT_SECRET_FILE, not both$"
        ):
            from_env(REQUIRED | {"CARRYOUT_JWT_SECRET_FILE": str(path)})
        assert from_env(REQUIRED | {"CARRYOUT_JWT_SECRET": "", "CARRYOUT_JWT_SECRET_FILE": str(path)})

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (None, "names a file that can't be read: No such file or directory"),
            (b"\xff" * 40, "names a file that can't be read: it is not UTF-8"),
            (b"\n", "names an empty file"),
        ],
    )
    def test_an_unreadable_one_is_named(self, tmp_path: Path, content: bytes | None, fault: str) -> None:
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        environ = {name: text for name, text in REQUIRED.items() if name != "CARRYOUT_JWT_SECRET"}
        with pytest.raises(ConfigurationError, match=rf"^CARRYOUT_JWT_SECRET_FILE {fault}$"):
            from_env(environ | {"CARRYOUT_JWT_SECRET_FILE": str(path)})

    def test_an_impossible_name(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^CARRYOUT_SCHEMA_OWNER_FILE names a file that can't be read: "):
            from_env(REQUIRED | {"CARRYOUT_SCHEMA_OWNER_FILE": "/a\0b"})

    def test_of_no_setting(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^CARRYOUT_JWT_SECRETS_FILE is not a setting$"):
            from_env(REQUIRED | {"CARRYOUT_JWT_SECRETS_FILE": "/x"})


SERVICE_LINKS = {
    "{}_SERVICE_HOST": "10.0.0.7",
    "{}_SERVICE_PORT": "8000",
    "{}_SERVICE_PORT_HTTP": "8000",
    "{}_PORT": "tcp://10.0.0.7:8000",
    "{}_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "{}_PORT_8000_TCP_PROTO": "tcp",
    "{}_PORT_8000_TCP_PORT": "8000",
    "{}_PORT_8000_TCP_ADDR": "10.0.0.7",
}
"""The variables that Kubernetes makes of a service, and puts into every pod of its namespace."""


class TestServiceLinks:
    @pytest.mark.parametrize("service", ["CARRYOUT", "CARRYOUT_API", "CARRYOUT_WORKER_METRICS", "CARRYOUT_REDIS"])
    def test_are_no_settings(self, service: str) -> None:
        links = {name.format(service): text for name, text in SERVICE_LINKS.items()}
        assert from_env(REQUIRED | links) == from_env(REQUIRED)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("CARRYOUT_WORKER_METRIC_PORT", "9000"),
            ("CARRYOUT_API_PORT", "8000"),
            ("CARRYOUT_API_PORT_8000_TCP_ADDRS", "10.0.0.7"),
            ("CARRYOUT_SERVICE_HOSTS", "10.0.0.7"),
            ("CARRYOUT_REDIS_URI", "tcp://10.0.0.7:8000"),
        ],
    )
    def test_typing_mistakes_still_are_errors(self, name: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"^{name} is not a setting$"):
            from_env(REQUIRED | {name: text})

    def test_a_port_is_a_setting(self) -> None:
        assert from_env(REQUIRED | {"CARRYOUT_WORKER_METRICS_PORT": "9000"}).worker_metrics_port == 9_000


@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        ("https://Exports.example.com:8443/data", "exports.example.com"),
        ("https://exports.example.com./", "exports.example.com"),
        ("http://192.0.2.1:8000", "[192.0.2.1]"),
        ("http://[2001:db8::1]:8000", "[IPv6:2001:db8::1]"),
        ("https://exporte.müller.example", "exporte.xn--mller-kva.example"),
        ("http://carryout_api:8000", "carryout_api"),
    ],
)
def test_the_name_in_ehlo_is_the_host_of_the_public_url(public_url: str, name: str) -> None:
    settings = from_env(REQUIRED | {"CARRYOUT_PUBLIC_URL": public_url})
    assert settings.smtp_ehlo_name == name
    Mailer(settings.smtp_url, settings.mail_from, ehlo_name=settings.smtp_ehlo_name)  # which takes it


def test_the_name_in_ehlo_can_be_another() -> None:
    assert from_env(REQUIRED | {"CARRYOUT_SMTP_EHLO_NAME": "mail.example.com"}).smtp_ehlo_name == "mail.example.com"


def test_passwords_of_mail_servers_are_left_alone() -> None:
    url = "smtp://AKIA:abc/d+e=f[@email-smtp.example.com:587"
    assert from_env(REQUIRED | {"CARRYOUT_SMTP_URL": url}).smtp_url == url


def test_lists_are_separated_by_commas() -> None:
    other = SECRET[::-1]
    assert from_env(REQUIRED | {"CARRYOUT_LINK_SECRETS": f" {SECRET}, {other},"}).link_secrets == (SECRET, other)


def test_origins_are_as_browsers_write_them() -> None:
    given = "HTTPS://App.Example.org/, https://bücher.example:443,http://localhost:3000,http://[::1]:80"
    assert from_env(REQUIRED | {"CARRYOUT_CORS_ORIGINS": given}).cors_origins == (
        "https://app.example.org",
        "https://xn--bcher-kva.example",
        "http://localhost:3000",
        "http://[::1]",
    )


@pytest.mark.parametrize(
    "given", ["*", "https://*.example.org", "app.example.org", "https://app.example.org/data", "'self'", "null"]
)
def test_an_ancestor_is_an_origin(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_FRAME_ANCESTORS needs origins as https://"):
        from_env(REQUIRED | {"CARRYOUT_FRAME_ANCESTORS": f"https://app.example.org,{given}"})


def test_an_ancestor_is_as_safe_as_the_page() -> None:
    given = {"CARRYOUT_FRAME_ANCESTORS": "http://app.example.org:80"}
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_FRAME_ANCESTORS needs https://"):
        from_env(REQUIRED | given)
    by_http = from_env(REQUIRED | given | {"CARRYOUT_PUBLIC_URL": "http://exports.example.com"})
    assert by_http.frame_ancestors == ("http://app.example.org",)
    local = {"CARRYOUT_FRAME_ANCESTORS": "http://localhost:3000"}
    assert from_env(REQUIRED | local).frame_ancestors == ("http://localhost:3000",)


OIDC = {"CARRYOUT_OIDC_ISSUER": "https://id.example.com/realms/app/", "CARRYOUT_OIDC_CLIENT_ID": "page"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CARRYOUT_OIDC_ISSUER", "id.example.com"),
        ("CARRYOUT_OIDC_ISSUER", "https://id.example.com?tenant=1"),
        ("CARRYOUT_OIDC_SCOPES", "email"),
        ("CARRYOUT_OIDC_PARAMETERS", "audience"),
        ("CARRYOUT_OIDC_PARAMETERS", "redirect_uri=https://evil.example"),
        ("CARRYOUT_OIDC_ORIGINS", "https://oauth2.example.com/token"),
        ("CARRYOUT_OIDC_ORIGINS", "*"),
        ("CARRYOUT_SIGN_IN_URL", "https://app.example.com/login"),
        ("CARRYOUT_PUBLIC_URL", "http://exports.example.com"),
    ],
)
def test_a_wrong_one_of_the_sign_in_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b"):
        from_env(REQUIRED | OIDC | {name: text})


def test_an_issuer_stays_as_it_is_and_its_origin_is_called() -> None:
    further = {"CARRYOUT_OIDC_ORIGINS": "https://Oauth2.example.com:443/"}
    settings = from_env(REQUIRED | OIDC | further | {"CARRYOUT_PUBLIC_URL": "http://127.0.0.1:8000"})
    assert settings.oidc_issuer == "https://id.example.com/realms/app/"
    assert settings.oidc_origins == ("https://id.example.com", "https://oauth2.example.com")


def test_an_empty_one_has_its_default() -> None:
    assert from_env(REQUIRED | {"CARRYOUT_EXPORTS_PER_HOUR": ""}).exports_per_hour == 10


def test_a_base_ends_without_a_slash() -> None:
    assert (
        from_env(REQUIRED | {"CARRYOUT_PUBLIC_URL": "https://example.com/data/"}).public_url
        == "https://example.com/data"
    )


if __name__ == "__main__":
    print(settings_table(), end="")  # noqa: T201 (what it is for)


def test_a_traceback_shows_no_secrets() -> None:
    assert repr(from_env(REQUIRED)) == "Settings(…)"


class TestAuthorities:
    FILE = "/etc/private authorities.pem"

    @pytest.mark.parametrize(
        ("url", "added"),
        [
            ("postgresql://h/d?sslmode=verify-full", True),
            ("postgresql://h1,h2/d?x=y&sslmode=verify-ca", True),
            ("postgresql://h/d?sslmode=verify-full&sslrootcert=system", False),
            ("postgresql://h/d?sslmode=require", False),
            ("postgresql://h/d", False),
        ],
    )
    def test_a_database_is_given_them_where_it_is_verified(self, url: str, *, added: bool) -> None:
        settings = from_env(REQUIRED | {"CARRYOUT_DATABASE_URL": url, "CARRYOUT_CA_FILE": self.FILE})
        wanted = f"{url}&sslrootcert=%2Fetc%2Fprivate%20authorities.pem" if added else url
        assert {getattr(settings, name) for name in DATABASES} == {wanted}

    @pytest.mark.parametrize(
        ("url", "wanted"),
        [
            ("rediss://h/0", "rediss://h/0?ssl_ca_certs=%2Fetc%2Fprivate%20authorities.pem"),
            ("rediss+sentinel://h/s?a=b", "rediss+sentinel://h/s?a=b&ssl_ca_certs=%2Fetc%2Fprivate%20authorities.pem"),
            ("rediss://h/0?ssl_ca_certs=x", "rediss://h/0?ssl_ca_certs=x"),
            ("redis://h/0", "redis://h/0"),
        ],
    )
    def test_redis_is_given_them_with_tls(self, url: str, wanted: str) -> None:
        assert from_env(REQUIRED | {"CARRYOUT_REDIS_URL": url, "CARRYOUT_CA_FILE": self.FILE}).redis_url == wanted
