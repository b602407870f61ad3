"""People with a password and an authenticator for the tests of tokens, and somebody who checks both: argon2 and RFC 6238."""

from __future__ import annotations

from collections import Counter

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from clearspan.access.operators import Operators
from clearspan.access.sessions import Operator
from clearspan.platform import clock
from clearspan.platform.context import Caller
from clearspan.platform.problems import DomainError

PASSWORD = "correct horse battery staple"
TRIES_MAX = 5
_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Wrong(DomainError):
    """It is not they."""

    status = 401
    title = "no"


class Wait(DomainError):
    """Nobody may try."""

    status = 429
    title = "wait"


class Door:
    """Checks password and code, and lets nobody in after five failures."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self.failed: Counter[str] = Counter()

    async def verify(self, email: str, password: str, code: str, address: str, request_id: str) -> Operator:
        """See ``ChecksPassword``."""
        assert address
        assert request_id
        if self.failed[email] >= TRIES_MAX:
            raise Wait(retry_after_s=900)
        self.failed[email] += 1
        operator = await self._operators.find(email=email)
        if operator is None or operator.status != "active" or operator.password_hash is None:
            raise Wrong
        try:
            _HASHER.verify(operator.password_hash, password)
        except VerifyMismatchError:
            raise Wrong from None
        if operator.totp_secret is not None and code != code_of(operator):
            raise Wrong
        self.failed[email] = 0
        return operator


def code_of(operator: Operator) -> str:
    """What the authenticator shows now."""
    assert operator.totp_secret is not None
    authenticator = TOTP(bytes.fromhex(operator.totp_secret), 6, SHA1(), 30)  # noqa: S303  (what RFC 6238 has)
    return authenticator.generate(int(clock.now().timestamp())).decode()


async def person(operators: Operators, of: Caller, role: str, *, second_factor: bool = True) -> Operator:
    """A member of the caller's tenant with ``PASSWORD``."""
    made = await operators.create(f"{role}-{clock.random_bytes(4).hex()}@example.com", f"{role.title()} Test")
    await operators.join(of, made.operator_id, role)
    secret = clock.random_bytes(20).hex() if second_factor else None
    made = await operators.change(
        await operators.get(made.operator_id), password_hash=_HASHER.hash(PASSWORD), totp_secret=secret
    )
    return await operators.get(made.operator_id)
