"""Download links: made by us or not found."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.access.links import LinkSigner
from service.errors import ExportNotFoundError

OLD, NEW = "old-secret-old-secret-old-secret-1", "new-secret-new-secret-new-secret-2"
JOB = UUID("0190b8a4-7c1e-7def-8000-0123456789ab")
EXPIRES_AT = datetime(2026, 1, 1, tzinfo=UTC)
QUERY = LinkSigner([NEW]).sign(JOB, EXPIRES_AT)


def verify(query: str, *, job_id: UUID = JOB, secrets: tuple[str, ...] = (NEW,)) -> None:
    parameters = parse_qs(query, keep_blank_values=True)
    (expires,), (signature,) = parameters.get("expires", [""]), parameters.get("signature", [""])
    LinkSigner(secrets).verify(job_id, expires, signature)


def test_layout_is_stable() -> None:
    message = b"carryout/download-link/v1\0" + JOB.bytes + (1767225600).to_bytes(8, "big")
    digest = hmac.new(NEW.encode(), message, hashlib.sha256).digest()
    signature = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert LinkSigner([NEW]).sign(JOB, EXPIRES_AT) == f"expires=1767225600&signature={signature}"


@example(JOB, datetime(6326, 1, 1, 0, 0, 0, 999985, tzinfo=UTC))  # its float timestamp rounds up
@given(
    job_id=st.uuids(),
    expires_at=st.datetimes(
        datetime(1970, 1, 2),  # noqa: DTZ001 (hypothesis wants naive bounds and adds the zone)
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
    ),
)
def test_round_trip(job_id: UUID, expires_at: datetime) -> None:
    query = LinkSigner([NEW]).sign(job_id, expires_at)
    verify(query, job_id=job_id)
    assert query.startswith(f"expires={int(expires_at.replace(microsecond=0).timestamp())}&")


def test_every_other_byte_at_every_place_fails() -> None:
    raw = QUERY.encode()
    for place in range(len(raw)):
        for byte in set(range(256)) - {raw[place]}:
            forged = raw[:place] + bytes([byte]) + raw[place + 1 :]
            with pytest.raises(ExportNotFoundError):
                verify(forged.decode("latin-1"))


@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None)])
def test_shortened_signature_fails(cut: slice) -> None:
    expires, signature = QUERY.removeprefix("expires=").split("&signature=")
    with pytest.raises(ExportNotFoundError):
        LinkSigner([NEW]).verify(JOB, expires, signature[cut])


@pytest.mark.parametrize(
    ("expires", "suffix"),
    [
        ("01767225600", ""),
        ("+1767225600", ""),
        (" 1767225600", ""),
        ("1767225600\n", ""),
        ("1_767_225_600", ""),
        ("1767225600.0", ""),
        ("１７６７２２５６００", ""),  # noqa: RUF001 (int() takes full-width digits)
        ("-1", ""),
        ("", ""),
        ("9" * 13, ""),
        ("9" * 5000, ""),
        ("1767225600", "="),
        ("1767225600", "\n"),
        ("1767225600", "A"),
    ],
)
def test_other_spellings_fail(expires: str, suffix: str) -> None:
    signature = QUERY.partition("signature=")[2] + suffix
    with pytest.raises(ExportNotFoundError):
        LinkSigner([NEW]).verify(JOB, expires, signature)


def test_rotation() -> None:
    old_link = LinkSigner([OLD]).sign(JOB, EXPIRES_AT)
    rotated = LinkSigner([NEW, OLD])
    assert rotated.sign(JOB, EXPIRES_AT) == QUERY
    verify(old_link, secrets=(NEW, OLD))
    with pytest.raises(ExportNotFoundError):
        verify(old_link, secrets=(NEW,))


def test_link_of_another_job_fails() -> None:
    with pytest.raises(ExportNotFoundError):
        verify(QUERY, job_id=uuid4())
