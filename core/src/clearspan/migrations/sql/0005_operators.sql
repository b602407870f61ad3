-- People. An operator belongs to the installation and is a member of tenants, so these tables are not cut by tenant; they hold
-- what signs people in. The application therefore has no right on them: it goes through access/sql/operators.sql, whose functions
-- give what one step needs and no table to read. Memberships are a tenant's own rows and are ordinary.

CREATE TABLE operators (
    operator_id    uuid        PRIMARY KEY,
    email          text        NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    name           text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status         text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    password_hash  text,                            -- Argon2id, PHC string
    password_at    timestamptz,
    totp_secret    bytea,                           -- sealed under the installation's key
    totp_pending   bytea,                           -- shown, not yet confirmed by a code
    totp_step      bigint      NOT NULL DEFAULT 0,  -- the last 30-second step used: a code works once
    recovery_codes text[]      NOT NULL DEFAULT '{}', -- HMAC, hex; each is taken out when it is used
    oidc_issuer    text,
    oidc_subject   text,
    locale         text        NOT NULL DEFAULT 'en',
    timezone       text        NOT NULL DEFAULT 'UTC',
    preferences    jsonb       NOT NULL DEFAULT '{}', -- columns, saved filters, theme: what makes it their own
    created_at     timestamptz NOT NULL,
    signed_in_at   timestamptz,
    version        integer     NOT NULL DEFAULT 1,
    UNIQUE (oidc_issuer, oidc_subject),
    CHECK ((oidc_issuer IS NULL) = (oidc_subject IS NULL))
);

-- Server-side sessions. The cookie is 256 random bits; here stands their SHA-256.
CREATE TABLE operator_sessions (
    session_hash bytea       PRIMARY KEY CHECK (length(session_hash) = 32),
    session_id   uuid        NOT NULL UNIQUE,       -- for people: to list and to end
    operator_id  uuid        NOT NULL REFERENCES operators,
    method       text        NOT NULL CHECK (method IN ('password', 'oidc', 'token')),
    tenant_id    uuid,                              -- what is being looked at
    live         boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL,
    seen_at      timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,              -- absolute
    strong_at    timestamptz,                       -- when a factor was last given in this session
    ended_at     timestamptz,
    ended_why    text,                              -- signed_out, revoked, idle, disabled, role, reuse
    ip           text        NOT NULL DEFAULT '',
    agent        text        NOT NULL DEFAULT '' CHECK (length(agent) <= 300)
);
CREATE INDEX operator_sessions_by_operator ON operator_sessions (operator_id, created_at DESC);

-- One-time links: the first owner, an invitation, a new password. Here stands the SHA-256 of what the link carries.
CREATE TABLE operator_links (
    link_hash   bytea       PRIMARY KEY CHECK (length(link_hash) = 32),
    link_id     uuid        NOT NULL UNIQUE,
    purpose     text        NOT NULL CHECK (purpose IN ('first_owner', 'invitation', 'password')),
    operator_id uuid        REFERENCES operators,
    email       text        NOT NULL DEFAULT '',
    tenant_id   uuid,
    role        text,
    created_by  text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz
);

-- Tries to sign in, for the limits per account and per address; both stand here as HMACs.
CREATE TABLE sign_in_tries (
    seq      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    account  bytea       NOT NULL,
    address  bytea       NOT NULL,
    ok       boolean     NOT NULL
);
CREATE INDEX sign_in_tries_by_account ON sign_in_tries (account, at);
CREATE INDEX sign_in_tries_by_address ON sign_in_tries (address, at);

