"""Signed checkpoints of the tree, in the forms of c2sp.org/signed-note and c2sp.org/tlog-checkpoint (both v1.0.0).

The Ed25519 key is derived from the master key: no other secret has to be kept, and a database superuser does not have it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clearspan.journal import verifier
from clearspan.platform.crypto import MasterKey

ED25519 = b"\x01"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DASH = "\N{EM DASH}"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``checkpoints``; hashes in hexadecimal."""

    number: int
    size: int
    root: str
    note: str
    created_at: datetime
    mac: str


class SigningKey:
    """The log's key under one name.

    Args:
        seed: 32 bytes.
        name: of the log and of the key; without white space and plus.
        mac_key: binds a checkpoint to its number and time.
    """

    def __init__(self, seed: bytes, name: str, mac_key: bytes = b"") -> None:
        self.name = name
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._mac_key = mac_key
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def of(cls, master: MasterKey, origin: str) -> SigningKey:
        """The installation's; without an origin it is named after the installation."""
        seed, mac_key = master.derive("audit-checkpoint"), master.derive("audit-checkpoint-mac")
        return cls(seed, origin or f"clearspan/{master.installation}", mac_key)

    @property
    def verifier_key(self) -> str:
        """``name+hash+base64``, what a verifier is given."""
        return verifier_key(self.name, self.public)

    def sign(self, text: str, name: str = "") -> str:
        """The note: a text that ends with a newline, signed, under an earlier name of the log when one is given."""
        name = name or self.name
        signature = base64.b64encode(key_id(name, self.public) + self._private.sign(text.encode())).decode()
        return f"{text}\n{DASH} {name} {signature}\n"

    def note(self, size: int, root: bytes, name: str = "") -> str:
        """The checkpoint of a tree. Ed25519 is deterministic: whatever this key signed comes out again, byte for byte."""
        return self.sign(f"{name or self.name}\n{size}\n{base64.b64encode(root).decode()}\n", name)

    def checkpoint(self, number: int, size: int, root: bytes, now: datetime) -> Checkpoint:
        """A checkpoint to be stored."""
        note = self.note(size, root)
        mac = self.mac(number, str((now - EPOCH) // timedelta(microseconds=1)), note)
        return Checkpoint(number=number, size=size, root=root.hex(), note=note, created_at=now, mac=mac)

    def mac(self, number: int, created_us: str, note: str) -> str:
        """What holds a stored checkpoint in its place: it binds the note to its number and its time, microseconds since 1970."""
        message = f"{number}\n{created_us}\n{note}"
        return hmac.digest(self._mac_key, message.encode(), hashlib.sha256).hex()

    def open(self, note: str) -> verifier.Checkpoint:
        """A checkpoint that this key signed, under whatever name the log had then.

        Raises:
            Wrong: it did not.
        """
        return open_checkpoint(note, verifier_key(note.partition("\n")[0], self.public))


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes that name a key in a signature line."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier_key(name: str, public: bytes) -> str:
    """A public key as verifiers take it."""
    return f"{name}+{key_id(name, public).hex()}+{base64.b64encode(ED25519 + public).decode()}"


def open_checkpoint(note: str, key: str) -> verifier.Checkpoint:
    """As the verifier does it.

    Raises:
        Wrong: the note is none, or the key did not sign it.
    """
    try:
        return verifier.open_checkpoint(note, key)
    except ValueError as error:
        raise verifier.Wrong(f"the note or the key is malformed ({error})") from error
