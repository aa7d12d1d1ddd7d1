"""Admission of exports: the rules that allow a user another one, and the row of each that they allow."""

from service.backends.database import Executor
from service.bookkeeping.exports import Export, ExportRepository, ExportRequest, Limits, Verdict
from service.errors import ExportInProgressError, IdempotencyConflictError, RateLimitedError, UnavailableError
from service.resources import Resources

# Failed and cancelled exports don't count for the rate, but so many times as many exports are accepted at most.
ACCEPTED_PER_MADE = 10
ACCEPTED_DETAIL = "At most {} exports an hour, failed and cancelled ones included"
KEPT_FILES_DETAIL = "At most {} files are kept for you: delete one, or wait until the next one expires"


class Admission:
    """One running export per user, a rate, a number of kept files; and one export per idempotency key."""

    def __init__(self, exports: ExportRepository, *, per_hour: int, kept_files: int) -> None:
        """`per_hour` is how many exports a user may make in an hour, `kept_files` how many files they may keep."""
        self._exports = exports
        self._limits = Limits(per_hour, kept_files, per_hour * ACCEPTED_PER_MADE)

    async def check(self, connection: Executor, request: ExportRequest) -> Export | None:
        """The export of an earlier request with the same idempotency key; None if a new one is allowed.

        Otherwise raises ExportInProgressError, RateLimitedError or IdempotencyConflictError.
        """
        verdict = await self._exports.find_admission(connection, request, self._limits)
        return await self._apply(connection, request, verdict)

    async def admit(
        self, connection: Executor, request: ExportRequest, *, queued: bool, records: int
    ) -> tuple[Export, bool]:
        """The export, and whether it is new. Raises what `check` does, and UnavailableError in a rare race.

        A new export is pending if `queued`, and otherwise the caller's to make.
        """
        verdict = await self._exports.admit(connection, request, self._limits, queued=queued, estimated_records=records)
        if verdict.export and verdict.is_new:
            return verdict.export, True
        if earlier := await self._apply(connection, request, verdict) or await self.check(connection, request):
            return earlier, False
        raise UnavailableError("Another export of this user has just ended", retry_after_seconds=1)

    async def _apply(self, connection: Executor, request: ExportRequest, verdict: Verdict) -> Export | None:
        if verdict.export and verdict.is_earlier:
            return _require_same(verdict.export, request)
        if running := verdict.export:
            estimate = await self._exports.estimate_completion(connection, running)
            raise ExportInProgressError("Export already in progress", job_id=running.id, estimated_completion=estimate)
        _refuse_over_limit(f"At most {self._limits.per_hour} exports an hour", verdict.rate_wait)
        _refuse_over_limit(ACCEPTED_DETAIL.format(self._limits.accepted_per_hour), verdict.accepted_wait)
        _refuse_over_limit(KEPT_FILES_DETAIL.format(self._limits.kept_files), verdict.kept_files_wait)
        return None


def admission_of(resources: Resources, request: ExportRequest) -> Admission:
    settings = resources.settings
    per_hour = (settings.requests_per_hour if request.desk else None) or settings.exports_per_hour
    return Admission(resources.exports, per_hour=per_hour, kept_files=settings.kept_files)


def conflict_with(earlier: Export) -> IdempotencyConflictError:
    return IdempotencyConflictError("This Idempotency-Key was used with another body", job_id=earlier.id)


def _require_same(earlier: Export, request: ExportRequest) -> Export:
    """Rows older than the digest are compared by user and format."""
    same = earlier.spec == request.spec if earlier.spec_digest is None else earlier.spec_digest == request.digest
    if not same:
        raise conflict_with(earlier)
    return earlier


def _refuse_over_limit(detail: str, wait_seconds: int | None) -> None:
    if wait_seconds is not None:
        raise RateLimitedError(detail, retry_after_seconds=max(1, wait_seconds))
