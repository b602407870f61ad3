-- The foundation: tenants and keys, customers and payment methods, PSP accounts, payments with their operations and facts,
-- idempotent answers, and the journal.
--
-- Shapes that hold for every table:
--   * Each primary, unique and foreign key starts with tenant_id, then live (test and live data never meet, not even in a key).
--     The one exception is tenants.slug, the directory by which a tenant is found.
--   * Row-level security is forced. A transaction names its tenant with set_config('app.tenant', ..., true) and its mode with
--     set_config('app.live', ..., true); without both it sees nothing and can write nothing.
--   * The owner of the tables sees nothing either, except inside the SECURITY DEFINER functions that set app.system.
--   * Amounts are bigint minor units; times are given by the caller from the synchronised clock, never now().
-- {{app_role}} is the role of the application: it owns nothing and cannot bypass row security.

CREATE FUNCTION app_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('app.tenant', true), '')::uuid;
CREATE FUNCTION app_live() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('app.live', true), '')::boolean;
CREATE FUNCTION app_system() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN COALESCE(current_setting('app.system', true), '') = 'on';

CREATE TABLE tenants (
    tenant_id   uuid        PRIMARY KEY,
    slug        text        NOT NULL UNIQUE CHECK (slug ~ '^[a-z][a-z0-9-]{1,38}[a-z0-9]$'),
    name        text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status      text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    data_key    bytea       NOT NULL, -- the tenant's data key, wrapped by the installation's master key
    created_at  timestamptz NOT NULL
);

CREATE TABLE api_keys (
    tenant_id    uuid        NOT NULL REFERENCES tenants,
    live         boolean     NOT NULL,
    key_id       uuid        NOT NULL,
    prefix       text        NOT NULL CHECK (length(prefix) = 8),
    secret_hmac  bytea       NOT NULL, -- HMAC-SHA-256 of the secret under the server's pepper
    name         text        NOT NULL,
    scopes       text[]      NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    rotated_from uuid,
    PRIMARY KEY (tenant_id, live, key_id),
    UNIQUE (tenant_id, live, prefix)
);
CREATE INDEX api_keys_by_prefix ON api_keys (prefix); -- not unique: two tenants may draw the same prefix, the secret decides

CREATE TABLE customers (
    tenant_id   uuid        NOT NULL REFERENCES tenants,
    live        boolean     NOT NULL,
    customer_id uuid        NOT NULL,
    reference   text,       -- the merchant's own id
    metadata    jsonb       NOT NULL DEFAULT '{}',
    sequence    integer     NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    deleted_at  timestamptz,
    PRIMARY KEY (tenant_id, live, customer_id),
    UNIQUE (tenant_id, live, reference)
);

-- Personal data lives here only, encrypted under a key of that one person; deleting the row makes it unreadable everywhere.
CREATE TABLE customer_pii (
    tenant_id   uuid  NOT NULL,
    live        boolean NOT NULL,
    customer_id uuid  NOT NULL,
    wrapped_key bytea NOT NULL,
    body        bytea NOT NULL,
    email_index bytea, -- keyed hash of the lower-case address, for exact search
    PRIMARY KEY (tenant_id, live, customer_id),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers ON DELETE CASCADE
);
CREATE INDEX customer_pii_by_email ON customer_pii (tenant_id, live, email_index) WHERE email_index IS NOT NULL;

