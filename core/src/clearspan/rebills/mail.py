"""Where mails go: an SMTP server, or files when none is set."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib

from clearspan.settings import MailSettings

OUTBOX = "outbox"


class MailNotSent(Exception):
    """It did not go out, or nobody knows; ``str()`` says why without naming anybody."""


class Mailer:
    """Sends messages.

    Args:
        settings: ``url`` says where to: ``smtps://`` speaks TLS at once; ``smtp://`` insists on STARTTLS when it holds a
            password, and takes it otherwise when the server offers it. Certificates are checked. Empty: files.
        data_dir: files go to ``outbox`` below it.
    """

    def __init__(self, settings: MailSettings, data_dir: Path) -> None:
        self._settings = settings
        self._outbox = data_dir / OUTBOX

    async def send(self, message: EmailMessage, name: str) -> None:
        """Deliver one message.

        Args:
            message: with exactly one recipient in ``To``.
            name: of the file, when there is no server.

        Raises:
            MailNotSent: try again later.
        """
        if not self._settings.url:
            self._write(message, name)
            return
        parts = urlsplit(self._settings.url.reveal())
        tls = parts.scheme == "smtps"
        try:
            await aiosmtplib.send(
                message,
                hostname=parts.hostname,
                port=parts.port or (465 if tls else 587),
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                use_tls=tls,
                start_tls=False if tls else (True if parts.password else None),
                timeout=self._settings.timeout_s,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = sorted({refusal.code for refusal in error.recipients})
            raise MailNotSent(f"recipient refused: {', '.join(map(str, codes))}") from None
        except aiosmtplib.SMTPResponseException as error:
            raise MailNotSent(f"server answered {error.code}") from None
        except (aiosmtplib.SMTPException, ssl.SSLError, OSError, ValueError) as error:
            raise MailNotSent(type(error).__name__) from None

    def _write(self, message: EmailMessage, name: str) -> None:
        try:
            self._outbox.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._outbox / f"{name}.eml"
            written = path.with_suffix(".part")
            written.write_bytes(message.as_bytes())
            written.replace(path)
        except OSError as error:
            raise MailNotSent(f"outbox: {error.strerror}") from None


def new_message(address: str) -> EmailMessage:
    """An empty message; its policy refuses line ends in headers."""
    return EmailMessage(policy=SMTP if address.isascii() else SMTPUTF8)
