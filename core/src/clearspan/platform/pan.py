"""The card number guard: finds primary account numbers (PANs) and security codes in whatever comes in, and masks them.

A card number is 13 to 19 digits (any Unicode decimal digits, with separators in the groupings cards are written in)
whose first digits belong to an issuer, whose length that issuer uses, and whose last digit is the Luhn check digit.
Text is read as it stands and through one level of JSON-in-string, JSON or URL escapes, or base64.
docs/security/pan-guard.md says what is exempt and how often a random number is taken for a card.

Every function is linear in its input and raises nothing on any input. No result, message or repr holds a number
found.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

import msgspec

Kind = Literal["card_number", "sensitive_field"]
Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class PanFinding(msgspec.Struct, frozen=True):
    """Where something was found, never what: ``where`` is a JSON pointer (RFC 6901), or ``body`` when there is none."""

    where: str
    kind: Kind


# Issuer prefixes (first, last) and the lengths their numbers have. Sources: https://en.wikipedia.org/wiki/Payment_card_number
# (2026-09), braintree/credit-card-type src/lib/card-types.ts, activemerchant credit_card_methods.rb (which cites Mastercard
# Rules and Discover's IPP VAR guide). Where they differ, the wider; left out on purpose:
# - Maestro below 16 digits outside its nine classic prefixes, and 62 below 16: no such cards are known, but EAN-13 bar codes
#   (50, 56-59, 64, 69) and Indonesian phone numbers (62) are in every shop.
# - 638 and 639 with 18 digits: .NET ticks of 2022 to 2029. Gerbang 1946: microseconds of 2031.
_ISSUERS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("4", "4", (13, 16, 18, 19)),  # Visa, Electron, Dankort 4571
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),  # American Express
    ("30", "30", (14, 15, 16, 17, 18, 19)),  # Diners Club; JCB 3088-3094, 3096-3099
    ("36", "36", (14, 15, 16, 17, 18, 19)),  # Diners Club
    ("38", "39", (14, 15, 16, 17, 18, 19)),  # Diners Club, Hipercard 3841
    ("3528", "3589", (16, 17, 18, 19)),  # JCB, RuPay 353 and 356, LankaPay
    ("3100", "3102", (16,)),  # JCB
    ("3112", "3120", (16,)),  # JCB
    ("3158", "3159", (16,)),  # JCB
    ("3337", "3349", (16,)),  # JCB
    ("1800", "1800", (15,)),  # JCB
    ("2131", "2131", (15,)),  # JCB
    ("31", "31", (19,)),  # China T-Union
    ("60", "60", (16, 17, 18, 19)),  # Discover 6011, RuPay, Hipercard, UkrCard, Cabal, Maestro
    ("644", "649", (16, 17, 18, 19)),  # Discover
    ("65", "65", (16, 17, 18, 19)),  # Discover, RuPay, Troy, Elo, Verve
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("8100", "8171", (16, 17, 18, 19)),  # UnionPay
    ("81", "82", (16,)),  # RuPay
    ("50", "50", (16, 17, 18, 19)),  # Maestro, Verve, Elo, RuPay 508, mada
    ("56", "59", (16, 17, 18, 19)),  # Maestro, Switch, Uzcard 5614, AfriGo
    ("630", "637", (16, 17, 18, 19)),  # Maestro, Laser, Solo, Switch, InterPayment, Hiper, Elo
    ("638", "639", (16, 17, 19)),  # InstaPayment, Maestro
    ("6390", "6390", (18,)),  # Maestro
    ("67", "67", (16, 17, 18, 19)),  # Maestro, Bancontact, Solo, Laser
    ("6167", "6167", (16, 17, 18, 19)),  # Maestro
    ("6900", "6900", (16, 17, 18, 19)),  # Maestro
    *((prefix, prefix, (13, 14, 15)) for prefix in ("5018", "5020", "5038", "5893", "6304", "6759")),  # Maestro
    ("6761", "6763", (13, 14, 15)),  # Maestro
    ("2200", "2205", (16, 17, 18, 19)),  # Mir, Borica
    ("8600", "8600", (16,)),  # Uzcard
    ("9704", "9704", (16, 19)),  # Napas
    ("9792", "9792", (16,)),  # Troy
    ("9860", "9860", (16,)),  # Humo
    ("9682", "9682", (16,)),  # mada
    ("1", "1", (15,)),  # UATP
)


def _lengths_by_prefix() -> dict[str, tuple[int, ...]]:
    """Four leading digits -> the lengths a card beginning so may have."""
    lengths: dict[str, set[int]] = {}
    for first, last, allowed in _ISSUERS:
        for prefix in range(int(first.ljust(4, "0")), int(last.ljust(4, "9")) + 1):
            lengths.setdefault(f"{prefix:04}", set()).update(allowed)
    return {prefix: tuple(sorted(found)) for prefix, found in lengths.items()}


_LENGTHS: Final = _lengths_by_prefix()

# Names whose value is refused whatever it holds. Normalised: lower case, without separators.
_SECRET_NAMES: Final = frozenset(
    re.findall(
        r"\w+",
        """
        cvv cvv2 cvvcode cvvnumber cardcvv cardcvv2 cvc cvc2 cvccode cvcnumber cardcvc cardcvc2 cvn cvn2 cardcvn csc cardcsc
        cid cardcid securitycode cardsecuritycode cardverificationvalue cardverificationcode cardverificationnumber
        track1 track2 track3 trackdata track1data track2data track3data magstripe magstripedata magneticstripe
        magneticstripedata pinblock encryptedpinblock pindata cardpin
        """,
    )
)
_NUMBER_NAMES: Final = frozenset(
    re.findall(
        r"\w+",
        """
        pan cardpan fullpan cardnumber cardnum cardno ccnumber ccnum ccno creditcardnumber creditcardno debitcardnumber
        primaryaccountnumber
        """,
    )
)
_NAMES: Final = _SECRET_NAMES | _NUMBER_NAMES

# What may stand between two digits of one number: blanks (with tab and the zero-width and direction marks that pasting
# leaves), dashes, dots, underscore, the plus of a form, and NUL, so that UTF-16 read as bytes still shows its digits.
# Not the comma, slash, colon and line break: they separate numbers from each other (lists, dates, CSV).
_BLANK: Final = " \t\0\u00a0\u00ad\u1680\u2000-\u200f\u202a-\u202f\u205f-\u2069\u3000\ufeff"
_SEPARATOR: Final = (
    _BLANK + r"\-+_.\u00b7\u2010-\u2015\u2022\u2024\u2027\u2043\u2212\u30fb\ufe58\ufe63\uff0d\uff0e\uff3f"
)
_GAP_MAX: Final = 4
_DIGITS: Final = re.compile(r"\d+")
_BLOB: Final = re.compile(rf"\d[\d{_SEPARATOR}]{{12,}}")
_BLANKS: Final = re.compile(f"[{_BLANK}]+")
_DOTS: Final = re.compile(r"[.\u00b7\u2022\u2024\u2027\u30fb\uff0e]")

_NOT_A_CARD: Final = re.compile(
    # UUID in canonical form (RFC 9562).
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    # UUID without dashes, and hexadecimal digests of 160, 256 and 512 bits: what clients use as idempotency keys. Three letters
    # at least, so that a card number padded to the length is still seen.
    r"|(?<![0-9A-Za-z])(?=(?:[0-9]*[A-Fa-f]){3})"
    r"(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})(?![0-9A-Za-z])"
    # ULID of this millennium (the first character stays 0 until the year 3084) and the suffix of a TypeID.
    r"|(?<![0-9A-Za-z_])0[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}(?![0-9A-Za-z])"
    r"|(?<=[a-z]_)[0-7][0-9a-hjkmnp-tv-z]{25}(?![0-9A-Za-z])"
    # A decimal fraction such as a latitude: the digits after the point are not a number of their own.
    r"|(?<![\d.])\d{1,4}\.\d{13,19}(?![\d.])"
)

# IBAN length by country, from SWIFT's IBAN registry (as in python-stdnum 2.1, iban.dat).
_IBAN_HEAD: Final = re.compile(r"(?<![0-9A-Za-z])([A-Za-z]{2})[0-9]{2}")
_IBAN_LENGTHS: Final = {
    country: int(length)
    for country, length in re.findall(
        r"(\w\w)(\d\d)",
        """
        AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29
        ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20
        LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29
        PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
        YE30
        """,
    )
}


@cache
def _iban_rest(length: int) -> re.Pattern[str]:
    """What follows country and check digits: ``length`` characters, printed in groups or not."""
    return re.compile(rf"(?:[ \u00a0-]?[0-9A-Za-z]){{{length}}}(?![0-9A-Za-z])")


def _without_exempt(text: str) -> str:
    """The same text, position by position, with ids, IBANs and decimal fractions crossed out."""
    text = _NOT_A_CARD.sub(lambda match: "x" * len(match[0]), text)
    pieces: list[str] = []
    done = 0
    head = _IBAN_HEAD.search(text)
    while head:
        at = head.end()
        length = _IBAN_LENGTHS.get(head[1].upper())
        rest = _iban_rest(length - 4).match(text, at) if length else None
        if rest and _passes_mod_97(text[head.start() : rest.end()]):
            at = rest.end()
            pieces += (text[done : head.start()], "x" * (at - head.start()))
            done = at
        head = _IBAN_HEAD.search(text, at)
    return "".join(pieces) + text[done:]


def _passes_mod_97(iban: str) -> bool:
    """ISO 7064 MOD 97-10 as ISO 13616 applies it."""
    compact = "".join(character for character in iban if character.isalnum())
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


# --- numbers in plain text -------------------------------------------------------------------------------------------

_Groups = list[tuple[int, int]]  # Start and end of each run of digits in one sequence joined by separators.

_DOUBLED: Final = bytes(2 * digit - 9 * (digit > 4) for digit in range(10)) + bytes(246)
_ASCII_TO_VALUE: Final = bytes(code - 48 if 48 <= code <= 57 else 0 for code in range(256))

# Group sizes as printed on cards beside fours: American Express, Diners Club, UATP.
_PRINTED: Final = frozenset({(4, 6, 5), (4, 6, 4), (4, 5, 6)})
# Where groups end, by length: a number that misses some of its blanks still breaks at some of these.
_BREAKS: Final = dict.fromkeys(range(13, 20), ({4, 8, 12, 16},)) | {
    14: ({4, 8, 12}, {4, 10}),
    15: ({4, 8, 12}, {4, 10}, {4, 9}),
}


def _cards(text: str) -> Iterator[tuple[_Groups, int, int]]:
    """Every card number in ``text`` as it stands: the sequence it is in, its first and its last group."""
    if not _BLOB.search(text):
        return
    text = _without_exempt(text)
    for blob in _BLOB.finditer(text):
        sequence: _Groups = []
        phone = False
        end = blob.start()
        for run in _DIGITS.finditer(text, blob.start(), blob.end()):
            plus = text[run.start() - 1 : run.start()] == "+" and not text[max(run.start() - 2, 0)].isalnum()
            if plus or run.start() - end > _GAP_MAX:
                yield from _cards_in(text, sequence, phone)
                sequence, phone = [], plus
            sequence.append(run.span())
            end = run.end()
        yield from _cards_in(text, sequence, phone)


def _cards_in(text: str, groups: _Groups, phone: bool) -> Iterator[tuple[_Groups, int, int]]:
    """The card numbers in one sequence. ``phone``: a plus precedes it, so up to 15 digits are an E.164 number."""
    digits = "".join(text[start:end] for start, end in groups)
    if len(digits) < 13 or (len(groups) == 1 and len(digits) > 19) or (phone and len(digits) <= 15):
        return
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(digit)) for digit in digits)
    luhn = _luhn_sums(digits)
    ends = {end: index for index, end in enumerate(accumulate(end - start for start, end in groups))}
    offset = 0
    for first, (start, end) in enumerate(groups):
        for length in _LENGTHS.get(digits[offset : offset + 4], ()):
            last = ends.get(offset + length)
            if last is None or (phone and first == 0 and length <= 15):
                continue
            sums = luhn[(offset + length) % 2]
            if (sums[offset + length] - sums[offset]) % 10 == 0 and _written_as_one(text, groups, first, last):
                yield groups, first, last
        offset += end - start


def _luhn_sums(digits: str) -> tuple[list[int], list[int]]:
    """Running Luhn sums, so that any slice is checked with one subtraction: [0] doubles even positions, [1] odd ones.

    The digit before the last is doubled, hence a slice that ends before position ``e`` uses the sums ``e % 2``.
    """
    values = digits.encode().translate(_ASCII_TO_VALUE)
    doubled = values.translate(_DOUBLED)
    even, odd = bytearray(values), bytearray(values)
    even[::2], odd[1::2] = doubled[::2], doubled[1::2]
    return list(accumulate(even, initial=0)), list(accumulate(odd, initial=0))


def _written_as_one(text: str, groups: _Groups, first: int, last: int) -> bool:
    """Whether these groups look like one number, not like neighbours whose digits happen to add up."""
    if first == last:
        return True
    sizes = [end - start for start, end in groups[first : last + 1]]
    size, tail = sizes[0], sizes[-1]
    if all(other == size for other in sizes[:-1]):
        if size == 4 and tail <= 7:  # 4-4-4-4, 4-4-5, 4-4-4-4-3, 4-4-4-7: wherever they stand, an expiry may follow.
            return True
        if (
            size <= 3 and tail <= size
        ):  # Single digits, pairs or threes: the head of such a list, and an expiry after it.
            before = groups[first - 1 : first] if first else []
            after = groups[last + 1 : last + 4] if tail == size else []
            return not _all_of(size, before) and not (len(after) == 3 and _all_of(size, after))
    if tuple(sizes) in _PRINTED:
        return True
    gaps = [text[groups[index][1] : groups[index + 1][0]] for index in range(first, last)]
    if sizes == [6, 13]:  # UnionPay; with another separator rather an order number and its time in milliseconds.
        return _BLANKS.fullmatch(gaps[0]) is not None
    # Some blanks forgotten (8-8, 12-4): only when nothing else is near, and never at a decimal point.
    if first or last + 1 < len(groups) or any(_DOTS.search(gap) for gap in gaps):
        return False
    breaks = set(accumulate(sizes[:-1]))
    return any(breaks <= usual for usual in _BREAKS[sum(sizes)])


def _all_of(size: int, groups: _Groups) -> bool:
    return bool(groups) and all(end - start == size for start, end in groups)


# --- encodings -------------------------------------------------------------------------------------------------------

# One match is one character, so that masking can tell where it is written.
_ESCAPES: Final = re.compile(
    r"%(?:[0-7][0-9a-f]|[cd][0-9a-f]%[89ab][0-9a-f]|e[0-9a-f](?:%[89ab][0-9a-f]){2}|f[0-7](?:%[89ab][0-9a-f]){3}"
    r"|[89a-f][0-9a-f])"
    r"|(?<!\\)\\{1,8}(?:ud[89ab][0-9a-f]{2}\\{1,8}ud[c-f][0-9a-f]{2}|u[0-9a-f]{4}|t)",
    re.IGNORECASE,
)
_ONE_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_CODE_UNIT: Final = re.compile(r"u([0-9A-Fa-f]{4})")
_BASE64: Final = re.compile(r"([A-Za-z0-9+/_-]{18,})(={0,2})")


def _escaped(match: re.Match[str]) -> str:
    """The character a URL or JSON escape stands for."""
    escape = match[0]
    if escape[0] == "%":
        octets = bytes.fromhex(escape.replace("%", ""))
        return octets.decode("latin-1" if len(octets) == 1 else "utf-8", "replace")[:1]
    units = b"".join(int(unit, 16).to_bytes(2, "big") for unit in _CODE_UNIT.findall(escape))
    return units.decode("utf-16-be", "replace") if units else "\t"


def _from_base64(word: bytes, skipped: int) -> bytes | None:
    """What a base64 word of either alphabet says from its character ``skipped`` on; ``None`` when that shows nothing.

    A plain word may precede the encoded part without a break ("/", "-"): try 0 to 3.
    """
    end = len(word) - ((len(word) - skipped) % 4 == 1)
    found = binascii.a2b_base64(word[skipped:end].translate(_ONE_ALPHABET) + b"==")
    return found if _shows(found) else None


def _decoded(text: str) -> Iterator[str]:
    """The readings of ``text`` after one level of decoding that may show a number or a field."""
    if "%" in text or "\\" in text:
        yield _ESCAPES.sub(_escaped, text)
    for match in _BASE64.finditer(text):
        word = match[1].encode()
        for found in filter(None, (_from_base64(word, skipped) for skipped in range(4))):
            yield found.decode("utf-8", "replace")


# --- the quick test: is there anything to look at? -------------------------------------------------------------------
#
# bytes.translate and find read a kilobyte in a microsecond, a regular expression in ten. The table drops separators
# and the bytes inside UTF-8 sequences, writes every byte a digit can begin with as 0, and lower-cases the rest.

_DROPPED: Final = b" \t\0\\%+-._" + bytes(range(0x80, 0xC0)) + b"\xc2\xe2\xe3"
_FLAT: Final = bytes(
    48 if 48 <= code <= 57 or code in b"\xd9\xdb\xdf\xe0\xe1\xea\xef\xf0" else code + 32 if 65 <= code <= 90 else code
    for code in range(256)
).replace(b"'", b'"')
_THIRTEEN: Final = b"0" * 13
_FLAT_NAMES: Final = frozenset(name.encode().translate(_FLAT) for name in _NAMES)

_WORDS: Final = bytes(65 if chr(code) in "+/-_" or (code < 128 and chr(code).isalnum()) else 32 for code in range(256))
_EIGHTEEN: Final = b"A" * 18


def _shows_something(raw: bytes) -> bool:
    """Whether 13 digits stand together, separators aside, or a quoted name is one of ours. May be wrong only towards yes."""
    flat = raw.translate(_FLAT, _DROPPED)
    return _THIRTEEN in flat or not _FLAT_NAMES.isdisjoint(flat.split(b'"'))


def _shows(raw: bytes) -> bool:
    """The same, escapes read too."""
    return _shows_something(raw) or (
        (b"%" in raw or b"\\u" in raw or b"\\t" in raw)
        and _shows_something(_ESCAPES.sub(_escaped, raw.decode("utf-8", "replace")).encode("utf-8", "replace"))
    )


def _is_plain_id(word: bytes) -> bool:
    """Whether a long word needs no decoding: ASCII digits and JSON have capitals in base64, other digits fill 35 places."""
    return word.islower() and (len(word) < 35 or (len(word) == 36 and word[8:24:5] == b"----"))


def _is_suspicious(raw: bytes) -> bool:
    """Whether a close look is worth it: something shows, as it stands or under one level of encoding."""
    if _shows(raw):
        return True
    words = raw.translate(_WORDS)
    start = words.find(_EIGHTEEN)
    while start >= 0:
        end = words.find(b" ", start)
        word = raw[start : end if end >= 0 else None]
        if not _is_plain_id(word) and any(_from_base64(word, skipped) for skipped in range(4)):
            return True
        start = words.find(_EIGHTEEN, start + len(word))
    return False


# --- documents -------------------------------------------------------------------------------------------------------


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object, duplicates included: a parser that keeps the last would hide the others."""


