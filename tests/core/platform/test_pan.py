"""No card number or security code passes the guard in any form, and what is no card number passes it.

The numbers are made from the issuer ranges and a seed. ``CLEARSPAN_PAN_CASES`` sets how many of each harmless kind are
tried: 10,000 when it is not set, 1,000,000 for a thorough run.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
import pytest

from clearspan.platform.pan import (
    _ISSUERS,
    _SEPARATOR,
    Json,
    PanFinding,
    find_pan,
    find_pan_in_text,
    mask_pan,
    mask_pans_in,
)

CASES = int(os.environ.get("CLEARSPAN_PAN_CASES", "10000"))
VISA = "4242424242424242"  # Stripe's published test number.

# Test numbers that PSPs publish (Stripe, Adyen, Worldpay, PayPal): an oracle apart from our table.
PUBLISHED = {
    "visa": VISA,
    "visa of 13 digits": "4222222222222",
    "mastercard": "5555555555554444",
    "mastercard 2": "2223003122003222",
    "amex": "378282246310005",
    "discover": "6011111111111117",
    "diners": "36227206271667",
    "diners 30": "30569309025904",
    "jcb": "3566002020360505",
    "unionpay": "6200000000000005",
    "unionpay of 19 digits": "6205500000000000004",
    "maestro": "6759649826438453",
    "bancontact": "67034200554565015",
    "dankort": "5019717010103742",
}


def seeded(seed: object) -> random.Random:
    return random.Random(str(seed))  # noqa: S311  (test data)


def card(draw: random.Random, prefix: str, length: int) -> str:
    """A number that begins with ``prefix`` and ends with its check digit."""
    body = prefix + "".join(draw.choices("0123456789", k=length - 1 - len(prefix)))
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in body[::-2])
    return body + str(-(sum(doubled) + sum(int(digit) for digit in body[-2::-2])) % 10)


def cards(draw: random.Random, each: int) -> list[str]:
    """``each`` numbers for every issuer range and every length it uses, both ends of the range among them."""
    return [
        card(draw, draw.choice((first, last, str(draw.randint(int(first), int(last))))), length)
        for first, last, lengths in _ISSUERS
        for length in lengths
        for _ in range(each)
    ]


def grouped(number: str, sizes: list[int], separator: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return separator.join(part for part in (*parts, number[at:]) if part)


SEPARATORS = [
    " ",
    "-",
    ".",
    "_",
    "+",
    "\t",
    "\u00a0",
    "\u00b7",
    "\u2009",
    "\u200b",
    "\u2011",
    "\u2013",
    "\u2014",
    "\u202f",
]
SEPARATORS += ["\u2212", "\u3000", "\uff0d", "  ", " - ", " \u2013 "]
SCRIPTS = ["0", "\uff10", "\u0660", "\u06f0", "\u0966", "\u09e6", "\u0e50", "\u1810", "\U0001d7ce", "\U0001e950"]


def written(draw: random.Random, number: str) -> str:
    """The number as somebody may write it: grouped as on cards or not at all, in one of the world's digits."""
    shapes = [[], [4] * 4, [4] * 4, [1] * 18, [2] * 9, [3] * 6]
    shapes += {15: [[4, 6, 5], [4, 5, 6]], 14: [[4, 6, 4]], 13: [[4, 4, 5]], 19: [[4, 4, 4, 7]]}.get(len(number), [])
    text = grouped(number, draw.choice(shapes), draw.choice(SEPARATORS))
    zero = draw.choice(SCRIPTS) if draw.random() < 0.4 else "0"
    return "".join(chr(ord(zero) + int(c)) if c in "0123456789" else c for c in text)


def body(value: object, *, ascii_only: bool = False) -> bytes:
    return json.dumps({"amount": 1250, "metadata": {"note": value}}, ensure_ascii=ascii_only).encode()


def escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


