"""What a user of webhooks can put right."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class UrlRefused(DomainError):
    """The gateway would not connect to this URL; the detail says why."""

    code = "webhook_url_refused"
    status = 422
    title = "The URL cannot be used for webhooks"
    advice = "Use an https URL of a host on the public internet; see docs/security/outbound-guard.md."


class TooManyEndpoints(DomainError):
    """The tenant has as many endpoints in this mode as it may."""

    code = "too_many_webhook_endpoints"
    status = 409
    title = "There are as many webhook endpoints as there may be"
    advice = "Delete an endpoint, or let one endpoint take more events."


class EndpointDeleted(DomainError):
    """A deleted endpoint stays deleted."""

    code = "webhook_endpoint_deleted"
    status = 409
    title = "The webhook endpoint was deleted"
    advice = "Make a new endpoint."


class EndpointNotEnabled(DomainError):
    """Nothing is sent to an endpoint that is disabled or deleted."""

    code = "webhook_endpoint_not_enabled"
    status = 409
    title = "The webhook endpoint is not enabled"
    advice = "Enable the endpoint first."


class ReplayTooLarge(DomainError):
    """More deliveries than one replay takes."""

    code = "webhook_replay_too_large"
    status = 422
    title = "The replay is too large"
    advice = "Ask for a shorter time or fewer types, several times over. Nothing was replayed."
