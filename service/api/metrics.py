"""What Prometheus asks."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import resources_of


async def show_metrics(request: Request) -> Response:
    resources = resources_of(request)
    body, content_type = await resources.metrics.render(resources.database, request.headers.get("Accept", ""))
    return Response(body, headers={"Content-Type": content_type})
