"""HTTP to S3. An answer must come from S3 itself and fit into memory: aiobotocore follows redirects to any host, and
reads error documents and lists of any size.
"""

import ssl
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import HTTPClientError

from service.backends.authorities import add_authorities, require_authorities

MAX_ANSWER_BYTES = 4 * 2**20  # a page of 1,000 keys of the longest kind, each byte escaped
# By botocore's rule, an answer from 300 on is an error document, also where an object was asked for.
REDIRECTS = range(300, 400)
REGION = "x-amz-bucket-region"

_contexts: dict[tuple[bool | str, str, ssl.DefaultVerifyPaths], ssl.SSLContext] = {}


class S3Session(AIOHTTPSession):  # type: ignore[misc] # untyped
    def __init__(self, *arguments: Any, ca_file: str, **options: Any) -> None:
        """Raises ConfigurationError for a wrong file in AWS's own variable."""
        super().__init__(*arguments, **options)
        self._ca_file = ca_file
        if isinstance(self._verify, str):
            require_authorities(self._verify, "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE")

    def _get_ssl_context(self) -> ssl.SSLContext:
        """The parent adds AWS_CA_BUNDLE, or else botocore's own list, which lacks what the machine trusts."""
        context: ssl.SSLContext = super()._get_ssl_context()
        if self._verify is True:
            context.load_default_certs()
        add_authorities(context, self._ca_file)
        return context

    def _build_verify_context(self) -> ssl.SSLContext:
        """One for all sessions of the process: reading all authorities takes tens of milliseconds."""
        key = (self._verify, self._ca_file, ssl.get_default_verify_paths())
        if key not in _contexts:
            _contexts[key] = super()._build_verify_context()
        return _contexts[key]

    async def send(self, request: Any) -> Any:
        is_document = not request.stream_output
        request.stream_output = True  # otherwise the parent reads the whole answer
        response = await super().send(request)
        try:
            _require_no_redirect(response)
            if is_document or response.status_code >= REDIRECTS.start:
                response._content = await _read(response.raw)  # noqa: SLF001 (where the parent puts it)
        except (aiohttp.ClientError, OSError) as error:
            response.raw.close()
            raise HTTPClientError(error=error) from error
        return response

    async def _get_session(self, proxy_url: str | None) -> "_Unredirected":
        return _Unredirected(await super()._get_session(proxy_url))


class _Unredirected:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **options)


def _require_no_redirect(response: Any) -> None:
    """Raise ClientPayloadError, except for AWS's hint at the region. Without it botocore asks again and again."""
    if response.status_code in REDIRECTS and REGION not in response.headers:
        raise aiohttp.ClientPayloadError(f"answered {response.status_code}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
