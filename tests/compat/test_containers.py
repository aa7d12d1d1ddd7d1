"""Containers as clusters run them."""

from typing import Final

import pytest

from tests.support.processes import CARRYOUT, start
from tests.test_settings import REQUIRED

# The number that OpenShift gives an account; no /etc/passwd has its name.
NAMELESS: Final = ("unshare", "--user", "--map-user=1000770000", "--map-group=0")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "postgresql://user@127.0.0.1:1/d",
            "PostgreSQL can't be reached: nothing listens there (CARRYOUT_DATABASE_URL)",
        ),
        ("postgresql://127.0.0.1:1/d", "CARRYOUT_DATABASE_URL names no user, and this process's account has no name"),
    ],
)
async def test_an_account_without_a_name(url: str, sentence: str) -> None:
    environ = REQUIRED | {"CARRYOUT_DATABASE_URL": url}
    process = await start(environ, "keys", "list", program=[*NAMELESS, *CARRYOUT])
    _, told = await process.communicate()
    assert (process.returncode, told.decode()) == (2, f"carryout: {sentence}\n")


# Nowhere to write: neither the folders for temporary files nor the current one.
READ_ONLY: Final = """
for folder in /tmp /var/tmp; do mount --bind $folder $folder && mount -o remount,bind,ro $folder; done
cd /proc && exec "$@"
"""


async def test_a_read_only_file_system() -> None:
    isolated = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh")
    process = await start(REQUIRED, "worker", program=[*isolated, *CARRYOUT])
    _, told = await process.communicate()
    sentence = "The worker needs a folder for temporary files: mount one at /tmp, or name one in TMPDIR"
    assert (process.returncode, told.decode()) == (2, f"carryout: {sentence}\n")
