"""The command line: ``clearspan <command>``.

argparse, because it is there: one dependency less for a program that is started by cron, containers and people alike. Each
command imports what it needs when it runs, and after the settings are read, so ``--help`` and a mistake in the settings are
answered at once (the whole gateway takes about a second to import).

Exit codes: 0 done, 1 a check found something, 2 something the operator can put right, told in one message on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clearspan.settings import Settings

EXPECTED = {
    "clearspan.settings": "SettingsError",
    "clearspan.platform.crypto": "KeyProblem",
    "clearspan.platform.plugins": "PluginError",
    "clearspan.platform.problems": "DomainError",
    "clearspan.platform.processes": "EmbeddedServerError",
    "clearspan.platform.runtime": "OperatorError",
    "clearspan.platform.schema": "SchemaError",
}
"""What a command may raise for the operator, by the module that must be loaded before it can be raised."""

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    command: Command = options.command
    try:
        return command(options)
    except _expected() as error:
        print(f"clearspan: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("clearspan: interrupted", file=sys.stderr)
        return 130


def _expected() -> tuple[type[Exception], ...]:
    """Evaluated only when something was raised, so that nothing is imported for it."""
    return tuple(getattr(sys.modules[name], kind) for name, kind in EXPECTED.items() if name in sys.modules)


def _told(error: Exception) -> str:
    """A refusal that gives only its advice needs its title in front: what happened, then what to do."""
    advice = getattr(error, "advice", None)
    return f"{getattr(error, 'title', '')}. {error}" if advice and str(error) == advice else str(error)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of this run: file, environment and what the command line adds.

    Raises:
        SettingsError: see ``clearspan.settings.load``.
    """
    import msgspec

    from clearspan.settings import load

    settings = load(options.config)
    if options.safe_mode:
        plugins = msgspec.structs.replace(settings.plugins, safe_mode=True)
        settings = msgspec.structs.replace(settings, plugins=plugins)
    return settings