CREATE TABLE payment_methods (
    tenant_id              uuid        NOT NULL REFERENCES tenants,
    live                   boolean     NOT NULL,
    payment_method_id      uuid        NOT NULL,
    customer_id            uuid,
    vault                  text        NOT NULL,
    vault_token            text        NOT NULL,
    brand                  text        NOT NULL,
    last4                  text        NOT NULL CHECK (last4 ~ '^[0-9]{4}$'),
    exp_month              smallint    NOT NULL CHECK (exp_month BETWEEN 1 AND 12),
    exp_year               smallint    NOT NULL CHECK (exp_year BETWEEN 2000 AND 2200),
    fingerprint            text        NOT NULL,
    funding                text        NOT NULL DEFAULT 'unknown' CHECK (funding IN ('credit', 'debit', 'prepaid', 'unknown')),
    issuer_country         text        CHECK (issuer_country ~ '^[A-Z]{2}$'),
    network_transaction_id text,
    status                 text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'detached')),
    sequence               integer     NOT NULL DEFAULT 1,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, payment_method_id),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers
);
CREATE INDEX payment_methods_by_customer ON payment_methods (tenant_id, live, customer_id) WHERE customer_id IS NOT NULL;

CREATE TABLE psp_accounts (
    tenant_id      uuid        NOT NULL REFERENCES tenants,
    live           boolean     NOT NULL,
    psp_account_id uuid        NOT NULL,
    psp            text        NOT NULL, -- the adapter's name
    name           text        NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    priority       integer     NOT NULL DEFAULT 100, -- lower is tried first
    status         text        NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    config         bytea       NOT NULL, -- the adapter's settings, encrypted under the tenant's data key
    config_version integer     NOT NULL DEFAULT 1,
    sequence       integer     NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, psp_account_id),
    UNIQUE (tenant_id, live, name)
);

-- The intent. amount, currency and capture_method never change; everything below "derived" is a pure function of the
-- operations (payment_derive), kept here so that it can be listed and locked.
CREATE TABLE payment_intents (
    tenant_id             uuid        NOT NULL REFERENCES tenants,
    live                  boolean     NOT NULL,
    payment_id            uuid        NOT NULL,
    amount_minor          bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
    currency              text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    capture_method        text        NOT NULL CHECK (capture_method IN ('automatic', 'manual')),
    customer_present      boolean     NOT NULL,
    customer_id           uuid,
    payment_method_id     uuid,
    psp_account_id        uuid,
    reference             text,
    description           text,
    return_url            text,
    metadata              jsonb       NOT NULL DEFAULT '{}',
    created_at            timestamptz NOT NULL,
    expires_at            timestamptz NOT NULL,
    canceled_at           timestamptz,
    cancellation_reason   text,
    expired_at            timestamptz,
    -- derived
    sequence              integer     NOT NULL DEFAULT 1, -- grows with each change that a client can see
    updated_at            timestamptz NOT NULL,
    status                text        NOT NULL CHECK (status IN ('requires_payment_method', 'requires_confirmation',
        'requires_action', 'processing', 'requires_capture', 'succeeded', 'partially_captured', 'canceled', 'expired')),
    outcome               text        CHECK (outcome IN ('pending', 'unknown')),
    charge_operation_id   uuid,
    next_action           jsonb,
    last_error            jsonb,
    authorized_minor      bigint      NOT NULL DEFAULT 0 CHECK (authorized_minor >= 0),
    captured_minor        bigint      NOT NULL DEFAULT 0 CHECK (captured_minor >= 0),
    capture_pending_minor bigint      NOT NULL DEFAULT 0 CHECK (capture_pending_minor >= 0),
    voided_minor          bigint      NOT NULL DEFAULT 0 CHECK (voided_minor >= 0),
    refunded_minor        bigint      NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
    refund_pending_minor  bigint      NOT NULL DEFAULT 0 CHECK (refund_pending_minor >= 0),
    disputed_minor        bigint      NOT NULL DEFAULT 0 CHECK (disputed_minor >= 0),
    returned_minor        bigint      NOT NULL DEFAULT 0 CHECK (returned_minor >= 0),
    surplus_minor         bigint      NOT NULL DEFAULT 0 CHECK (surplus_minor >= 0), -- arrived although we had given it up
    PRIMARY KEY (tenant_id, live, payment_id),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers,
    FOREIGN KEY (tenant_id, live, payment_method_id) REFERENCES payment_methods,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    CHECK (authorized_minor <= amount_minor),
    CHECK (captured_minor + capture_pending_minor + voided_minor <= authorized_minor),
    CHECK (refunded_minor + refund_pending_minor + returned_minor <= captured_minor)
) WITH (fillfactor = 80); -- room for the update that every payment gets
CREATE INDEX payment_intents_newest ON payment_intents (tenant_id, live, created_at DESC, payment_id DESC);
CREATE INDEX payment_intents_by_customer ON payment_intents (tenant_id, live, customer_id, created_at DESC)
    WHERE customer_id IS NOT NULL;
