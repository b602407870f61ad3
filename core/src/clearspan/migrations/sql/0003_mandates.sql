-- What a customer agreed to, and test clocks. The shapes of 0001 hold.

-- A clock that moves only when it is told to. Whatever hangs on a customer of a clock happens at the clock's time.
CREATE TABLE test_clocks (
    tenant_id     uuid        NOT NULL REFERENCES tenants,
    live          boolean     NOT NULL CHECK (NOT live), -- never in live mode
    test_clock_id uuid        NOT NULL,
    name          text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    status        text        NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'advancing')),
    now_at        timestamptz NOT NULL,
    target_at     timestamptz, -- where it is going; null when it stands
    lease_token   uuid,        -- of whoever moves it
    lease_until   timestamptz,
    steps         bigint      NOT NULL DEFAULT 0, -- instants it has stopped at on its way
    sequence      integer     NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, test_clock_id),
    CHECK ((status = 'advancing') = (target_at IS NOT NULL)),
    CHECK (target_at >= now_at)
);
CREATE INDEX test_clocks_moving ON test_clocks (updated_at) WHERE status = 'advancing';
CREATE TRIGGER keep BEFORE DELETE ON test_clocks FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- A clock does not go back.
CREATE FUNCTION guard_test_clock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.now_at < OLD.now_at THEN
        RAISE EXCEPTION 'a test clock does not go back' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON test_clocks FOR EACH ROW EXECUTE FUNCTION guard_test_clock();

ALTER TABLE customers
    ADD COLUMN language text CHECK (language IN ('en', 'fr', 'de', 'es')), -- of what is sent to them; null: the tenant's
    ADD COLUMN test_clock_id uuid,
    ADD FOREIGN KEY (tenant_id, live, test_clock_id) REFERENCES test_clocks;

-- A customer lives by one clock from beginning to end.
CREATE FUNCTION guard_customer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.test_clock_id IS DISTINCT FROM OLD.test_clock_id THEN
        RAISE EXCEPTION 'the clock of a customer does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION guard_customer();

-- The customer's consent that the merchant charges by himself. It becomes active by a first payment which the customer made and
-- authenticated, and every later operation carries what that payment proved.
CREATE TABLE mandates (
    tenant_id              uuid        NOT NULL REFERENCES tenants,
    live                   boolean     NOT NULL,
    mandate_id             uuid        NOT NULL,
    customer_id            uuid        NOT NULL,
    payment_method_id      uuid        NOT NULL,
    purpose                text        NOT NULL CHECK (purpose IN ('recurring', 'unscheduled')),
    status                 text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'suspended', 'revoked')),
    backup                 boolean     NOT NULL DEFAULT false, -- consent to be charged when another method of the customer fails
    psp_account_id         uuid,       -- where the first payment was made; later ones go there too
    network_transaction_id text,       -- of the first payment
    payment_id             uuid,       -- the first payment
    operation_id           uuid,       -- its charge
    authenticated          boolean     NOT NULL DEFAULT false, -- the customer was challenged in the first payment
    text_version           text        NOT NULL CHECK (length(text_version) BETWEEN 1 AND 100), -- of what the customer agreed to
    accepted_at            timestamptz NOT NULL,
    acceptance             bytea,      -- address and browser of that moment, sealed under the person's key
    suspended_because      text,
    revoked_because        text        CHECK (revoked_because IN ('customer', 'merchant', 'issuer', 'method_detached', 'customer_deleted')),
    metadata               jsonb       NOT NULL DEFAULT '{}',
    sequence               integer     NOT NULL DEFAULT 1,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    activated_at           timestamptz,
    revoked_at             timestamptz,
    PRIMARY KEY (tenant_id, live, mandate_id),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers,
    FOREIGN KEY (tenant_id, live, payment_method_id) REFERENCES payment_methods,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL AND revoked_because IS NOT NULL)),
    CHECK (status NOT IN ('active', 'suspended') OR activated_at IS NOT NULL)
);
CREATE INDEX mandates_of_method ON mandates (tenant_id, live, payment_method_id);
CREATE INDEX mandates_of_customer ON mandates (tenant_id, live, customer_id);
CREATE TRIGGER keep BEFORE DELETE ON mandates FOR EACH ROW EXECUTE FUNCTION refuse_delete();

CREATE FUNCTION guard_mandate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status = 'revoked' AND NEW.status <> 'revoked' THEN
        RAISE EXCEPTION 'a revoked mandate stays revoked' USING ERRCODE = 'CS901';
    END IF;
    IF (NEW.customer_id, NEW.payment_method_id, NEW.purpose, NEW.text_version, NEW.accepted_at, NEW.created_at)
       IS DISTINCT FROM
       (OLD.customer_id, OLD.payment_method_id, OLD.purpose, OLD.text_version, OLD.accepted_at, OLD.created_at) THEN
        RAISE EXCEPTION 'what a customer agreed to does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON mandates FOR EACH ROW EXECUTE FUNCTION guard_mandate();