POSITIONS: dict[str, Callable[[str, str], bytes]] = {
    "value": lambda text, _: body(text),
    "escaped value": lambda text, _: body(text, ascii_only=True),
    "every character escaped": lambda text, _: b'{"note":"%s"}' % escaped(text).encode(),
    "in a sentence": lambda text, _: body(f"Please charge {text}, it is my brother's."),
    "before expiry and code": lambda text, _: body(f"{text} 12/30 123"),
    "after a label": lambda text, _: body(f"visa:{text}"),
    "nested": lambda text, _: json.dumps([{"a": [[{"b~/c": [None, {"d": text}]}]]}]).encode(),
    "number": lambda _, number: body(int(number)),
    "float": lambda _, number: f'{{"note": {number}.00}}'.encode(),
    "exponent": lambda _, number: f'{{"note": {number[0]}.{number[1:]}e{len(number) - 1}}}'.encode(),
    "key": lambda text, _: json.dumps({"metadata": {text: 1}}).encode(),
    "JSON in a string": lambda text, _: body(json.dumps({"to": [text]})),
    "number of JSON in a string": lambda _, number: body(json.dumps({"to": int(number)})),
    "base64": lambda text, _: body(in_base64(text)),
    "base64 of JSON": lambda text, _: body(in_base64(json.dumps({"to": text}, ensure_ascii=False))),
    "base64, URL alphabet, in a path": lambda text, _: body(
        "/return/to/" + in_base64(f"?>{text}").translate({43: "-", 47: "_"}).rstrip("=")
    ),
    "URL-encoded": lambda text, _: body(quote(f"a={text}", safe="")),
    "URL-encoded throughout": lambda text, _: body("".join(f"%{byte:02X}" for byte in text.encode())),
    "malformed JSON": lambda text, _: json.dumps({"note": text}, ensure_ascii=False).encode()[:-1],
    "second of two members": lambda text, _: b'{"note":%s,"note":"fine"}' % json.dumps(text).encode(),
}


@pytest.mark.parametrize("position", POSITIONS)
def test_every_issuer_length_and_spelling_is_found(position: str) -> None:
    """20 positions of 3 numbers for each issuer range and length: more than 5,000 forms."""
    draw = seeded(position)
    numbers = cards(draw, 3)
    assert len(numbers) * len(POSITIONS) > 5_000
    missed = []
    for number in numbers:
        form = POSITIONS[position](written(draw, number), number)
        finding = find_pan(form)
        if finding is None or finding.kind != "card_number":
            missed.append(form)
    assert missed == []


@pytest.mark.parametrize("content", ["text", "form", "header"])
def test_every_spelling_is_found_outside_json(content: str) -> None:
    draw = seeded(content)
    for number in cards(draw, 3):
        text = written(draw, number)
        if content == "header":
            finding = find_pan_in_text(text)
        elif content == "form":
            finding = find_pan(f"a=1&note={quote(text)}&b=%20".encode(), content="form")
        else:
            finding = find_pan(f"line one\n{text}\nline three".encode(), content="text")
        assert finding == PanFinding("/note" if content == "form" else "body", "card_number"), ascii(text)


@pytest.mark.parametrize("number", PUBLISHED.values(), ids=PUBLISHED)
def test_published_test_numbers_are_found(number: str) -> None:
    assert find_pan(body(number)) == PanFinding("/metadata/note", "card_number")


def test_the_decimal_digits_of_every_script_are_found() -> None:
    zeros = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.decimal(chr(code), None) == 0]
    assert len(zeros) > 60
    for zero in zeros:
        text = "".join(chr(ord(zero) + int(digit)) for digit in VISA)
        assert find_pan(body(text)), unicodedata.name(zero)
        for before in ("", "a", "ab"):
            assert find_pan(body(in_base64(before + text))), unicodedata.name(zero)


def test_every_separator_joins() -> None:
    separators = re.findall(f"[{_SEPARATOR}]", "".join(map(chr, range(0x10000))))
    assert len(separators) > 60
    for separator in separators:
        text = grouped(VISA, [4, 4, 4], separator)
        assert find_pan_in_text(text), ascii(separator)
        assert find_pan(body(text)), ascii(separator)
        assert find_pan(body(text, ascii_only=True)), ascii(separator)


