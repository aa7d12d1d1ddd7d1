"""Word lists for names of tables and columns, by the conventions of Rails, Django, Laravel, Prisma and Hibernate."""

import re
from functools import cache

RUN_TOGETHER = re.compile(r"([a-z]{3,}?)(urls?|uri|name|type|description|title)")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

USERS_TABLES = (
    "users", "user", "auth_user", "app_user", "app_users", "accounts", "account", "user_account",
    "user_accounts", "user_entity", "local_user", "members", "member", "customers", "customer", "people",
    "person", "profiles", "profile",
)  # fmt: skip
EMAILS = (
    "primary_email", "email", "email_address", "emailaddress", "e_mail", "mail", "user_email", "useremail",
)  # fmt: skip
OF_ADDRESSES = {"email", "emails", "mail", "mails", "identity", "identities"}
NAMES = (
    "name", "full_name", "fullname", "display_name", "real_name", "username", "user_name", "login",
    "nickname", "handle", "screen_name",
)  # fmt: skip
USERS_NAMES = {"user_name", "username", "user_login", "login_name"}
HANDLES = (
    "username", "user_name", "login", "handle", "screen_name", "nickname", "display_name",
)  # fmt: skip

# Times at which a row comes into being: the first of these is what `from` and `to` select by.
TIMES_OF_CREATION = (
    "occurred_at", "happened_at", "happened", "created_at", "inserted_at", "created_on", "created",
    "date_created", "created_time", "create_time", "createdat", "sent_at", "posted_at", "placed_at",
    "published_at", "date_joined", "joined_at", "timestamp", "date", "at",
)  # fmt: skip

# Words in a foreign key to the user that make the user the row's owner.
SUBJECT = {
    "user", "account", "customer", "member", "person", "profile", "client", "buyer", "patient", "student",
    "subscriber", "employee", "contact", "guest", "shopper", "players", "player", "participant", "learner",
    "donor", "candidate", "applicant", "tenant", "driver", "passenger", "beneficiary",
}  # fmt: skip
AUTHOR = {
    "author", "sender", "poster", "commenter", "uploader", "writer", "reporter", "follower", "voter", "liker",
    "requester", "submitter", "blocker", "creator", "inviter", "from", "requested", "submitted", "authored", "written",
    "uploaded", "posted", "sent", "booked",
}  # fmt: skip
# Words in a second foreign key to a person whom the row's author only reacts to: the row stays the author's own.
REACTED_TO = {
    "reply", "replied", "parent", "target", "mentioned",
}  # fmt: skip
# The words of RUNS that also make the user the author, not only the recipient.
WRITES = {
    "owner", "created",
}  # fmt: skip
MESSAGES = {
    "sender", "recipient", "receiver",
}  # fmt: skip
# Likewise, but the row's content, and the rows below it, may as well belong to other people.
RUNS = {
    "owner", "admin", "founder", "manager", "created", "organizer", "host", "leader", "recipient",
    "receiver",
}  # fmt: skip

