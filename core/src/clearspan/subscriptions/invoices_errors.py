"""What can be refused about invoices, credit notes and the pay page."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class InvoiceLocked(DomainError):
    """A charge of the invoice is under way, or nobody knows how it went."""

    code = "invoice_payment_locked"
    status = 409
    title = "A payment of this invoice is under way"
    advice = (
        "Wait until it is known how the payment went (the invoice's payment_locked becomes false); then decide again."
        " Nothing was changed."
    )


class InvoiceTransition(DomainError):
    """The invoice's status does not allow it."""

    code = "invoice_not_in_status"
    status = 409
    title = "The invoice's status does not allow this"
    advice = (
        "invoice_status says how it stands; docs/invoices.md draws what is possible from there. Nothing was changed."
    )


class InvoiceWithoutDocument(DomainError):
    """A draft is no document yet."""

    code = "invoice_is_draft"
    status = 409
    title = "A draft has no number and no document"
    advice = "POST /v1/invoices/{id}/open gives it a number; then there is a PDF and something to send."


class CreditAboveInvoice(DomainError):
    """More than the invoice would be taken back."""

    code = "credit_note_above_invoice"
    status = 422
    title = "The credit note takes back more than is left of the invoice"
    advice = "creditable_minor is the most that is possible. Nothing was changed."


class CreditNotPossible(DomainError):
    """This way of settling does not fit the invoice."""

    code = "credit_note_not_possible"
    status = 409
    title = "The credit note cannot be settled this way"
    advice = (
        "because says why: not_paid (only 'reduction' fits an open invoice), already_paid or payment_exists (a payment's amount"
        " never changes: wait until it is paid, then use 'refund' or 'credit'), no_subscription (nothing that could use a"
        " credit up). Nothing was changed."
    )