CREATE INDEX payment_intents_by_reference ON payment_intents (tenant_id, live, reference) WHERE reference IS NOT NULL;
-- No index serves a search by metadata: under row security PostgreSQL uses leakproof operators only, and those of jsonb are not.
CREATE INDEX payment_intents_stale ON payment_intents (expires_at)
    WHERE status IN ('requires_payment_method', 'requires_confirmation', 'requires_action');

-- One intended change at a PSP. Never deleted, never overwritten: a second try is a second row.
CREATE TABLE operations (
    tenant_id         uuid        NOT NULL REFERENCES tenants,
    live              boolean     NOT NULL,
    operation_id      uuid        NOT NULL, -- deterministic: uuid5 over installation, tenant, mode, route, client key
    payment_id        uuid        NOT NULL,
    kind              text        NOT NULL CHECK (kind IN ('authorize', 'purchase', 'capture', 'void', 'refund')),
    state             text        NOT NULL CHECK (state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown',
        'needs_review', 'succeeded', 'declined', 'expired', 'not_charged', 'not_sent', 'surplus')),
    amount_minor      bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
    currency          text        NOT NULL,
    psp_account_id    uuid        NOT NULL,
    payment_method_id uuid,
    parent_id         uuid,       -- the charge that a capture, void or refund acts on
    generation        integer     NOT NULL DEFAULT 0, -- grows only when the PSP proved that nothing was executed
    psp_key           text        NOT NULL,
    psp_ref           text,
    final             boolean     NOT NULL DEFAULT false, -- captures: release the rest
    code              text,       -- normalised, when declined or not sent
    raw_code          text,
    advice            text,
    network_code      text,
    message           text,
    next_action       jsonb,
    action_expires_at timestamptz,
    reason            text,
    reference         text,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    routing           jsonb       NOT NULL DEFAULT '{}', -- why this account
    lease_token       uuid,
    lease_until       timestamptz,
    sweep_at          timestamptz, -- when recovery looks at it next; null when there is nothing to find out
    sweep_step        smallint    NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL,
    sent_at           timestamptz NOT NULL, -- the last time it went out: from then on it may still take effect
    decided_at        timestamptz,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, operation_id),
    FOREIGN KEY (tenant_id, live, payment_id) REFERENCES payment_intents,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    FOREIGN KEY (tenant_id, live, payment_method_id) REFERENCES payment_methods,
    FOREIGN KEY (tenant_id, live, parent_id) REFERENCES operations,
    UNIQUE (tenant_id, live, psp_account_id, psp_ref),
    UNIQUE (tenant_id, live, psp_key)
) WITH (fillfactor = 80);
CREATE INDEX operations_of_payment ON operations (tenant_id, live, payment_id, created_at);
-- The promise itself: at most one live-or-succeeded charge per intent, whatever the code above believes.
CREATE UNIQUE INDEX one_charge_per_payment ON operations (tenant_id, live, payment_id)
    WHERE kind IN ('authorize', 'purchase')
      AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review', 'succeeded');
CREATE UNIQUE INDEX one_void_per_payment ON operations (tenant_id, live, payment_id)
    WHERE kind = 'void' AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review', 'succeeded');
CREATE INDEX operations_due ON operations (sweep_at)
    WHERE sweep_at IS NOT NULL AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown');

