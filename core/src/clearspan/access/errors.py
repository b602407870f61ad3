"""What can be refused about an API key."""

from __future__ import annotations

from clearspan.platform.problems import DomainError, Forbidden


class ScopesExceeded(DomainError):
    """A key would be made that may do more than its maker."""

    code = "api_key_scopes_exceeded"
    status = 403
    title = "A key cannot give scopes that it lacks itself"
    advice = "Ask for scopes that your own key has, or use a key that has them all."


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
