"""The internals of others that our code overrides or calls: an upgrade that moves one fails here.

pyproject.toml bounds uvicorn and arq to the minor version that this was read in.
"""

import inspect
import re
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arq.worker
import asyncpg
import pytest
from aiobotocore.endpoint import AioEndpoint
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.signers import AioRequestSigner
from asyncpg.transaction import Transaction
from botocore.client import BaseClient
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

import worker.main
from service.api.http.protocol import StreamingProtocol

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
PARAMETERS = {
    HttpToolsProtocol.connection_made: ["transport"],
    HttpToolsProtocol.connection_lost: ["exc"],
    HttpToolsProtocol.data_received: ["data"],
    HttpToolsProtocol.on_message_begin: [],
    HttpToolsProtocol.on_url: ["url"],
    HttpToolsProtocol.on_header: ["name", "value"],
    HttpToolsProtocol.on_headers_complete: [],
    HttpToolsProtocol.on_body: ["body"],
    HttpToolsProtocol.on_message_complete: [],
    HttpToolsProtocol._start_asgi_task: ["cycle", "app"],
    HttpToolsProtocol._should_upgrade: [],
    HttpToolsProtocol._unset_keepalive_if_required: [],
    arq.worker.Worker.main: [],
    arq.worker.Worker.heart_beat: [],
    arq.worker.Worker.start_jobs: ["job_ids"],
    arq.worker.Worker.run_job: ["job_id", "score"],
    arq.worker.Worker._poll_iteration: [],
    arq.worker.Worker.async_run: [],
    arq.worker.Worker.close: [],
    arq.worker.Worker._release_sem_dec_counter_on_complete: [],
}
# Our code reads them; only the parents' __init__ or on_message_begin sets them.
ATTRIBUTES = {
    HttpToolsProtocol: {"cycle", "headers", "loop", "parser", "pipeline", "scope", "transport", "url"},
    RequestResponseCycle: {"disconnected", "message_event", "response_complete"},
}


@pytest.mark.parametrize("method", PARAMETERS, ids=lambda method: method.__qualname__)
def test_a_method_takes_what_it_did(method: Callable[..., Any]) -> None:
    assert list(inspect.signature(method).parameters)[1:] == PARAMETERS[method]


@pytest.mark.parametrize("owner", ATTRIBUTES, ids=lambda owner: owner.__name__)
def test_an_attribute_is_still_set(owner: type) -> None:
    assert ATTRIBUTES[owner] <= set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(owner)))


@pytest.mark.parametrize(
    ("ours", "parent"), [(StreamingProtocol, HttpToolsProtocol), (worker.main._Consumer, arq.worker.Worker)]
)
def test_everything_overridden_is_named(ours: type, parent: type) -> None:
    overridden = {
        getattr(parent, name) for name in vars(ours).keys() & vars(parent).keys() if callable(getattr(ours, name))
    }
    assert {method for method in overridden if not method.__name__.startswith("__")} <= PARAMETERS.keys()


def test_no_name_of_ours_is_one_of_theirs_by_accident() -> None:
    """A new uvicorn or arq may begin to use a name that a subclass of ours has given another meaning."""
    for ours, parent in ((StreamingProtocol, HttpToolsProtocol), (worker.main._Consumer, arq.worker.Worker)):
        set_by_parent = set(re.findall(r"self\.(\w+)\b", inspect.getsource(parent)))
        named = {method.__name__ for method in PARAMETERS}
        ours_alone = {name for name in vars(ours) if not name.startswith("__")} - named
        assert ours_alone.isdisjoint(set_by_parent | set(dir(parent)))


def test_asyncpg_sends_every_command_through_what_a_pooled_connection_overrides() -> None:
    """Otherwise a statement would run without our settings, behind a pooler."""
    source = inspect.getsource(asyncpg.Connection)
    sending = {"_protocol.query", "_protocol.prepare", "_protocol.bind_execute", "_protocol.bind_execute_many"}
    senders = {
        name
        for name, method in vars(asyncpg.Connection).items()
        if inspect.isfunction(method) and any(call in inspect.getsource(method) for call in sending)
    }
    assert senders == {"execute", "_get_statement", "_Connection__execute", "_executemany"}
    assert source.count("self.__execute(") == 4  # of them, three look up types, in a transaction of ours
    assert "_top_xact" in inspect.getsource(Transaction.start)
    assert "_nested" in inspect.getsource(Transaction.start)


def test_a_transaction_of_ours_begins_as_one_of_asyncpg() -> None:
    """`_LocalTransaction.start` sets what `Transaction.start` does, but sends BEGIN together with settings."""
    source = inspect.getsource(Transaction.start)
    assert set(re.findall(r"(?:self|con)\.(_\w+) = ", source)) == {"_top_xact", "_nested", "_id", "_state"}
    assert "self._state = TransactionState.STARTED" in source
    assert source.count("self._connection.execute(query)") == 1


def test_a_file_is_signed_and_sent_by_what_a_client_uses() -> None:
    """`SignedPut` takes the signer and the session of HTTP from the client."""
    parameters = list(inspect.signature(AioRequestSigner.get_auth_instance).parameters)
    assert parameters[1:4] == ["signing_name", "region_name", "signature_version"]
    assert "self._request_signer = " in inspect.getsource(BaseClient.__init__)
    assert "self._endpoint = " in inspect.getsource(BaseClient.__init__)
    assert "self.http_session.send(request)" in inspect.getsource(AioEndpoint._send)
    assert list(inspect.signature(AIOHTTPSession.send).parameters) == ["self", "request"]


def test_an_entry_of_a_zip_is_deflated_by_its_own_compressor() -> None:
    source = inspect.getsource(zipfile._ZipWriteFile)  # type: ignore[attr-defined]
    assert source.count("self._compressor = ") == 1
    assert set(re.findall(r"self\._compressor\.(\w+)", source)) == {"compress", "flush"}


def test_the_loop_ends_with_a_heart_beat() -> None:
    """A consumer counts as alive when arq has looked into the queue."""
    assert "await self.heart_beat()" in inspect.getsource(arq.worker.Worker._poll_iteration)


def test_arq_says_when_an_export_has_made_room() -> None:
    assert "self._release_sem_dec_counter_on_complete()" in inspect.getsource(arq.worker.Worker.start_jobs)


def test_a_refusal_begins_with_a_whole_status_line() -> None:
    assert STATUS_LINE[400] == b"HTTP/1.1 400 Bad Request\r\n"


@pytest.mark.parametrize("name", ["arq", "uvicorn"])
def test_the_next_minor_version_is_not_taken_unread(name: str) -> None:
    (requirement,) = [item for item in PROJECT["dependencies"] if re.match(rf"{name}\b", item)]
    major, minor = version(name).split(".")[:2]
    assert requirement == f"{name}>={major}.{minor},<{major}.{int(minor) + 1}"
