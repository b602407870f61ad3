"""Entries of the audit trail in words: one sentence per type of event, and what differs as a list of before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from clearspan_admin.words import mark

TYPES: Final[Mapping[str, str]] = {
    "payment.created": mark("%(who)s created %(what)s"),
    "payment.requires_action": mark("%(what)s waits for the payer (%(who)s)"),
    "payment.action_expired": mark("%(what)s: the payer's time was over (%(who)s)"),
    "payment.authorized": mark("%(who)s reserved the amount of %(what)s"),
    "payment.succeeded": mark("%(who)s charged %(what)s"),
    "payment.declined": mark("%(what)s was declined (%(who)s)"),
    "payment.pending": mark("%(what)s is pending at the PSP (%(who)s)"),
    "payment.unknown": mark("The outcome of %(what)s became unknown (%(who)s)"),
    "payment.needs_review": mark("%(what)s needs a person (%(who)s)"),
    "payment.canceled": mark("%(who)s canceled %(what)s"),
    "payment.cancel_requested": mark("%(who)s asked to cancel %(what)s"),
    "payment.expired": mark("%(what)s expired (%(who)s)"),
    "payment.captured": mark("%(who)s captured %(what)s"),
    "payment.surplus": mark("%(what)s succeeded after it had been given up (%(who)s)"),
    "payment.surplus_released": mark("%(who)s released the surplus of %(what)s"),
    "refund.created": mark("%(who)s asked for the refund %(what)s"),
    "refund.succeeded": mark("The refund %(what)s succeeded (%(who)s)"),
    "refund.failed": mark("The refund %(what)s failed (%(who)s)"),
    "refund.reversed": mark("The refund %(what)s failed after it had succeeded (%(who)s)"),
    "operation.submitted": mark("%(who)s sent %(what)s to the PSP"),
    "operation.adopted": mark("%(who)s took in %(what)s, which only the PSP knew"),
    "operation.lookup_requested": mark("%(who)s had %(what)s looked up at the PSP"),
    "operation.decision_proposed": mark("%(who)s proposed what became of %(what)s"),
    "operation.decision_withdrawn": mark("%(who)s withdrew a proposal about %(what)s"),
    "operation.decided": mark("%(who)s decided what became of %(what)s"),
    "rebill.decided": mark("%(who)s decided how %(what)s is collected"),
    "rebill.stopped": mark("%(who)s stopped collecting %(what)s"),
    "rebill.exhausted": mark("%(who)s used up the dunning plan of %(what)s"),
    "rebill.released": mark("%(who)s released %(what)s"),
    "rebill.account_blocked": mark("The PSP refused the account of %(what)s; rebills rest (%(who)s)"),
    "dunning_plan.created": mark("%(who)s created the dunning plan %(what)s"),
    "dunning_plan.versioned": mark("%(who)s changed the dunning plan %(what)s"),
    "dispute.opened": mark("A payer opened the dispute %(what)s (%(who)s)"),
    "dispute.updated": mark("The dispute %(what)s moved on (%(who)s)"),
    "dispute.closed": mark("The dispute %(what)s ended (%(who)s)"),
    "dispute.returned": mark("A bank gave a direct debit back: %(what)s (%(who)s)"),
    "incident.opened": mark("Something about %(what)s contradicts itself (%(who)s)"),
    "customer.created": mark("%(who)s created the customer %(what)s"),
    "customer.updated": mark("%(who)s changed the customer %(what)s"),
    "customer.deleted": mark("%(who)s deleted the customer %(what)s"),
    "payment_method.created": mark("%(who)s stored the payment method %(what)s"),
    "payment_method.detached": mark("%(who)s detached the payment method %(what)s"),
    "plan.created": mark("%(who)s created the plan %(what)s"),
    "plan.updated": mark("%(who)s changed the plan %(what)s"),
    "plan.archived": mark("%(who)s archived the plan %(what)s"),
    "coupon.created": mark("%(who)s created the coupon %(what)s"),
    "coupon.updated": mark("%(who)s changed the coupon %(what)s"),
    "coupon.archived": mark("%(who)s archived the coupon %(what)s"),
    "subscription.created": mark("%(who)s created the subscription %(what)s"),
    "subscription.changed": mark("%(who)s changed the items of %(what)s"),
    "subscription.updated": mark("%(who)s changed the subscription %(what)s"),
    "subscription.paused": mark("%(who)s paused the subscription %(what)s"),
    "subscription.resumed": mark("%(who)s resumed the subscription %(what)s"),
    "subscription.canceled": mark("%(who)s canceled the subscription %(what)s"),
    "invoice.opened": mark("%(who)s issued the invoice %(what)s"),
    "invoice.paid": mark("The invoice %(what)s was paid (%(who)s)"),
    "invoice.voided": mark("%(who)s voided the invoice %(what)s"),
    "invoice.marked_uncollectible": mark("%(who)s gave up the invoice %(what)s"),
    "credit_note.created": mark("%(who)s issued the credit note %(what)s"),
    "mandate.created": mark("%(who)s noted the mandate %(what)s"),
    "mandate.revoked": mark("%(who)s revoked the mandate %(what)s"),
    "tenant.created": mark("%(who)s created the tenant %(what)s"),
    "tenant.renamed": mark("%(who)s renamed the tenant"),
    "tenant.billing_settings_updated": mark("%(who)s changed the billing settings"),
    "tenant.jobs_changed": mark("%(who)s retried or aborted background jobs"),
    "psp_account.created": mark("%(who)s created the PSP account %(what)s"),
    "psp_account.updated": mark("%(who)s changed the PSP account %(what)s"),
    "psp_account.misconfigured": mark("The PSP refused the settings of %(what)s (%(who)s)"),
    "psp_account.circuit_opened": mark("%(who)s stopped calling the PSP account %(what)s"),
    "psp_account.circuit_closed": mark("%(who)s calls the PSP account %(what)s again"),
    "webhook.parked": mark("%(who)s parked the message %(what)s"),
    "webhook.needs_attention": mark("The message %(what)s needs a person (%(who)s)"),
    "webhook.retried": mark("%(who)s retried the message %(what)s"),
    "webhook.dismissed": mark("%(who)s dismissed the message %(what)s"),
    "webhook_endpoint.created": mark("%(who)s created the webhook endpoint %(what)s"),
    "webhook_endpoint.updated": mark("%(who)s changed the webhook endpoint %(what)s"),
    "webhook_endpoint.deleted": mark("%(who)s deleted the webhook endpoint %(what)s"),
    "webhook_endpoint.disabled": mark("%(who)s disabled the webhook endpoint %(what)s"),
    "webhook_endpoint.secret_rotated": mark("%(who)s rotated the secret of %(what)s"),
    "webhook_endpoint.replayed": mark("%(who)s replayed deliveries to %(what)s"),
    "webhook_endpoint.test": mark("%(who)s tested the webhook endpoint %(what)s"),
    "api_key.created": mark("%(who)s created the API key %(what)s"),
    "api_key.rotated": mark("%(who)s rotated the API key %(what)s"),
    "api_key.revoked": mark("%(who)s revoked the API key %(what)s"),
    "operator.joined": mark("%(who)s made %(what)s a member"),
    "operator.left": mark("%(who)s ended the membership of %(what)s"),
    "operator.role_changed": mark("%(who)s changed the role of %(what)s"),
    "notice.retried": mark("%(who)s had the mail %(what)s sent again"),
    "bulk_run.started": mark("%(who)s started the bulk run %(what)s"),
    "bulk_run.ended": mark("The bulk run %(what)s ended (started by %(who)s)"),
    "bulk_run.canceled": mark("%(who)s canceled the bulk run %(what)s"),
    "payment.not_charged": mark("%(what)s was proven not to be charged (%(who)s)"),
    "payment.not_sent": mark("%(what)s never reached the PSP (%(who)s)"),
    "payment.surplus_returned": mark("%(who)s gave back the surplus of %(what)s"),
    "payment.capture_pending": mark("The capture of %(what)s is pending at the PSP (%(who)s)"),
    "payment.capture_requires_action": mark("The capture of %(what)s waits for the payer (%(who)s)"),
    "payment.capture_unknown": mark("The outcome of the capture of %(what)s became unknown (%(who)s)"),
    "payment.capture_needs_review": mark("The capture of %(what)s needs a person (%(who)s)"),
    "payment.capture_failed": mark("The capture of %(what)s failed (%(who)s)"),
    "payment.capture_expired": mark("The capture of %(what)s expired (%(who)s)"),
    "payment.capture_not_charged": mark("The capture of %(what)s was proven not to have happened (%(who)s)"),
    "payment.capture_not_sent": mark("The capture of %(what)s never reached the PSP (%(who)s)"),
    "payment.capture_surplus": mark("The capture of %(what)s succeeded after it had been given up (%(who)s)"),
    "payment.voided": mark("%(who)s released the amount reserved for %(what)s"),
    "payment.void_pending": mark("The void of %(what)s is pending at the PSP (%(who)s)"),
    "payment.void_requires_action": mark("The void of %(what)s waits for the payer (%(who)s)"),
    "payment.void_unknown": mark("The outcome of the void of %(what)s became unknown (%(who)s)"),
    "payment.void_needs_review": mark("The void of %(what)s needs a person (%(who)s)"),
    "payment.void_failed": mark("The void of %(what)s failed (%(who)s)"),
    "payment.void_expired": mark("The void of %(what)s expired (%(who)s)"),
    "payment.void_not_charged": mark("The void of %(what)s was proven not to have happened (%(who)s)"),
    "payment.void_not_sent": mark("The void of %(what)s never reached the PSP (%(who)s)"),
    "payment.void_surplus": mark("The void of %(what)s succeeded after it had been given up (%(who)s)"),
    "refund.pending": mark("The refund %(what)s is pending at the PSP (%(who)s)"),
    "refund.requires_action": mark("The refund %(what)s waits for the payer (%(who)s)"),
    "refund.unknown": mark("The outcome of the refund %(what)s became unknown (%(who)s)"),
    "refund.needs_review": mark("The refund %(what)s needs a person (%(who)s)"),
    "refund.expired": mark("The refund %(what)s expired (%(who)s)"),
    "refund.not_charged": mark("The refund %(what)s was proven not to have happened (%(who)s)"),
    "refund.not_sent": mark("The refund %(what)s never reached the PSP (%(who)s)"),
    "refund.surplus": mark("The refund %(what)s succeeded after it had been given up (%(who)s)"),
    "approval.asked": mark("%(who)s asked a second person about %(what)s"),
    "approval.approved": mark("%(who)s approved %(what)s"),
    "approval.rejected": mark("%(who)s rejected %(what)s"),
    "approval.withdrawn": mark("%(who)s withdrew the request %(what)s"),
    "approval.expired": mark("Nobody answered the request %(what)s in time (%(who)s)"),
    "coupon.redeemed": mark("%(who)s redeemed the coupon %(what)s"),
    "subscription.activated": mark("The subscription %(what)s became active (%(who)s)"),
    "subscription.past_due": mark("The subscription %(what)s fell behind with its payment (%(who)s)"),
    "subscription.recovered": mark("The subscription %(what)s was paid up again (%(who)s)"),
    "subscription.incomplete_expired": mark("The subscription %(what)s was never paid and expired (%(who)s)"),
    "mandate.activated": mark("The mandate %(what)s became active (%(who)s)"),
    "mandate.not_activated": mark("The mandate %(what)s did not become active (%(who)s)"),
    "mandate.suspended": mark("The mandate %(what)s rests (%(who)s)"),
    "test_clock.created": mark("%(who)s created the test clock %(what)s"),
    "test_clock.advancing": mark("%(who)s sent the test clock %(what)s forward"),
    "test_clock.advanced": mark("The test clock %(what)s arrived (%(who)s)"),
    "test_clock.released": mark("%(who)s let the test clock %(what)s go"),
    "invoice.created": mark("%(who)s drew up the invoice %(what)s"),
    "invoice.payment_failed": mark("A charge for the invoice %(what)s failed (%(who)s)"),
    "operator.identity_linked": mark("%(who)s linked an outside sign-in to %(what)s"),
    "operator.token_revoked": mark("%(who)s revoked a token of %(what)s"),
    "operator.token_reused": mark(
        "A used refresh token of %(what)s came again: all of its line were revoked (%(who)s)"
    ),
    "operator.sessions_ended": mark("%(who)s signed %(what)s out elsewhere"),
    "operator.invited": mark("%(who)s invited %(what)s"),
    "operator.invitation_withdrawn": mark("%(who)s withdrew the invitation of %(what)s"),
    "operator.signed_in": mark("%(who)s signed in"),
    "operator.sign_in_failed": mark("Somebody failed to sign in as %(what)s"),
    "operator.locked_out": mark("Too many wrong tries: %(what)s has to wait"),
    "operator.password_link_made": mark("%(who)s made a link for a new password of %(what)s"),
    "operator.password_changed": mark("%(who)s changed the password of %(what)s"),
    "operator.second_factor_set": mark("%(who)s set up an authenticator for %(what)s"),
    "operator.second_factor_removed": mark("%(who)s removed the authenticator of %(what)s"),
    "operator.recovery_code_used": mark("%(what)s signed in with a recovery code"),
    "operator.recovery_codes_renewed": mark("%(who)s made new recovery codes for %(what)s"),
    "operator.disabled": mark("%(who)s disabled %(what)s"),
    "operator.enabled": mark("%(who)s enabled %(what)s again"),
}
"""By type of event. A type that is not here, of a plugin or of a newer server, is told by its own name."""
_OTHER: Final = mark("%(type)s: %(what)s (%(who)s)")


class Differs(msgspec.Struct, frozen=True):
    """One thing that differs; ``None`` is nothing at all."""

    name: str
    before: str | None
    after: str | None


def phrase(type_: str) -> str:
    """The sentence of a type of event, with the places ``who``, ``what`` and ``type``."""
    return TYPES.get(type_, _OTHER)


def diff(data: Mapping[str, Any]) -> list[Differs]:
    """What an entry about a changed configuration says that differs: its own before and after."""
    if "before" not in data and "after" not in data:
        return []
    before, after = data.get("before"), data.get("after")
    if isinstance(before, dict) or isinstance(after, dict):
        old = before if isinstance(before, dict) else {}
        new = after if isinstance(after, dict) else {}
        return [Differs(name, _text(old.get(name)), _text(new.get(name))) for name in sorted({*old, *new})]
    names = named(data)
    return [Differs(names[0] if len(names) == 1 else "", _text(before), _text(after))]


def named(data: Mapping[str, Any]) -> list[str]:
    """What an entry says was changed by name alone; of secrets it holds no more than that."""
    found: list[str] = []
    for field in ("changed", "settings"):
        names = data.get(field)
        if isinstance(names, list):
            found += [str(name) for name in names]
    return found


def _text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case str():
            return value
        case list() if all(isinstance(one, str) for one in value):
            return ", ".join(value)
        case _:
            return msgspec.json.encode(value).decode()


KINDS: Final = {
    "payment": mark("Payment"),
    "refund": mark("Refund"),
    "operation": mark("Operation"),
    "dispute": mark("Dispute"),
    "customer": mark("Customer"),
    "payment_method": mark("Payment method"),
    "mandate": mark("Mandate"),
    "test_clock": mark("Test clock"),
    "plan": mark("Plan"),
    "coupon": mark("Coupon"),
    "subscription": mark("Subscription"),
    "invoice": mark("Invoice"),
    "credit_note": mark("Credit note"),
    "psp_account": mark("PSP account"),
    "webhook": mark("Webhook of a PSP"),
    "api_key": mark("API key"),
    "webhook_endpoint": mark("Webhook endpoint"),
    "tenant": mark("Tenant"),
    "rebill": mark("Rebill"),
    "dunning_plan": mark("Dunning plan"),
    "operator": mark("Person"),
    "approval": mark("Approval"),
    "notice": mark("Mail"),
    "bulk_run": mark("Bulk run"),
}
"""What an entry can be about, in words."""
