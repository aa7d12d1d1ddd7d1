"""The caller of a request, and the exports that are theirs."""

import uuid

import structlog
from starlette.requests import Request

from service.access.tokens import LEEWAY_SECONDS, Access
from service.api.http.requests import bearer_token, client_ip
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import Export
from service.errors import TokenFault, TokenRefusedError, TokenTooLargeError
from service.exports import owner_checks
from service.resources import Resources
from service.user_ids import UserId

logger = structlog.get_logger()


def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def require_user(request: Request) -> UserId:
    """The user whose JWT the request carries. Raises TokenRefusedError or TokenTooLargeError."""
    return (await require_access(request)).user_id


async def require_access(request: Request) -> Access:
    """The verified token, for a response that must end with it. Raises TokenRefusedError or TokenTooLargeError."""
    resources = resources_of(request)
    try:
        return await resources.verifier.verify(bearer_token(request))
    except (TokenRefusedError, TokenTooLargeError) as error:
        cause = _cause(resources, error.fault)
        resources.metrics.token_refusals.labels(cause).inc()
        logger.info("token_refused", cause=cause)
        raise


def _cause(resources: Resources, fault: TokenFault) -> TokenFault:
    """The clock, if it is wrong, rather than the token that seems too old or too new by it."""
    wrong = abs(resources.clock.ahead_seconds) > LEEWAY_SECONDS
    return TokenFault.CLOCK if wrong and fault in {TokenFault.EXPIRED, TokenFault.NOT_YET} else fault


async def get_owned(request: Request, user_id: UserId, job_id: uuid.UUID) -> Export:
    """The user's own export. Raises ExportNotFoundError; if it is another user's, the attempt is audited."""
    return await owner_checks.get_owned(resources_of(request), job_id, user_id, user_actor(request, user_id))


def user_actor(request: Request, user_id: UserId) -> Actor:
    return Actor("user", str(user_id), **_origin(request))


def key_actor(request: Request) -> Actor:
    """The actor of a key that isn't verified yet, so without the key's prefix as its name."""
    return Actor("key", None, **_origin(request))


def link_actor(request: Request) -> Actor:
    return Actor("link", None, **_origin(request))


def _origin(request: Request) -> dict[str, str | None]:
    return {
        "ip": client_ip(request),
        "user_agent": request.headers.get("user-agent"),
        "request_id": request.state.request_id,
    }
