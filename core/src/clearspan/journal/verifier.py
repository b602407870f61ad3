"""Checks an export of a Clearspan audit trail without Clearspan or a database. Python 3.11, nothing else; copy this file.

    python verifier.py export.jsonl --key 'origin+0a1b2c3d+AQ...' --checkpoint held.txt

It proves that the key signed the export's checkpoint, that each event is, byte for byte, in the tree of that checkpoint, and that
this tree begins with the whole tree of the checkpoint you hold: any one you received earlier. Take the key from the operator
once, when you begin. Exit code 1 and a reason when something does not hold. What it does not prove: docs/audit.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Wrong(Exception):
    """Something does not hold; the message says what."""


# Ed25519 (RFC 8032, section 5.1): points (x, y) with -x² + y² = 1 + Dx²y² modulo P. Slow, and short enough to be read.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE = (4 * pow(5, -1, P) % P).to_bytes(32, "little")
Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """The sum of two points."""
    k = D * a[0] * b[0] * a[1] * b[1] % P
    inverse = pow(1 - k * k, -1, P)
    x, y = (a[0] * b[1] + b[0] * a[1]) * (1 - k) * inverse, (a[1] * b[1] + a[0] * b[0]) * (1 + k) * inverse
    return x % P, y % P


def multiply(count: int, point: Point) -> Point:
    """``count`` times the point."""
    total = (0, 1)
    while count:
        if count & 1:
            total = add(total, point)
        point, count = add(point, point), count >> 1
    return total


def decode_point(text: bytes) -> Point:
    """32 bytes: y, and the lowest bit of x in the highest bit. Raises ValueError when they mean no point."""
    odd, y = divmod(int.from_bytes(text, "little"), 1 << 255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if (x * x - square) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or y >= P or (x == 0 and odd):
        raise ValueError("not a point")
    return (P - x if x & 1 != odd else x), y


def signed_by(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is right."""
    try:
        base, key, r = decode_point(BASE), decode_point(public), decode_point(signature[:32])
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    return len(signature) == 64 and s < ORDER and multiply(s, base) == add(r, multiply(challenge, key))


class Checkpoint(NamedTuple):
    """What a log says about itself (c2sp.org/tlog-checkpoint): so many entries, with this root."""

    origin: str
    size: int
    root: bytes


def open_note(note: str, key: str) -> str:
    """The text of a note (c2sp.org/signed-note); ``key`` is ``name+hash+base64``. Raises Wrong unless it signed the note."""
    name, key_hash, encoded = [*key.strip().split("+", 2), "", ""][:3]
    public = decode(encoded)
    key_id = sha(name.encode(), b"\n", public)[:4]
    if len(public) != 33 or public[0] != 1 or key_id.hex() != key_hash:
        raise Wrong("the key is no Ed25519 verifier key (name+hash+base64)")
    text, gap, signatures = note.rpartition("\n\n")
    if not gap or not signatures.endswith("\n") or any(char < " " and char != "\n" for char in note):
        raise Wrong("the note is malformed")
    verified = False
    for dash, *words in (line.split(" ") for line in signatures[:-1].split("\n")):
        if dash != "—" or len(words) != 2 or not words[0] or "+" in words[0] or len(signature := decode(words[1])) < 5:
            raise Wrong("the note is malformed")
        if words[0] == name and signature[:4] == key_id and not verified:
            if not signed_by(public[1:], f"{text}\n".encode(), signature[4:]):
                raise Wrong("the signature of the note is wrong")
            verified = True
    if not verified:
        raise Wrong(f"the note is not signed by {name}+{key_hash}")
    return text + "\n"


def open_checkpoint(note: str, key: str) -> Checkpoint:
    """The checkpoint in a note that this key signed, for the log that has the key's name."""
    origin, size, root, *_ = [*open_note(note, key).split("\n"), "", ""]
    if not (size.isascii() and size.isdecimal() and size == str(int(size))) or len(decode(root)) != 32:
        raise Wrong("the note is no checkpoint")
    if origin != key.partition("+")[0]:
        raise Wrong(f"the checkpoint is of {origin!r}, which is not the key's name")
    return Checkpoint(origin, int(size), decode(root))