class _Number(str):
    """A JSON number as written: an int of more than 4,300 digits would raise, a float would round."""

    __slots__ = ()


_Path = tuple["_Path", str | int] | None  # Linked towards the root, so that a deep document costs no long strings.


def _parse(text: str | bytes) -> Any | None:
    """The document, or ``None`` when it is malformed or nested too deep for the parser."""
    try:
        return json.loads(
            text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=lambda _: None
        )
    except (ValueError, RecursionError):
        return None


def _pointer(path: _Path) -> str:
    """RFC 6901, bounded and printable: the keys are the caller's and may be anything."""
    keys: list[str] = []
    while path:
        path, key = path
        keys.append(str(key)[:64].replace("~", "~0").replace("/", "~1"))
    pointer = "".join("/" + "".join(c if c.isprintable() else "?" for c in key) for key in reversed(keys[-32:]))
    return pointer or "body"


def _walk(document: Any, *, decode: bool) -> PanFinding | None:
    """The first finding. The keys of an object are looked at before its values, so no pointer goes through a number."""
    stack: list[tuple[Any, _Path]] = [(document, None)]
    while stack:
        value, path = stack.pop()
        if isinstance(value, _Object):
            for key, member in value:
                # A key that holds a number must not show up in ``where``: name the object around it.
                if kind := _scan(key, decode=decode):
                    return PanFinding(_pointer(path), kind)
                if _is_sensitive(key, member):
                    inside = None if isinstance(member, list) else _walk(member, decode=decode)
                    return PanFinding(_pointer((path, key)), inside.kind if inside else "sensitive_field")
            stack.extend((member, (path, key)) for key, member in reversed(value))
        elif isinstance(value, list):
            stack.extend((value[index], (path, index)) for index in range(len(value) - 1, -1, -1))
        elif isinstance(value, _Number):
            if _is_card(value):
                return PanFinding(_pointer(path), "card_number")
        elif isinstance(value, str) and (kind := _scan(value, decode=decode)):
            return PanFinding(_pointer(path), kind)
    return None