-- Refresh tokens of /oauth/token, rotated at each use. A used one that comes again ends its session.
CREATE TABLE oauth_refresh_tokens (
    token_hash bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    session_id uuid        NOT NULL REFERENCES operator_sessions (session_id),
    scopes     text[]      NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX oauth_refresh_tokens_by_session ON oauth_refresh_tokens (session_id);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['operators', 'operator_sessions', 'operator_links', 'sign_in_tries', 'oauth_refresh_tokens'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_system ON %I TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;

-- Who may do what in a tenant, in both modes. The operator is no foreign key: every key of a tenant's row begins with the tenant.
CREATE TABLE memberships (
    tenant_id   uuid        NOT NULL REFERENCES tenants,
    operator_id uuid        NOT NULL,
    role        text        NOT NULL CHECK (role IN ('owner', 'admin', 'finance', 'support', 'developer', 'auditor')),
    created_at  timestamptz NOT NULL,
    created_by  text        NOT NULL,
    version     integer     NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, operator_id)
);
CREATE INDEX memberships_by_operator ON memberships (operator_id);

-- What one person asked for and another has to allow.
CREATE TABLE approvals (
    tenant_id    uuid        NOT NULL,
    live         boolean     NOT NULL,
    approval_id  uuid        NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('refund')),
    subject_id   uuid        NOT NULL,              -- the payment
    request      jsonb       NOT NULL,              -- what will be done, as the API takes it
    amount_minor bigint      NOT NULL CHECK (amount_minor > 0),
    currency     text        NOT NULL,
    reason       text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    status       text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'approved', 'rejected', 'withdrawn', 'expired')),
    asked_by     text        NOT NULL,
    asked_at     timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    decided_by   text,
    decided_at   timestamptz,
    decision     text        NOT NULL DEFAULT '' CHECK (length(decision) <= 500),
    operation_id uuid,       -- what was done when it was approved
    sequence     integer     NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, live, approval_id),
    FOREIGN KEY (tenant_id, live, subject_id) REFERENCES payment_intents,
    CHECK ((status = 'open') = (decided_at IS NULL)),
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations,
    CHECK ((status = 'approved') = (operation_id IS NOT NULL)),
    CHECK (status = 'withdrawn' OR decided_by IS DISTINCT FROM asked_by)
);
CREATE INDEX approvals_newest ON approvals (tenant_id, live, asked_at DESC, approval_id DESC);
CREATE INDEX approvals_open ON approvals (tenant_id, live, asked_at) WHERE status = 'open';
CREATE INDEX approvals_due ON approvals (expires_at) WHERE status = 'open';
CREATE INDEX approvals_of_payment ON approvals (tenant_id, live, subject_id, asked_at);
CREATE INDEX approvals_by_operation ON approvals (tenant_id, live, operation_id) WHERE operation_id IS NOT NULL;
CREATE UNIQUE INDEX one_open_approval ON approvals (tenant_id, live, subject_id) WHERE status = 'open';

ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON memberships USING (tenant_id = app_tenant());
CREATE POLICY of_system ON memberships TO CURRENT_USER USING (app_system());
GRANT SELECT, INSERT, UPDATE, DELETE ON memberships TO {{app_role}};

ALTER TABLE approvals ENABLE ROW LEVEL SECURITY;
ALTER TABLE approvals FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON approvals USING (tenant_id = app_tenant() AND live = app_live());
CREATE POLICY of_system ON approvals FOR SELECT TO CURRENT_USER USING (app_system());
GRANT SELECT, INSERT, UPDATE ON approvals TO {{app_role}};

-- What the cockpit counts, each a few rows among very many.
CREATE INDEX operations_uncertain ON operations (tenant_id, live, state, created_at) WHERE state IN ('unknown', 'needs_review');
CREATE INDEX disputes_open ON disputes (tenant_id, live, status, evidence_due_at) WHERE closed_at IS NULL;
CREATE INDEX notices_failed ON notices (tenant_id, live, updated_at) WHERE state = 'failed';
CREATE INDEX webhook_inbox_of_tenant ON webhook_inbox (tenant_id, live, state, received_at) WHERE state IN ('parked', 'needs_attention');
CREATE INDEX rebill_tries_newest ON rebill_tries (tenant_id, live, at);
-- What people look for payments by (payments/sql/search.sql). References are compared as bytes, so that a beginning is a range. The
-- states that few payments are in have indexes of their own; what succeeded is found among the newest.
CREATE INDEX payment_intents_by_amount ON payment_intents (tenant_id, live, amount_minor, created_at DESC, payment_id DESC);
CREATE INDEX payment_intents_by_reference_text ON payment_intents (tenant_id, live, reference COLLATE "C", created_at DESC, payment_id DESC)
    WHERE reference IS NOT NULL;
CREATE INDEX payment_intents_by_status ON payment_intents (tenant_id, live, status, created_at DESC, payment_id DESC)
    WHERE status <> 'succeeded';
CREATE INDEX payment_intents_failed ON payment_intents (tenant_id, live, created_at DESC, payment_id DESC)
    WHERE status = 'requires_payment_method' AND last_error IS NOT NULL;
CREATE INDEX payment_intents_refunded ON payment_intents (tenant_id, live, created_at DESC, payment_id DESC) WHERE refunded_minor > 0;
CREATE INDEX payment_intents_disputed ON payment_intents (tenant_id, live, created_at DESC, payment_id DESC) WHERE disputed_minor > 0;
CREATE INDEX payment_intents_unknown ON payment_intents (tenant_id, live, created_at DESC, payment_id DESC) WHERE outcome = 'unknown';
CREATE INDEX payment_methods_by_last4 ON payment_methods (tenant_id, live, last4, created_at DESC);
CREATE INDEX webhook_inbox_of_payment ON webhook_inbox (tenant_id, live, payment_id, received_at DESC) WHERE payment_id IS NOT NULL;
-- The dunning board (rebills/sql/board.sql): each column in the order in which it is shown; and the recovery report.
CREATE INDEX rebills_at_risk ON rebills (tenant_id, live, (COALESCE(next_at, 'infinity'::timestamptz)), invoice_id)
    WHERE state IN ('decide', 'waiting') AND first_failed_at IS NOT NULL;
