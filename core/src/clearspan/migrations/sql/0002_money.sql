-- Money that must be found or given back: inbound webhooks, disputes, decisions of humans, cancellations that wait for an outcome,
-- refunds that fail after they succeeded. The shapes of 0001 hold.

ALTER TABLE psp_accounts
    -- The unguessable part of the account's webhook address; accounts from before get one of 122 random bits, newer ones bring theirs.
    ADD COLUMN webhook_token text NOT NULL DEFAULT 'whk_' || replace(gen_random_uuid()::text, '-', ''),
    ADD COLUMN previous_config bytea, -- the settings before the last change: a webhook signed with their secret is still believed ...
    ADD COLUMN previous_until timestamptz; -- ... until then
CREATE INDEX psp_accounts_by_webhook_token ON psp_accounts (webhook_token); -- not unique: a key begins with the tenant

ALTER TABLE payment_intents
    ADD COLUMN cancel_requested_at timestamptz, -- asked for while an outcome was open: carried out when it is known
    ADD COLUMN cancel_request_reason text,
    ADD COLUMN unwind_at timestamptz; -- when the gateway next gives back a charge that nobody wants any more; null: nothing to do
CREATE INDEX payment_intents_to_unwind ON payment_intents (unwind_at) WHERE unwind_at IS NOT NULL;

ALTER TABLE operations
    ADD COLUMN fee_minor bigint CHECK (fee_minor >= 0), -- what the PSP keeps for it, as far as it said
    ADD COLUMN psp_sequence bigint, -- the PSP's own order of its messages about this operation, the highest seen
    DROP CONSTRAINT operations_state_check,
    ADD CONSTRAINT operations_state_check CHECK (state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown',
        'needs_review', 'succeeded', 'declined', 'expired', 'not_charged', 'not_sent', 'surplus', 'reversed'));
-- One void per charge: a payment may have a second charge that must be given back (surplus).
DROP INDEX one_void_per_payment;
CREATE UNIQUE INDEX one_void_per_charge ON operations (tenant_id, live, payment_id, parent_id)
    WHERE kind = 'void' AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review', 'succeeded');

-- What a human must decide is still asked about once a day.
DROP INDEX operations_due;
CREATE INDEX operations_due ON operations (sweep_at)
    WHERE sweep_at IS NOT NULL AND state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review');

CREATE OR REPLACE FUNCTION operation_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE before
        WHEN 'prepared'        THEN after IN ('submitted', 'not_sent', 'unknown')
        WHEN 'submitted'       THEN after IN ('not_sent', 'succeeded', 'declined', 'requires_action', 'pending', 'unknown')
        WHEN 'requires_action' THEN after IN ('succeeded', 'declined', 'expired', 'pending', 'unknown')
        WHEN 'pending'         THEN after IN ('succeeded', 'declined', 'expired', 'unknown')
        WHEN 'unknown'         THEN after IN ('succeeded', 'declined', 'pending', 'requires_action', 'expired', 'not_charged',
                                              'needs_review')
        WHEN 'needs_review'    THEN after IN ('succeeded', 'declined', 'not_charged')
        WHEN 'succeeded'       THEN after = 'reversed' -- refunds only, see guard_operation
        WHEN 'declined'        THEN after = 'surplus'
        WHEN 'expired'         THEN after = 'surplus'
        WHEN 'not_charged'     THEN after = 'surplus'
        WHEN 'not_sent'        THEN after = 'surplus'
        ELSE false
    END;

CREATE OR REPLACE FUNCTION guard_operation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (NOT operation_may_become(OLD.state, NEW.state)
                                   OR (NEW.state = 'reversed' AND NEW.kind <> 'refund')) THEN
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

