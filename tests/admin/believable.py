"""A merchant who could be real: Northwind Coffee, its customers, and what happened to their payments.

For pictures, and for tests that want a page full of life. Everything is made through the API, with the simulator's test cards.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from tests.conftest import Merchant, NewMerchant
from tests.shop import Json, Shop

from clearspan.access.sessions import NewSession
from clearspan.app import Gateway
from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope
from clearspan.tenants.service import Tenants

TENANT: Final = "Northwind Coffee"
OWNER: Final = "Ada Lovelace"
CUSTOMERS: Final = (
    ("Mia Fischer", "mia.fischer@example.de", "de"),
    ("Louis Moreau", "louis.moreau@example.fr", "fr"),
    ("Carmen Ortega", "carmen.ortega@example.es", "es"),
    ("Noah Williams", "noah.williams@example.com", "en"),
    ("Saoirse O’Brien", "saoirse@example.ie", "en"),
    ("Kaffeehaus Lindgren GmbH", "einkauf@lindgren.example", "de"),
)
"""Name, e-mail address and language."""
PAYMENTS: Final = (
    (0, 1890, "EUR", "tok_visa_de", {"description": "Ethiopia Yirgacheffe, 1 kg"}),
    (1, 5400, "EUR", "tok_mastercard", {"description": "Espresso blend, 3 kg"}),
    (2, 2350, "EUR", "tok_visa", {"description": "Filter set and grinder brush"}),
    (3, 12900, "USD", "tok_amex", {"description": "Hand grinder, walnut"}),
    (4, 980, "GBP", "tok_visa_gb", {"description": "Decaf, 250 g"}),
    (5, 148000, "EUR", "tok_mastercard_debit", {"description": "Office supply, December"}),
    (3, 4200, "JPY", "tok_jcb", {"description": "Gift card"}),
    (0, 3150, "EUR", "tok_visa_debit", {"description": "Kenya AA, 1 kg"}),
)
"""Customer, amount, currency, card and what for: all are approved."""
DECLINED: Final = (
    (4, 6400, "EUR", "tok_decline_insufficient_funds"),
    (1, 2999, "EUR", "tok_decline_expired_card"),
    (3, 8800, "USD", "tok_decline_do_not_honor"),
)


class Demo(msgspec.Struct, frozen=True):
    """What there is.

    Attributes:
        objects: ids by the parameter of the API's paths that names such a thing: ``payment_id``, ``customer_id`` and so on.
        payments: a payment by what became of it: ``succeeded``, ``declined``, ``refunded``, ``unknown``, ``authorized``,
            ``waiting``.
        customers: ids, in the order of ``CUSTOMERS``.
    """

    objects: dict[str, str]
    payments: dict[str, str]
    customers: list[str]


async def open_shop(tenants: Tenants, new_merchant: NewMerchant) -> Merchant:
    """The tenant, in test mode, with a key that has every scope."""
    slug = f"northwind-{clock.random_bytes(4).hex()}"
    made = await tenants.create(slug, TENANT)
    scope = Scope(tenant_id=made.tenant_id, live=False)
    nobody = Caller(scope=scope, actor_type="cli", actor_id="tests", request_id="req_tests", tenant=slug)
    return await new_merchant(of=Merchant(nobody, ""))


async def owner(gateway: Gateway, merchant: Merchant) -> NewSession:
    """Ada, signed in with a second factor; there is one of her per tenant."""
    ada = await gateway.operators.create(f"ada@{merchant.caller.tenant}.example", OWNER, timezone="Europe/Berlin")
    await gateway.operators.join(merchant.caller, ada.operator_id, "owner")
    ada = await gateway.operators.change(await gateway.operators.get(ada.operator_id), totp_secret=b"not used".hex())
    return await gateway.sessions.open(ada, method="password", strong=True, ip="203.0.113.7", agent="Firefox on Linux")


async def fill(shop: Shop) -> Demo:
    """Make it all in the shop's tenant."""
    customers = [
        await shop.customer(name=name, email=email, reference=f"nw-{1001 + at}")
        for at, (name, email, _) in enumerate(CUSTOMERS)
    ]
    payments: dict[str, str] = {}

    async def pay(who: int, amount: int, currency: str, card: str, **fields: Any) -> Json:
        method = await shop.card(card, customer=customers[who])
        given = {"currency": currency, "customer": customers[who], "payment_method": method, "confirm": True} | fields
        answer = await shop.create(amount, **given)
        assert answer.status_code in (201, 202), f"{card}: {answer.text}"
        made: Json = answer.json()
        return made

    for at, (who, amount, currency, card, fields) in enumerate(PAYMENTS):
        made = await pay(who, amount, currency, card, reference=f"order-{5210 + at}", **fields)
        payments.setdefault("succeeded", made["id"])
        last = made
    for at, (who, amount, currency, card) in enumerate(DECLINED):
        payments.setdefault("declined", (await pay(who, amount, currency, card, reference=f"order-{5230 + at}"))["id"])
    refund = await shop.act(last, "refunds", {"amount_minor": 1150, "reason": "requested_by_customer"})
    assert refund.status_code in (200, 201, 202), refund.text
    payments["refunded"] = last["id"]
    held = await pay(
        5, 38500, "EUR", "tok_visa", capture_method="manual", reference="order-5240", description="Roaster deposit"
    )
    payments["authorized"] = held["id"]
    challenged = await pay(
        2, 7900, "EUR", "tok_3ds_challenge", return_url="https://northwind.example/thanks", reference="order-5241"
    )
    payments["waiting"] = challenged["id"]
    lost = await pay(
        0, 4590, "EUR", "tok_visa_de", metadata={"sandbox_fault": "F3 delay_s=3000 hang_s=0"}, reference="order-5242"
    )
    payments["unknown"] = lost["id"]
    return Demo(
        await _rebilled(shop, customers)
        | {"payment_id": payments["succeeded"], "refund_id": refund.json()["id"], "customer_id": customers[0]},
        payments,
        customers,
    )


