"""`python -m bench.bare_copy FILES`: copy objects into one, from S3 to S3, by the fewest steps that a process needs.

Prints the seconds from the first request to the last answer.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from service.backends.attachments import CHUNK_BYTES
from service.backends.s3 import open_client
from service.backends.storage import PART_BYTES
from service.settings import Settings, from_env

FILE_BYTES = 50 * 2**20
# Different files; further ones are read as the same again.
FILES = 4
COPY = "bare/copy"


def key_of(number: int) -> str:
    return f"uploads/{number % FILES}"


async def copy(settings: Settings, files: int) -> float:
    bucket = settings.s3_bucket
    async with open_client(settings, settings.s3_endpoint_url, name="S3_ENDPOINT_URL") as client:
        await client.head_object(Bucket=bucket, Key=key_of(0))  # its connection and its credentials
        started = time.perf_counter()
        created = await client.create_multipart_upload(Bucket=bucket, Key=COPY)
        target = {"Bucket": bucket, "Key": COPY, "UploadId": created["UploadId"]}
        sending: list[asyncio.Task[Any]] = []
        async for part in _parts(_read(client, bucket, files)):
            if sending:
                await sending[-1]
            upload = client.upload_part(**target, PartNumber=len(sending) + 1, Body=part)
            sending.append(asyncio.create_task(upload))
        sent = [await task for task in sending]
        parts = [{"PartNumber": number, "ETag": answer["ETag"]} for number, answer in enumerate(sent, start=1)]
        await client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
        seconds = time.perf_counter() - started
        await client.delete_object(Bucket=bucket, Key=COPY)
        return seconds


async def _read(client: Any, bucket: str, files: int) -> AsyncIterator[bytes]:
    for number in range(files):
        answer = await client.get_object(Bucket=bucket, Key=key_of(number))
        async with answer["Body"] as body:
            while chunk := await body.read(CHUNK_BYTES):
                yield chunk


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    waiting: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size_bytes += len(chunk)
        if size_bytes >= PART_BYTES:
            yield b"".join(waiting)
            waiting, size_bytes = [], 0
    if waiting:
        yield b"".join(waiting)


if __name__ == "__main__":
    print(uvloop.run(copy(from_env(os.environ), int(sys.argv[1]))))
