"""What names tell: lists of words, made from the conventions of Rails, Django, Laravel, Prisma and Hibernate."""

import re

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

USERS_TABLES = (
    "users", "user", "auth_user", "app_user", "app_users", "accounts", "account", "user_account",
    "user_accounts", "user_entity", "local_user", "members", "member", "customers", "customer", "people",
    "person", "profiles", "profile",
)  # fmt: skip
EMAILS = (
    "email", "email_address", "emailaddress", "e_mail", "mail", "user_email", "primary_email",
)  # fmt: skip
NAMES = (
    "name", "full_name", "fullname", "display_name", "real_name", "username", "user_name", "login",
    "nickname", "handle", "screen_name",
)  # fmt: skip
HANDLES = (
    "username", "user_name", "login", "handle", "screen_name", "nickname", "display_name",
)  # fmt: skip

# Of a foreign key to the user: whose the row is.
SUBJECT = {
    "user", "account", "customer", "member", "person", "profile", "client", "buyer", "patient", "student",
    "subscriber", "employee", "contact", "guest", "shopper", "players", "player", "participant", "learner",
    "donor", "candidate", "applicant", "tenant", "driver", "passenger", "beneficiary",
}  # fmt: skip
AUTHOR = {
    "author", "sender", "poster", "commenter", "uploader", "writer", "reporter", "follower", "voter", "liker",
    "requester", "submitter", "blocker", "creator", "inviter", "from",
}  # fmt: skip
# Of a further foreign key to a person: whom the row's author reacts to; the row is still the author's own.
REACTED_TO = {
    "reply", "replied", "parent", "target", "mentioned",
}  # fmt: skip
# Of RUNS, those that don't only name whom the row is meant for.
WRITES = {
    "owner", "created",
}  # fmt: skip
MESSAGES = {
    "sender", "recipient", "receiver",
}  # fmt: skip
# Likewise, but what the row says, and what hangs below it, is as likely other people's.
RUNS = {
    "owner", "admin", "founder", "manager", "created", "organizer", "host", "leader", "recipient",
    "receiver",
}  # fmt: skip

# Parts of names: long enough to be nothing else, also run together.
SECRET_PARTS = re.compile(
    r"passw|passphrase|secret|token|api_?key|private_?key|access_?key|_hash|hashed|digest|crypt|cipher|credential"
    r"|signature|cookie|fingerprint|two_?factor|backup_?code|recovery|security_?(question|answer)|csrf"
    r"|session_?(id|key|data)|md_?5|sha_?\d|2_?fa|(magic|log_?in|sign_?in|reset|activation|verification)_?(link|url)"
)
SECRET_WORDS = {
    "pass", "pwd", "pw", "hash", "salt", "otp", "totp", "hotp", "mfa", "tfa", "pin", "pincode", "cvv",
    "cvc", "seed", "nonce", "iv", "hmac", "jwt", "otps", "passcode", "webauthn",
}  # fmt: skip
SECRET_TABLE_WORDS = {
    "token", "tokens", "password", "passwords", "credential", "credentials", "secret", "secrets", "otp",
    "totp", "nonce", "nonces", "webauthn", "passkey", "passkeys", "mfa",
}  # fmt: skip
STAFF_WORDS = {
    "internal", "admin", "superuser", "staff", "moderator", "moderation", "mod", "fraud", "risk", "spam", "abuse",
    "score", "trust", "note", "notes", "flag", "flags", "suspicious", "suspension", "ban", "banned", "silenced",
    "reason", "shadow", "debug", "raw", "legacy", "key", "code", "cache", "cached",
}  # fmt: skip
ADDRESS_WORDS = {
    "ip", "ips", "ipaddress", "useragent", "remote", "ipv4", "ipv6",
}  # fmt: skip
PERSON_WORDS = {
    "email", "mail", "phone", "birthday", "birthdate", "dob", "salary", "ssn", "surname", "gender",
}  # fmt: skip
PERSON_NAMES = {
    "first_name", "last_name", "full_name", "given_name", "family_name", "date_of_birth", "birth_date",
    "user_agent", "firstname", "lastname",
}  # fmt: skip
OTHERS = {
    "recipient", "contact", "emergency", "spouse", "partner", "parent", "child", "children", "kin",
    "guardian", "friend", "mother", "father", "referrer", "referee", "inviter", "invitee", "guest", "sender",
    "receiver", "reviewer", "approver", "manager", "owner", "author", "assignee", "reporter", "beneficiary",
    "attendee", "editor", "target", "from", "to", "cc", "bcc", "reply", "opponent", "peer", "original",
    "reported", "quoted",
}  # fmt: skip
# Last words of tables that a user keeps about others.
OTHERS_TABLES = {
    "contact", "guest", "employee", "patient", "student", "relative", "child", "children", "dependent",
    "invitee", "invitation", "invite", "candidate", "lead", "recipient", "beneficiary", "attendee", "passenger",
    "client", "tenant", "applicant", "visitor", "referral", "staff",
}  # fmt: skip
ID_WORDS = {
    "id", "ids", "uid", "uuid", "guid", "by", "pk", "fk", "ref", "reference",
}  # fmt: skip
TIMES = {
    "created_at", "updated_at", "created", "updated", "created_on", "updated_on", "inserted_at",
    "date_created", "createdat", "updatedat", "published", "creation_time", "date_joined", "modified",
}  # fmt: skip

# Last words of columns whose text is about what the row is about, and not a key to anything.
PLAIN_TEXT = {
    "name", "names", "firstname", "lastname", "fullname", "username", "login", "nickname", "title", "subject",
    "body", "text", "content", "description", "summary", "bio", "biography", "about", "headline", "comment",
    "message", "caption", "email", "mail", "phone", "mobile", "telephone", "fax", "address", "street",
    "address1", "address2", "line1", "line2", "city", "town", "state", "county", "province", "region",
    "country", "zip", "zipcode", "postcode", "postal", "locale", "language", "lang", "timezone", "zone",
    "currency", "gender", "sex", "birthday", "pronouns", "company", "organization", "organisation", "website",
    "homepage", "url", "link", "location", "status", "kind", "type", "category", "theme", "color", "colour",
    "size", "unit", "format", "avatar", "photo", "picture", "image", "filename", "slug", "tag", "label",
    "emoji", "reaction", "question", "answer", "greeting", "occupation", "job", "interests", "agent",
    "device", "platform", "browser", "os", "version", "product", "sku", "method", "brand", "carrier",
    "number", "locality", "latitude", "longitude", "visibility", "role", "sport", "frequency", "interval",
    "plan", "markdown", "html", "nationality", "salutation", "1", "2",
}  # fmt: skip


def words(name: str) -> list[str]:
    """The words of a snake_case or camelCase name, lower-case."""
    return [word.lower() for word in WORD.findall(name)] or [name]


def snake(name: str) -> str:
    return "_".join(words(name))


def singular(name: str) -> str:
    """Of an English plural, well enough for the names of tables."""
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def is_called_like_users(table: str) -> bool:
    """Whether the table's last word is one of a users' table: user_profiles, too."""
    return singular(words(table)[-1]) in USERS_TABLES


def is_secret(name: str) -> bool:
    return SECRET_PARTS.search(snake(name)) is not None or not SECRET_WORDS.isdisjoint(words(name))
