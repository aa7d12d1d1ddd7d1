"""The PUT of a small object, signed and sent by botocore's own parts.

`put_object` finds the endpoint, validates, serializes, signs, emits a dozen events and parses for each call. That
takes three times the CPU of signing and sending, and is a good part of what a small export costs.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.utils import percent_encode

_HEADERS: Final = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
_UNESCAPED: Final = "/~"  # in a key: botocore's own choice
_ANY_KEY: Final = "key"


class SignedPut:
    def __init__(self, client: Any, bucket: str, encryption: Mapping[str, str]) -> None:
        """`encryption` are arguments of `put_object`."""
        self._client = client
        self._bucket = bucket
        self._headers = {_HEADERS[name]: value for name, value in encryption.items()}
        # A checksum is the client's work.
        self._usable = client.meta.config.request_checksum_calculation == "when_required"
        self._base_url = ""

    async def put(self, key: str, content: bytes, content_type: str) -> str | None:
        """Store `content` and return its ETag, or None where only the client can: it retries, follows AWS's hint at
        another region, and names what is wrong. The object may have appeared all the same.
        """
        if not self._usable:
            return None
        try:
            response = await self._send(await self._sign(key, content, content_type))
        except BotoCoreError:
            return None
        return response.headers.get("etag") if response.status_code == HTTPStatus.OK else None

    async def _sign(self, key: str, content: bytes, content_type: str) -> Any:
        url = await self._find_base_url() + percent_encode(key, safe=_UNESCAPED)
        request = AWSRequest("PUT", url, headers=self._headers | {"Content-Type": content_type}, data=content)
        signer = self._client._request_signer  # noqa: SLF001 (it renews temporary credentials)
        auth = await signer.get_auth_instance("s3", self._client.meta.region_name, "s3v4")
        auth.add_auth(request)
        return request.prepare()

    async def _send(self, request: Any) -> Any:
        return await self._client._endpoint.http_session.send(request)  # noqa: SLF001 (its pool, authorities and proxies)

    async def _find_base_url(self) -> str:
        """Where the client sends the bucket's keys: by its rules for endpoints, once."""
        if not self._base_url:
            parameters = {"Bucket": self._bucket, "Key": _ANY_KEY}
            url: str = await self._client.generate_presigned_url("put_object", parameters)
            self._base_url = url.partition("?")[0].removesuffix(_ANY_KEY)
        return self._base_url
