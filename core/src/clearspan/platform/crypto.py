"""Envelope encryption: a master key of the installation wraps one data key per tenant (and one per person).

AES-256-GCM from ``cryptography``. The additional data binds a ciphertext to its tenant, table, column and row, so a
value moved to another row does not open. Format: one version byte, 12 bytes nonce, ciphertext with tag.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from clearspan.platform import clock

VERSION = b"\x01"
KEY_BYTES = 32


class KeyProblem(Exception):
    """The master key is missing, too short or does not open what it should. ``str()`` says what to do."""


class MasterKey:
    """The installation's root secret; everything else is derived from or wrapped by it.

    Args:
        secret: 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise KeyProblem(f"the master key has {len(secret)} bytes instead of {KEY_BYTES}")
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (HMAC-SHA-256 as a one-step KDF; the input is uniformly random)."""
        return hmac.digest(self._secret, f"clearspan/{purpose}".encode(), hashlib.sha256)

    @property
    def installation(self) -> UUID:
        """The namespace of deterministic ids. From the key and not the database, so that it survives a restore."""
        return UUID(bytes=self.derive("installation")[:16], version=5)

    def new_data_key(self, owner: str) -> bytes:
        """A fresh key, wrapped for storage."""
        return seal(self.derive("wrap"), clock.random_bytes(KEY_BYTES), f"data-key/{owner}")

    def unwrap(self, wrapped: bytes, owner: str) -> bytes:
        """The key that ``new_data_key`` made.

        Raises:
            KeyProblem: another master key wrapped it, or it belongs to another owner.
        """
        return open_(self.derive("wrap"), wrapped, f"data-key/{owner}")


def seal(key: bytes, plain: bytes, place: str) -> bytes:
    """Encrypt; ``place`` names tenant, table, column and row."""
    nonce = clock.random_bytes(12)
    return VERSION + nonce + AESGCM(key).encrypt(nonce, plain, place.encode())


def open_(key: bytes, sealed: bytes, place: str) -> bytes:
    """Decrypt.

    Raises:
        KeyProblem: the key, the place or the text is not the one it was sealed with.
    """
    try:
        return AESGCM(key).decrypt(sealed[1:13], sealed[13:], place.encode())
    except (InvalidTag, ValueError) as error:
        raise KeyProblem(f"{place} does not open: another master key, or the value was moved") from error


def load_master_key(path: Path, *, create: bool) -> MasterKey:
    """Read the key file (64 hex digits), making it with mode 0600 when ``create`` and missing.

    Raises:
        KeyProblem: missing, unreadable, readable by others, or not a key.
    """
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(clock.random_bytes(KEY_BYTES).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # Two first starts at once: the first link wins, both read the same key.
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        if path.stat().st_mode & 0o077:
            raise KeyProblem(f"{path} can be read by others: chmod 600 {path}")
        return MasterKey(bytes.fromhex(path.read_text().strip()))
    except FileNotFoundError:
        raise KeyProblem(
            f"there is no master key at {path}; restore it from your backup, or run 'clearspan up' once"
        ) from None
    except (OSError, ValueError) as error:
        raise KeyProblem(f"the master key at {path} cannot be used: {error}") from error
