"""The plugin arrives through its entry point, its table is sound, and its page says what the table says."""

from __future__ import annotations

from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pluggy
import pytest

from clearspan.sdk import Hooks
from clearspan_vault_sandbox import SandboxVault
from clearspan_vault_sandbox.cards import CARDS, TestCard

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.fixture
def hooks() -> pluggy.HookRelay:
    manager = pluggy.PluginManager("clearspan")
    manager.add_hookspecs(Hooks)
    (entry,) = entry_points(group="clearspan", name="vault-sandbox")
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()
    return manager.hook


def luhn(number: str) -> bool:
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(number))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def allowed(argv: list[str]) -> list[str]:
    return [value for option, value in pairwise(argv) if option == "--allow"]


def test_the_provider_is_handed_over(hooks: pluggy.HookRelay) -> None:
    assert hooks.clearspan_vaults() == [[SandboxVault]]


def test_the_companion_listens_where_the_settings_say_and_forwards_to_the_sandbox_psp(hooks: pluggy.HookRelay) -> None:
    config = {"vault-sandbox": {"url": "http://127.0.0.1:9002"}, "psp-sandbox": {"url": "http://127.0.0.1:9001"}}
    ((companion,),) = hooks.clearspan_companions(config=config, data_dir="/d")
    assert companion.argv[:2] == ["-m", "clearspan_vault_sandbox.server"]
    assert companion.argv[companion.argv.index("--port") + 1] == "9002"
    assert companion.argv[companion.argv.index("--data-dir") + 1] == "/d/vault-sandbox"
    assert allowed(list(companion.argv)) == ["http://127.0.0.1:9001"]
    assert companion.ready_url == "http://127.0.0.1:9002/health"


def test_further_targets_come_from_the_settings(hooks: pluggy.HookRelay) -> None:
    ((companion,),) = hooks.clearspan_companions(
        config={"vault-sandbox": {"allow": ["https://psp.example"]}}, data_dir="/d"
    )
    assert allowed(list(companion.argv)) == ["https://psp.example"]


def test_a_vault_on_another_machine_is_not_started(hooks: pluggy.HookRelay) -> None:
    assert hooks.clearspan_companions(config={"vault-sandbox": {"url": "http://vault:8082"}}, data_dir="/d") == [[]]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_number_is_valid_and_derived_ones_lie_in_the_test_range(card: TestCard) -> None:
    assert luhn(card.number) == (card.name != "decline_invalid_number")
    assert card.published != card.number.startswith(("4000000000088", "5555550000088"))


def test_names_and_numbers_are_unique() -> None:
    assert len({card.name for card in CARDS}) == len({card.number for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_readme_lists_the_card(card: TestCard) -> None:
    source = "published" if card.published else "derived"
    assert f"| `{card.token}` | `{card.number}` | {card.brand} {card.funding} | {card.title} | {source} |\n" in README


def test_the_readme_lists_no_other_card() -> None:
    assert README.count("| `tok_") == len(CARDS)
