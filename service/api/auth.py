"""Who is asking."""

from starlette.requests import Request

from service.api.requests import bearer_token, client_ip
from service.audit import Actor
from service.bootstrap import Resources
from service.database import UserId


def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def require_user(request: Request) -> UserId:
    """The user whose JWT the request carries. Raises AuthenticationError."""
    return await resources_of(request).verifier.verify(bearer_token(request))


def user_actor(request: Request, user_id: UserId) -> Actor:
    return Actor("user", str(user_id), **_origin(request))


def key_actor(request: Request) -> Actor:
    """Still without the key's prefix as its name."""
    return Actor("key", None, **_origin(request))


def link_actor(request: Request) -> Actor:
    return Actor("link", None, **_origin(request))


def _origin(request: Request) -> dict[str, str | None]:
    return {
        "ip": client_ip(request),
        "user_agent": request.headers.get("user-agent"),
        "request_id": request.state.request_id,
    }