-- Messages of PSPs, one row per event, kept for ever: a PSP may repeat one after 30 days.
CREATE TABLE webhook_inbox (
    tenant_id      uuid        NOT NULL REFERENCES tenants,
    live           boolean     NOT NULL,
    inbox_id       uuid        NOT NULL,
    psp_account_id uuid        NOT NULL,
    event_key      text        NOT NULL, -- the PSP's event id, or the hash of the message
    type           text        NOT NULL, -- the PSP's word
    news           jsonb,      -- what the adapter read, card numbers masked
    body           bytea,      -- the message itself, card numbers masked, encrypted under the tenant's data key
    body_hash      bytea       NOT NULL,
    state          text        NOT NULL CHECK (state IN ('received', 'applied', 'parked', 'ignored', 'needs_attention', 'dismissed')),
    note           text,       -- why it is parked or needs attention
    tries          integer     NOT NULL DEFAULT 0,
    seen           integer     NOT NULL DEFAULT 1, -- how often the PSP sent it
    payment_id     uuid,       -- what it was applied to
    operation_id   uuid,
    dispute_id     uuid,
    due_at         timestamptz, -- when it is looked at next; null when there is nothing to do
    lease_until    timestamptz,
    received_at    timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, inbox_id),
    UNIQUE (tenant_id, live, psp_account_id, event_key),
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts
);
CREATE INDEX webhook_inbox_due ON webhook_inbox (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_inbox_newest ON webhook_inbox (tenant_id, live, received_at DESC, inbox_id DESC);
CREATE TRIGGER keep BEFORE DELETE ON webhook_inbox FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- Disputes and returned direct debits. They never change a payment's status, only its disputed and returned amounts.
CREATE TABLE disputes (
    tenant_id       uuid        NOT NULL REFERENCES tenants,
    live            boolean     NOT NULL,
    dispute_id      uuid        NOT NULL,
    payment_id      uuid        NOT NULL,
    operation_id    uuid        NOT NULL, -- the charge
    psp_account_id  uuid        NOT NULL,
    psp_ref         text        NOT NULL,
    status          text        NOT NULL CHECK (status IN ('inquiry', 'inquiry_closed', 'needs_response', 'under_review', 'won', 'lost',
        'accepted', 'expired', 'pre_arbitration', 'prevented', 'returned')),
    amount_minor    bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
    currency        text        NOT NULL,
    reason          text,
    network_code    text,
    evidence_due_at timestamptz,
    sequence        integer     NOT NULL DEFAULT 1,
    psp_sequence    bigint,
    opened_at       timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    closed_at       timestamptz,
    PRIMARY KEY (tenant_id, live, dispute_id),
    UNIQUE (tenant_id, live, psp_account_id, psp_ref),
    FOREIGN KEY (tenant_id, live, payment_id) REFERENCES payment_intents,
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts
);
CREATE INDEX disputes_of_payment ON disputes (tenant_id, live, payment_id);
CREATE INDEX disputes_newest ON disputes (tenant_id, live, opened_at DESC, dispute_id DESC);
CREATE TRIGGER keep BEFORE DELETE ON disputes FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- What humans decided about an outcome that nobody could find out. Above a limit a second person must say the same.
CREATE TABLE decisions (
    tenant_id      uuid        NOT NULL REFERENCES tenants,
    live           boolean     NOT NULL,
    decision_id    uuid        NOT NULL,
    payment_id     uuid        NOT NULL,
    operation_id   uuid        NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('succeeded', 'declined', 'not_charged')),
    reason         text        NOT NULL CHECK (length(reason) BETWEEN 10 AND 1000),
    psp_ref        text,
    state          text        NOT NULL CHECK (state IN ('proposed', 'applied', 'withdrawn')),
    proposed_by    text        NOT NULL,
    proposed_at    timestamptz NOT NULL,
    confirmed_by   text,
    confirmed_at   timestamptz,
    PRIMARY KEY (tenant_id, live, decision_id),
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations,
    CHECK (confirmed_by IS DISTINCT FROM proposed_by)
);
CREATE UNIQUE INDEX one_open_decision ON decisions (tenant_id, live, operation_id) WHERE state = 'proposed';
CREATE INDEX decisions_of_payment ON decisions (tenant_id, live, payment_id);
CREATE TRIGGER keep BEFORE DELETE ON decisions FOR EACH ROW EXECUTE FUNCTION refuse_delete();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhook_inbox', 'disputes', 'decisions']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['webhook_inbox', 'psp_accounts', 'facts', 'disputes', 'decisions']
    LOOP
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON webhook_inbox, disputes, decisions TO {{app_role}};
