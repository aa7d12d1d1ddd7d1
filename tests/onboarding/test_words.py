import pytest

from onboarding.words import is_secret, singular, words


@pytest.mark.parametrize(
    "name",
    [
        "password", "passwordHash", "encrypted_password", "pass_crypt", "pwd", "api_key", "apiKey", "APIKEY",
        "auth_token", "remember_digest", "otp_secret", "totp", "backup_codes", "recoveryCode", "salt", "session_key",
        "mfaSeed", "md5", "sha256", "use2fa", "private_key", "ssh_fingerprint", "PIN", "cvv", "csrf", "refreshtoken",
        "client_secret", "webauthn_id", "magicLink", "reset_url", "securityanswer",
    ],
)  # fmt: skip
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["name", "shipping_city", "description", "opinion", "passenger_count", "created_at"])
def test_other_names_are_not_secrets(name: str) -> None:
    assert not is_secret(name)


def test_words_of_snake_and_camel_case() -> None:
    assert words("createdAt") == words("created_at") == words("CREATED_AT") == ("created", "at")
    assert words("userID") == ("user", "id")
    assert words("%") == ("%",)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("users", "user"), ("companies", "company"), ("address", "address"), ("person", "person"),
        ("addresses", "address"), ("batches", "batch"), ("boxes", "box"), ("caches", "cache"), ("movies", "movie"),
        ("orderstatuses", "orderstatus"), ("orderstatus", "orderstatus"), ("people", "person"), ("houses", "house"),
        ("menus", "menu"),
    ],
)  # fmt: skip
def test_singular(plural: str, one: str) -> None:
    assert singular(plural) == one
