"""Addresses as mail servers take them: those of users, as an application stores them, and the sender's."""

import re
from email import policy
from email.headerregistry import Address, HeaderRegistry
from functools import cache
from typing import Any

import idna

from service.errors import ConfigurationError


class _Headers(HeaderRegistry):
    """Makes the class of a header once, not for each header: that is a third of the CPU of a mail."""

    @cache  # noqa: B019 (one instance a process)
    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)


# Lines may be as long as SMTP allows, so that links aren't broken up.
POLICY = policy.SMTP.clone(cte_type="7bit", max_line_length=998, header_factory=_Headers())

# RFC 5321's Mailbox, without what real addresses lack: most quoted strings, and address literals. RFC 6531: not only
# ASCII.
ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-"
LABEL = r"(?!-)[A-Za-z0-9\u00a1-\U0010ffff-]{1,63}(?<!-)"
DOT_ATOM = re.compile(rf"[{ATEXT}]+(?:\.[{ATEXT}]+)*")
# Providers have given out addresses with dots where RFC 5321 allows them only in quotes, and users have them.
ADDRESS = re.compile(
    rf'(?P<quote>"?)(?P<local>[{ATEXT}.]*[{ATEXT}][{ATEXT}.]*)(?P=quote)@(?P<domain>{LABEL}(?:\.{LABEL})*)\.?'
)
# White space, and what a copied address may have around it without being seen.
BLANKS = " \t\r\n\v\f\u00a0\u200b\u200e\u200f\u2060\ufeff"
MAX_ADDRESS_BYTES = 254
MAX_LOCAL_BYTES = 64


def normalize_address(text: str) -> str | None:
    """The one address that `text` is, as RFC 5321 writes it; None for a name, a list or a comment beside it.

    Blanks around it are removed, and a dot behind the domain. Quotes are added or removed as the local part needs them.
    """
    trimmed = text.strip(BLANKS)
    match = ADDRESS.fullmatch(trimmed)
    if match is None or not trimmed.isprintable():
        return None
    local = match["local"] if DOT_ATOM.fullmatch(match["local"]) else f'"{match["local"]}"'
    address = f"{local}@{match['domain']}"
    fits = len(address.encode()) <= MAX_ADDRESS_BYTES and len(local.encode()) <= MAX_LOCAL_BYTES
    return address if fits else None


def with_ascii_domain(address: str) -> str:
    """The address as every mail server takes it (RFC 5891), unless its local part needs SMTPUTF8 all the same."""
    local, _, domain = address.rpartition("@")
    if domain.isascii() or not local.isascii():
        return address
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return address


def parse_mail_from(text: str) -> Address:
    """`a@example.org` or `Name <a@example.org>`."""
    header = POLICY.header_factory("From", text)
    addresses = header.addresses
    if header.defects or len(addresses) != 1 or not _is_plain(addresses[0].addr_spec) or not text.isprintable():
        raise ConfigurationError("CARRYOUT_MAIL_FROM must be one address: `a@example.org` or `Name <a@example.org>`")
    if not addresses[0].addr_spec.isascii():
        raise ConfigurationError("CARRYOUT_MAIL_FROM must be ASCII: not every mail server accepts more in addresses")
    sender: Address = addresses[0]
    return sender


def _is_plain(address: str) -> bool:
    return normalize_address(address) == address and '"' not in address