CREATE INDEX rebills_recovering ON rebills (tenant_id, live, next_at, invoice_id)
    WHERE state IN ('due', 'claimed') AND first_failed_at IS NOT NULL;
CREATE INDEX rebills_recovered ON rebills (tenant_id, live, updated_at DESC, invoice_id DESC)
    WHERE state = 'settled' AND first_failed_at IS NOT NULL;
CREATE INDEX rebills_lost ON rebills (tenant_id, live, updated_at DESC, invoice_id DESC)
    WHERE state IN ('exhausted', 'stopped') AND first_failed_at IS NOT NULL;
CREATE INDEX rebills_failed ON rebills (tenant_id, live, first_failed_at) WHERE first_failed_at IS NOT NULL;
-- What is left to be paid, newest first.
CREATE INDEX invoices_unpaid ON invoices (tenant_id, live, invoice_id) WHERE status IN ('open', 'uncollectible');
-- A retry of many things at once, asked for by a person and worked off in the background: what matches the filter, in the order of ids,
-- up to what was there when it was asked for. cursor_id is the last row dealt with; due_at is when somebody takes it up, or the end of
-- the lease of whoever works on it.
CREATE TABLE bulk_runs (
    tenant_id     uuid        NOT NULL REFERENCES tenants,
    live          boolean     NOT NULL,
    bulk_run_id   uuid        NOT NULL,
    queue         text        NOT NULL CHECK (queue IN ('unknown', 'webhooks', 'deliveries', 'notices', 'rebills')),
    action        text        NOT NULL CHECK (action IN ('retry', 'dismiss')),
    filter        jsonb       NOT NULL,
    reason        text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    state         text        NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'canceled')),
    cursor_id     uuid,
    total         integer     NOT NULL CHECK (total >= 1), -- counted at the start, up to a bound
    total_is_more boolean     NOT NULL DEFAULT false,
    done          integer     NOT NULL DEFAULT 0,
    failed        integer     NOT NULL DEFAULT 0,
    errors        jsonb       NOT NULL DEFAULT '[]', -- the first refusals: [{id, code}]
    asked_by      text        NOT NULL,
    actor_type    text        NOT NULL,
    request_id    text        NOT NULL,
    lease_token   uuid,
    due_at        timestamptz,
    sequence      integer     NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    PRIMARY KEY (tenant_id, live, bulk_run_id),
    CHECK ((state IN ('waiting', 'running')) = (due_at IS NOT NULL)),
    CHECK ((due_at IS NULL) = (ended_at IS NOT NULL))
);
CREATE INDEX bulk_runs_due ON bulk_runs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX bulk_runs_newest ON bulk_runs (tenant_id, live, queue, created_at DESC);
CREATE UNIQUE INDEX one_bulk_run_per_queue ON bulk_runs (tenant_id, live, queue) WHERE due_at IS NOT NULL;
CREATE TRIGGER keep BEFORE DELETE ON bulk_runs FOR EACH ROW EXECUTE FUNCTION refuse_delete();
ALTER TABLE bulk_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE bulk_runs FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON bulk_runs USING (tenant_id = app_tenant() AND live = app_live());
CREATE POLICY of_system ON bulk_runs FOR SELECT TO CURRENT_USER USING (app_system());
GRANT SELECT, INSERT, UPDATE ON bulk_runs TO {{app_role}};

-- What waits for people, in the order in which queues show it; each index holds no more than that.
CREATE INDEX operations_undecided ON operations (tenant_id, live, operation_id) WHERE state IN ('unknown', 'needs_review');
CREATE INDEX webhook_inbox_waiting ON webhook_inbox (tenant_id, live, inbox_id) WHERE state IN ('parked', 'needs_attention');
CREATE INDEX notices_stuck ON notices (tenant_id, live, notice_id)
    WHERE state = 'failed' OR (state = 'queued' AND tries > 0) OR (state = 'dropped' AND error IN ('no_email', 'address_invalid'));
CREATE INDEX invoices_held ON invoices (tenant_id, live, invoice_id) WHERE collection = 'held' AND status = 'open';
-- Disputes that want an answer, by the day until which it counts.
CREATE INDEX disputes_to_answer ON disputes (tenant_id, live, evidence_due_at, dispute_id)
    WHERE status IN ('needs_response', 'inquiry', 'pre_arbitration');