@pytest.mark.parametrize(
    "raw",
    [
        VISA.encode("utf-16"),
        json.dumps({"a": VISA}).encode("utf-16"),
        json.dumps({"a": VISA}).encode("utf-32-be"),
        b"\xef\xbb\xbf" + json.dumps({"a": VISA}).encode(),
        "4242\u00a04242\u00a04242\u00a04242".encode("latin-1"),
        b'{"a": "\xff\xfe' + VISA.encode() + b'"}',
    ],
    ids=["utf-16 text", "utf-16", "utf-32", "byte order mark", "latin-1", "not utf-8"],
)
def test_other_encodings_are_read(raw: bytes) -> None:
    assert find_pan(raw) is not None


def test_zeros_that_an_exponent_stands_for_count() -> None:
    number = next(number for tail in range(10, 100) if find_pan_in_text(number := f"42424242424{tail}000"))
    assert find_pan(b'{"a": %s.%se15}' % (number[:1].encode(), number[1:13].encode())) == PanFinding(
        "/a", "card_number"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{VISA} 1230 123",
        "4242 4242 4242 4242 1230 123",
        "4242 4242 4242 4242 12/30 123",
        f"1 {VISA} 2",
        f"+32470123456 {VISA}",
        f"+32 470 12 34 56 {VISA}",
        f"BE68 5390 0754 7034 {VISA}",
        f"8d3f6b1e-7c5a-4b60-9a54-0d1c1f6f2f11-{VISA}",
        f"pay_01h455vb4pex5vsknk084sn02q_{VISA}",
        f"INV-2026-{VISA}",
        f"visa{VISA}exp1230",
        f"**{VISA}**",
        f"{VISA}=30121011234567",
        f"%B{VISA}^DOE/JOHN^3012101",
        f"id,pan\n12,{VISA}\n",
        "42424242 42424242",
        "4242 42424242-4242",
        "622123 4567890123450",
        f"{VISA} 5555555555554444",
        f"%7B%22a%22%3A%22{VISA}%22%7D",
        "4242%A04242%A04242%A04242",
        f"data:text/plain;base64,{in_base64(VISA)}",
    ],
)
def test_what_stands_beside_a_number_does_not_hide_it(text: str) -> None:
    assert find_pan_in_text(text) == PanFinding("body", "card_number")


# --- what is no card number ------------------------------------------------------------------------------------------

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def crockford(value: int) -> str:
    return "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def uuid4(draw: random.Random) -> str:
    return str(UUID(int=draw.getrandbits(128), version=4))


def uuid7(draw: random.Random) -> int:
    milliseconds = draw.randrange(1_577_836_800_000, 2_200_000_000_000)
    return milliseconds << 80 | 7 << 76 | draw.getrandbits(12) << 64 | 2 << 62 | draw.getrandbits(62)


# Country and BBAN structure (n digits, a letters, c either), from SWIFT's IBAN registry.
BBANS = {
    "BE": "n12", "NL": "a4n10", "DE": "n18", "FR": "n10c11n2", "GB": "a4n14", "ES": "n20", "IT": "a1n10c12", "NO": "n11",
    "PL": "n24", "CH": "n5c12", "LU": "n3c13", "SE": "n20", "MT": "a4n5c18", "SA": "n2c18", "BR": "n23a1c1", "AT": "n16",
}  # fmt: skip


