"""Which passwords are taken, how they are kept, and that a common one is not."""

from __future__ import annotations

import argon2
import pytest

from clearspan.access import passwords
from clearspan.access.errors import PasswordRefused
from clearspan.access.passwords import Passwords, is_common, outdated

EMAIL = "ada.lovelace@example.com"


@pytest.fixture
def service() -> Passwords:
    return Passwords()


async def test_the_parameters_are_those_of_rfc_9106_for_little_memory(service: Passwords) -> None:
    kept = await service.hashed("three blind mice and a cat")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    found = argon2.extract_parameters(kept)
    assert (found.salt_len, found.hash_len) == (16, 32)
    assert not outdated(kept)
    assert outdated(argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("x"))


async def test_a_password_matches_itself_however_it_is_composed(service: Passwords) -> None:
    kept = await service.hashed("Zoe\u0308 likes ﬁfty cats")
    assert await service.matches(kept, "Zoë likes fifty cats")
    assert not await service.matches(kept, "Zoe likes fifty cats")
    assert not await service.matches("no hash at all", "Zoë likes fifty cats")


async def test_without_a_stored_password_nothing_matches(service: Passwords) -> None:
    assert not await service.matches(None, "anything")
    assert not await service.matches(None, service._nobody)


@pytest.mark.parametrize(
    "password",
    ["", "elevenchars", "x" * 201, EMAIL, "ada.lovelace2026", "Ada.Lovelace!!!!", "password1234", "Password2024!!",
     "qwertyuiop12", "QWERTYUIOP[]", "1234567890123", "aaaaaaaaaaaaa",
     "abababababab", "iloveyouiloveyou", "Ｐａｓｓｗｏｒｄ１２３４"],
)  # fmt: skip
async def test_what_others_try_first_is_refused(service: Passwords, password: str) -> None:
    with pytest.raises(PasswordRefused):
        await service.check(password, email=EMAIL)


@pytest.mark.parametrize(
    "password",
    ["three blind mice and a cat", "correct-horse-battery", "Ünïcode ist erlaubt", "x9$kPq2!vL7zW", "y" * 100 + "abcdefg"],
)  # fmt: skip
async def test_length_is_enough_otherwise(service: Passwords, password: str) -> None:
    await service.check(password, email=EMAIL)


def test_the_list_has_its_source_beside_it() -> None:
    assert len(passwords._common()) > 40_000
    assert is_common("letmein123456")
    assert passwords.resources.files(passwords.__package__).joinpath("common", "SOURCES.md").is_file()