async def _rebilled(shop: Shop, customers: list[str]) -> dict[str, str]:
    """Plans, subscriptions, an invoice by hand, and who is told of it all."""

    async def post(path: str, **body: Any) -> Json:
        answer = await shop.post(path, body)
        assert answer.status_code in (200, 201, 202), f"{path}: {answer.text}"
        made: Json = answer.json()
        return made

    club = await post(
        "/v1/plans", name="Coffee club", amounts={"EUR": 1900, "USD": 2100, "GBP": 1700}, interval={"unit": "month"}
    )
    office = await post("/v1/plans", name="Office supply", amounts={"EUR": 14900}, interval={"unit": "month"})
    coupon = await post("/v1/coupons", code="SPRING26", name="Spring", percent_bp=2000, duration="once")
    agreed = {"mandate": {"text_version": "2026-01"}}
    subscriptions = [
        await post(
            "/v1/subscriptions",
            currency="EUR",
            customer=customers[who],
            items=[{"plan": plan["id"]}],
            payment_method=await shop.card(card, customer=customers[who]),
            **agreed,
        )
        for who, plan, card in ((3, club, "tok_visa_gb"), (4, club, "tok_mastercard"), (5, office, "tok_visa_gb"))
    ]
    lines = [
        {"description": "Barista training, half a day", "unit_amount_minor": 42000},
        {"description": "Travel", "unit_amount_minor": 3800},
    ]
    invoice = await post("/v1/invoices", customer=customers[5], currency="EUR", lines=lines)
    await post(f"/v1/invoices/{invoice['id']}/open")
    dunning = await post("/v1/dunning-plans", name="Patient")
    hook = await post(
        "/v1/webhook-endpoints", url="https://northwind.example/hooks/clearspan", events=["payment.*", "invoice.*"]
    )
    key = await post("/v1/api-keys", name="Web shop", scopes=["payments:read", "payments:write", "customers:write"])
    return {
        "plan_id": club["id"],
        "coupon_id": coupon["id"],
        "subscription_id": subscriptions[0]["id"],
        "invoice_id": invoice["id"],
        "dunning_plan_id": dunning["id"],
        "endpoint_id": hook["id"],
        "key_id": key["id"],
    }


async def declining(shop: Shop, gateway: Gateway, scope: Scope, demo: Demo) -> None:
    """Two who moved to a bigger plan, whose cards had no money for the difference: they stand on the dunning board."""
    bigger = await shop.post(
        "/v1/plans", {"name": "Coffee club, large", "amounts": {"EUR": 3900}, "interval": {"unit": "month"}}
    )
    assert bigger.status_code == 201, bigger.text
    for who in (1, 2):
        body = {
            "currency": "EUR",
            "customer": demo.customers[who],
            "items": [{"plan": demo.objects["plan_id"]}],
            "payment_method": await shop.card("tok_rebill_declined", customer=demo.customers[who]),
            "mandate": {"text_version": "2026-01"},
        }
        made = await shop.post("/v1/subscriptions", body)
        assert made.status_code == 201, made.text
        changed = await shop.post(
            f"/v1/subscriptions/{made.json()['id']}/change", {"items": [{"plan": bigger.json()["id"]}]}
        )
        assert changed.status_code == 200, changed.text
    await gateway.collector.collect(scope, "req_pictures")