-- What somebody observed about an operation. Append-only.
CREATE TABLE facts (
    tenant_id    uuid        NOT NULL REFERENCES tenants,
    live         boolean     NOT NULL,
    fact_id      uuid        NOT NULL,
    payment_id   uuid        NOT NULL,
    operation_id uuid        NOT NULL,
    source       text        NOT NULL CHECK (source IN ('response', 'webhook', 'lookup', 'settlement', 'human', 'system')),
    observed     text        NOT NULL, -- the state it speaks for
    amount_minor bigint,
    currency     text,
    psp_ref      text,
    code         text,
    raw_code     text,
    raw          jsonb,      -- the PSP's message, card numbers and secrets masked
    payload_hash bytea       NOT NULL,
    observed_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, fact_id),
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations
);
CREATE INDEX facts_of_operation ON facts (tenant_id, live, operation_id, observed_at);

-- Answers to be repeated. The row stays for ever: after the replay window the answer goes, the key stays spent.
CREATE TABLE idempotency_keys (
    tenant_id    uuid        NOT NULL REFERENCES tenants,
    live         boolean     NOT NULL,
    key_hash     bytea       NOT NULL, -- sha256(route, key)
    request_hash bytea       NOT NULL, -- sha256(path, canonical body)
    state        text        NOT NULL CHECK (state IN ('in_flight', 'done', 'expired')),
    lease_token  uuid        NOT NULL,
    lease_until  timestamptz NOT NULL,
    payment_id   uuid,
    operation_id uuid,
    status_code  smallint,
    body         bytea,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, key_hash)
) WITH (fillfactor = 70);
CREATE INDEX idempotency_keys_to_expire ON idempotency_keys (created_at) WHERE state = 'done';

-- Everything that happened, in the transaction in which it happened. Readers go by (epoch, xid, seq) and only below the
-- oldest running transaction: sequence numbers do not commit in order. The epoch grows when the data moves to a cluster
-- whose transaction counter is behind (restore), so that the order goes on. No personal data: ids, codes, amounts.
CREATE FUNCTION journal_epoch() RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE RETURN 1; -- replaced after a restore
CREATE TABLE journal (
    tenant_id    uuid        NOT NULL REFERENCES tenants,
    live         boolean     NOT NULL,
    epoch        integer     NOT NULL DEFAULT journal_epoch(),
    xid          xid8        NOT NULL DEFAULT pg_current_xact_id(),
    seq          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id     uuid        NOT NULL,
    type         text        NOT NULL CHECK (type ~ '^[a-z_]+\.[a-z_]+$'),
    subject_type text        NOT NULL,
    subject_id   uuid        NOT NULL,
    sequence     integer     NOT NULL, -- of the subject: a consumer drops lower ones
    customer_id  uuid,
    actor_type   text        NOT NULL CHECK (actor_type IN ('api_key', 'operator', 'system', 'cli', 'psp')),
    actor_id     text        NOT NULL,
    request_id   text        NOT NULL,
    data         jsonb       NOT NULL,
    at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, epoch, xid, seq),
    UNIQUE (tenant_id, live, event_id)
);
-- Its condition is always true, but only the tail says it: so the order of this index is not lent to a tenant's query, which
-- would then read what all others wrote.
CREATE INDEX journal_tail ON journal (epoch, xid, seq) WHERE seq > 0;
CREATE INDEX journal_by_subject ON journal (tenant_id, live, subject_id, epoch, xid, seq);
CREATE INDEX journal_by_customer ON journal (tenant_id, live, customer_id, epoch, xid, seq) WHERE customer_id IS NOT NULL;