def decode(text: str) -> bytes:
    """Base64, strictly. Raises ValueError (binascii.Error is one)."""
    return base64.b64decode(text, validate=True)


def sha(*parts: bytes) -> bytes:
    """SHA-256. In a tree (RFC 6962, section 2.1) a leaf is ``sha(0, entry)``, a node ``sha(1, left, right)``."""
    return hashlib.sha256(b"".join(parts)).digest()


def climb(place: int, last: int, proof: Sequence[bytes], start: bytes) -> tuple[bytes, bytes] | None:
    """The roots of the tree that ends with the start, and of the whole. ``None``: the proof is too long or too short."""
    before = after = start
    for sibling in proof:
        if last == 0:
            return None
        if place & 1 or place == last:
            before, after = sha(b"\x01", sibling, before), sha(b"\x01", sibling, after)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            after = sha(b"\x01", after, sibling)
        place, last = place >> 1, last >> 1
    return (before, after) if last == 0 else None


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf stands at this index in the tree of this size and root (RFC 9162, section 2.1.3.2)."""
    return 0 <= index < size and (climb(index, size - 1, proof, leaf) or (b"", b""))[1] == root


def extends(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether the tree of the new size and root begins with the whole tree of the old ones (RFC 9162, section 2.1.4.2)."""
    if old == 0 or old >= new:
        return not proof and (old_root == new_root if old == new else old == 0 and old_root == sha())
    first, *rest = [*([] if old & (old - 1) else [old_root]), *proof] or [b""]
    above = ((old - 1) ^ old).bit_length() - 1  # levels of the full subtree that the old tree ends with
    return climb((old - 1) >> above, (new - 1) >> above, rest, first) == (old_root, new_root)


def check(lines: Iterator[str], key: str, held_note: str | None = None) -> str:
    """Check an export; returns a sentence about it. Raises Wrong, or what a line that is none of an export causes."""
    head = json.loads(next(lines))
    tip = open_checkpoint(head["checkpoint"], key)
    held = open_checkpoint(held_note, key) if held_note is not None else tip
    if not extends(held.size, tip.size, [decode(one) for one in head["consistency"]], held.root, tip.root):
        raise Wrong(f"the export ({tip.size} entries) does not continue the checkpoint you hold ({held.size})")
    count, previous = 0, -1
    for count, line in enumerate(lines, 1):
        entry = json.loads(line)
        index, leaf, proof = entry["index"], json.loads(entry["leaf"]), map(decode, entry["proof"])
        if index <= previous or (leaf["tenant_id"], leaf["live"]) != (head["tenant_id"], head["live"]):
            raise Wrong(f"line {count + 1}: the entry is out of order, or another tenant's")
        if not includes(sha(b"\x00", entry["leaf"].encode()), index, tip.size, list(proof), tip.root):
            raise Wrong(f"line {count + 1}: entry {index} ({leaf['event_id']}) is not in the tree of the checkpoint")
        previous = index
    if count != head["entries"]:
        raise Wrong(f"the export is cut off: it holds {count} of {head['entries']} entries")
    return f"{count} events are in {tip.origin} at {tip.size} entries" + (", which extends yours" if held_note else "")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Check an export of an audit trail offline.")
    parser.add_argument("export", type=Path, help="made by 'clearspan audit export'")
    parser.add_argument("--key", required=True, help="the verifier key, as 'clearspan audit key' showed it")
    parser.add_argument("--checkpoint", type=Path, help="file with the checkpoint you hold; of several the last one")
    options = parser.parse_args()
    try:
        notes = options.checkpoint.read_text("utf-8").rstrip("\n").split("\n\n") if options.checkpoint else []
        with options.export.open(encoding="utf-8") as lines:
            print("OK:", check(lines, options.key, "\n\n".join(notes[-2:]) + "\n" if options.checkpoint else None))
    except (Wrong, OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        reason = (
            error if isinstance(error, (Wrong, OSError)) else f"this is no export ({type(error).__name__}: {error})"
        )
        print(f"NOT PROVEN: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
