"""What does not matter in a test: request bodies at random, and rows for every table.

from tests.factories import CustomerFactory
body = CustomerFactory.build(email="ada@example.com")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from polyfactory.factories.msgspec_factory import MsgspecFactory

from clearspan.customers.pii import Address
from clearspan.customers.schemas import CustomerCreate
from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.crypto import MasterKey

Row = Mapping[str, Any]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class AddressFactory(MsgspecFactory[Address]):
    """Postal addresses."""

    __random_seed__ = 1

    country = "GB"


class CustomerFactory(MsgspecFactory[CustomerCreate]):
    """Bodies of ``POST /v1/customers`` with every field."""

    __allow_none_optionals__ = False
    __random_seed__ = 1

    email = "ada@example.com"
    phone = "+44 20 7946 0018"
    address = AddressFactory
    test_clock = None  # it would have to exist

    @classmethod
    def reference(cls) -> str:
        """One of its own: references are unique."""
        return f"c-{clock.random_bytes(8).hex()}"


def tenant_row(master: MasterKey) -> Row:
    """A tenant."""
    tenant_id = clock.new_uuid()
    return {
        "tenant_id": tenant_id,
        "slug": f"t-{tenant_id.hex[-16:]}",
        "name": "A tenant",
        "data_key": master.new_data_key(str(tenant_id)),
        "created_at": clock.now(),
    }


def membership_row(tenant_id: UUID) -> Row:
    """Somebody's membership in a tenant."""
    return {
        "tenant_id": tenant_id,
        "operator_id": clock.new_uuid(),
        "role": "auditor",
        "created_at": clock.now(),
        "created_by": "cli",
    }


