"""The endpoint for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.callers import resources_of
from service.api.http.problems import UNEXPECTED
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute


async def show_metrics(request: Request) -> Response:
    resources = resources_of(request)
    body, content_type = await resources.metrics.render(resources.database, request.headers.get("Accept", ""))
    return Response(body, headers={"Content-Type": content_type})


SHOW_METRICS = Operation(
    tag="Operation",
    summary="Get metrics for Prometheus",
    answers={
        200: Answer(
            description="The metrics, in the format that `Accept` prefers.",
            content={
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        )
    },
    refusals=(UNEXPECTED,),
)

ROUTES = (ExactRoute("/metrics", show_metrics, SHOW_METRICS),)