def iban(draw: random.Random, country: str) -> str:
    kinds = {"n": "0123456789", "a": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "c": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    structure = BBANS[country].replace("n", " n").replace("a", " a").replace("c", " c").split()
    bban = "".join("".join(draw.choices(kinds[part[0]], k=int(part[1:]))) for part in structure)
    number = int("".join(str(int(character, 36)) for character in f"{bban}{country}00"))
    compact = f"{country}{98 - number % 97:02}{bban}"
    return compact if draw.random() < 0.5 else grouped(compact, [4] * 8, draw.choice(" \u00a0-"))


def e164(draw: random.Random) -> str:
    digits = str(draw.randrange(1, 10)) + "".join(draw.choices("0123456789", k=draw.choice((9, 10, 11, 12, 13, 14))))
    return "+" + (
        digits if draw.random() < 0.5 else grouped(digits, draw.choice(([2, 3, 2, 2], [3, 4, 4], [4, 4, 4])), " ")
    )


HARMLESS: dict[str, Callable[[random.Random], str | int]] = {
    "UUID4": uuid4,
    "UUID4, capitals": lambda draw: uuid4(draw).upper(),
    "UUID4 without dashes": lambda draw: uuid4(draw).replace("-", ""),
    "SHA-1": lambda draw: draw.randbytes(20).hex(),
    "SHA-256": lambda draw: draw.randbytes(32).hex(),
    "UUID7": lambda draw: str(UUID(int=uuid7(draw))),
    "ULID": lambda draw: crockford(draw.randrange(2_200_000_000_000) << 80 | draw.getrandbits(80)),
    "TypeID": lambda draw: draw.choice(("pay", "cus", "inv_item")) + "_" + crockford(uuid7(draw)).lower(),
    "milliseconds": lambda draw: str(draw.randrange(10**12, 2_200_000_000_000)),
    "microseconds": lambda draw: str(draw.randrange(10**15, 2_200_000_000_000_000)),
    "nanoseconds": lambda draw: str(draw.randrange(10**18, 2_200_000_000_000_000_000)),
    "milliseconds, number": lambda draw: draw.randrange(10**12, 2_200_000_000_000),
    "microseconds, number": lambda draw: draw.randrange(10**15, 2_200_000_000_000_000),
    "list of milliseconds": lambda draw: " ".join(str(draw.randrange(10**12, 2_200_000_000_000)) for _ in range(4)),
    "Belgian IBAN": lambda draw: iban(draw, "BE"),
    "IBAN": lambda draw: iban(draw, draw.choice(list(BBANS))),
    "E.164": e164,
    "analytics client id": lambda draw: f"{draw.randrange(2**31)}.{draw.randrange(1_600_000_000, 1_900_000_000)}",
    "latitude": lambda draw: repr(draw.uniform(-180, 180)),
    "date and time": lambda draw: (
        f"{draw.randrange(1970, 2040)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02} "
        f"{draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02}.{draw.randrange(10**6):06}"
    ),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_no_harmless_value_is_taken_for_a_card(kind: str) -> None:
    """Each value alone, and in documents of a hundred, which take the other way through the guard."""
    draw = seeded(kind)
    taken: list[object] = []
    for _ in range(CASES // 100):
        values = [HARMLESS[kind](draw) for _ in range(100)]
        taken += [value for value in values if isinstance(value, str) and find_pan_in_text(value)]
        if find_pan(json.dumps({"metadata": values}).encode()):
            taken.append(values)
    assert taken == []


@pytest.mark.parametrize(
    "text",
    [
        "04242424242424242",
        "42424242424242420",
        "4242424242424243",
        "42424242424242424242424242",
        "4242,4242,4242,4242",
        "4242/4242/4242/4242",
        "4242\n4242\n4242\n4242",
        "4.242.424.242.424.242",
        "424242424242.4242",
        "4242.424242424242",
        "424242******4242",
        "4242 42** **** 4242",
        "622123-4567890123450",
        "42424242 42424242 42424242",
        "1 4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2",
        " ".join("42" * 12),
        " ".join(["42"] * 12),
        "+4222222222222",
        "+49 4222 2222 22222",
        "+4222222222222 1234",
        "aaaaaaaa-4242-4242-4242-4242abcdef12",
        "0ABCDEFGHJ4242424242424242",
        "pay_0abcdefghj4242424242424242",
    ],
)
def test_only_whole_numbers_count(text: str) -> None:
    assert find_pan_in_text(text) is None
    assert find_pan(body(text)) is None


def test_an_iban_is_exempt_only_with_its_country_and_check_digits() -> None:
    draw = seeded("iban")
    bare = wrong = 0
    for _ in range(5_000):
        good = re.sub(r"[^0-9A-Z]", "", iban(draw, "BE"))
        assert find_pan_in_text(good) is None
        assert find_pan_in_text(good.lower()) is None
        bare += find_pan_in_text(good[2:]) is not None
        wrong += find_pan_in_text(f"BE{(int(good[2:4]) + draw.randrange(1, 90)) % 97:02}{good[4:]}") is not None
    assert bare > 10
    assert wrong > 10


@pytest.mark.parametrize(("length", "low", "high"), [(16, 0.035, 0.041), (13, 0.008, 0.013)])
def test_the_documented_chance_of_a_false_hit_holds(length: int, low: float, high: float) -> None:
    """docs/security/pan-guard.md says 3.8 % for 16 random digits and 1.0 % for 13."""
    draw = seeded(length)
    hits = sum(find_pan_in_text("".join(draw.choices("0123456789", k=length))) is not None for _ in range(50_000))
    assert low < hits / 50_000 < high


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    re.findall(
        r"\S+",
        """cvv CVV cvv2 CVV2 Cvv_2 cvc cvc2 c-v-c cid CID cvn csc security_code securityCode card-verification-value card_cvc
        card_number cardNumber CARD-NUMBER pan PAN track1 track_1 TRACK2 track_data trackData pin_block PINBlock""",
    ),
)
@pytest.mark.parametrize("value", ["123", "x", 123, 0, {"a": 1}, [1]], ids=repr)
def test_a_forbidden_field_is_refused_whatever_it_holds(name: str, value: object) -> None:
    document = {"card": [{name: value}]}
    assert find_pan(json.dumps(document).encode()) == PanFinding(f"/card/0/{name}", "sensitive_field")
    assert find_pan(body(json.dumps(document))) == PanFinding("/metadata/note", "sensitive_field")
    assert find_pan(body(in_base64(json.dumps(document)))) == PanFinding("/metadata/note", "sensitive_field")
    assert find_pan(body(quote(json.dumps(document)))) == PanFinding("/metadata/note", "sensitive_field")


@pytest.mark.parametrize("value", [None, "", "  ", True, False, {}, [], "***", "xxx"], ids=repr)
def test_a_forbidden_field_may_be_empty_or_masked(value: object) -> None:
    assert find_pan(json.dumps({"cvv": value, "card_number": value}).encode()) is None


@pytest.mark.parametrize("value", ["424242******4242", "**** 4242", "4242 42XX XXXX 4242", "42424242****4242"])
def test_a_truncated_number_may_be_sent_under_its_name(value: str) -> None:
    assert find_pan(json.dumps({"card_number": value}).encode()) is None
    assert find_pan(json.dumps({"cvv": value}).encode()) == PanFinding("/cvv", "sensitive_field")


def test_too_long_a_rest_of_a_number_may_not_be_sent_under_its_name() -> None:
    for value in ("4242424242424***", "424242424**2424", "3782822***10005"):
        assert find_pan(json.dumps({"card_number": value}).encode()) == PanFinding("/card_number", "sensitive_field")


@pytest.mark.parametrize(
    "name", ["recv", "placid", "company", "span", "soundtrack1", "cvc_check", "pin", "cidr", "card"]
)
def test_names_that_only_resemble_are_allowed(name: str) -> None:
    assert find_pan(json.dumps({name: "123"}).encode()) is None


def test_forbidden_fields_are_found_where_json_does_not_parse() -> None:
    assert find_pan(b'{"a": {"cvv": "123"}') == PanFinding("body", "sensitive_field")
    assert find_pan(b"{'a': {'Card-Number' : 1}}") == PanFinding("body", "sensitive_field")
    assert find_pan(b'{"a": "{\\"cvc\\": \\"123\\"}"') == PanFinding("body", "sensitive_field")
    assert find_pan(b'{"a": {"cvv": null}') is None
    assert find_pan(b'{"a": {"cvv": ""}') is None


def test_forbidden_fields_of_a_form_are_found() -> None:
    assert find_pan(b"amount=1&cvc=123", content="form") == PanFinding("/cvc", "sensitive_field")
    assert find_pan(b"card%5Bcvc%5D=123", content="form") == PanFinding("/card[cvc]", "sensitive_field")
    assert find_pan(b"note=4242+4242+4242+4242", content="form") == PanFinding("/note", "card_number")
    assert find_pan(b"cvc=&pan&phone=%2B4915123456789", content="form") is None


def test_a_number_in_a_forbidden_field_is_called_a_number() -> None:
    assert find_pan(json.dumps({"card_number": VISA}).encode()) == PanFinding("/card_number", "card_number")


# --- findings --------------------------------------------------------------------------------------------------------


def test_a_finding_points_to_the_place() -> None:
    document = {"a/b": [{"c~d": ["fine", VISA]}]}
    assert find_pan(json.dumps(document).encode()) == PanFinding("/a~1b/0/c~0d/1", "card_number")
    assert find_pan(json.dumps(VISA).encode()) == PanFinding("body", "card_number")


def test_a_finding_never_holds_the_number() -> None:
    draw = seeded("finding")
    for number in cards(draw, 2):
        text = written(draw, number)
        for document in ({text: {text: text}}, {"a": {text: 1}}, {"a": {f"no {text} no": [1]}}, {in_base64(text): 1}):
            finding = find_pan(json.dumps(document).encode())
            assert finding is not None
            shown = f"{finding} {finding!r} {msgspec.json.encode(finding).decode()}"
            assert find_pan_in_text(shown) is None
            assert text not in shown
            assert number not in shown


def test_a_pointer_is_short_and_printable_whatever_the_keys() -> None:
    key = "k\ud800\n\x1b" * 1_000
    finding = find_pan(json.dumps({key: {key: VISA}}).encode())
    assert finding is not None
    assert finding.where.isprintable()
    assert len(finding.where) < 200
    finding = find_pan(b'{"a":' * 200 + b'"4242424242424242"' + b"}" * 200)
    assert finding is not None
    assert len(finding.where) < 200


# --- masking ---------------------------------------------------------------------------------------------------------


def digits_of(text: str) -> str:
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else "*" for c in text if c.isdecimal() or c == "*")


def test_masking_keeps_six_and_four_and_all_around_them() -> None:
    draw = seeded("mask")
    for number in cards(draw, 10):
        text = written(draw, number)
        masked = mask_pan(f"Order 7, {text}; thanks\n")
        assert masked.startswith("Order 7, ")
        assert masked.endswith("; thanks\n")
        inner = masked[9:-9]
        assert digits_of(inner) == f"{number[:6]}{'*' * (len(number) - 10)}{number[-4:]}"
        assert [c for c in inner if not c.isdecimal() and c != "*"] == [c for c in text if not c.isdecimal()]
        assert find_pan_in_text(masked) is None
        assert find_pan(body(masked)) is None
        assert mask_pan(masked) == masked


@pytest.mark.parametrize("position", POSITIONS)
def test_masked_text_passes_the_guard_in_every_position(position: str) -> None:
    draw = seeded(position)
    for number in cards(draw, 1):
        raw = POSITIONS[position](written(draw, number), number).decode()
        if position != "exponent":  # A bare JSON number is cut by its point; mask_pans_in reads its value.
            assert find_pan_in_text(mask_pan(raw)) is None
            assert find_pan(mask_pan(raw).encode()) is None
        try:
            document = json.loads(raw)
        except ValueError:
            assert position == "malformed JSON"
        else:
            assert find_pan(json.dumps(mask_pans_in(document)).encode()) is None


def test_encoded_numbers_are_masked_where_they_are_written() -> None:
    assert mask_pan("a=%34242%204242%204242%204242&b=%20") == "a=%34242%2042**%20****%204242&b=%20"
    assert mask_pan(escaped(VISA)) == escaped("424242") + "******" + escaped("4242")
    for text in (VISA, f"a {VISA}", json.dumps({"to": "4242 4242 4242 4242"})):
        masked = mask_pan(f"x {in_base64(text)} y")
        assert base64.b64decode(masked[2:-2]).decode() == mask_pan(text) != text


def test_text_without_a_number_is_not_touched() -> None:
    for text in (
        "",
        "1715000000000",
        "BE68 5390 0754 7034",
        "\ud800%zz\\u12",
        "a" * 100,
        "pi_3MtwBwLkdIwHu7ix28a3tqPa" * 3,
    ):
        assert mask_pan(text) == text


def test_overlapping_numbers_leave_nothing_to_find() -> None:
    draw = seeded("overlap")
    for _ in range(3_000):
        sizes = draw.choices((1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 13, 16), k=draw.randrange(3, 30))
        text = draw.choice(" -").join("".join(draw.choices("0123456789", k=size)) for size in sizes)
        masked = mask_pan(text)
        assert find_pan_in_text(masked) is None
        assert len(masked) == len(text)


def test_a_payload_is_masked_in_values_numbers_and_keys() -> None:
    payload: Json = {
        "id": "pay_01h455vb4pex5vsknk084sn02q",
        "card_number": VISA,
        "number": 4242424242424242,
        "float": 4242424242424242.0,
        "negative": -4242424242424242,
        VISA: [VISA, 1.5, None, True, {"cvv": "123", "cvc": None, "track2": {"a": 1}}],
        "pan": "4242",
        "raw": json.dumps({"cvc": "123", "amount": 1}),
        "amount": 1250,
        "created": 1_715_000_000_000,
    }
    assert mask_pans_in(payload) == {
        "id": "pay_01h455vb4pex5vsknk084sn02q",
        "card_number": "424242******4242",
        "number": "424242******4242",
        "float": "424242******4242",
        "negative": "-424242******4242",
        "424242******4242": ["424242******4242", 1.5, None, True, {"cvv": "***", "cvc": None, "track2": "***"}],
        "pan": "****4242",
        "raw": "***",
        "amount": 1250,
        "created": 1_715_000_000_000,
    }


def test_masking_a_payload_leaves_the_original_and_loses_no_member() -> None:
    payload: Json = {"4242424242424242": 1, "4242420000004242": 2, "4242420000054242": 3, "a": {"b": [VISA]}}
    before = json.dumps(payload)
    masked = mask_pans_in(payload)
    assert json.dumps(payload) == before
    assert isinstance(masked, dict)
    assert sorted(str(value) for value in masked.values()) == ["1", "2", "3", "{'b': ['424242******4242']}"]


# --- hostile input ---------------------------------------------------------------------------------------------------

SIZE = 64 * 1024
_draw = seeded("hostile")
HOSTILE = {
    "digits": b"4" * 4 * SIZE,
    "digits and blanks": b"4 " * 2 * SIZE,
    "random digits and separators": bytes(_draw.choices(b"0123456789 -.+_", k=4 * SIZE)),
    "groups of four": b"4424 " * (SIZE // 5),
    "many numbers": b"4242 4242 4242 4242 " * (SIZE // 20),
    "fullwidth digits": "\uff14 ".encode() * (SIZE // 4),
    "one digit and blanks": b"1" + b" " * SIZE,
    "pluses": b" +4" * (SIZE // 3),
    "IBAN beginnings": b"BE68 4242 4242 4242 " * (SIZE // 20),
    "TypeID beginnings": b"a_" * (SIZE // 2) + b"4" * 13,
    "backslashes": b"\\" * SIZE + b"4" * 13,
    "JSON escapes": b"\\u0034" * (SIZE // 6),
    "URL escapes": b"%34" * (SIZE // 3),
    "broken URL escapes": b"%f4%e4%3" * (SIZE // 8) + b"4" * 13,
    "base64 of digits": b"NDI0" * (SIZE // 4),
    "random base64": bytes(_draw.choices(b"ABCDEFGHIJKLMNOPabcdefghijklmn0123456789+/", k=SIZE)),
    "quotes": b'"cvv"' * (SIZE // 5),
    "quotes and blanks": (b'"' + b" " * 63) * (SIZE // 64) + b'"cvv"',
    "open brackets": b"[" * SIZE + b'"4242424242424242"',
    "deep list": b"[" * 10_000 + b'"4242424242424242"' + b"]" * 10_000,
    "deep object": b'{"a":' * 10_000 + b'"4242424242424242"' + b"}" * 10_000,
    "deep forbidden fields": b'{"cvv":' * 10_000 + b"1" + b"}" * 10_000,
    "deep JSON in a string": json.dumps("[" * 10_000 + '"4242424242424242"' + "]" * 10_000).encode(),
    "huge number": b'{"a":' + b"4" * 4 * SIZE + b"}",
    "huge fraction": b'{"a":4242424242424242.' + b"0" * SIZE + b"}",
    "huge exponent": b'{"a":1e' + b"4" * SIZE + b"}",
    "large exponent": b'{"a":4242424242424.242e9999}',
    "long mask": b'{"cvv":"' + b"*" * SIZE + b'z"}',
    "not a number": b'{"a":NaN,"b":-Infinity,"c":"4242424242424242"}',
    "invalid UTF-8": b"\xff\xfe4242424242424242\xc3" * 1_000,
    "lone surrogates": b'{"\\ud800":"\\udfff4242424242424242\\ud83d"}',
    "NUL": b"\0" * SIZE + b"4242424242424242",
    "empty": b"",
}
HITS = {
    "random digits and separators",
    "many numbers",
    "open brackets",
    "deep list",
    "deep object",
    "deep forbidden fields",
    "deep JSON in a string",
    "huge fraction",
    "long mask",
    "not a number",
    "invalid UTF-8",
    "lone surrogates",
    "NUL",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_an_answer(name: str) -> None:
    """Up to 256 KB. The work is linear: a quadratic step would take minutes here, not milliseconds."""
    raw = HOSTILE[name]
    if name != "groups of four":  # It may or may not hold one; what counts is that an answer comes.
        assert (find_pan(raw) is not None) is (name in HITS)
    find_pan(raw, content="text")
    find_pan(raw[: SIZE // 4], content="form")
    text = raw.decode("utf-8", "surrogateescape")
    finding = find_pan_in_text(mask_pan(text))
    assert finding is None or finding.kind == "sensitive_field"
    mask_pans_in({text[:100]: [text[: SIZE // 4], {"cvv": text}]})


def test_deep_and_huge_values_are_masked() -> None:
    deep: Any = VISA
    for _ in range(10_000):
        deep = {"a": [deep]}
    masked: Any = mask_pans_in(deep)
    for _ in range(10_000):
        masked = masked["a"][0]
    assert masked == "424242******4242"
    values: Json = [1e300, float("inf"), float("nan"), "\ud800", 4.5]
    assert repr(mask_pans_in(values)) == repr(values)
    huge: Json = [10**5000, -(10**5000), {"a": 10**5000}]
    assert mask_pans_in(huge) == huge
    assert mask_pans_in({"cvv": 10**5000, "pan": 10**5000}) == {"cvv": "***", "pan": "****"}


def test_a_card_number_padded_to_the_length_of_a_digest_is_found_unless_it_looks_like_one() -> None:
    padded = "4242424242424242a" + "0" * 14 + "b"
    assert len(padded) == 32
    assert find_pan_in_text(padded) is not None, "two letters make no digest"
    assert find_pan_in_text(padded[:-2] + "bc") is None, "three do; nobody sends a card number like that by mistake"
    assert find_pan_in_text(padded[:-2] + "bcd") is not None, "and only at the length of a digest"
