"""What collecting refuses, beyond what ``payments.errors`` says."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class RebillNotFound(DomainError):
    """No invoice with this id is collected by the gateway in this tenant and mode."""

    code = "rebill_not_found"
    status = 404
    title = "No such rebill"
    advice = "An invoice has a rebill when it belongs to a subscription and something is due. Check the invoice's id."


class RebillNotOpen(DomainError):
    """The invoice is not being collected any more, or is charged in this moment."""

    code = "rebill_not_open"
    status = 409
    title = "The invoice is not waiting to be collected"
    advice = "state says how it stands: claimed is being charged now, settled is paid, exhausted and stopped are over."


class InvoiceNotHeld(DomainError):
    """Only an invoice that was made for a missed period, and held, can be released."""

    code = "invoice_not_held"
    status = 409
    title = "The invoice is not held"
    advice = "Only an open invoice with collection = held can be released; others are collected by themselves."
