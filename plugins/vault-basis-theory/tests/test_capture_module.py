"""The module of the capture page, run by Node with a stand-in for Web Elements: what it asks for and what it answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from clearspan_vault_basis_theory import BasisTheoryVault

STAND_IN = """
const said = { elements: [], created: null };
globalThis.window = { async basistheory(key, options) {
  said.key = key; said.options = options;
  return {
    createElement(type, options) {
      said.elements.push([type, options.targetId, options["aria-label"]]);
      return { type, mount: async (selector) => said.elements.push(selector), on() {}, month: () => "month", year: () => "year" };
    },
    tokens: { async create(request) {
      said.created = { type: request.type, fields: Object.keys(request.data), month: request.data.expiration_month };
      const failure = OUTCOME;
      if (failure) throw Object.assign(new Error("no"), failure);
      return { id: "815029c2-29ec-4fc2-8cd4-99feb3ee582c" };
    } },
  };
} };
const text = { number: "Kartennummer", expiry: "e", cvc: "c" };
const fields = { number: "#number", expiry: "#expiry", cvc: "#cvc" };
const form = await mount({ data: { session_key: "key_s", environment: "test" }, fields, text, style: {} });
const failed = (error) => ({ failed: error.message, said });
console.log(JSON.stringify(await form.submit().then((answer) => ({ answer, said }), failed)));
"""


def run(outcome: str) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node")
    script = f"{BasisTheoryVault.capture_module}\n{STAND_IN.replace('OUTCOME', outcome)}"
    done = subprocess.run([node, "--input-type=module"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_it_mounts_three_fields_and_makes_a_card_token_with_the_session_key() -> None:
    told = run("null")
    assert told["answer"] == {"token": "815029c2-29ec-4fc2-8cd4-99feb3ee582c"}
    assert told["said"]["key"] == "key_s"
    assert told["said"]["options"] == {"environment": "test", "disableTelemetry": True}
    assert ["cardNumber", "clearspan-number", "Kartennummer"] in told["said"]["elements"]
    assert [one for one in told["said"]["elements"] if isinstance(one, str)] == ["#number", "#expiry", "#cvc"]
    fields = ["number", "expiration_month", "expiration_year", "cvc"]
    assert told["said"]["created"] == {"type": "card", "fields": fields, "month": "month"}


@pytest.mark.parametrize(
    ("details", "invalid"),
    [
        ({"data": {"number": {"type": "invalid"}, "cvc": {"type": "incomplete"}}}, ["number", "cvc"]),
        ({"expiration_month": {"type": "incomplete"}}, ["expiry"]),
        ({}, ["number", "expiry", "cvc"]),
    ],
)
def test_it_says_which_fields_the_payer_must_put_right(details: dict[str, Any], invalid: list[str]) -> None:
    outcome = json.dumps({"name": "BasisTheoryValidationError", "details": details})
    assert run(outcome)["answer"] == {"invalid": invalid}


def test_an_error_of_the_vaults_is_no_token() -> None:
    assert run(json.dumps({"name": "BasisTheoryApiError", "status": 403}))["failed"] == "no"