def _parser() -> argparse.ArgumentParser:
    # Twice, so that the options may stand before and after the command; the second time without a default to overwrite the
    # first one's value with.
    parser = argparse.ArgumentParser(prog="clearspan", description="The payment gateway a merchant owns.")
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    _add_global(parser, config=None, safe_mode=False)
    shared = argparse.ArgumentParser(add_help=False)
    _add_global(shared, config=argparse.SUPPRESS, safe_mode=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)

    def add(name: str, command: Command, text: str, within: object = None) -> argparse.ArgumentParser:
        group = commands if within is None else within
        added: argparse.ArgumentParser = group.add_parser(name, parents=[shared], help=text, description=text)  # type: ignore[attr-defined]
        added.set_defaults(command=command)
        return added

    add("up", _up, "start everything on this machine: database, queue, migration, simulators, worker and web")
    add("web", _web, "serve the API, the documentation and the pages of plugins")
    worker = add("worker", _worker, "do the background work")
    worker.add_argument("--check", action="store_true", help="only say whether a worker of this machine is alive")
    add("migrate", _migrate, "bring the database to this release")
    doctor = add("doctor", _doctor, "look for what is wrong, and say what to do about it")
    doctor.add_argument("--production", action="store_true", help="also refuse what is fine for trying out only")
    doctor.add_argument("--json", action="store_true", help="answer in JSON")

    books = commands.add_parser("ledger", help="look over the ledger").add_subparsers(
        required=True, metavar="<command>"
    )
    for check in (
        add("check", _check, "recompute every payment from facts and events, and say what differs"),
        add("check", _ledger_check, "compare the ledger with itself and with the payments", books),
    ):
        check.add_argument("--tenant", metavar="SLUG", help="only this one; default: all")
        check.add_argument("--json", action="store_true", help="answer in JSON")

    tenants = commands.add_parser("tenant", help="make and list tenants").add_subparsers(
        required=True, metavar="<command>"
    )
    create = add("create", _tenant_create, "make a tenant, with accounts at the simulators that are enabled", tenants)
    create.add_argument("slug", help="its short name: 3 to 40 lower-case letters, digits and '-'")
    create.add_argument("--name", help="its name for people; default: the slug")
    add("list", _tenant_list, "show all tenants", tenants)

    people = commands.add_parser("operators", help="let people in, and help those who are locked out").add_subparsers(
        required=True, metavar="<command>"
    )
    add("list", _operators_list, "show who is a member of which tenant", people)
    link = add("link", _operators_link, "make a one-time link for a new password, or for the first owner", people)
    link.add_argument("email", nargs="?", help="whose password; default: the first owner, while nobody is there")
    invite = add("invite", _operators_invite, "make a one-time link by which somebody joins a tenant", people)
    invite.add_argument("email", help="of whoever is to join")
    invite.add_argument("--tenant", required=True, metavar="SLUG", help="where")
    invite.add_argument(
        "--role", required=True, metavar="ROLE", help="owner, admin, finance, support, developer or auditor"
    )
    disable = add("disable", _operators_disable, "sign somebody out everywhere and let them in no more", people)
    enable = add("enable", _operators_enable, "let somebody in again", people)
    reset = add(
        "reset-second-factor", _operators_reset, "take a lost authenticator away; the next sign-in sets one up", people
    )
    for one in (disable, enable, reset):
        one.add_argument("email", help="whose")

    keys = commands.add_parser("key", help="make API keys").add_subparsers(required=True, metavar="<command>")
    key = add("create", _key_create, "make an API key; it is printed once and stored nowhere", keys)
    key.add_argument("--tenant", required=True, metavar="SLUG", help="whose key")
    key.add_argument("--live", action="store_true", help="for live mode; default: test mode")
    key.add_argument(
        "--scope", action="append", metavar="SCOPE", help="what it may do; repeat for more; default: everything"
    )
    key.add_argument("--name", default="command line", help="for people")
    key.add_argument("--expires-days", type=int, metavar="DAYS", help="end after so many days; default: never")

    audit = commands.add_parser("audit", help="prove that the audit trail is what it was").add_subparsers(
        required=True, metavar="<command>"
    )
    add("key", _audit_key, "show the public key that checkpoints are signed with", audit)
    verify = add("verify", _audit_verify, "compare every event with what was sealed and signed", audit)
    verify.add_argument("--checkpoint", type=Path, metavar="FILE", help="checkpoints that were kept off this host")
    verify.add_argument("--key", help="the verifier key they were signed with; default: this installation's")
    verify.add_argument("--json", action="store_true", help="answer in JSON")
    export = add("export", _audit_export, "print a tenant's events with proofs, for a check without us", audit)
    export.add_argument("--tenant", required=True, metavar="SLUG", help="whose events")
    export.add_argument("--live", action="store_true", help="of live mode; default: test mode")
    export.add_argument("--checkpoint", type=Path, metavar="FILE", help="the one the export has to continue")

    demo = add(
        "demo", _demo, "a day of a shop against a running gateway, through its API, ending with the books compared"
    )
    demo.add_argument(
        "--url", help="of the gateway; default: the one 'clearspan up' runs, or one that is started for it"
    )
    demo.add_argument("--key", help="a test key with every scope; default: the one the first 'clearspan up' made")
    demo.add_argument("--year", action="store_true", help="a year of a subscription service instead, on a test clock")
    demo.add_argument("--subscribers", type=int, default=1000, metavar="N", help="of that year (default 1000)")
    recover = add(
        "recover", _recover, "ask the PSPs about a gap, as after the restore of a backup, and take in what is missing"
    )
    recover.add_argument(
        "--since", required=True, metavar="WHEN", help="2026-05-01T10:00:00Z, or 90m, 2h, 3d before now"
    )
    recover.add_argument("--tenant", metavar="SLUG", help="of this tenant only; default: of all")
    recover.add_argument("--json", action="store_true", help="answer in JSON")
    rebills = commands.add_parser("rebills", help="look at the collection of invoices").add_subparsers(
        required=True, metavar="<command>"
    )
    for due in (
        add("due", _rebills_due, "show what waits to be charged or decided, and PSP accounts that rest", rebills),
        add("run", _rebills_run, "charge and decide now what is due", rebills),
    ):
        due.add_argument("--tenant", metavar="SLUG", help="only this one; default: all")
        due.add_argument("--json", action="store_true", help="answer in JSON")
    explain = add(
        "explain", _rebills_explain, "say what was tried and decided about an invoice, and what is next", rebills
    )
    explain.add_argument("invoice", help="its id: inv_...")
    explain.add_argument("--json", action="store_true", help="answer in JSON")
    plugins = commands.add_parser("plugins", help="look at plugins, check them, begin a new one").add_subparsers(
        required=True, metavar="<command>"
    )
    listed = add("list", _plugins_list, "show what is installed, what is enabled, and whether it loads", plugins)
    info = add("info", _plugins_info, "tell what a plugin brings, how it is set up, and when it ran", plugins)
    examine = add("check", _plugins_check, "load a plugin alone, and say whether it keeps to the contract", plugins)
    for one in (info, examine):
        one.add_argument("name", help="of the plugin, as in plugins.enabled")
    for one in (listed, info, examine):
        one.add_argument("--json", action="store_true", help="answer in JSON")
    examine.add_argument("--account", metavar="NAME", help="also ask the PSP whether it takes this account's settings")
    examine.add_argument("--tenant", metavar="SLUG", help="whose account")
    examine.add_argument("--live", action="store_true", help="of live mode; default: test mode")
    new = add("new", _plugins_new, "write the package of a new plugin", plugins)
    new.add_argument("kind", choices=("psp", "vault"), help="what it connects")
    new.add_argument("name", help="of the provider: lower-case letters, digits and '-'")
    new.add_argument("--directory", type=Path, metavar="D", help="where to; default: ./psp-NAME or ./vault-NAME")
    add("settings", _settings, "show the settings in effect, secrets masked")
    return parser