ALTER TABLE payment_intents
    ADD COLUMN mandate_id uuid, -- activated by this payment's success, or what its merchant-initiated charges rest on
    ADD COLUMN invoice_id uuid, -- the foreign key comes with the table
    ADD FOREIGN KEY (tenant_id, live, mandate_id) REFERENCES mandates,
    DROP CONSTRAINT payment_intents_amount_minor_check,
    -- Zero verifies a card without charging it: an authorisation of nothing, never captured.
    ADD CONSTRAINT payment_intents_amount_minor_check
        CHECK (amount_minor BETWEEN CASE capture_method WHEN 'manual' THEN 0 ELSE 1 END AND 1000000000000);
-- At most one intent per invoice, and one_charge_per_payment: so at most one live-or-succeeded charge per invoice.
CREATE UNIQUE INDEX one_payment_per_invoice ON payment_intents (tenant_id, live, invoice_id) WHERE invoice_id IS NOT NULL;

ALTER TABLE operations
    ADD COLUMN merchant_initiated boolean NOT NULL DEFAULT false,
    ADD COLUMN mandate_id uuid,
    ADD COLUMN clock_at timestamptz, -- the time of the customer's test clock, when there is one
    -- What the PSP is told about the mandate, as it was when the charge was reserved: a charge that is sent again says the same.
    ADD COLUMN credential jsonb,
    ADD FOREIGN KEY (tenant_id, live, mandate_id) REFERENCES mandates,
    DROP CONSTRAINT operations_amount_minor_check,
    ADD CONSTRAINT operations_amount_minor_check
        CHECK (amount_minor BETWEEN CASE WHEN kind IN ('authorize', 'void') THEN 0 ELSE 1 END AND 1000000000000),
    -- No merchant-initiated charge without a mandate; needs_mandate sees to it that it is an active one.
    ADD CONSTRAINT merchant_initiated_has_mandate CHECK (NOT merchant_initiated OR mandate_id IS NOT NULL);
-- What was tried with a card: the schemes count by it.
CREATE INDEX operations_of_method ON operations (tenant_id, live, payment_method_id, created_at)
    WHERE kind IN ('authorize', 'purchase');
-- What a test clock waits for.
CREATE INDEX operations_under_a_clock ON operations (tenant_id, live)
    WHERE clock_at IS NOT NULL AND state IN ('prepared', 'submitted', 'pending', 'unknown');
CREATE INDEX payment_methods_by_fingerprint ON payment_methods (tenant_id, live, fingerprint);

-- How the payer was authenticated, as the PSP says: {"challenged", "version", "eci", "ds_transaction_id"}.
ALTER TABLE facts ADD COLUMN authentication jsonb;

CREATE FUNCTION needs_mandate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Shared: a revocation waits for charges being reserved, and none is reserved after it.
    PERFORM FROM mandates
    WHERE tenant_id = NEW.tenant_id AND live = NEW.live AND mandate_id = NEW.mandate_id AND status = 'active'
      AND payment_method_id = NEW.payment_method_id
    FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no active mandate for a merchant-initiated charge' USING ERRCODE = 'CS903';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER needs_mandate BEFORE INSERT ON operations FOR EACH ROW WHEN (NEW.merchant_initiated)
    EXECUTE FUNCTION needs_mandate();

CREATE OR REPLACE FUNCTION guard_operation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (NOT operation_may_become(OLD.state, NEW.state)
                                   OR (NEW.state = 'reversed' AND NEW.kind <> 'refund')) THEN
        RAISE EXCEPTION 'an operation cannot go from % to %', OLD.state, NEW.state USING ERRCODE = 'CS901';
    END IF;
    IF (NEW.tenant_id, NEW.live, NEW.operation_id, NEW.payment_id, NEW.kind, NEW.amount_minor, NEW.currency, NEW.psp_account_id,
        NEW.payment_method_id, NEW.parent_id, NEW.final, NEW.created_at, NEW.merchant_initiated, NEW.mandate_id, NEW.clock_at,
        NEW.credential)
       IS DISTINCT FROM
       (OLD.tenant_id, OLD.live, OLD.operation_id, OLD.payment_id, OLD.kind, OLD.amount_minor, OLD.currency, OLD.psp_account_id,
        OLD.payment_method_id, OLD.parent_id, OLD.final, OLD.created_at, OLD.merchant_initiated, OLD.mandate_id, OLD.clock_at,
        OLD.credential)
       OR (OLD.psp_ref IS NOT NULL AND NEW.psp_ref IS DISTINCT FROM OLD.psp_ref)
       OR (NEW.psp_key <> OLD.psp_key AND NEW.generation <= OLD.generation) THEN
        RAISE EXCEPTION 'what an operation was meant to do does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['test_clocks', 'mandates']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON test_clocks, mandates TO {{app_role}};
