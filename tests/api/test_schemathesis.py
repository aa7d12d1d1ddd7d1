"""The API against what schemathesis makes of its document, with good credentials and without."""

import asyncio
import re
import sys
from pathlib import Path

import msgspec
import pytest

from service.settings import Settings
from tests.api.serving import Served
from tests.conftest import Token, on_database
from tests.support.factories import Connection, create_user
from tests.support.operators import create_key

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
GENERATED = re.compile(r"(\d+) generated")
# All checks are on but for what no schema can say. (`--checks=all` would switch on what is switched off here.)
CONFIG = """
max-stream-events = 1
request-timeout = 60
suppress-health-check = ["all"]

[generation]
max-examples = 4
database = "none"

# a deleted export stays to be seen, without its file
[checks.use_after_free]
enabled = false

# a file may be gone, and a range beyond its end
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 302, 304, 401, 403, 404, 409, 410, 412, 416]

[[operations]]
include-operation-id = "stream_export"
# bom=1 is for format=csv alone, and a text may be neither a date nor a section
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 409, 422]
# its path reads as that of an export, which doesn't exist
checks.unsupported_method.enabled = false

[[operations]]
include-operation-id = "create_export"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 409, 422]

# a text may name no user, be of no date, or have control characters
[[operations]]
include-operation-id = "create_request"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 404, 409, 422]

# their paths read as those of exports, which don't exist
[[operations]]
include-operation-id-regex = "^show_(sections|schema)$"
checks.unsupported_method.enabled = false

# a wrong link looks like an export that doesn't exist
[[operations]]
include-operation-id-regex = "^download_export"
checks.ignored_auth.enabled = false
"""
CREDENTIALS = """
[auth.openapi]
userToken = {{ bearer = "{token}" }}
apiKey = {{ api_key = "{key}" }}
"""


@pytest.fixture
def settings(common_settings: Settings, database_url: str) -> Settings:
    """No client reaches its rate limit."""
    replaced = msgspec.structs.replace(
        common_settings, exports_per_hour=1_000_000, streams_per_hour=1_000_000, kept_files=1_000_000
    )
    return on_database(replaced, database_url)


@pytest.mark.timeout(300)  # it takes ten seconds where it is alone
async def test_with_credentials(served: Served, database: Connection, token: Token, tmp_path: Path) -> None:
    user_id = await create_user(database, activity=3, content=3)
    credentials = CREDENTIALS.format(token=token(user_id), key=await create_key(database))
    assert await count_cases(served, CONFIG + credentials, tmp_path) > 300


async def test_without_credentials(served: Served, tmp_path: Path) -> None:
    assert await count_cases(served, CONFIG, tmp_path, "--phases=coverage", "--mode=positive") > 50


async def count_cases(served: Served, config: str, folder: Path, *options: str) -> int:
    """The requests that schemathesis made. Fails with its report if it has found anything."""
    (folder / "schemathesis.toml").write_text(config)
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS,
        "run",
        f"{served.url}/openapi.json",
        f"--url={served.url}",
        "--seed=1",
        "--no-color",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    output, _ = await process.communicate()
    report = output.decode()
    assert process.returncode == 0, report
    generated = GENERATED.search(report)
    assert generated, report
    return int(generated[1])
