"""Checkpoints are signed notes as the Go reference implementation writes and reads them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clearspan.journal import verifier
from clearspan.journal.checkpoint import SigningKey, open_checkpoint
from clearspan.platform.crypto import MasterKey

# golang.org/x/mod/sumdb/note, note_test.go and its package example (2026-11).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{SIGNATURE}"


def test_the_note_of_the_reference_implementation_comes_out_byte_for_byte() -> None:
    key = SigningKey(SEED, "PeterNeumann")
    assert key.verifier_key == PETER
    assert key.sign(TEXT) == NOTE
    assert verifier.open_note(NOTE, PETER) == TEXT


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        NOTE.removesuffix("\n"),
        f"\x01{NOTE}",
        NOTE.replace("PeterNeumann x", "Bad Name x"),
        f"{NOTE}Unexpected line.\n",
        NOTE.replace("answer", "Answer"),
        NOTE.replace("RyyBwJnAM=", "RyyBwJnBM="),
        NOTE.replace("x08go/", "x08go+"),
        NOTE.replace("PeterNeumann x08", "PaulNeumann x08"),
        NOTE.replace("— ", "- "),
    ],
    ids=range(11),
)
def test_what_the_reference_implementation_refuses_is_refused(note: str) -> None:
    with pytest.raises((verifier.Wrong, ValueError)):
        verifier.open_note(note, PETER)


@pytest.mark.parametrize(
    "key",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("PeterNeumann", "PaulNeumann"),
        "PeterNeumann",
        "",
    ],
)
def test_a_malformed_verifier_key_is_refused(key: str) -> None:
    with pytest.raises((verifier.Wrong, ValueError)):
        verifier.open_note(NOTE, key)


def test_signatures_of_others_are_passed_over() -> None:
    cosigned = SigningKey(bytes(32), "witness.example/w").sign(TEXT).rpartition("\n\n")[2]
    assert verifier.open_note(NOTE + cosigned, PETER) == TEXT
    assert verifier.open_note(f"{TEXT}\n{cosigned}{SIGNATURE}", PETER) == TEXT


def test_our_ed25519_agrees_with_the_library() -> None:
    for number in range(8):
        private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        public, message = private.public_key().public_bytes_raw(), bytes(range(number * 9))
        signature = private.sign(message)
        assert verifier.signed_by(public, message, signature)
        assert not verifier.signed_by(public, message + b"x", signature)
        assert not verifier.signed_by(public, message, signature[:40] + bytes([signature[40] ^ 1]) + signature[41:])
        assert not verifier.signed_by(public, message, signature[:63])
        # The same signature with the group's order added to s: RFC 8032 requires to refuse it.
        s = int.from_bytes(signature[32:], "little") + verifier.ORDER
        assert not verifier.signed_by(public, message, signature[:32] + s.to_bytes(32, "little"))


def test_a_checkpoint_has_origin_size_and_root() -> None:
    key = SigningKey.of(MasterKey(bytes(range(32))), "example.com/log")
    made = key.checkpoint(1, 20852163, bytes(32), datetime(2026, 1, 1, tzinfo=UTC))
    assert made.note.startswith(
        f"example.com/log\n20852163\n{base64.b64encode(bytes(32)).decode()}\n\n— example.com/log "
    )
    assert open_checkpoint(made.note, key.verifier_key) == ("example.com/log", 20852163, bytes(32))


@pytest.mark.parametrize("text", ["example.com/log\n1\n", "example.com/log\n01\nAA==\n", "example.com/log\nx\nAA==\n"])
def test_a_signed_note_that_is_no_checkpoint_is_refused(text: str) -> None:
    key = SigningKey(bytes(32), "example.com/log")
    with pytest.raises(verifier.Wrong):
        open_checkpoint(key.sign(text), key.verifier_key)


def test_a_checkpoint_of_another_log_is_refused_though_the_key_signed_it() -> None:
    key = SigningKey(bytes(32), "example.com/log")
    other = f"example.com/other\n1\n{base64.b64encode(bytes(32)).decode()}\n"
    with pytest.raises(verifier.Wrong, match="not the key's name"):
        open_checkpoint(key.sign(other), key.verifier_key)


def test_the_key_comes_from_the_master_key_and_nowhere_else() -> None:
    one, same = (SigningKey.of(MasterKey(bytes(range(32))), "") for _ in range(2))
    other = SigningKey.of(MasterKey(bytes(range(1, 33))), "")
    assert one.verifier_key == same.verifier_key
    assert one.public != other.public
    assert one.name == f"clearspan/{MasterKey(bytes(range(32))).installation}"


def test_the_verifier_is_one_short_file_of_the_standard_library() -> None:
    source = Path(verifier.__file__).read_text()
    assert source.count("\n") < 200
    imports = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    assert imports == {"__future__", "argparse", "base64", "collections", "hashlib", "json", "pathlib", "sys", "typing"}