# Parts of names, long enough to be unambiguous even without separators.
SECRET_PARTS = re.compile(
    r"passw|passphrase|secret|token|api_?key|private_?key|access_?key|_hash|hashed|digest|crypt|cipher|credential"
    r"|signature|cookie|fingerprint|two_?factor|backup_?code|recovery|security_?(question|answer)|csrf"
    r"|(session|oauth|auth|login|sso|saml)_?(id|key|data|state)|md_?5|sha_?\d|2_?fa|(magic|log_?in|sign_?in|reset|activation|verification)_?(link|url)"
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
    "reason", "shadow", "debug", "raw", "legacy", "key", "code", "cache", "cached", "suspended",
    "sensitized", "trendable", "bypassed", "suppressed", "immune", "superapp", "trusted", "flagged", "airtable",
    "hubspot", "salesforce", "zendesk",
}  # fmt: skip
# Words of the staff in a time: `reviewed_at`.
STAFF_TIMES = {"review", "reviewed"}
# Whole names of columns that the staff write; inside a longer name these words mean other things.
STAFF_NAMES = {"allowed", "is_allowed"}
# Words of the staff in the user's own row.
STAFF_ON_USERS = {"blocked", "can", "developer"}
# Words of STAFF_WORDS that tell of staff only in a text, not in a number or a switch: `use_legacy_editor`.
NOT_IN_SWITCHES = {"debug", "raw", "legacy", "cache", "cached"}
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
    "reported", "quoted", "response", "transfer", "gift", "subject",
}  # fmt: skip
# Last words of tables that a user keeps about others.
OTHERS_TABLES = {
    "contact", "guest", "employee", "patient", "student", "relative", "child", "children", "dependent",
    "invitee", "invitation", "invite", "candidate", "lead", "recipient", "beneficiary", "attendee", "passenger",
    "client", "tenant", "applicant", "visitor", "referral", "staff", "payee", "cosigner", "signer", "signatory",
    "member",
    "guarantor", "witness", "guardian", "companion", "friend", "follower", "subscriber", "participant", "collaborator",
    "reference", "heir", "kin", "player", "donor", "respondent", "addressee", "correspondent", "prospect", "debtor",
}  # fmt: skip
# Words of OTHERS that tell of another person only in a text, not in a number or a time: `read_from`, `original_size`.
NOT_IN_NUMBERS = {
    "from", "to", "cc", "bcc", "original", "response", "reply", "target", "transfer", "reported",
}  # fmt: skip
ID_WORDS = {
    "id", "ids", "uid", "uuid", "guid", "by", "pk", "fk", "ref", "reference",
}  # fmt: skip
# Words before an id that another system gave: `external_id`, `provider_account_id`.
ELSEWHERE = {
    "external", "provider", "remote", "foreign", "stripe", "paypal", "plaid", "google", "github", "facebook", "apple",
    "twitter", "discord", "slack", "oauth", "oidc", "saml", "ldap",
}  # fmt: skip
TIMES = {
    "created_at", "updated_at", "created", "updated", "created_on", "updated_on", "inserted_at",
    "date_created", "createdat", "updatedat", "published", "creation_time", "date_joined", "modified",
}  # fmt: skip

# Last words of columns with ordinary text, which can't be a key.
PLAIN_TEXT = {
    "name", "names", "firstname", "lastname", "fullname", "username", "login", "nickname", "title", "subject", "body",
    "text", "content", "description", "summary", "bio", "biography", "about", "headline", "comment", "message",
    "caption", "email", "mail", "phone", "mobile", "telephone", "fax", "address", "street", "address1", "address2",
    "line1", "line2", "city", "town", "state", "county", "province", "region", "country", "zip", "zipcode",
    "postcode", "postal", "locale", "language", "lang", "timezone", "zone", "currency", "gender", "sex", "birthday",
    "pronouns", "company", "organization", "organisation", "website", "homepage", "url", "link", "location", "status",
    "kind", "type", "category", "theme", "color", "colour", "size", "unit", "format", "avatar", "photo", "picture",
    "image", "filename", "slug", "tag", "label", "emoji", "reaction", "question", "answer", "greeting", "occupation",
    "job", "interests", "agent", "device", "platform", "browser", "os", "version", "product", "sku", "method",
    "brand", "carrier", "number", "locality", "latitude", "longitude", "visibility", "role", "sport", "frequency",
    "interval", "plan", "markdown", "html", "nationality", "salutation", "1", "2", "provider", "timeline",
    "extension", "mimetype", "mime", "charset", "encoding", "priority", "severity", "domain", "host", "scope", "mode",
    "layout", "district", "building", "floor", "recurrence", "subtitle", "colors", "uri", "algorithm", "medium",
    "membership", "phrase", "keyword", "hashtag", "prefix", "suffix", "neighborhood", "handle", "acct", "blurhash",
    "genre", "editor", "purpose", "position", "sorting", "shortcode", "model", "material", "source", "issuer",
}  # fmt: skip
# Words before `code` of codes that open nothing.
PLAIN_CODES = {
    "language", "country", "currency", "postal", "zip", "post", "region", "state", "area", "status", "response",
    "error", "color", "colour", "product", "airport", "locale", "lang", "plan", "http", "iso",
}  # fmt: skip