def rows(scope: Scope) -> list[tuple[str, Row]]:
    """A row for every table that belongs to a tenant and a mode, in an order in which they can be inserted."""
    now = clock.now()
    customer, method, account, payment, operation, refund = (clock.new_uuid() for _ in range(6))
    endpoint, delivery, event = (clock.new_uuid() for _ in range(3))
    tables: list[tuple[str, Row]] = [
        (
            "api_keys",
            {
                "key_id": clock.new_uuid(),
                "prefix": clock.random_bytes(4).hex(),
                "secret_hmac": clock.random_bytes(32),
                "name": "a key",
                "scopes": ["payments:read"],
                "created_at": now,
            },
        ),
        ("customers", {"customer_id": customer, "created_at": now, "updated_at": now}),
        ("customer_pii", {"customer_id": customer, "wrapped_key": b"sealed", "body": b"sealed"}),
        (
            "payment_methods",
            {
                "payment_method_id": method,
                "customer_id": customer,
                "vault": "sandbox",
                "vault_token": "tok_visa_approved",
                "brand": "visa",
                "last4": "1111",
                "exp_month": 12,
                "exp_year": 2099,
                "fingerprint": "f",
                "created_at": now,
                "updated_at": now,
            },
        ),
        (
            "psp_accounts",
            {
                "psp_account_id": account,
                "psp": "sandbox",
                "name": "alpha",
                "config": b"sealed",
                "created_at": now,
                "updated_at": now,
            },
        ),
        (
            "payment_intents",
            {
                "payment_id": payment,
                "amount_minor": 1099,
                "currency": "EUR",
                "capture_method": "automatic",
                "customer_present": True,
                "customer_id": customer,
                "payment_method_id": method,
                "psp_account_id": account,
                "created_at": now,
                "updated_at": now,
                "expires_at": now + clock.seconds(86_400),
                "status": "succeeded",
                "authorized_minor": 1099,
                "captured_minor": 1099,
                "refunded_minor": 99,
                "charge_operation_id": operation,
            },
        ),
        (
            "operations",
            {
                "operation_id": operation,
                "payment_id": payment,
                "kind": "purchase",
                "state": "succeeded",
                "amount_minor": 1099,
                "currency": "EUR",
                "psp_account_id": account,
                "payment_method_id": method,
                "psp_key": f"cs_{operation.hex}",
                "psp_ref": f"ch_{operation.hex}",
                "created_at": now,
                "sent_at": now,
                "decided_at": now,
                "updated_at": now,
            },
        ),
        (
            "operations",
            {
                "operation_id": refund,
                "payment_id": payment,
                "kind": "refund",
                "state": "succeeded",
                "amount_minor": 99,
                "currency": "EUR",
                "psp_account_id": account,
                "parent_id": operation,
                "psp_key": f"cs_{refund.hex}",
                "psp_ref": f"re_{refund.hex}",
                "created_at": now,
                "sent_at": now,
                "decided_at": now,
                "updated_at": now,
            },
        ),
        (
            "payment_method_tokens",
            {
                "payment_method_id": method,
                "psp_account_id": account,
                "token": "kept",
                "operation_id": operation,
                "updated_at": now,
            },
        ),
        (
            "facts",
            {
                "fact_id": clock.new_uuid(),
                "payment_id": payment,
                "operation_id": operation,
                "source": "response",
                "observed": "succeeded",
                "payload_hash": b"hash",
                "observed_at": now,
            },
        ),
        (
            "approvals",
            {
                "approval_id": clock.new_uuid(),
                "kind": "refund",
                "subject_id": payment,
                "request": "{}",
                "amount_minor": 1000,
                "currency": "EUR",
                "reason": "promised on the telephone",
                "asked_by": "opr_1",
                "asked_at": now,
                "expires_at": now,
            },
        ),
        (
            "bulk_runs",
            {
                "bulk_run_id": clock.new_uuid(),
                "queue": "notices",
                "action": "retry",
                "filter": "{}",
                "reason": "the mail server was away",
                "state": "canceled",
                "total": 1,
                "asked_by": "opr_1",
                "actor_type": "operator",
                "request_id": "req_tests",
                "created_at": now,
                "updated_at": now,
                "ended_at": now,
            },
        ),
        (
            "webhook_inbox",
            {
                "inbox_id": clock.new_uuid(),
                "psp_account_id": account,
                "event_key": "evt-1",
                "type": "charge.succeeded",
                "body_hash": b"hash",
                "state": "received",
                "due_at": now,
                "received_at": now,
                "updated_at": now,
            },
        ),
        (
            "disputes",
            {
                "dispute_id": clock.new_uuid(),
                "payment_id": payment,
                "operation_id": operation,
                "psp_account_id": account,
                "psp_ref": "dp_1",
                "status": "won",
                "amount_minor": 500,
                "currency": "EUR",
                "opened_at": now,
                "updated_at": now,
            },
        ),
        (
            "decisions",
            {
                "decision_id": clock.new_uuid(),
                "payment_id": payment,
                "operation_id": operation,
                "outcome": "succeeded",
                "reason": "seen on the statement",
                "state": "applied",
                "proposed_by": "key_1",
                "proposed_at": now,
            },
        ),
        (
            "webhook_inbox",
            {
                "inbox_id": clock.new_uuid(),
                "psp_account_id": account,
                "event_key": f"evt-{clock.random_bytes(4).hex()}",
                "type": "charge.updated",
                "news": '{"type": "hint"}',
                "body_hash": b"hash",
                "state": "needs_attention",
                "received_at": now,
                "updated_at": now,
            },
        ),
        (
            "idempotency_keys",
            {
                "key_hash": clock.random_bytes(32),
                "request_hash": clock.random_bytes(32),
                "state": "done",
                "lease_token": clock.new_uuid(),
                "lease_until": now,
                "created_at": now,
            },
        ),
        (
            "journal",
            {
                "event_id": event,
                "type": "payment.captured",
                "subject_type": "payment",
                "subject_id": payment,
                "sequence": 1,
                "actor_type": "cli",
                "actor_id": "tests",
                "request_id": "req_tests",
                "data": "{}",
                "at": now,
            },
        ),
        (
            "webhook_endpoints",
            {
                "webhook_endpoint_id": endpoint,
                "url": "https://shop.example/hook",
                "events": ["payment.*"],
                "api_version": "v1",
                "status": "disabled",  # so that no worker of another test picks it up: its secret is not really sealed
                "disabled_reason": "manual",
                "disabled_at": now,
                "secret": b"sealed",
                "created_at": now,
                "updated_at": now,
            },
        ),
        (
            "webhook_deliveries",
            {
                "delivery_id": delivery,
                "webhook_endpoint_id": endpoint,
                "event_id": event,
                "event_type": "payment.captured",
                "subject_id": payment,
                "epoch": 1,
                "xid": 1,
                "seq": 1,
                "due_at": now,
                "created_at": now,
                "updated_at": now,
            },
        ),
        (
            "webhook_attempts",
            {"delivery_id": delivery, "number": 1, "at": now, "duration_ms": 5, "status": 500, "answer": ""},
        ),
    ]
    # One transfer: all of it has to be inserted in one transaction.
    transfer = clock.new_uuid()
    tables += [
        (
            "ledger_entries",
            {
                "at": now,
                "transfer_id": transfer,
                "account": account_name,
                "amount_minor": amount_minor,
                "currency": "EUR",
                "kind": "opening",
                "payment_id": payment,
                "operation_id": operation,
                "psp_account_id": account,
            },
        )
        for account_name, amount_minor in (("captured", -1099), ("refunded", 99), ("in_transit", 1000))
    ]
    tables += billing_rows(scope, customer, method, account, payment, operation)
    return [(table, {"tenant_id": scope.tenant_id, "live": scope.live, **row}) for table, row in tables]