def _add_global(parser: argparse.ArgumentParser, *, config: object, safe_mode: object) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=config,
        help="settings; default: $CLEARSPAN_CONFIG or clearspan.toml",
    )
    parser.add_argument("--safe-mode", action="store_true", default=safe_mode, help="start without any plugin")


class _Version(argparse.Action):
    """Like argparse's own, which would look the version up at every start."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest=dest, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"clearspan {version('clearspan')}")
        parser.exit()


def _up(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import up

    return up.run(settings, options.config)


def _web(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import web

    return web.run(settings)


def _worker(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    if options.check:
        from clearspan.commands import heartbeat

        return heartbeat.check(settings)
    from clearspan import worker

    return worker.run(settings)


def _migrate(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import migrate

    return migrate.run(settings)


def _doctor(options: argparse.Namespace) -> int:
    from clearspan.commands import doctor

    return doctor.run(options.config, safe_mode=options.safe_mode, production=options.production, as_json=options.json)


def _check(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import check

    return check.run(settings, options.tenant, as_json=options.json)


def _ledger_check(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import ledger

    return ledger.check(settings, options.tenant, as_json=options.json)


def _tenant_create(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import tenants

    return tenants.create(settings, options.slug, options.name or options.slug)


def _tenant_list(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import tenants

    return tenants.show(settings)


def _operators_list(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.show(settings)


def _operators_link(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.link(settings, options.email)


def _operators_invite(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.invite(settings, options.email, options.tenant, options.role)


def _operators_disable(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.disable(settings, options.email)


def _operators_enable(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.enable(settings, options.email)


def _operators_reset(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import operators

    return operators.reset_second_factor(settings, options.email)


def _key_create(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import keys

    return keys.create(
        settings,
        options.tenant,
        live=options.live,
        scopes=options.scope,
        name=options.name,
        expires_days=options.expires_days,
    )


def _audit_key(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import audit

    return audit.key(settings)


def _audit_verify(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import audit

    return audit.verify(settings, checkpoint=options.checkpoint, held_key=options.key, as_json=options.json)


def _audit_export(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import audit

    return audit.export(settings, options.tenant, live=options.live, checkpoint=options.checkpoint)


def _demo(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import demo

    subscribers = options.subscribers if options.year else None
    return demo.run(settings, options.config, url=options.url, key=options.key, subscribers=subscribers)


def _recover(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import recover

    return recover.run(settings, options.since, tenant=options.tenant, as_json=options.json)


def _rebills_due(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import rebills

    return rebills.due(settings, options.tenant, as_json=options.json)


def _rebills_run(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import rebills

    return rebills.run(settings, options.tenant, as_json=options.json)


def _rebills_explain(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import rebills

    return rebills.explain(settings, options.invoice, as_json=options.json)


def _plugins_list(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import plugins

    return plugins.show(settings, as_json=options.json)


def _plugins_info(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import plugins

    return plugins.info(settings, options.name, as_json=options.json)


def _plugins_check(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from clearspan.commands import plugins

    return plugins.check(
        settings,
        options.name,
        account=options.account,
        tenant=options.tenant,
        live=options.live,
        as_json=options.json,
    )


def _plugins_new(options: argparse.Namespace) -> int:
    from clearspan.commands import plugin_new

    return plugin_new.run(options.kind, options.name, options.directory)


def _settings(options: argparse.Namespace) -> int:
    from clearspan.commands import effective

    return effective.show(settings_of(options))


if __name__ == "__main__":
    sys.exit(main())
