"""Passwords: which are taken, and how they are kept and compared.

Argon2id by ``argon2-cffi``, with the second recommended option of RFC 9106, section 4: t = 3, m = 64 MiB, p = 4, salts of 128 and
hashes of 256 bits. A hash made with other parameters is made anew when its password is next given. Hashing takes a tenth of a
second of a whole core, so it runs in a thread, and no more than a few at once: each holds 64 MiB.

The rule follows NIST SP 800-63B-4, 3.1.1: length instead of classes of characters, a list of common and breached passwords, no
regular change. The list is a file of this package (``common/SOURCES.md``); nothing is asked of the network.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import unicodedata
from functools import cache
from importlib import resources
from typing import Final

import argon2

from clearspan.access.errors import PasswordRefused
from clearspan.platform import clock

LENGTH_MIN: Final = 12
LENGTH_MAX: Final = 200
_DIFFERENT_MIN: Final = 5
_AT_ONCE: Final = 4
_TAIL: Final = re.compile(r"[\W\d_]+\Z")
_HASHER: Final = argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY)


class Passwords:
    """See the module's docstring. One per process, since it bounds how many are hashed at once."""

    def __init__(self) -> None:
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._nobody = ""

    async def hashed(self, password: str) -> str:
        """What is stored of it: a PHC string."""
        async with self._at_once:
            return await asyncio.to_thread(_HASHER.hash, normal(password))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. Without a stored one it takes as long, and is never."""
        if not self._nobody:
            self._nobody = await self.hashed(clock.random_bytes(16).hex())
        async with self._at_once:
            right = await asyncio.to_thread(_verified, stored or self._nobody, normal(password[: LENGTH_MAX + 1]))
        return right and stored is not None

    async def check(self, password: str, *, email: str) -> None:
        """Take a new password or say what is wrong with it.

        Raises:
            PasswordRefused: too short, too long, common, or somebody's e-mail address.
        """
        found = normal(password)
        if len(found) < LENGTH_MIN:
            raise PasswordRefused(f"Give {LENGTH_MIN} characters or more; a few words that you can remember are good.")
        if len(found) > LENGTH_MAX:
            raise PasswordRefused(f"Give {LENGTH_MAX} characters at most.")
        folded, address = found.casefold(), email.casefold()
        if folded == address or (address.partition("@")[0] and _TAIL.sub("", folded) in _of_address(address)):
            raise PasswordRefused("Your e-mail address is the first thing that others try. Take something else.")
        if await asyncio.to_thread(is_common, found):
            raise PasswordRefused(
                "Many people use this password or one like it, so it is tried first. Take something else."
            )


def normal(password: str) -> str:
    """One form for one password, however a keyboard composes its letters (NFKC)."""
    return unicodedata.normalize("NFKC", password)


def outdated(stored: str) -> bool:
    """Whether it was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(stored)


def is_common(password: str) -> bool:
    """Whether it stands in the list, with or without digits and signs behind it, or hardly has different characters."""
    folded = normal(password).casefold()
    if len(set(folded)) < _DIFFERENT_MIN:
        return True
    bare = _TAIL.sub("", folded)
    half = folded[: len(folded) // 2]
    return bool({folded, bare} & _common()) or (half * 2 == folded and half in _common())


def _of_address(address: str) -> set[str]:
    return {address, _TAIL.sub("", address), _TAIL.sub("", address.partition("@")[0]) or address}


def _verified(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


@cache
def _common() -> frozenset[str]:
    packed = resources.files(__package__).joinpath("common", "passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().splitlines())
