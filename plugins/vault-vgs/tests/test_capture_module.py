"""The module of the capture page, run by Node with a stand-in for Collect.js: what it asks for, what it makes of the answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from clearspan.sdk import VaultContext
from clearspan_vault_vgs import VgsVault

ANSWER = {
    "number": "tok_sandbox_bhtsCwFUzoJMw9rWUfEV5e",
    "cvc": "tok_sandbox_9ToiJHedw1nE1Jfx1qYYgz",
    "expiry": "3 / 2031",
}
STAND_IN = """
const said = { fields: {} };
globalThis.window = { VGSCollect: { create(vault, environment, changed) {
  said.vault = [vault, environment];
  changed({ number: { cardType: "visa", last4: "4242", isValid: true } });
  return {
    setRouteId(route) { said.route = route; },
    field(selector, options) { said.fields[options.name] = [selector, options.type, options.tokenization]; },
    tokenize(done, wrong) { OUTCOME; },
  };
} } };
const text = { number: "n", expiry: "e", cvc: "c" };
const fields = { number: "#number", expiry: "#expiry", cvc: "#cvc" };
const data = { vault_id: "tntx", environment: "sandbox", route_id: "r1" };
const form = await mount({ data, fields, text, style: {} });
const failed = (error) => ({ failed: error.message, said });
console.log(JSON.stringify(await form.submit().then((answer) => ({ answer, said }), failed)));
"""


def run(outcome: str) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node")
    script = f"{VgsVault.capture_module}\n{STAND_IN.replace('OUTCOME', outcome)}"
    done = subprocess.run([node, "--input-type=module"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_token_it_makes_is_the_one_the_provider_reads(vgs: Any) -> None:
    told = run(f"done(200, {json.dumps(ANSWER)})")
    token = told["answer"]["token"]
    vault = VgsVault(vgs.config(), VaultContext(None))  # type: ignore[arg-type]
    fields = ("number", "exp_month", "exp_year", "cvc")
    assert [vault.placeholder(token, field) for field in fields] == [ANSWER["number"], "03", "2031", ANSWER["cvc"]]
    assert told["said"]["vault"] == ["tntx", "sandbox"]
    assert told["said"]["route"] == "r1"
    assert told["said"]["fields"]["number"] == ["#number", "card-number", {"format": "UUID", "storage": "PERSISTENT"}]
    assert told["said"]["fields"]["cvc"][2] == {"format": "UUID", "storage": "VOLATILE"}
    assert told["said"]["fields"]["expiry"][2] is False


def test_it_says_which_fields_the_payer_must_put_right() -> None:
    wrong = {"number": {"isValid": False}, "expiry": {"isValid": True}, "cvc": {"isValid": False}}
    assert run(f"wrong({json.dumps(wrong)})")["answer"] == {"invalid": ["number", "cvc"]}


@pytest.mark.parametrize(
    "outcome",
    ["done(403, {})", f"done(200, {json.dumps(ANSWER | {'expiry': 'tok_sandbox_9ToiJHedw1nE1Jfx1qYYgz'})})"],
    ids=["refused", "the date came back as an alias"],
)
def test_what_it_cannot_use_is_no_token(outcome: str) -> None:
    assert run(outcome)["failed"].startswith("VGS:")
