"""Stripe's command line tool, an official client with official scripts, runs them against our simulator."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("payment_intent.succeeded", {"payment_intent.succeeded"}),
        ("payment_intent.payment_failed", {"payment_intent.payment_failed"}),
        ("payment_intent.amount_capturable_updated", {"payment_intent.amount_capturable_updated"}),
        ("payment_intent.canceled", {"payment_intent.canceled"}),
        ("payment_intent.requires_action", {"payment_intent.requires_action"}),
    ],
)
def test_an_official_script_runs(
    simulator: Any, stripe_cli: str, tmp_path: Path, event: str, expected: set[str]
) -> None:
    sim = simulator("psp-stripe")
    env = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "STRIPE_CLI_TELEMETRY_OPTOUT": "1"}
    done = subprocess.run(
        [stripe_cli, "trigger", event, "--api-base", sim.url, "--api-key", "sk_test_simulator"],
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr, sim.problems)
    types = {message["body"].split('"type": "')[-1].split('"')[0] for message in sim.webhooks}
    assert expected <= types, types
    assert sim.problems == []
