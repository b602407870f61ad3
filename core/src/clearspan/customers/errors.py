"""What can be refused about a customer."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class ReferenceTaken(DomainError):
    """Another customer has this reference."""

    code = "customer_reference_taken"
    status = 409
    title = "There is a customer of this reference"
    advice = "Use the existing customer (GET /v1/customers?reference=...), or another reference."


class CustomerDeleted(DomainError):
    """The customer was deleted."""

    code = "customer_deleted"
    status = 409
    title = "The customer was deleted"
    advice = "A deleted customer cannot be changed or charged; create a new one."
