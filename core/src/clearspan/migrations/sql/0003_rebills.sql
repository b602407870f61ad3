-- How invoices are collected: dunning plans, the rebill of each invoice, what is sent to customers, the pace of each PSP account.
-- The shapes of 0001 hold.

-- A plan's versions; a version never changes, and each rebill stores the one it goes by.
CREATE TABLE dunning_plans (
    tenant_id       uuid        NOT NULL REFERENCES tenants,
    live            boolean     NOT NULL,
    dunning_plan_id uuid        NOT NULL,
    version         integer     NOT NULL CHECK (version >= 1),
    name            text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    plan            jsonb       NOT NULL, -- rebills.plans.DunningPlan
    created_at      timestamptz NOT NULL,
    created_by      text        NOT NULL,
    PRIMARY KEY (tenant_id, live, dunning_plan_id, version)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON dunning_plans FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The collection of one invoice:
--   due        a charge is to be made at next_at
--   claimed    somebody makes it, under a lease
--   decide     the try was declined, or nothing could be tried: a decision is to be made now
--   waiting    for the customer (pay page, another card) or for an outcome; next_at is when somebody looks again
--   settled    paid, by whatever way
--   exhausted  the plan is used up and the final action is done
--   stopped    by cancellation, void, revocation or a person
CREATE TABLE rebills (
    tenant_id       uuid        NOT NULL, -- of the invoice
    live            boolean     NOT NULL,
    invoice_id      uuid        NOT NULL,
    subscription_id uuid        NOT NULL,
    psp_account_id  uuid,       -- whose pace it goes by
    state           text        NOT NULL CHECK (state IN ('due', 'claimed', 'decide', 'waiting', 'settled', 'exhausted', 'stopped')),
    tries           integer     NOT NULL DEFAULT 0, -- charges made
    next_at         timestamptz,
    lease_token     uuid,
    dunning_plan_id uuid,       -- null: the plan that comes with Clearspan
    dunning_version integer     NOT NULL DEFAULT 0, -- 0 before the first decision
    held_out        boolean     NOT NULL DEFAULT false, -- in the plan's control group
    first_failed_at timestamptz,
    final_at        timestamptz, -- when the plan's final action is due
    last_code       text,       -- of the last decline, normalised
    last_decision   jsonb,      -- rebills.models.Decision: what and why
    stopped_because text,
    test_clock_id   uuid,
    sequence        integer     NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, invoice_id),
    FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES invoices,
    FOREIGN KEY (tenant_id, live, subscription_id) REFERENCES subscriptions,
    FOREIGN KEY (tenant_id, live, test_clock_id) REFERENCES test_clocks,
    CHECK ((state IN ('due', 'claimed', 'decide')) <= (next_at IS NOT NULL)),
    CHECK (state NOT IN ('settled', 'exhausted', 'stopped') OR next_at IS NULL)
) WITH (fillfactor = 80);
CREATE INDEX rebills_due ON rebills (next_at) WHERE next_at IS NOT NULL AND test_clock_id IS NULL;
-- Two, since what is to be charged waits for the pace of its account, and what is to be decided does not wait behind it.
CREATE INDEX rebills_to_charge ON rebills (tenant_id, live, psp_account_id, next_at)
    WHERE state IN ('due', 'claimed') AND test_clock_id IS NULL;
CREATE INDEX rebills_to_decide ON rebills (tenant_id, live, next_at) WHERE state IN ('decide', 'waiting') AND test_clock_id IS NULL;
CREATE INDEX rebills_of_clock ON rebills (tenant_id, live, test_clock_id, next_at)
    WHERE test_clock_id IS NOT NULL AND next_at IS NOT NULL;
CREATE INDEX rebills_of_subscription ON rebills (tenant_id, live, subscription_id);
CREATE TRIGGER keep BEFORE DELETE ON rebills FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- Each try of an invoice, by its number: the operation's id is a pure function of invoice and try.
CREATE TABLE rebill_tries (
    tenant_id    uuid        NOT NULL,
    live         boolean     NOT NULL,
    invoice_id   uuid        NOT NULL,
    try          integer     NOT NULL CHECK (try >= 1),
    operation_id uuid        NOT NULL,
    delay_s      bigint      NOT NULL DEFAULT 0, -- since the first failure
    reason       text        NOT NULL, -- of the decision that led to it
    at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, invoice_id, try),
    FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES rebills,
    FOREIGN KEY (tenant_id, live, operation_id) REFERENCES operations
);
CREATE INDEX rebill_tries_of_operation ON rebill_tries (tenant_id, live, operation_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON rebill_tries FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What each PSP account may be asked per second for rebills: a bucket that every claim draws from.
CREATE TABLE rebill_pace (
    tenant_id      uuid             NOT NULL,
    live           boolean          NOT NULL,
    psp_account_id uuid             NOT NULL,
    tokens         double precision NOT NULL,
    filled_at      timestamptz      NOT NULL,
    blocked_until  timestamptz,      -- the PSP refused the account itself: no rebill goes there before
    blocked_because text,            -- the decline's code
    PRIMARY KEY (tenant_id, live, psp_account_id),
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts
);

-- What is to be sent to customers, and was. The text is made when it is sent, from what is true then.
CREATE TABLE notices (
    tenant_id       uuid        NOT NULL REFERENCES tenants,
    live            boolean     NOT NULL,
    notice_id       uuid        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('invoice', 'receipt', 'payment_failed', 'reminder', 'action_needed',
        'card_expiring', 'trial_ending', 'pre_debit', 'subscription_canceled', 'credit_note')),
    customer_id     uuid        NOT NULL,
    subscription_id uuid,
    invoice_id      uuid,
    credit_note_id  uuid,
    dedupe          text        NOT NULL, -- one notice per reason: "reminder:<invoice>:2"
    state           text        NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed', 'dropped')),
    due_at          timestamptz, -- null when it is done with
    lease_token     uuid,
    tries           integer     NOT NULL DEFAULT 0,
    error           text,       -- or why it was dropped
    test_clock_id   uuid,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    sent_at         timestamptz,
    PRIMARY KEY (tenant_id, live, notice_id),
    UNIQUE (tenant_id, live, dedupe),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers,
    FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES invoices,
    FOREIGN KEY (tenant_id, live, subscription_id) REFERENCES subscriptions,
    FOREIGN KEY (tenant_id, live, test_clock_id) REFERENCES test_clocks,
    CHECK ((state = 'queued') = (due_at IS NOT NULL))
);
CREATE INDEX notices_due ON notices (due_at) WHERE due_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX notices_of_clock ON notices (tenant_id, live, test_clock_id, due_at) WHERE test_clock_id IS NOT NULL AND due_at IS NOT NULL;
CREATE INDEX notices_of_invoice ON notices (tenant_id, live, invoice_id) WHERE invoice_id IS NOT NULL;
CREATE INDEX notices_newest ON notices (tenant_id, live, created_at DESC, notice_id DESC);
CREATE TRIGGER keep BEFORE DELETE ON notices FOR EACH ROW EXECUTE FUNCTION refuse_delete();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['dunning_plans', 'rebills', 'rebill_tries', 'rebill_pace', 'notices']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT ON dunning_plans, rebill_tries TO {{app_role}};
GRANT SELECT, INSERT, UPDATE ON rebills, rebill_pace, notices TO {{app_role}};
