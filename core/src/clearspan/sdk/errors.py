"""What an adapter raises. A decline is a value (``Declined``); not to know is an error."""

from __future__ import annotations


class PspError(Exception):
    """The PSP gave no usable answer. ``str()`` goes to operators and logs: no secrets, no card data."""


class PspUnavailable(PspError):
    """Nothing was sent: name not resolved, connection refused, TLS failed before a byte of the request was written.

    The operation becomes ``not_sent``; the same or another PSP may be tried at once.
    """


class OutcomeUnknown(PspError):
    """Something was sent and no clear answer came: timeout, reset, 5xx, unreadable or undocumented answer.

    The operation becomes ``unknown``. It never becomes a failure through age: a lookup or a human decides.

    Attributes:
        retry_after_s: how long the PSP asked not to be called (``Retry-After``), when it did.
    """

    def __init__(self, *words: object, retry_after_s: float | None = None) -> None:
        super().__init__(*words)
        self.retry_after_s = retry_after_s


class PspMisconfigured(PspError):
    """The PSP answered that our credentials or account settings are wrong; nothing was executed.

    The operation becomes ``not_sent`` with code ``psp_misconfigured``; an operator must act.
    """


class NotSupported(PspError):
    """Nothing was sent: the PSP cannot take this (currency, amount, method); ``str()`` says what it takes.

    The operation becomes ``not_sent`` with code ``not_supported``. Prefer facts, which refuse before anything is reserved.
    """


class WebhookRejected(PspError):
    """A webhook's signature is missing, wrong, too old, from the future or another account's. Nothing of it is believed."""


class VaultError(Exception):
    """The vault refused or did not know a token. ``str()`` says what to do; it never holds card data."""


class VaultUnavailable(VaultError):
    """The vault could not be reached or gave no usable answer; nothing is known about the token."""
