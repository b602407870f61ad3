"""Customers and their payment methods."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from clearspan.customers.errors import (
    CustomerDeleted,
    MethodAccountMissing,
    MethodNotTaken,
    ReferenceTaken,
    TestModeOnly,
)
from clearspan.customers.mandates import personal_data
from clearspan.customers.models import Customer, PaymentMethod
from clearspan.customers.pii import NOBODY, PERSONAL, PersonalData, Pii
from clearspan.customers.repository import CustomerRows, MandateRows, MethodRows, PiiRows
from clearspan.customers.schemas import (
    TYPES,
    CustomerCreate,
    CustomerList,
    CustomerOut,
    CustomerUpdate,
    PaymentMethodCreate,
    PaymentMethodList,
    PaymentMethodOut,
    customer_list,
    customer_out,
    method_list,
    method_out,
)
from clearspan.journal import service as journal
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.orm import violated
from clearspan.platform.problems import InvalidRequest, NotFound
from clearspan.sdk import PspAdapter, SourceKind, VaultCard
from clearspan.tenants.service import Tenants


class CardVaults(Protocol):
    """What this module needs of the vaults (``clearspan.vaults``)."""

    def default(self) -> str:
        """The name of the only vault; a ``DomainError`` when there is no such one."""
        ...

    async def describe(self, name: str, token: str) -> VaultCard:
        """What may be known of the card behind a token; a ``DomainError`` when there is no answer."""
        ...


Ending = Callable[[AsyncSession, Caller, UUID], Awaitable[None]]
"""Called in the transaction that deletes a customer, before anything is locked but the customer."""


class CustomerFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What customers are searched by; all must hold. Times are aware."""

    reference: str | None = None
    email: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class Customers:
    """Customers and payment methods of a tenant in one mode."""

    def __init__(
        self, db: Database, tenants: Tenants, vaults: CardVaults, psps: Mapping[str, type[PspAdapter]]
    ) -> None:
        self._db = db
        self._tenants = tenants
        self._psps = psps
        self._vaults = vaults
        self.before_deletion: list[Ending] = []

    # -- customers --------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: CustomerCreate) -> Answer:
        """Make a customer.

        The answer is kept under the person's own key, so that deleting the customer erases it too; repeated after that, it
        shows the customer as it is then.

        Raises:
            NotFound: no such test clock.
            ReferenceTaken, TestModeOnly; and as ``once``.
        """
        personal = await self._personal(caller.scope)
        pii = Pii(name=body.name, email=body.email, phone=body.phone, address=body.address)
        given = [name for name, value in msgspec.structs.asdict(body).items() if value]
        test_clock_id = None if body.test_clock is None else ids.decode("tc", body.test_clock)
        if test_clock_id is not None and caller.scope.live:
            raise TestModeOnly
        made: Answer | None = None

        async def work(session: AsyncSession) -> Answer:
            nonlocal made
            now = clock.now()
            lives_by = test_clock_id
            if lives_by is None and not caller.scope.live:
                lives_by = await CustomerRows(session).tenants_clock(caller.scope)
            customer = Customer(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                reference=body.reference,
                metadata_=body.metadata,
                test_clock_id=lives_by,
                language=body.language,
                sequence=1,
                created_at=now,
                updated_at=now,
                deleted_at=None,
            )
            await CustomerRows(session).add(customer)
            person = await PiiRows(session).add(personal.new(customer.id, pii))
            await _record_customer(session, caller, customer, "customer.created", sorted(given))
            made = Answer(201, msgspec.json.encode(customer_out(customer, pii)))
            kept = _Kept(customer_id=customer.id, sealed=personal.seal_answer(person, made.body))
            return Answer(201, msgspec.json.encode(kept))

        with _refusals():
            answer = await once(self._db, caller.scope, key, work)
        return made or await self._repeat(caller.scope, personal, answer)

    async def _repeat(self, scope: Scope, personal: PersonalData, answer: Answer) -> Answer:
        kept = msgspec.json.decode(answer.body, type=_Kept)
        async with self._db.begin(scope) as session:
            person = await PiiRows(session).find(scope, kept.customer_id)
        if person is None:
            return Answer(answer.status, msgspec.json.encode(await self.get(scope, kept.customer_id)))
        return Answer(answer.status, personal.open_answer(person, kept.sealed))

    async def get(self, scope: Scope, customer_id: UUID) -> CustomerOut:
        """One customer; a deleted one without what was erased.

        Raises:
            NotFound: no such customer.
        """
        personal = await self._personal(scope)
        async with self._db.begin(scope) as session:
            customer = await CustomerRows(session).require(scope, customer_id)
            return customer_out(customer, personal.open(await PiiRows(session).find(scope, customer_id)))

    async def list(self, scope: Scope, filters: CustomerFilters, limit: int, cursor: str | None) -> CustomerList:
        """Customers, newest first, without the deleted ones.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        personal = await self._personal(scope)
        async with self._db.begin(scope) as session:
            rows = CustomerRows(session)
            conditions: list[ColumnElement[bool]] = [Customer.deleted_at.is_(None)]
            if filters.reference is not None:
                conditions.append(Customer.reference == filters.reference)
            if filters.email is not None:
                conditions.append(rows.with_email(scope, personal.index(filters.email)))
            if filters.created_after is not None:
                conditions.append(Customer.created_at > filters.created_after)
            if filters.created_before is not None:
                conditions.append(Customer.created_at < filters.created_before)
            page = await rows.page(scope, *conditions, limit=limit, cursor=cursor)
            return customer_list(await _rendered(session, scope, personal, page.rows), page.next_cursor)

    async def people(self, scope: Scope, customer_ids: Iterable[UUID]) -> Mapping[UUID, CustomerOut]:
        """Some customers with their personal data, for lists that name them; those that exist, in two queries."""
        wanted = set(customer_ids)
        if not wanted:
            return {}
        personal = await self._personal(scope)
        async with self._db.begin(scope) as session:
            found = await CustomerRows(session).among(scope, wanted)
            shown = await _rendered(session, scope, personal, found)
        return {customer.id: out for customer, out in zip(found, shown, strict=True)}

    async def update(self, caller: Caller, customer_id: UUID, body: CustomerUpdate) -> CustomerOut:
        """Change what the body names.

        Raises:
            NotFound: no such customer.
            CustomerDeleted, ReferenceTaken.
        """
        personal = await self._personal(caller.scope)
        given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}
        with _refusals():
            async with self._db.begin(caller.scope) as session:
                customer = await CustomerRows(session).require(caller.scope, customer_id, lock=True)
                if customer.deleted_at is not None:
                    raise CustomerDeleted
                customer.reference = given.get("reference", customer.reference)
                customer.metadata_ = given.get("metadata", customer.metadata_)
                customer.language = given.get("language", customer.language)
                person = await PiiRows(session).require(caller.scope, customer_id)
                pii = personal.open(person)
                if given.keys() & PERSONAL:
                    pii = msgspec.structs.replace(pii, **{name: given[name] for name in given.keys() & PERSONAL})
                    personal.seal(person, pii)
                if given:
                    customer.touch(clock.now())
                    await _record_customer(session, caller, customer, "customer.updated", sorted(given))
                return customer_out(customer, pii)

    async def delete(self, caller: Caller, customer_id: UUID) -> CustomerOut:
        """Erase what tells who it was, detach the payment methods and revoke the mandates; payments keep pointing at the empty
        customer.

        Raises:
            NotFound: no such customer.
        """
        async with self._db.begin(caller.scope) as session:
            customer = await CustomerRows(session).hold(caller.scope, customer_id)
            if customer.deleted_at is None:
                # What rests on the customer ends first: payments are locked before payment methods and mandates.
                for end in self.before_deletion:
                    await end(session, caller, customer_id)
                now = clock.now()
                await session.delete(await PiiRows(session).require(caller.scope, customer_id))
                mandates = MandateRows(session)
                methods = await MethodRows(session).active_of(caller.scope, customer_id)
                at = await CustomerRows(session).now_of(customer)
                for mandate_id in await mandates.standing_of(caller.scope, customer_id=customer_id):
                    await mandates.revoke(caller, mandate_id, "customer_deleted", at)
                await mandates.forget_acceptance(caller.scope, customer_id)
                for method in methods:
                    await _detach(session, caller, method, now)
                customer.erase(now)
                await _record_customer(session, caller, customer, "customer.deleted", [])
            return customer_out(customer, NOBODY)

    async def render_many(self, scope: Scope, customer_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Customers for the event feed, without personal data: reading events does not mean reading that."""
        async with self._db.begin(scope) as session:
            customers = await CustomerRows(session).among(scope, customer_ids)
        return {
            customer.id: {
                name: value
                for name, value in msgspec.to_builtins(customer_out(customer, NOBODY)).items()
                if name not in PERSONAL
            }
            for customer in customers
        }

    async def email_index(self, scope: Scope, email: str) -> bytes:
        """The keyed hash by which ``customer_pii`` finds an address."""
        return (await self._personal(scope)).index(email)

    async def personal_of(self, scope: Scope, customer_ids: Sequence[UUID]) -> dict[UUID, Pii]:
        """What is known of these people, for a page that shows many; whoever was deleted is missing."""
        if not customer_ids:
            return {}
        personal = await self._personal(scope)
        async with self._db.begin(scope) as session:
            rows = await PiiRows(session).among(scope, customer_ids)
        return {row.id: personal.open(row) for row in rows}

    # -- payment methods --------------------------------------------------------------------------------------------

    async def add_method(self, caller: Caller, key: IdempotencyKey | None, body: PaymentMethodCreate) -> Answer:
        """Make a payment method.

        Raises:
            NotFound: no such customer.
            InvalidRequest: fields that do not belong to its type, or are missing.
            MethodNotTaken, MethodAccountMissing: for what a PSP holds.
            CustomerDeleted; what ``CardVaults`` refuses; and as ``once``.
        """
        _check_fields(body)
        if body.type != "card":
            return await self._add_held(caller, key, body)
        assert body.token is not None
        vault = body.vault or self._vaults.default()
        customer_id = ids.decode("cus", body.customer) if body.customer is not None else None
        card: VaultCard | None = None

        async def work(session: AsyncSession) -> Answer:
            if customer_id is not None:
                customer = await CustomerRows(session).require(caller.scope, customer_id, lock=True)
                if customer.deleted_at is not None:
                    raise CustomerDeleted
            if card is None:
                raise _NotDescribedYet
            now = clock.now()
            method = PaymentMethod(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=clock.new_uuid(),
                customer_id=customer_id,
                kind="card",
                vault=vault,
                vault_token=body.token,
                status="active",
                sequence=1,
                created_at=now,
                updated_at=now,
            )
            method.take(card)
            await MethodRows(session).add(method)
            await _record_method(session, caller, method, "payment_method.created")
            return Answer(201, msgspec.json.encode(method_out(method)))

        # The vault is asked between two transactions: the first finds out whether the answer is kept already.
        with contextlib.suppress(_NotDescribedYet):
            return await once(self._db, caller.scope, key, work)
        card = await self._vaults.describe(vault, body.token)
        return await once(self._db, caller.scope, key, work)

    async def _add_held(self, caller: Caller, key: IdempotencyKey | None, body: PaymentMethodCreate) -> Answer:
        """A method that one PSP account holds, or will after the payer was on its pages."""
        customer_id = ids.decode("cus", body.customer) if body.customer is not None else None
        wanted = {"psp_token": SourceKind.TOKEN, "redirect": SourceKind.REDIRECT}[body.type]

        async def work(session: AsyncSession) -> Answer:
            if customer_id is not None:
                customer = await CustomerRows(session).require(caller.scope, customer_id, lock=True)
                if customer.deleted_at is not None:
                    raise CustomerDeleted
            account_id, psp = await self._account(session, caller.scope, body.psp_account or "")
            facts = self._psps[psp].facts
            if wanted not in facts.sources:
                raise MethodNotTaken(f"{psp} takes only: {', '.join(sorted(facts.sources))}.")
            if body.method is not None and body.method not in facts.methods:
                known = ", ".join(sorted(facts.methods)) or "none by name"
                raise MethodNotTaken(f"{psp} has no method {body.method!r}. There are: {known}.")
            method_id, told, at = clock.new_uuid(), body.card, clock.now()
            # Nobody tells whether two tokens are one card: each is counted by itself, and a redirect by its own.
            held = f"{account_id}/{body.token}" if body.token is not None else str(method_id)
            method = PaymentMethod(
                tenant_id=caller.scope.tenant_id,
                live=caller.scope.live,
                id=method_id,
                customer_id=customer_id,
                kind=wanted.value,
                psp_account_id=account_id,
                psp_token=body.token,
                psp_method=body.method,
                fingerprint="psp_" + hashlib.sha256(held.encode()).hexdigest()[:40],
                funding="unknown",
                brand=told and told.brand,
                last4=told and told.last4,
                exp_month=told and told.exp_month,
                exp_year=told and told.exp_year,
                status="active",
                sequence=1,
                created_at=at,
                updated_at=at,
            )
            await MethodRows(session).add(method)
            await _record_method(session, caller, method, "payment_method.created")
            return Answer(201, msgspec.json.encode(method_out(method)))

        return await once(self._db, caller.scope, key, work)

    async def _account(self, session: AsyncSession, scope: Scope, wanted: str) -> tuple[UUID, str]:
        """The enabled account of a name or id, and its PSP."""
        try:
            account_id = ids.decode("acct", wanted)
        except ids.InvalidId:
            account_id = None
        found = (
            await session.execute(
                text(
                    "SELECT psp_account_id, psp FROM psp_accounts WHERE tenant_id = :tenant AND live = :live"
                    " AND status = 'enabled' AND (name = :name OR psp_account_id = :id)"
                ),
                {"tenant": scope.tenant_id, "live": scope.live, "name": wanted, "id": account_id},
            )
        ).one_or_none()
        if found is None or found.psp not in self._psps:
            raise MethodAccountMissing
        return found.psp_account_id, found.psp

    async def get_method(self, scope: Scope, method_id: UUID) -> PaymentMethodOut:
        """One payment method.

        Raises:
            NotFound: no such payment method.
        """
        async with self._db.begin(scope) as session:
            return method_out(await MethodRows(session).require(scope, method_id))

    async def list_methods(
        self, scope: Scope, customer_id: UUID | None, limit: int, cursor: str | None
    ) -> PaymentMethodList:
        """Payment methods, newest first, the detached ones too.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions = [] if customer_id is None else [PaymentMethod.customer_id == customer_id]
        async with self._db.begin(scope) as session:
            page = await MethodRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
            return method_list(page.rows, page.next_cursor)

    async def detach_method(self, caller: Caller, key: IdempotencyKey | None, method_id: UUID) -> Answer:
        """Never charge it again, and revoke its mandates. What is under way with it goes on.

        Raises:
            NotFound: no such payment method; and as ``once``.
        """

        async def work(session: AsyncSession) -> Answer:
            method = await MethodRows(session).hold(caller.scope, method_id)
            if method.customer_id is not None:
                at = await CustomerRows(session).now_of(
                    await CustomerRows(session).require(caller.scope, method.customer_id)
                )
                for mandate_id in await MandateRows(session).standing_of(caller.scope, method_id=method_id):
                    await MandateRows(session).revoke(caller, mandate_id, "method_detached", at)
            await _detach(session, caller, method, clock.now())
            return Answer(200, msgspec.json.encode(method_out(method)))

        return await once(self._db, caller.scope, key, work)

    async def render_methods(self, scope: Scope, method_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
        """Payment methods for the event feed."""
        async with self._db.begin(scope) as session:
            methods = await MethodRows(session).among(scope, method_ids)
        return {method.id: msgspec.to_builtins(method_out(method)) for method in methods}

    async def _personal(self, scope: Scope) -> PersonalData:
        return await personal_data(self._tenants, scope)


_FIELDS = {
    "card": {"token", "vault"},
    "psp_token": {"token", "psp_account", "card"},
    "redirect": {"psp_account", "method"},
}
_NEEDED = {"card": {"token"}, "psp_token": {"token", "psp_account"}, "redirect": {"psp_account"}}


def _check_fields(body: PaymentMethodCreate) -> None:
    """Raise InvalidRequest where fields and type do not go together."""
    given = {name for name in ("token", "vault", "psp_account", "card", "method") if getattr(body, name) is not None}
    wrong = [(name, "is missing") for name in sorted(_NEEDED[body.type] - given)]
    wrong += [(name, "does not belong to it") for name in sorted(given - _FIELDS[body.type])]
    if wrong:
        raise InvalidRequest(
            f"type {body.type}: " + "; ".join(f"{name} {what}" for name, what in wrong) + ".",
            errors=[{"path": f"$.{name}", "message": what} for name, what in wrong],
        )


class _Kept(msgspec.Struct, frozen=True):
    """What ``idempotency_keys`` holds of an answer about a customer."""

    customer_id: UUID
    sealed: bytes


class _NotDescribedYet(Exception):
    """Rolls the claim of the idempotency key back: the network comes before the transaction that keeps the answer."""


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if violated(error) == "customers_tenant_id_live_reference_key":
            raise ReferenceTaken from None
        if violated(error) == "customers_tenant_id_live_test_clock_id_fkey":
            raise NotFound(
                "There is no such test clock. Check the id, and that the key is of the same tenant."
            ) from None
        raise


async def _rendered(
    session: AsyncSession, scope: Scope, personal: PersonalData, customers: Sequence[Customer]
) -> list[CustomerOut]:
    rows = await PiiRows(session).by_customer(scope, [customer.id for customer in customers])
    return [customer_out(customer, personal.open(rows.get(customer.id))) for customer in customers]


async def _detach(session: AsyncSession, caller: Caller, method: PaymentMethod, now: datetime) -> None:
    if method.detach(now):
        await _record_method(session, caller, method, "payment_method.detached")


async def _record_customer(
    session: AsyncSession, caller: Caller, customer: Customer, event: str, changed: list[str]
) -> None:
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="customer",
        subject_id=customer.id,
        sequence=customer.sequence,
        customer_id=customer.id,
        data={"changed": changed},
    )


async def _record_method(session: AsyncSession, caller: Caller, method: PaymentMethod, event: str) -> None:
    await journal.record(
        session,
        caller,
        type=event,
        subject_type="payment_method",
        subject_id=method.id,
        sequence=method.sequence,
        customer_id=method.customer_id,
        data={"type": TYPES[method.kind], "vault": method.vault, "brand": method.brand, "status": method.status},
    )
