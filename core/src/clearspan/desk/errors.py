"""What can be refused about work that waits for people."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class WorkDoneAlready(DomainError):
    """Somebody, or the gateway itself, was faster; ``state`` says what it is now."""

    code = "work_done_already"
    status = 409
    title = "It waits for nobody any more"
    advice = "Look at it: it was dealt with since this list was made."


class QueueUnknown(DomainError):
    """There is no such queue, or it cannot be narrowed like that."""

    code = "work_queue_not_found"
    status = 404
    title = "No such queue"
    advice = "There are unknown, webhooks, deliveries, notices, rebills, jobs and syncs."


class BulkRunEmpty(DomainError):
    """Nothing matches."""

    code = "bulk_run_empty"
    status = 409
    title = "Nothing matches, so nothing was started"
    advice = "Look at the queue again: what was there may have been dealt with."


class BulkRunUnderWay(DomainError):
    """Another run works on this queue."""

    code = "bulk_run_under_way"
    status = 409
    title = "Another bulk run works on this queue"
    advice = "Wait until it is through, or cancel it. Nothing was started."


class BulkRunOver(DomainError):
    """It ended, or was canceled, before."""

    code = "bulk_run_over"
    status = 409
    title = "The bulk run is over"
    advice = "What it has done stays done."


class QueueAway(DomainError):
    """Redis cannot be reached from this process."""

    code = "job_queue_unreachable"
    status = 503
    title = "The queue of background jobs cannot be reached"
    advice = "Nothing is lost: jobs only wake workers, and sweeps find what is due. Check Redis and redis.url."


class JobGone(DomainError):
    """The job ended and was forgotten, or is another tenant's."""

    code = "job_not_found"
    status = 404
    title = "No such background job"
    advice = "Jobs are forgotten a minute after they end. What they work on is found again by the next sweep."
