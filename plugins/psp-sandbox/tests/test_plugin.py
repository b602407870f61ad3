"""The plugin arrives through its entry point, and its page says what its tables say."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pluggy
import pytest

from clearspan.sdk import Hooks
from clearspan_psp_sandbox import SandboxPsp, cards

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.fixture
def hooks() -> pluggy.HookRelay:
    manager = pluggy.PluginManager("clearspan")
    manager.add_hookspecs(Hooks)
    (entry,) = entry_points(group="clearspan", name="psp-sandbox")
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()
    return manager.hook


def test_the_adapter_is_handed_over(hooks: pluggy.HookRelay) -> None:
    assert hooks.clearspan_psps() == [[SandboxPsp]]


def test_the_companion_listens_where_the_settings_say(hooks: pluggy.HookRelay) -> None:
    ((companion,),) = hooks.clearspan_companions(
        config={"psp-sandbox": {"url": "http://127.0.0.1:9001"}}, data_dir="/d"
    )
    assert companion.argv[:2] == ["-m", "clearspan_psp_sandbox.simulator"]
    assert companion.argv[companion.argv.index("--port") + 1] == "9001"
    assert companion.argv[companion.argv.index("--data-dir") + 1] == "/d/psp-sandbox"
    assert companion.ready_url == "http://127.0.0.1:9001/health"


def test_a_simulator_on_another_machine_is_not_started(hooks: pluggy.HookRelay) -> None:
    assert hooks.clearspan_companions(config={"psp-sandbox": {"url": "http://psp:8081"}}, data_dir="/d") == [[]]


def test_the_adapter_is_short() -> None:
    source = Path(str(__import__("clearspan_psp_sandbox").__file__)).read_text("utf-8")
    assert len(source.splitlines()) <= 150


@pytest.mark.parametrize("card", cards.CARDS, ids=lambda card: card.title)
def test_the_readme_lists_the_card(card: cards.Card) -> None:
    refusal = f" (`{cards.REFUSALS[card.refusal].code}`)" if card.refusal else ""
    assert f"| `{card.number}` | {card.brand} | {card.title}{refusal} |\n" in README


@pytest.mark.parametrize("amount_minor", cards.DECLINED_AMOUNTS)
def test_the_readme_lists_the_amount(amount_minor: int) -> None:
    reason = cards.DECLINED_AMOUNTS[amount_minor]
    assert f"| `{amount_minor}` | declined: `{reason}` |\n" in README


def test_the_readme_lists_nothing_else() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `") and line.endswith(" |")]
    amounts = len(cards.DECLINED_AMOUNTS) + len(cards.PENDING_AMOUNTS) + 2
    assert len(rows) == len(cards.CARDS) + amounts
    for amount_minor in (*cards.PENDING_AMOUNTS, cards.BETA_DECLINED_AMOUNT, cards.FOLLOW_UP_REFUSED_AMOUNT):
        assert f"| `{amount_minor}` | " in README
