"""The stores of attachments as settings: `uploads=s3://bucket/prefix`, and which keys in them are a user's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from service.errors import ConfigurationError
from service.user_ids import UserId

USER_ID: Final = "{user_id}"
STORE: Final = re.compile(r"(?P<name>[a-z][a-z0-9_]{0,40})=s3://(?P<bucket>[A-Za-z0-9._-]{1,255})(?:/(?P<prefix>.*))?")
# The characters that S3 calls safe in keys, and {user_id}; without the segments . and ..
PREFIX: Final = re.compile(r"(?:(?!\.{1,2}(?:/|$))(?:[\w!.*'()-]|\{user_id\})+(?:/|$)){0,20}", re.ASCII)
OPTIONS: Final = ("endpoint_url", "access_key_id", "secret_access_key")
# A server may take a backslash, or an empty segment, for another path than the one that was compared.
UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|(?:^|/)\.{0,2}(?:/|$)")
MAX_KEY_BYTES: Final = 1024


class FileStore(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, and the prefix of all keys that may be read in it; an empty option is that of the exports' storage.

    A prefix that holds `{user_id}` is another one for each user.
    """

    name: str
    bucket: str
    prefix: str = ""
    endpoint_url: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""

    def __repr__(self) -> str:
        """Without the secret, for tracebacks and debuggers."""
        return f"FileStore({self.name})"

    @property
    def common_prefix(self) -> str:
        """The part of the prefix that all users share."""
        return self.prefix.partition(USER_ID)[0]

    def may_hold(self, key: str, user_id: UserId) -> bool:
        """Whether the key is inside the store's prefix and, if that is per user, inside this user's."""
        owner = str(user_id)
        if USER_ID in self.prefix and "/" in owner:
            return False  # one user's prefix would lie inside another's
        prefix = self.prefix.replace(USER_ID, owner)
        return key.startswith(prefix) and len(key.encode()) <= MAX_KEY_BYTES and not UNSAFE.search(key)


def parse_stores(entries: Iterable[str]) -> Iterator[FileStore]:
    """Raises ConfigurationError, with no entry's text, for one that isn't a store."""
    names: set[str] = set()
    for position, entry in enumerate(entries, start=1):
        found = STORE.fullmatch(entry)
        prefix = (found["prefix"] or "") if found else ""
        if not found or not PREFIX.fullmatch(prefix) or prefix.count(USER_ID) > 1:
            raise ConfigurationError(
                f"CARRYOUT_FILE_STORES needs stores as uploads=s3://bucket/prefix, but entry {position} is none"
            )
        if found["name"] in names:
            raise ConfigurationError(f"CARRYOUT_FILE_STORES names the store {found['name']} twice")
        names.add(found["name"])
        yield FileStore(name=found["name"], bucket=found["bucket"], prefix=_with_slash(prefix))


def option_names(store: FileStore) -> dict[str, str]:
    """The settings' names of the store's options, and each option."""
    return {f"file_store_{store.name}_{option}": option for option in OPTIONS}


def with_options(store: FileStore, texts: Mapping[str, str]) -> FileStore:
    """The store with the options in `texts`, by their settings' names. Raises ConfigurationError for half a key."""
    options = {option: texts[name] for name, option in option_names(store).items() if name in texts}
    if ("access_key_id" in options) != ("secret_access_key" in options):
        name = f"CARRYOUT_FILE_STORE_{store.name.upper()}"
        raise ConfigurationError(f"{name}_SECRET_ACCESS_KEY and {name}_ACCESS_KEY_ID go together")
    return msgspec.structs.replace(store, **options)


def _with_slash(prefix: str) -> str:
    return f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
