"""``docs/errors.md``, made from the refusals' classes."""

from __future__ import annotations

import clearspan.app  # noqa: F401  (it brings every module that can refuse)
from clearspan.platform.problems import DomainError, catalogue

_INTRODUCTION = """\
# Errors

<!-- Made by `python -m clearspan.docs_gen` from the classes that are raised; edit those. -->

A refusal is a problem document (RFC 9457, `application/problem+json`):

```json
{
  "type": "urn:clearspan:problem:amount_above_capturable",
  "title": "The amount is more than what can be captured",
  "status": 422,
  "detail": "Capture at most available_minor. Nothing was captured.",
  "code": "amount_above_capturable",
  "available_minor": 5000,
  "request_id": "req_01h455vb4pex5vsknk084sn02q"
}
```

Decide by `code`: it never changes its meaning. `detail` is for people and may change; some problems have fields of their own.
`request_id`, also in the header `X-Request-Id`, finds the request in logs and audit trail. A declined payment is no error: the
answer is the payment, with `last_error`.

With a 5xx, or with no answer at all, repeat the request with the same `Idempotency-Key`: it continues where it stopped, and
charges nobody twice.

"""


def render() -> str:
    """The page."""
    lines = ["| Code | Status | Meaning | What to do |", "|---|---|---|---|"]
    lines += [_row(kind) for kind in catalogue()]
    return _INTRODUCTION + "\n".join(lines) + "\n"


def _row(kind: type[DomainError]) -> str:
    advice = kind.advice or "See `detail`."
    return f"| `{kind.code}` | {kind.status} | {_cell(kind.title)} | {_cell(advice)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