-- Nobody changes or removes what has happened, whatever rights they hold in the application.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'CS900';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON journal FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON facts FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON facts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The transitions of an operation; docs/concepts.md draws them and a property test compares them with the Python model.
CREATE FUNCTION operation_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE before
        WHEN 'prepared'        THEN after IN ('submitted', 'not_sent', 'unknown')
        WHEN 'submitted'       THEN after IN ('not_sent', 'succeeded', 'declined', 'requires_action', 'pending', 'unknown')
        WHEN 'requires_action' THEN after IN ('succeeded', 'declined', 'expired', 'pending', 'unknown')
        WHEN 'pending'         THEN after IN ('succeeded', 'declined', 'expired', 'unknown')
        WHEN 'unknown'         THEN after IN ('succeeded', 'declined', 'pending', 'requires_action', 'expired', 'not_charged',
                                              'needs_review')
        WHEN 'needs_review'    THEN after IN ('succeeded', 'declined', 'not_charged')
        WHEN 'declined'        THEN after = 'surplus'
        WHEN 'expired'         THEN after = 'surplus'
        WHEN 'not_charged'     THEN after = 'surplus'
        WHEN 'not_sent'        THEN after = 'surplus'
        ELSE false
    END;

CREATE FUNCTION guard_operation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND NOT operation_may_become(OLD.state, NEW.state) THEN
        RAISE EXCEPTION 'an operation cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'CS901';
    END IF;
    IF (NEW.tenant_id, NEW.live, NEW.operation_id, NEW.payment_id, NEW.kind, NEW.amount_minor, NEW.currency, NEW.psp_account_id,
        NEW.payment_method_id, NEW.parent_id, NEW.final, NEW.created_at)
       IS DISTINCT FROM
       (OLD.tenant_id, OLD.live, OLD.operation_id, OLD.payment_id, OLD.kind, OLD.amount_minor, OLD.currency, OLD.psp_account_id,
        OLD.payment_method_id, OLD.parent_id, OLD.final, OLD.created_at)
       OR (OLD.psp_ref IS NOT NULL AND NEW.psp_ref IS DISTINCT FROM OLD.psp_ref)
       OR (NEW.psp_key <> OLD.psp_key AND NEW.generation <= OLD.generation) THEN
        RAISE EXCEPTION 'what an operation was meant to do does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON operations FOR EACH ROW EXECUTE FUNCTION guard_operation();

CREATE FUNCTION guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.tenant_id, NEW.live, NEW.payment_id, NEW.amount_minor, NEW.currency, NEW.capture_method, NEW.created_at)
       IS DISTINCT FROM
       (OLD.tenant_id, OLD.live, OLD.payment_id, OLD.amount_minor, OLD.currency, OLD.capture_method, OLD.created_at) THEN
        RAISE EXCEPTION 'what a payment is for does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON payment_intents FOR EACH ROW EXECUTE FUNCTION guard_payment();

CREATE FUNCTION refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never deleted', TG_TABLE_NAME USING ERRCODE = 'CS900';
END $$;
CREATE TRIGGER keep BEFORE DELETE ON payment_intents FOR EACH ROW EXECUTE FUNCTION refuse_delete();
CREATE TRIGGER keep BEFORE DELETE ON operations FOR EACH ROW EXECUTE FUNCTION refuse_delete();
CREATE TRIGGER keep BEFORE DELETE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- Row security: one shape for all.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['api_keys', 'customers', 'customer_pii', 'payment_methods', 'psp_accounts', 'payment_intents',
                                'operations', 'facts', 'idempotency_keys', 'journal']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['tenants', 'api_keys', 'payment_intents', 'operations', 'idempotency_keys', 'journal']
    LOOP
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON tenants USING (tenant_id = app_tenant());

GRANT USAGE ON SCHEMA public TO {{app_role}};
GRANT SELECT, INSERT, UPDATE ON tenants, api_keys, customers, payment_methods, psp_accounts, payment_intents, operations,
    idempotency_keys TO {{app_role}};
GRANT SELECT, INSERT, UPDATE, DELETE ON customer_pii TO {{app_role}};
GRANT SELECT, INSERT ON facts, journal TO {{app_role}};