def _is_card(literal: str) -> bool:
    """Whether a JSON number is a card number."""
    whole = _whole(literal)
    return 13 <= len(whole) <= 19 and any(_cards(whole))


def _whole(literal: str) -> str:
    """The digits before the point of a JSON number, its exponent applied if it is not absurd."""
    mantissa, _, exponent = literal.lower().lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    if exponent and len(exponent) <= 3 and (shift := int(exponent)) > 0:
        whole += fraction[:shift].ljust(shift, "0")
    return whole.lstrip("0")


_MASKED: Final = re.compile(r"[\d\s*xX\u2022\u25cf#.\-]*[*xX\u2022\u25cf#]{2}[\d\s*xX\u2022\u25cf#.\-]*")


def _normalised(key: str) -> str:
    """A field's name without case and separators; of ``card[cvc]``, as forms write it, the innermost."""
    if key.endswith("]"):
        key = key[key.rfind("[") + 1 : -1]
    return "".join(filter(str.isalnum, key[:64])).lower()


def _is_sensitive(key: str, value: object) -> bool:
    """Whether this field may not be sent at all. Empty, true or false, and masked values may."""
    name = _normalised(key)
    if name not in _NAMES or value is None or isinstance(value, bool):
        return False
    if isinstance(value, list | tuple | dict):
        return bool(value)
    if not isinstance(value, str):
        return True
    text = value.strip()
    if not text:
        return False
    if len(text) > 64 or not _MASKED.fullmatch(text):
        return True
    digits = sum(map(str.isdecimal, text))
    written = digits + sum(map(text.count, "*xX\u2022\u25cf#"))
    # PCI SSC FAQ 1091: of 16 digits at least four go, of fewer all but the first six and last four.
    return digits > (0 if name in _SECRET_NAMES else 12 if written >= 16 else 10)


