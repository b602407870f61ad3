"""What can be refused about an API key."""

from __future__ import annotations

from clearspan.platform.problems import DomainError, Forbidden


class ScopesExceeded(DomainError):
    """A key would be made that may do more than its maker."""

    code = "api_key_scopes_exceeded"
    status = 403
    title = "A key cannot get scopes that its maker lacks"
    advice = "Ask for scopes that your own key or role has, or use a key that has them all."


class KeyNotActive(DomainError):
    """The key is revoked or expired."""

    code = "api_key_not_active"
    status = 409
    title = "The API key is revoked or expired"
    advice = "Only a working key can be rotated; create a new one instead."


class KeyAlreadyRotated(DomainError):
    """The key has a successor."""

    code = "api_key_already_rotated"
    status = 409
    title = "The API key was rotated before"
    advice = "Rotate its successor, or create a new key."


class SignInRequired(DomainError):
    """A page for people was asked for without an open session."""

    code = "sign_in_required"
    status = 401
    title = "Sign in first"
    advice = "The session is over or never was: sign in, and go on where you were."


class NoTenant(DomainError):
    """The person is a member of no tenant."""

    code = "no_tenant"
    status = 403
    title = "You are a member of no tenant"
    advice = "Ask an owner or admin to invite you."


class LooksElsewhere(DomainError):
    """A page asks for more of what it shows, but its person has switched to another tenant or mode since."""

    code = "looks_elsewhere"
    status = 409
    title = "You look at another tenant or mode now"
    advice = "Load the page again: it was made for the tenant and mode that you looked at before, maybe in another tab."


class RoleForbids(Forbidden):
    """A page that the person's role does not open."""

    code = "role_forbids"
    status = 403
    title = "Your role does not open this"
    advice = "Ask an owner or admin of the tenant for another role, or to do it for you."


class StepUpRequired(DomainError):
    """The action needs a factor given a moment ago."""

    code = "step_up_required"
    status = 403
    title = "Confirm that it is you"
    advice = "Give a code of your authenticator again; the action goes on afterwards."


class SecondFactorRequired(DomainError):
    """The role needs a second factor that the person has not set up."""

    code = "second_factor_required"
    status = 403
    title = "Set up a second factor first"
    advice = "Owners, admins and finance sign in with an authenticator as well."


class FormRefused(DomainError):
    """A form came from somewhere else, or from a session that is over."""

    code = "form_refused"
    status = 403
    title = "This form was not sent from this page"
    advice = "Open the page again and repeat the action. Nothing was done."


class FormStale(DomainError):
    """A form of a page that was opened in another tenant or mode, or before its person signed in anew."""

    code = "form_stale"
    status = 409
    title = "This page is older than what you look at now"
    advice = "You have switched tenant or mode, or signed in again, since the page was opened. Nothing was done: open it again."


class EmailTaken(DomainError):
    """Somebody has the address."""

    code = "operator_email_taken"
    status = 409
    title = "Somebody has this e-mail address"
    advice = "Invite the address into the tenant instead: whoever has it becomes a member with what signs them in."


class MemberAlready(DomainError):
    """The person is a member."""

    code = "member_already"
    status = 409
    title = "They are a member of this tenant"
    advice = "Change their role instead."


class OperatorChanged(DomainError):
    """Somebody changed the person meanwhile."""

    code = "operator_changed"
    status = 409
    title = "Somebody else changed this meanwhile"
    advice = "Look at it again and repeat what is still wanted."


class RoleTooHigh(DomainError):
    """Only owners make, change and remove owners; only owners and admins give roles at all."""

    code = "role_too_high"
    status = 403
    title = "Your role cannot give or take this role"
    advice = "Ask an owner."


class LastOwner(DomainError):
    """A tenant keeps an owner."""

    code = "last_owner"
    status = 409
    title = "A tenant needs an owner"
    advice = "Make somebody else an owner first."


class LiveKeyRequired(DomainError):
    """A key of test mode would change what holds in live mode too."""

    code = "live_key_required"
    status = 403
    title = "Roles hold in live mode too, and this is a key of test mode"
    advice = "Use a live key with the scope, or change it in the cockpit."


class SignInFailed(DomainError):
    """Wrong e-mail address or password, or nobody who may sign in; the answer does not tell which."""

    code = "sign_in_failed"
    status = 401
    title = "The e-mail address or the password is wrong"
    advice = "Try again. Whoever administers your tenant can give you a link for a new password."


class CodeWrong(DomainError):
    """A code of the authenticator, or a recovery code, that does not count (any more)."""

    code = "second_factor_wrong"
    status = 401
    title = "This code is wrong or was used before"
    advice = "Wait for the next code of your authenticator, and see that the clock of your phone is right."


class TooManyTries(DomainError):
    """Too many failed tries to sign in, for this account or from this address; ``retry_after_s`` says how long to wait."""

    code = "sign_in_locked"
    status = 429
    title = "Too many failed tries to sign in"
    advice = "Wait as long as the answer says, then try again."


class SignInExpired(DomainError):
    """Too much time between the password and the code."""

    code = "sign_in_expired"
    status = 401
    title = "Begin to sign in again"
    advice = "The code has to follow the password within a few minutes, in the same browser."


class PasswordRefused(DomainError):
    """A new password breaks the rule; the detail says how."""

    code = "password_refused"
    status = 422
    title = "This password is not strong enough"


class SecondFactorNeeded(DomainError):
    """Owners, admins and finance keep their second factor."""

    code = "second_factor_needed"
    status = 409
    title = "Your role needs a second factor"
    advice = "Set up another authenticator instead of removing this one."


class LinkGone(DomainError):
    """A one-time link was used, has expired, was replaced by a newer one or never was."""

    code = "link_gone"
    status = 410
    title = "This link does not work any more"
    advice = "A link works once and for a limited time. Ask whoever sent it for a new one."


class OperatorShared(DomainError):
    """A new password for somebody who is a member of other tenants as well."""

    code = "operator_shared"
    status = 409
    title = "They are a member of other tenants too"
    advice = (
        "A link for their password would open those as well: whoever runs the installation makes it, with"
        " 'clearspan operators link'."
    )


class PasswordsOff(DomainError):
    """People sign in at the OpenID provider only (``oidc.require``)."""

    code = "passwords_off"
    status = 403
    title = "Passwords do not open this installation"
    advice = "Sign in at your organisation's provider. Whoever runs the installation sets oidc.require."
