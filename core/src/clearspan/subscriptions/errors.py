"""What can be refused about plans, coupons and subscriptions."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class PlanReferenceTaken(DomainError):
    """Another plan has this reference."""

    code = "plan_reference_taken"
    status = 409
    title = "There is a plan of this reference"
    advice = "Use the existing plan (GET /v1/plans?reference=...), or another reference."


class PlanMissing(DomainError):
    """The request names a plan that does not exist."""

    code = "plan_not_found"
    status = 404
    title = "No such plan"
    advice = "Create the plan first (POST /v1/plans), with a key of the same tenant and mode."


class PlanArchived(DomainError):
    """An archived plan is not sold any more."""

    code = "plan_archived"
    status = 409
    title = "The plan is archived"
    advice = "Use another plan, or make it active again (PATCH /v1/plans/{id})."


class PlansDoNotFit(DomainError):
    """The items of a subscription share one interval and one currency."""

    code = "plans_do_not_fit"
    status = 422
    title = "These plans cannot be in one subscription"
    advice = "All items need the same interval, and an amount in the subscription's currency."


class CouponCodeTaken(DomainError):
    """Another coupon has this code."""

    code = "coupon_code_taken"
    status = 409
    title = "There is a coupon of this code"
    advice = (
        "Use another code; one that was used once stays taken, so that nobody redeems another coupon than he meant."
    )


class CouponMissing(DomainError):
    """The request names a coupon that does not exist."""

    code = "coupon_not_found"
    status = 404
    title = "No such coupon"
    advice = "Check the code or id, and that the key is of the same tenant and mode."


class CouponExpired(DomainError):
    """The coupon's time is over."""

    code = "coupon_expired"
    status = 409
    title = "The coupon has expired"
    advice = "redeem_by says when it ended. Nothing was changed."


class CouponExhausted(DomainError):
    """The coupon was redeemed as often as it may be."""

    code = "coupon_exhausted"
    status = 409
    title = "The coupon was redeemed as often as it may be"
    advice = "Use another coupon. Nothing was changed."


class CouponArchived(DomainError):
    """An archived coupon cannot be redeemed."""

    code = "coupon_archived"
    status = 409
    title = "The coupon is archived"
    advice = "Subscriptions that have it keep it; nobody can redeem it any more. Nothing was changed."


class CouponOfAnotherCurrency(DomainError):
    """The coupon has no amount in the subscription's currency."""

    code = "coupon_of_another_currency"
    status = 422
    title = "The coupon has no amount in this currency"
    advice = "Use a coupon with a percentage, or one with an amount in the subscription's currency."


class UnknownTimeZone(DomainError):
    """Not a name of the IANA time zone database."""

    code = "unknown_time_zone"
    status = 422
    title = "The time zone is not known"
    advice = "Use a name of the IANA time zone database, such as Europe/Berlin, America/New_York or UTC."


class NoSuchDate(DomainError):
    """The anchor names a day that no calendar has."""

    code = "no_such_date"
    status = 422
    title = "There is no such date"
    advice = "Days 29 to 31 fall on a shorter month's last day; 30 February and the like do not exist."


class SubscriptionCanceled(DomainError):
    """The subscription has ended."""

    code = "subscription_canceled"
    status = 409
    title = "The subscription has ended"
    advice = "Create a new subscription; what has ended stays ended."


class SubscriptionState(DomainError):
    """The subscription's status does not allow this."""

    code = "subscription_status"
    status = 409
    title = "The subscription's status does not allow this"
    advice = "subscription_status says how it stands; docs/subscriptions.md says what each status allows."


class ChargeUnderWay(DomainError):
    """A charge of the subscription is under way."""

    code = "subscription_charge_in_progress"
    status = 409
    title = "A charge of this subscription is under way"
    advice = "Follow the invoice's payment and repeat the request when it is decided. Nothing was changed."

    def headers(self) -> dict[str, str]:
        """When to try again."""
        return {"Retry-After": "2"}


class ChargeUnknown(DomainError):
    """It is not known whether a charge of the subscription took effect."""

    code = "subscription_charge_unknown"
    status = 409
    title = "The outcome of a charge of this subscription is not known yet"
    advice = (
        "The PSP gave no clear answer and is being asked; until then nothing can be credited or charged for this subscription."
        " Follow the payment's events and repeat the request then. Nothing was changed."
    )


class NotPriceable(DomainError):
    """What would be billed is more than one payment may be."""

    code = "amount_too_large"
    status = 422
    title = "A period would cost more than one payment may"
    advice = (
        "Use smaller quantities or several subscriptions; payments.amount_max_minor is the limit of this installation."
    )


class DunningPlanMissing(DomainError):
    """The request names a dunning plan that does not exist."""

    code = "dunning_plan_not_found"
    status = 404
    title = "No such dunning plan"
    advice = "Create the dunning plan first, with a key of the same tenant and mode."


class MandateNotFitting(DomainError):
    """The mandate belongs to another customer or payment method, or to another purpose."""

    code = "mandate_not_fitting"
    status = 409
    title = "The mandate is not one for this"
    advice = "Use a mandate of this customer for this payment method with the purpose recurring. Nothing was charged."