_QUOTED_FIELD: Final = re.compile(
    r"""["']([\w.\- ]{2,64})\\{0,8}["']\s*:\s*(?:\\{0,8}["']([^"'\\]*)|([^\s"',{}\[\]]+))"""
)


def _scan(text: str, *, decode: bool) -> Kind | None:
    """What one piece of text holds, also one level of encoding down when ``decode``."""
    if len(text) < 13 and '"' not in text:
        return None
    raw = text.encode("utf-8", "surrogatepass")
    if not (_is_suspicious(raw) if decode else _shows_something(raw)):
        return None
    if any(_cards(text)):
        return "card_number"
    kind: Kind | None = None
    if decode:
        kind = _scan_json(text)
        for reading in _decoded(text):
            kind = _scan(reading, decode=False) or kind or _scan_json(reading)
            if kind == "card_number":
                break
    if kind is None and any(
        _is_sensitive(name, quoted or bare.rstrip("\\")) and bare not in ("null", "true", "false")
        for name, quoted, bare in _QUOTED_FIELD.findall(text)
    ):
        return "sensitive_field"
    return kind


def _scan_json(text: str) -> Kind | None:
    """What a JSON document inside a text holds."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    finding = _walk(_parse(text), decode=False)
    return finding.kind if finding else None


def _scan_bytes(raw: bytes) -> PanFinding | None:
    """Text of unknown encoding: as UTF-8, and as Latin-1 when it is not, whose no-break space is no UTF-8."""
    try:
        readings = [raw.decode()]
    except UnicodeDecodeError:
        readings = [raw.decode("utf-8", "replace"), raw.decode("latin-1")]
    for text in readings:
        if kind := _scan(text, decode=True):
            return PanFinding("body", kind)
    return None


def find_pan(raw: bytes, *, content: str = "json") -> PanFinding | None:
    """Look for a card number or a forbidden field in one inbound body.

    Args:
        content: ``json``; ``form`` for ``application/x-www-form-urlencoded``; anything else is read as text, and so is
            JSON that does not parse.
    """
    if content == "form":
        pairs = (pair.partition("=") for pair in raw.decode("utf-8", "replace").split("&"))
        return _walk(_Object((unquote(name), unquote(value)) for name, _, value in pairs), decode=True)
    if not _is_suspicious(raw):
        return None
    document = _parse(raw) if content == "json" else None
    return _scan_bytes(raw) if document is None else _walk(document, decode=True)


def find_pan_in_text(text: str) -> PanFinding | None:
    """Look into one query value, header value, path segment or log line; ``where`` is always ``body``."""
    kind = _scan(text, decode=True)
    return PanFinding("body", kind) if kind else None


# --- masking ---------------------------------------------------------------------------------------------------------


def _hidden(text: str) -> list[int]:
    """Positions of the digits to hide, ascending: of each number all but the first six and last four."""
    hidden: set[int] = set()
    for groups, first, last in _cards(text):
        hidden.update(_positions(groups[first : last + 1])[6:-4])
    if hidden:
        # What is left of a number may look like one together with its neighbours; then nothing of the sequence stays.
        remainder = "".join("*" if position in hidden else character for position, character in enumerate(text))
        done: _Groups = []
        for groups, _, _ in _cards(remainder):
            if groups is not done:
                hidden.update(_positions(groups))
                done = groups
    return sorted(hidden)


def _positions(groups: _Groups) -> list[int]:
    return [position for start, end in groups for position in range(start, end)]


def _starred(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """``text`` with one asterisk in place of each span, ascending."""
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        pieces += (text[done:start], "*")
        done = end
    return "".join(pieces) + text[done:]


def _mask_plain(text: str) -> str:
    return _starred(text, ((position, position + 1) for position in _hidden(text)))


def _mask_escaped(text: str) -> str:
    """Mask numbers that show once escapes are read; only the escapes of hidden digits change."""
    if "%" not in text and "\\" not in text:
        return text
    reading: list[str] = []
    spans: list[tuple[int, int]] = []
    done = 0
    for match in _ESCAPES.finditer(text):
        reading += (text[done : match.start()], _escaped(match))
        spans += ((position, position + 1) for position in range(done, match.start()))
        spans.append(match.span())
        done = match.end()
    reading.append(text[done:])
    spans += ((position, position + 1) for position in range(done, len(text)))
    return _starred(text, (spans[position] for position in _hidden("".join(reading))))


def _mask_base64(match: re.Match[str]) -> str:
    """Mask the numbers inside one base64 word and encode it again as it was: same alphabet, padding or none."""
    word, padding = match[1], match[2]
    for skipped in range(4):
        if (found := _from_base64(word.encode(), skipped)) is None:
            continue
        reading = found.decode("utf-8", "surrogateescape")
        masked = _mask_escaped(_mask_plain(reading))
        if masked != reading:
            encoded = base64.b64encode(masked.encode("utf-8", "surrogateescape")).decode()
            if "-" in word or "_" in word:
                encoded = encoded.translate({43: 45, 47: 95})
            bare = encoded.rstrip("=")
            word, padding = word[:skipped] + bare, encoded[len(bare) :] if padding else ""
    return word + padding


def mask_pan(text: str) -> str:
    """``text`` with the digits of every card number but its first six and last four replaced by asterisks.

    Separators stay, and so does everything else. In escapes and base64 the number is masked where it is written, so
    that the result decodes as before. JSON is treated as text: a bare number becomes ``424242******4242``, no longer
    JSON; for parsed payloads there is ``mask_pans_in``. Fields such as ``cvv`` are left to it too.
    """
    if not _is_suspicious(text.encode("utf-8", "surrogatepass")):
        return text
    return _BASE64.sub(_mask_base64, _mask_escaped(_mask_plain(text)))


def mask_pans_in(value: Json) -> Json:
    """A copy of a JSON value that ``find_pan`` lets pass: card numbers masked in strings, numbers and keys.

    A number that is masked becomes a string. The value of a field such as ``cvv`` becomes ``***``; what is no card number
    in a field such as ``card_number`` becomes ``****`` and its last four digits; what is masked already stays.
    """
    copy: list[Any] = [None]
    stack: list[tuple[Any, Any, Any]] = [(value, copy, 0)]
    while stack:
        item, container, place = stack.pop()
        if isinstance(item, dict):
            members: dict[str, Any] = {}
            for key, member in item.items():
                name = _mask_string(key)
                while name in members:
                    name = f"{name}*{len(members)}"
                members[name] = None
                if _is_sensitive(key, member):
                    members[name] = _mask_field(key, member)
                else:
                    stack.append((member, members, name))
            container[place] = members
        elif isinstance(item, list | tuple):
            container[place] = [None] * len(item)
            stack.extend((member, container[place], index) for index, member in enumerate(item))
        else:
            container[place] = _mask_scalar(item)
    masked: Json = copy[0]
    return masked


def _mask_string(text: str) -> str:
    masked = mask_pan(text)
    # What masking of digits does not reach, such as a security code in a JSON text within the string, hides the string.
    return "***" if _scan(masked, decode=True) else masked


def _mask_scalar(value: Any) -> Json:
    if isinstance(value, str):
        return _mask_string(value)
    # Of larger integers str() is refused, and no float that large has digits of its own.
    if isinstance(value, int | float) and 10**12 <= abs(value) < 10**19 and _is_card(literal := repr(value)):
        return "-" * (value < 0) + _mask_plain(_whole(literal))
    plain: Json = value
    return plain


def _mask_field(key: str, value: Any) -> Json:
    """What stays of a field that may not be sent."""
    if _normalised(key) in _SECRET_NAMES or isinstance(value, dict | list | tuple):
        return "***"
    masked = _mask_scalar(value)
    if not _is_sensitive(key, masked):
        return masked
    last = value[-4:] if isinstance(value, str) else ""
    return "****" + (last if last.isdecimal() else "")


__all__ = ["Json", "PanFinding", "find_pan", "find_pan_in_text", "mask_pan", "mask_pans_in"]