async def insert(connection: Connection, table: str, row: Row) -> None:
    """Store a row as it is."""
    columns = ", ".join(row)
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", *row.values())


def billing_rows(
    scope: Scope, customer: UUID, method: UUID, account: UUID, payment: UUID, operation: UUID
) -> list[tuple[str, Row]]:
    """The tables of mandates, subscriptions, invoices and rebills."""
    now = clock.now()
    mandate, plan, coupon, subscription, invoice = (clock.new_uuid() for _ in range(5))
    stamps = {"created_at": now, "updated_at": now}
    month = clock.seconds(30 * 86_400)
    money = {"currency": "EUR", "period_start": now, "period_end": now + month}
    tables: list[tuple[str, Row]] = []
    if not scope.live:  # There is no test clock in live mode.
        tables.append(("test_clocks", {"test_clock_id": clock.new_uuid(), "name": "A year", "now_at": now, **stamps}))
    tables += [
        (
            "mandates",
            {
                "mandate_id": mandate,
                "customer_id": customer,
                "payment_method_id": method,
                "purpose": "recurring",
                "status": "active",
                "psp_account_id": account,
                "text_version": "2026-01",
                "accepted_at": now,
                "activated_at": now,
                **stamps,
            },
        ),
        ("billing_settings", {"updated_at": now}),
        (
            "plans",
            {
                "plan_id": plan,
                "name": "Basic",
                "amounts": '{"EUR": 900}',
                "interval_unit": "month",
                "interval_count": 1,
                **stamps,
            },
        ),
        (
            "coupons",
            {
                "coupon_id": coupon,
                "code": "SPRING",
                "name": "Spring",
                "percent_bp": 1000,
                "duration": "once",
                **stamps,
            },
        ),
        (
            "subscriptions",
            {
                "subscription_id": subscription,
                "customer_id": customer,
                "status": "active",
                "currency": "EUR",
                "interval_unit": "month",
                "interval_count": 1,
                "time_zone": "Europe/Berlin",
                "anchor_local": now.replace(tzinfo=None),
                "period_no": 0,
                "current_period_start": now,
                "current_period_end": now + month,
                "next_at": now + month,
                "started_at": now,
                "payment_method_id": method,
                "mandate_id": mandate,
                **stamps,
            },
        ),
        (
            "subscription_items",
            {
                "subscription_id": subscription,
                "item_id": clock.new_uuid(),
                "position": 1,
                "plan_id": plan,
                "description": "Basic",
                "quantity": 1,
                "unit_amount_minor": 900,
            },
        ),
        (
            "invoices",
            {
                "invoice_id": invoice,
                "customer_id": customer,
                "subscription_id": subscription,
                "number": "F-000001",
                "status": "open",
                "reason": "cycle",
                "subtotal_minor": 900,
                "total_minor": 900,
                "due_minor": 900,
                "opened_at": now,
                **money,
                **stamps,
            },
        ),
        (
            "invoice_lines",
            {
                "invoice_id": invoice,
                "position": 1,
                "kind": "period",
                "plan_id": plan,
                "description": "Basic",
                "quantity": 1,
                "unit_amount_minor": 900,
                "amount_minor": 900,
            },
        ),
        (
            "credit_notes",
            {
                "credit_note_id": clock.new_uuid(),
                "invoice_id": invoice,
                "number": "F-000002",
                "amount_minor": 100,
                "currency": "EUR",
                "settled_by": "reduction",
                "reason": "late",
                "created_at": now,
            },
        ),
        (
            "dunning_plans",
            {
                "dunning_plan_id": clock.new_uuid(),
                "version": 1,
                "name": "Patient",
                "plan": "{}",
                "created_at": now,
                "created_by": "key_1",
            },
        ),
        (
            "rebills",
            {
                "invoice_id": invoice,
                "subscription_id": subscription,
                "psp_account_id": account,
                "state": "due",
                "tries": 1,
                "next_at": now + month,
                **stamps,
            },
        ),
        (
            "rebill_tries",
            {"invoice_id": invoice, "try": 1, "operation_id": operation, "reason": "first_try", "at": now},
        ),
        ("rebill_pace", {"psp_account_id": account, "tokens": 1.0, "filled_at": now}),
        (
            "notices",
            {
                "notice_id": clock.new_uuid(),
                "kind": "reminder",
                "customer_id": customer,
                "subscription_id": subscription,
                "invoice_id": invoice,
                "dedupe": f"reminder:{invoice}:1",
                "due_at": now + month,
                **stamps,
            },
        ),
    ]
    return tables
