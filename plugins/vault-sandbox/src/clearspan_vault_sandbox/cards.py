"""The test cards this vault takes, and nothing else: a number that is not in this table is refused.

Sources. ``published``: widely published test numbers, each of them in the tables of https://docs.stripe.com/testing (compared
with a stored copy of that page); where the page gives a number for a row's purpose, the row has that number. ``derived``: the
page has none for the purpose, so this project made one: the test range 400000 (Visa) or 555555 (Mastercard), then 0000088 and
a count, with a correct Luhn digit. Derived numbers mean something to the sandbox PSP only.
"""

from __future__ import annotations

import msgspec


class TestCard(msgspec.Struct, frozen=True):
    """A row of the table.

    Attributes:
        name: ``tok_`` + name is the token that always exists.
        number: digits only.
        title: what the card is for, in a few words.
        group: heading on the capture page: ``approved``, ``3-D Secure``, ``special`` or ``declined``.
        brand, funding, issuer_country: as in ``clearspan.sdk.VaultCard``.
        published: ``False`` when this project derived the number.
    """

    __test__ = False  # pytest: not a test class

    name: str
    number: str
    title: str
    group: str
    brand: str = "visa"
    funding: str = "credit"
    issuer_country: str = "US"
    published: bool = True

    @property
    def token(self) -> str:
        """The well-known token."""
        return f"tok_{self.name}"

    @property
    def cvc(self) -> str:
        """What the vault fills in as CVC: the payer's typing is checked for its shape and forgotten."""
        return "1234" if self.brand == "amex" else "123"

    @property
    def spaced(self) -> str:
        """The number as it is printed on a card."""
        sizes = (4, 6, 5) if self.brand == "amex" else (4, 4, 4, 4, 3)
        digits, groups = self.number, []
        for size in sizes:
            groups.append(digits[:size])
            digits = digits[size:]
        return " ".join(group for group in groups if group)


def _declined(code: str, number: str, *, published: bool = False) -> TestCard:
    return TestCard(f"decline_{code}", number, code, "declined", published=published)


EXP_MONTH, EXP_YEAR = 12, 2040
"""Expiry of the well-known tokens; fixed, so that a repeated request has the same bytes."""

CARDS: tuple[TestCard, ...] = (
    TestCard("visa", "4242424242424242", "Visa credit", "approved"),
    TestCard("visa_debit", "4000056655665556", "Visa debit", "approved", funding="debit"),
    TestCard("visa_de", "4000002760000016", "Visa credit, issued in Germany", "approved", issuer_country="DE"),
    TestCard("visa_fr", "4000002500000003", "Visa credit, issued in France", "approved", issuer_country="FR"),
    TestCard(
        "visa_gb", "4000008260000000", "Visa credit, issued in the United Kingdom", "approved", issuer_country="GB"
    ),
    TestCard("mastercard", "5555555555554444", "Mastercard credit", "approved", "mastercard"),
    TestCard("mastercard_debit", "5200828282828210", "Mastercard debit", "approved", "mastercard", "debit"),
    TestCard("mastercard_prepaid", "5105105105105100", "Mastercard prepaid", "approved", "mastercard", "prepaid"),
    TestCard("amex", "378282246310005", "American Express", "approved", "amex"),
    TestCard("discover", "6011111111111117", "Discover", "approved", "discover"),
    TestCard("diners", "3056930009020004", "Diners Club", "approved", "diners"),
    TestCard("jcb", "3566002020360505", "JCB", "approved", "jcb", issuer_country="JP"),
    TestCard("unionpay", "6200000000000005", "UnionPay", "approved", "unionpay", issuer_country="CN"),
    TestCard("3ds_challenge", "4000002500003155", "Payer must approve on a page", "3-D Secure", issuer_country="FR"),
    TestCard("3ds_frictionless", "4000000000003055", "Authenticated without a page", "3-D Secure"),
    TestCard("3ds_failed", "4000008400001280", "Authentication fails at once", "3-D Secure"),
    TestCard("3ds_challenge_declined", "4000008400001629", "Challenge, then the issuer declines", "3-D Secure"),
    TestCard("slow", "4000000000088007", "Approved, the answer comes late", "special", published=False),
    TestCard("rebill_declined", "4000000000000341", "First payment works, rebills are declined", "special"),
    TestCard(
        "rebill_recovers", "4000000000088163", "First two rebills of an amount are declined", "special", published=False
    ),
    TestCard("expires", "4000000000088171", "Expires 45 days after its first charge", "special", published=False),
    TestCard("revokes_third", "4000000000088189", "Consent revoked at the third rebill", "special", published=False),
    TestCard("advice_24", "5555550000088015", "Rebills: issuer advice 24", "special", "mastercard", published=False),
    TestCard("advice_25", "5555550000088023", "Rebills: issuer advice 25", "special", "mastercard", published=False),
    TestCard("advice_02", "5555550000088031", "Rebills: issuer advice 02", "special", "mastercard", published=False),
    TestCard("advice_03", "5555550000088049", "Rebills: issuer advice 03", "special", "mastercard", published=False),
    _declined("insufficient_funds", "4000000000009995", published=True),
    _declined("limit_exceeded", "4000000000006975", published=True),
    _declined("do_not_honor", "4000000000088015"),
    _declined("generic_decline", "4000000000000002", published=True),
    _declined("issuer_unavailable", "4000000000088023"),
    _declined("processing_error", "4000000000000119", published=True),
    _declined("authentication_required", "4000002760003184", published=True),
    _declined("expired_card", "4000000000000069", published=True),
    _declined("invalid_number", "4242424242424241", published=True),
    _declined("invalid_cvc", "4000000000000127", published=True),
    _declined("avs_mismatch", "4000000000000036", published=True),
    _declined("lost_card", "4000000000009987", published=True),
    _declined("stolen_card", "4000000000009979", published=True),
    _declined("pickup_card", "4000000000088031"),
    _declined("closed_account", "4000000000088049"),
    _declined("no_such_issuer", "4000000000088056"),
    _declined("not_permitted", "4000000000088064"),
    _declined("restricted_card", "4000000000088072"),
    _declined("blocked_by_holder", "4000000000088080"),
    _declined("suspected_fraud", "4000000000088098"),
    _declined("psp_risk_blocked", "4100000000000019", published=True),
    _declined("consent_revoked", "4000000000088106"),
    _declined("invalid_merchant", "4000000000088114"),
    _declined("invalid_currency", "4000000000088122"),
    _declined("invalid_amount", "4000000000088130"),
    _declined("duplicate", "4000000000088148"),
    _declined("unmapped", "4000000000088155"),
)

BY_NAME = {card.name: card for card in CARDS}
BY_NUMBER = {card.number: card for card in CARDS}