# The words of RUNS that make the user the row's owner.
OWNS = {
    "owner", "requested", "booked", "owned", "holder",
}  # fmt: skip
# Words in a step between two tables that make it no part of the other: the last post of a topic.
ASIDE = {
    "last", "latest", "first", "best", "accepted", "parent", "reply", "root", "original", "previous", "next", "current",
    "default", "source", "target", "quoted", "related", "featured", "pinned",
}  # fmt: skip
# Words of tables in which the staff write about users.
STAFF_TABLES = {
    "moderation", "moderator", "moderators", "warning", "warnings", "strike", "strikes", "complaint",
    "complaints", "report", "reports", "ban", "bans", "suspension", "suspensions", "sanction", "sanctions",
    "abuse", "flag", "flags", "audit", "audits", "compliance", "compliances", "admin", "admins", "internal",
    "staff", "fraud", "escalation", "escalations", "investigation", "investigations", "violation", "violations",
    "infraction", "infractions", "reviewable", "reviewables", "incident", "incidents", "blacklist", "blocklist",
    "denylist", "spam", "appeal", "appeals", "dispute", "disputes", "mod", "mods",
    "suppression", "suppressions", "ratelimit", "ratelimits", "superuser", "superusers",
}  # fmt: skip
# Words of tables that hold acts of the staff: the thing that they act on isn't the user's.
STAFF_ACTS = {
    "redaction", "redactions", "redacted", "takedown", "takedowns", "quarantine", "quarantined", "blazer",
}  # fmt: skip
# Such acts before the thing: `blocked_rooms` are the staff's, `blocked_users` a user's own.
ACTS_ON_THINGS = {
    "blocked", "banned", "disabled", "locked", "suspended", "removed", "hidden",
}  # fmt: skip
# Words of tables with addresses that the application calls.
CALLED_TABLES = {
    "command", "commands", "endpoint", "endpoints", "callback", "callbacks", "integration", "integrations",
    "pusher", "pushers",
}  # fmt: skip
# Words of columns beside an address that the application calls.
CALLED_WITH = {"token", "secret", "method"}
# Words of links that open something for anyone who has them.
BEARER_WORDS = {
    "webhook", "hook", "invite", "invitation", "hosted", "private", "feed", "magic", "signed", "presigned", "callback",
    "unsubscribe", "share", "shared", "sharing", "join", "meeting", "checkout", "payment", "portal", "session", "ical",
    "calendar", "download", "upload", "edit", "manage", "confirmation", "confirm", "access", "public", "stream",
}  # fmt: skip
LINK_WORDS = {"url", "urls", "link", "links", "uri", "href", "permalink"}
# Words before `url` of links that open nothing.
PLAIN_LINKS = {
    "avatar", "photo", "picture", "image", "icon", "logo", "banner", "header", "cover", "website", "homepage", "blog",
    "profile", "site", "web", "company", "source", "repo", "repository", "github", "twitter", "linkedin", "facebook",
    "instagram", "thumbnail", "canonical", "remote", "page", "home", "background",
}  # fmt: skip
# Last words of tables about those who visit what is the user's.
VISITS = {"session", "visit", "visitor", "pageview"}
# Last words of tables with a person's list of others.
LISTS = {"list", "circle", "audience"}
# Likewise, if the table of what is on it is called after it: `collection_items`.
COLLECTIONS = {"collection"}
SUBSCRIPTIONS = {"subscription", "signup"}
# Last words of tables with money that the user sends, and words of their columns about the payee.
PAID_OUT = {"transfer", "check", "cheque", "wire", "remittance"}
OF_PAYEES = {"address", "bank", "company", "iban", "bic", "swift", "routing", "beneficiary"}
# Last words of tables with money that others pay to the user, and words of their columns about the payer.
PAID_IN = {"invoice", "bill", "donation"}
OF_PAYERS = {"payment", "card", "payer"}
# Words of columns for the parties to a deal: a row with two of them is neither's alone.
PARTIES = {"buyer", "seller", "vendor", "payer", "payee", "lender", "borrower"}
# Words of a column for the user who uploaded the row's file.
UPLOADERS = {"uploaded", "uploader"}
# Words of tables whose ids prove that the user passed a check.
VERIFICATIONS = {"verification", "verifications"}
# Last words of tables whose rows anyone may open who has their ids.
OPENED_BY_ID = {"shortcode", "shortlink", "share", "invite", "invitation"}
# Words of a column for another person who wrote the row's text.
WRITERS = {
    "author", "creator", "commenter", "writer", "reviewer", "sender", "poster", "reporter", "authored", "written",
    "sent", "posted",
}  # fmt: skip
# Words of a column for people who only act on a row: it stays its owner's alone.
BYSTANDERS = {
    "by", "reviewer", "approver", "editor", "moderator", "assignee", "last", "updater", "updator", "modifier",
    "operator", "agent", "handler", "creator", "support", "staff", "admin", "processor", "resolver", "closer",
    "uploader", "inviter",
}  # fmt: skip
LABELS = ("name", "title", "label", "display_name", "slug", "code", "key")
# Words for a person whom others reported to the staff.
REPORTED = {"reported", "warned", "banned", "offender", "suspended", "flagged"}
# Words for the user that staff write about.
TARGETS = {"target", "reported", "warned", "banned", "subject", "offender", "suspended", "flagged"}
# Words of a user's columns for things that are the user's alone, also where the type of the key doesn't say so.
OWN_THINGS = {
    "avatar", "photo", "picture", "image", "signature", "resume", "cv", "settings", "preference", "preferences",
    "address", "profile",
}  # fmt: skip
# Last words of columns that name an object in storage, and words beside them, or in the table's name.
FILE_KEYS = {"key", "path"}
STORED = {
    "storage", "object", "file", "blob", "s3", "attachment", "upload", "image", "media", "avatar", "photo", "picture",
    "document", "thumbnail", "video", "audio", "asset", "preview",
}  # fmt: skip
FILE_NAMES = ("file_name", "filename", "original_filename", "original_name", "name", "title")
# Those of them that only files have.
NAMES_OF_FILES_ONLY = {"file_name", "filename", "original_filename", "original_name"}
# Further words for a person in a column's name, whose rows need not be that person's.
OTHER_ROLES = {
    "owner", "assignee", "reviewer", "approver", "editor", "moderator", "operator", "agent", "actor", "invitee",
    "recipient", "receiver", "target", "followee", "followed", "blocked", "reviewee", "referrer", "winner", "holder",
    "signer", "payer", "payee", "seller", "mentor", "mentee", "instructor", "teacher", "doctor", "moderated", "updater",
    "updator", "authorizer", "auditor",
}  # fmt: skip
# Participles of acts on rows: `created_by`, `archivedBy`.
ACTIONS = {
    "created", "updated", "deleted", "modified", "changed", "edited", "approved", "rejected", "reviewed", "archived",
    "published", "added", "removed", "invited", "requested", "submitted", "uploaded", "assigned", "resolved", "closed",
    "opened", "owned", "sent", "posted", "booked", "fulfilled", "frozen", "locked", "verified", "cancelled", "canceled",
    "revoked", "granted", "moderated", "merged", "completed", "signed", "paid", "reported", "handled", "banned",
    "inserted", "last_updated", "authored", "written", "made",
}  # fmt: skip
# Things that several users belong to.
ORGANIZATIONS = {
    "team", "organization", "organisation", "org", "company", "workspace", "tenant", "group", "room", "channel",
    "project", "household", "department", "school", "club", "community", "guild", "server", "conversation", "chat",
    "thread", "family", "institution", "agency", "site", "space",
}  # fmt: skip
TYPE_WORDS = ("type", "kind", "class", "classname", "model", "entity", "table")
NAMES_OF_PHONES = {
    "phone", "phone_number", "mobile", "mobile_number", "mobile_phone", "telephone", "msisdn", "cell_phone",
}  # fmt: skip
# Last words of columns with text that a person writes.
FREE_TEXT = {
    "body", "text", "content", "message", "comment", "note", "notes", "bio", "about", "answer", "question", "html",
    "markdown", "raw", "details", "payload", "data", "value", "input", "query", "memo", "feedback", "dict", "json",
}  # fmt: skip
# For `singular`: plurals that no rule makes, and words that end in `s` themselves.
IRREGULARS = {
    "people": "person", "children": "child", "indices": "index", "vertices": "vertex", "matrices": "matrix",
    "quizzes": "quiz", "caches": "cache", "niches": "niche",
}  # fmt: skip
IRREGULAR = re.compile(rf"(?:{'|'.join(IRREGULARS)})$")
ENDING_IN_S = ("status", "alias", "bonus", "virus", "campus", "canvas", "census", "corpus", "series", "species")
PLURALS_IN_ES = ("ches", "shes", "sses", "xes", *(f"{word}es" for word in ENDING_IN_S))
PLURALS_OF_IE = ("movies", "cookies", "selfies", "calories")
# Tables of frameworks and their tools, in snake_case.
FRAMEWORK_TABLES = {
    "schema_migrations", "ar_internal_metadata", "schema_migration", "schema_version", "schema_versions",
    "flyway_schema_history", "databasechangelog", "databasechangeloglock", "prisma_migrations", "knex_migrations",
    "knex_migrations_lock", "django_migrations", "django_content_type", "alembic_version", "goose_db_version",
    "migrations", "migration", "migration_versions", "doctrine_migration_versions", "drizzle_migrations",
    "sequelize_meta", "typeorm_metadata", "applied_schema_deltas", "db_migrations", "gorp_migrations", "mig_version",
    "darwin_migrations", "pgmigrations", "kysely_migration", "kysely_migration_lock", "db_lock",
}  # fmt: skip


