"""What the vault remembers: which test card a token stands for, in one append-only file.

No card number is ever on disk, not even a test card's: a line names the row of ``cards.CARDS``.
Sessions are not stored: their id is a signed text that says where the payer returns to and until when.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import string
from pathlib import Path

import msgspec

from clearspan_vault_sandbox.cards import BY_NAME, CARDS, EXP_MONTH, EXP_YEAR, TestCard

_WELL_KNOWN = {card.token: card for card in CARDS}
_HOLDER = re.compile(r"[a-z0-9]{0,16}")


class StoredCard(msgspec.Struct, frozen=True):
    """A test card with the expiry its payer typed; ``holder`` makes it somebody else's card of the same kind."""

    card: TestCard
    exp_month: int
    exp_year: int
    holder: str = ""


class Session(msgspec.Struct, frozen=True):
    """An open capture page; ``expires_at`` in seconds since 1970."""

    return_url: str
    expires_at: int


class _Line(msgspec.Struct, omit_defaults=True):
    """``card`` is a name of ``cards.BY_NAME``; a line without one says that the token was deleted."""

    token: str
    card: str = ""
    exp_month: int = 0
    exp_year: int = 0


class Store:
    """Tokens and the secret of this vault, in ``data_dir``; one process at a time."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._secret = _secret(data_dir / "vault.key")
        self._file = (data_dir / "tokens.jsonl").open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SystemExit(f"{data_dir} belongs to a running vault: stop it or choose another --data-dir") from None
        self._tokens: dict[str, StoredCard] = {}
        self._load()

    def close(self) -> None:
        """Give the folder free."""
        self._file.close()

    def find(self, token: str) -> StoredCard | None:
        """The card behind a token. ``tok_visa__ada`` is a well-known one too: the same kind of card, of another holder."""
        name, _, holder = token.partition("__")
        if (card := _WELL_KNOWN.get(name)) and _HOLDER.fullmatch(holder):
            return StoredCard(card, EXP_MONTH, EXP_YEAR, holder)
        return self._tokens.get(token)

    def add(self, stored: StoredCard) -> str:
        """Keep a card and return its new token: letters only, so that no token can look like a card number."""
        token = "tok_" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(20))
        self._append(_Line(token, stored.card.name, stored.exp_month, stored.exp_year))
        self._tokens[token] = stored
        return token

    def delete(self, token: str) -> None:
        """Forget a token; an unknown one is no error, and the well-known ones stay."""
        if self._tokens.pop(token, None):
            self._append(_Line(token))

    def fingerprint(self, stored: StoredCard) -> str:
        """Equal for equal numbers of one holder in this vault."""
        what = f"fingerprint:{stored.card.number}{stored.holder}".encode()
        return "fp_" + hmac.digest(self._secret, what, "sha256").hex()[:24]

    def sign(self, session: Session) -> str:
        """The session's id: readable by anyone, made by this vault only."""
        payload = base64.urlsafe_b64encode(msgspec.json.encode(session)).rstrip(b"=").decode()
        return f"{payload}.{self._signature(payload)}"

    def read(self, session_id: str) -> Session | None:
        """The session of an id that ``sign`` made; the caller looks at ``expires_at``."""
        payload, _, signature = session_id.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(payload).encode()):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=Session)
        except (binascii.Error, msgspec.DecodeError):
            return None

    def _signature(self, payload: str) -> str:
        digest = hmac.digest(self._secret, b"session:" + payload.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _append(self, line: _Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _load(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        self._file.truncate(complete)  # a kill in the middle of a write leaves half a line
        for text in content[:complete].splitlines():
            line = msgspec.json.decode(text, type=_Line)
            if card := BY_NAME.get(line.card):
                self._tokens[line.token] = StoredCard(card, line.exp_month, line.exp_year)
            else:
                self._tokens.pop(line.token, None)


def _secret(path: Path) -> bytes:
    if not path.exists():
        temporary = path.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_bytes(secrets.token_bytes(32))
        temporary.replace(path)
    return path.read_bytes()