@cache
def words(name: str) -> tuple[str, ...]:
    """The words of a snake_case or camelCase name, lower-case."""
    return tuple(word.lower() for word in WORD.findall(name)) or (name,)


@cache
def snake(name: str) -> str:
    return "_".join(words(name))


@cache
def split_end(name: str) -> tuple[str, ...]:
    """The words, also of a name that runs together and ends in a usual word: displayname, iconurl."""
    parts = words(name)
    found = RUN_TOGETHER.fullmatch(parts[0]) if len(parts) == 1 and parts[0] not in PLAIN_TEXT else None
    return found.groups() if found else parts


def singular(name: str) -> str:
    """The singular of an English plural, precise enough for table names. Words may run together: orderstatuses."""
    if found := IRREGULAR.search(name):
        return name[: found.start()] + IRREGULARS[found[0]]
    if name.endswith(("ss", *ENDING_IN_S)):
        return name
    if name.endswith(PLURALS_IN_ES):
        return name[:-2]
    if name.endswith("ies") and not name.endswith(PLURALS_OF_IE):
        return f"{name[:-3]}y"
    return name.removesuffix("s")


def is_called_like_users(table: str) -> bool:
    """Whether the table's last word is one of a users' table: user_profiles, too."""
    return singular(words(table)[-1]) in USERS_TABLES


@cache
def is_secret(name: str) -> bool:
    return SECRET_PARTS.search(snake(name)) is not None or not SECRET_WORDS.isdisjoint(words(name))
