-- Plans, coupons, subscriptions and their invoices. The shapes of 0001 hold.

-- What a request without a payment works on, so that a repetition after a crash goes on with it.
ALTER TABLE idempotency_keys ADD COLUMN subject_id uuid;

-- Partial, so that it is no key that others may refer to: erasing a customer's reference then waits for nobody who writes a row of his,
-- and a deletion can end his subscriptions without meeting a charge half-way.
ALTER TABLE customers DROP CONSTRAINT customers_tenant_id_live_reference_key;
CREATE UNIQUE INDEX customers_tenant_id_live_reference_key ON customers (tenant_id, live, reference) WHERE reference IS NOT NULL;

-- How a tenant bills: one row per tenant and mode, made when it is first needed.
CREATE TABLE billing_settings (
    tenant_id          uuid        NOT NULL REFERENCES tenants,
    live               boolean     NOT NULL,
    seller             jsonb       NOT NULL DEFAULT '{}', -- name, address lines, tax id, e-mail: printed on invoices
    language           text        NOT NULL DEFAULT 'en' CHECK (language IN ('en', 'fr', 'de', 'es')),
    invoice_prefix     text        NOT NULL DEFAULT 'INV-' CHECK (length(invoice_prefix) <= 20),
    invoice_next       bigint      NOT NULL DEFAULT 1 CHECK (invoice_next >= 1), -- numbers have no gaps: taken in the transaction that opens
    credit_note_prefix text        NOT NULL DEFAULT 'CN-' CHECK (length(credit_note_prefix) <= 20),
    credit_note_next   bigint      NOT NULL DEFAULT 1 CHECK (credit_note_next >= 1),
    catch_up           text        NOT NULL DEFAULT 'newest' CHECK (catch_up IN ('newest', 'all')), -- what is charged after downtime
    mails              boolean     NOT NULL DEFAULT true,
    dunning_plan_id    uuid,       -- null: the plan that comes with Clearspan
    sequence           integer     NOT NULL DEFAULT 1,
    updated_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live)
);

-- What is sold. Amounts and interval never change: what customers agreed to stays what it was. A new price is a new plan.
CREATE TABLE plans (
    tenant_id      uuid        NOT NULL REFERENCES tenants,
    live           boolean     NOT NULL,
    plan_id        uuid        NOT NULL,
    name           text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200), -- stands on invoices
    reference      text,
    amounts        jsonb       NOT NULL, -- {"EUR": 900}: minor units for one unit and period
    setup_fees     jsonb       NOT NULL DEFAULT '{}', -- the same, once
    interval_unit  text        NOT NULL CHECK (interval_unit IN ('day', 'week', 'month', 'year')),
    interval_count integer     NOT NULL CHECK (interval_count BETWEEN 1 AND 366),
    trial_days     integer     NOT NULL DEFAULT 0 CHECK (trial_days BETWEEN 0 AND 1095),
    tax            jsonb,      -- {"name", "rate_bp", "inclusive"} as the merchant gave it; null: none
    status         text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'archived')),
    metadata       jsonb       NOT NULL DEFAULT '{}',
    sequence       integer     NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, plan_id),
    UNIQUE (tenant_id, live, reference)
);
CREATE TRIGGER keep BEFORE DELETE ON plans FOR EACH ROW EXECUTE FUNCTION refuse_delete();

CREATE TABLE coupons (
    tenant_id       uuid        NOT NULL REFERENCES tenants,
    live            boolean     NOT NULL,
    coupon_id       uuid        NOT NULL,
    code            text        NOT NULL CHECK (code ~ '^[A-Za-z0-9_-]{1,60}$'),
    name            text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    percent_bp      integer     CHECK (percent_bp BETWEEN 1 AND 10000), -- basis points of what is billed
    amounts         jsonb,      -- or {"EUR": 500} off each invoice
    duration        text        NOT NULL CHECK (duration IN ('once', 'repeating', 'forever')),
    periods         integer     CHECK (periods BETWEEN 1 AND 1000), -- of repeating ones
    redeem_by       timestamptz,
    redemptions_max integer     CHECK (redemptions_max >= 1),
    redemptions     integer     NOT NULL DEFAULT 0,
    status          text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'archived')),
    metadata        jsonb       NOT NULL DEFAULT '{}',
    sequence        integer     NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, coupon_id),
    UNIQUE (tenant_id, live, code),
    CHECK ((percent_bp IS NULL) <> (amounts IS NULL)),
    CHECK ((duration = 'repeating') = (periods IS NOT NULL)),
    CHECK (redemptions <= redemptions_max)
);
CREATE TRIGGER keep BEFORE DELETE ON coupons FOR EACH ROW EXECUTE FUNCTION refuse_delete();

-- A subscription. Period number k runs from period_start(k) to period_start(k + 1), each computed from the anchor in the
-- subscription's zone, never from the period before (subscription_period in subscriptions.sql, models.period_start in Python).
CREATE TABLE subscriptions (
    tenant_id            uuid        NOT NULL REFERENCES tenants,
    live                 boolean     NOT NULL,
    subscription_id      uuid        NOT NULL,
    customer_id          uuid        NOT NULL,
    status               text        NOT NULL CHECK (status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due',
                                                                'unpaid', 'paused', 'canceled')),
    currency             text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    interval_unit        text        NOT NULL CHECK (interval_unit IN ('day', 'week', 'month', 'year')),
    interval_count       integer     NOT NULL CHECK (interval_count BETWEEN 1 AND 366),
    time_zone            text        NOT NULL, -- IANA name
    anchor_local         timestamp   NOT NULL, -- wall time in time_zone; may lie before the start
    period_no            integer     NOT NULL, -- k of the current period; -1 during a trial
    current_period_start timestamptz NOT NULL,
    current_period_end   timestamptz NOT NULL,
    -- When the scheduler must act on it: the end of the period or trial, the end of a pause, the end of an incomplete one's time.
    -- Null: never by itself.
    next_at              timestamptz,
    started_at           timestamptz NOT NULL, -- may be backdated
    trial_end_at         timestamptz,
    incomplete_until     timestamptz,
    payment_method_id    uuid,
    mandate_id           uuid,
    psp_account_id       uuid,       -- null: the mandate's, else by routing
    dunning_plan_id      uuid,       -- null: the tenant's
    coupon_id            uuid,
    discount_periods_left integer    CHECK (discount_periods_left >= 0), -- null: for ever, or no coupon
    credit_minor         bigint      NOT NULL DEFAULT 0 CHECK (credit_minor >= 0), -- owed to the customer; the next invoices use it up
    pending_change       jsonb,      -- what is changed at the end of the period: {"items": [...]}
    cancel_at            timestamptz,
    cancel_at_period_end boolean     NOT NULL DEFAULT false,
    canceled_at          timestamptz, -- when it was asked for
    ended_at             timestamptz, -- when it took effect
    cancellation_reason  text,
    paused_at            timestamptz,
    resume_at            timestamptz,
    status_before_pause  text        CHECK (status_before_pause IN ('trialing', 'active', 'past_due')),
    description          text,
    reference            text,
    metadata             jsonb       NOT NULL DEFAULT '{}',
    test_clock_id        uuid,
    sequence             integer     NOT NULL DEFAULT 1,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, subscription_id),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers,
    FOREIGN KEY (tenant_id, live, payment_method_id) REFERENCES payment_methods,
    FOREIGN KEY (tenant_id, live, mandate_id) REFERENCES mandates,
    FOREIGN KEY (tenant_id, live, psp_account_id) REFERENCES psp_accounts,
    FOREIGN KEY (tenant_id, live, coupon_id) REFERENCES coupons,
    FOREIGN KEY (tenant_id, live, test_clock_id) REFERENCES test_clocks,
    CHECK (current_period_end > current_period_start),
    CHECK ((status IN ('canceled', 'incomplete_expired')) = (ended_at IS NOT NULL)),
    CHECK (ended_at IS NULL OR next_at IS NULL),
    CHECK ((status = 'paused') = (paused_at IS NOT NULL AND status_before_pause IS NOT NULL))
) WITH (fillfactor = 80);
-- Only those that can be due, and the next batch begins where the last one ended.
CREATE INDEX subscriptions_due ON subscriptions (next_at, subscription_id) WHERE next_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX subscriptions_due_of_tenant ON subscriptions (tenant_id, live, next_at, subscription_id)
    WHERE next_at IS NOT NULL AND test_clock_id IS NULL;
-- What needs more than a plain renewal, so that a million of those need not be looked through for it.
CREATE INDEX subscriptions_due_specially ON subscriptions (tenant_id, live, next_at, subscription_id)
    WHERE next_at IS NOT NULL AND test_clock_id IS NULL AND (status IN ('incomplete', 'paused', 'unpaid') OR cancel_at IS NOT NULL
          OR cancel_at_period_end OR pending_change IS NOT NULL OR next_at < current_period_end);
CREATE INDEX subscriptions_of_clock ON subscriptions (tenant_id, live, test_clock_id, next_at) WHERE test_clock_id IS NOT NULL;
CREATE INDEX subscriptions_of_customer ON subscriptions (tenant_id, live, customer_id);
CREATE INDEX subscriptions_of_mandate ON subscriptions (tenant_id, live, mandate_id) WHERE mandate_id IS NOT NULL;
CREATE INDEX subscriptions_newest ON subscriptions (tenant_id, live, created_at DESC, subscription_id DESC);
CREATE INDEX subscriptions_by_reference ON subscriptions (tenant_id, live, reference) WHERE reference IS NOT NULL;
CREATE TRIGGER keep BEFORE DELETE ON subscriptions FOR EACH ROW EXECUTE FUNCTION refuse_delete();

CREATE FUNCTION guard_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL AND (NEW.status, NEW.ended_at) IS DISTINCT FROM (OLD.status, OLD.ended_at) THEN
        RAISE EXCEPTION 'a subscription that has ended stays ended' USING ERRCODE = 'CS901';
    END IF;
    IF (NEW.customer_id, NEW.currency, NEW.test_clock_id, NEW.created_at)
       IS DISTINCT FROM (OLD.customer_id, OLD.currency, OLD.test_clock_id, OLD.created_at) THEN
        RAISE EXCEPTION 'whose subscription it is does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION guard_subscription();

-- What is billed each period, in the order it stands on the invoice. The unit amount is the plan's, copied.
CREATE TABLE subscription_items (
    tenant_id         uuid    NOT NULL,
    live              boolean NOT NULL,
    subscription_id   uuid    NOT NULL,
    item_id           uuid    NOT NULL,
    position          integer NOT NULL,
    plan_id           uuid    NOT NULL,
    description       text    NOT NULL,
    quantity          integer NOT NULL CHECK (quantity BETWEEN 0 AND 1000000),
    unit_amount_minor bigint  NOT NULL CHECK (unit_amount_minor BETWEEN 0 AND 1000000000000),
    tax               jsonb,
    PRIMARY KEY (tenant_id, live, subscription_id, item_id),
    FOREIGN KEY (tenant_id, live, subscription_id) REFERENCES subscriptions,
    FOREIGN KEY (tenant_id, live, plan_id) REFERENCES plans
);
CREATE INDEX subscription_items_of_plan ON subscription_items (tenant_id, live, plan_id);

-- An invoice: total = subtotal - discount + tax (tax that is not in the prices), due = total - credit used. Every amount is a sum
-- over its lines. Once open, amounts, lines and number never change.
CREATE TABLE invoices (
    tenant_id         uuid        NOT NULL, -- of the customer, and so of a tenant: checked once
    live              boolean     NOT NULL,
    invoice_id        uuid        NOT NULL,
    customer_id       uuid        NOT NULL,
    subscription_id   uuid,
    number            text,       -- from the moment it is open
    status            text        NOT NULL CHECK (status IN ('draft', 'open', 'paid', 'void', 'uncollectible')),
    reason            text        NOT NULL CHECK (reason IN ('first', 'cycle', 'change', 'manual')),
    collection        text        NOT NULL DEFAULT 'automatic' CHECK (collection IN ('automatic', 'held')), -- held: a missed period
    currency          text        NOT NULL,
    period_start      timestamptz NOT NULL,
    period_end        timestamptz NOT NULL,
    subtotal_minor    bigint      NOT NULL,
    discount_minor    bigint      NOT NULL DEFAULT 0 CHECK (discount_minor >= 0),
    tax_minor         bigint      NOT NULL DEFAULT 0, -- all of it; tax_added_minor is the part that comes on top
    tax_added_minor   bigint      NOT NULL DEFAULT 0,
    total_minor       bigint      NOT NULL CHECK (total_minor >= 0),
    credit_used_minor bigint      NOT NULL DEFAULT 0 CHECK (credit_used_minor >= 0),
    due_minor         bigint      NOT NULL CHECK (due_minor >= 0),
    credited_minor    bigint      NOT NULL DEFAULT 0 CHECK (credited_minor >= 0), -- by credit notes
    payment_id        uuid,       -- from the first try on
    payment_locked    boolean     NOT NULL DEFAULT false, -- a charge is under way or its outcome is unknown: nobody may try another
    coupon_id         uuid,
    description       text,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    test_clock_id     uuid,
    sequence          integer     NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    opened_at         timestamptz,
    paid_at           timestamptz,
    closed_at         timestamptz, -- void or uncollectible
    PRIMARY KEY (tenant_id, live, invoice_id),
    UNIQUE (tenant_id, live, number),
    FOREIGN KEY (tenant_id, live, customer_id) REFERENCES customers,
    FOREIGN KEY (tenant_id, live, subscription_id) REFERENCES subscriptions,
    FOREIGN KEY (tenant_id, live, payment_id) REFERENCES payment_intents,
    FOREIGN KEY (tenant_id, live, test_clock_id) REFERENCES test_clocks,
    -- Where plans of different taxes change places, one part of what is given back may be more than its counterpart.
    CHECK (reason = 'change' OR (subtotal_minor >= 0 AND tax_minor >= 0 AND tax_added_minor >= 0)),
    CHECK (total_minor = subtotal_minor - discount_minor + tax_added_minor),
    CHECK (due_minor = total_minor - credit_used_minor),
    CHECK (credited_minor <= total_minor),
    CHECK (status = 'void' OR (status = 'draft') = (number IS NULL)) -- a draft that is void never had one
) WITH (fillfactor = 80);
-- One invoice per period, however many schedulers there are.
CREATE UNIQUE INDEX one_invoice_per_period ON invoices (tenant_id, live, subscription_id, period_start)
    WHERE reason IN ('first', 'cycle');
CREATE INDEX invoices_newest ON invoices (tenant_id, live, created_at DESC, invoice_id DESC);
CREATE INDEX invoices_of_subscription ON invoices (tenant_id, live, subscription_id, period_start) WHERE subscription_id IS NOT NULL;
CREATE INDEX invoices_of_customer ON invoices (tenant_id, live, customer_id);
CREATE TRIGGER keep BEFORE DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION refuse_delete();
ALTER TABLE payment_intents ADD FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES invoices;

CREATE FUNCTION invoice_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE before
        WHEN 'draft'         THEN after IN ('open', 'paid', 'void')
        WHEN 'open'          THEN after IN ('paid', 'void', 'uncollectible')
        WHEN 'uncollectible' THEN after IN ('paid', 'void')
        ELSE false
    END;
CREATE FUNCTION guard_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status AND NOT invoice_may_become(OLD.status, NEW.status) THEN
        RAISE EXCEPTION 'an invoice cannot go from % to %', OLD.status, NEW.status USING ERRCODE = 'CS901';
    END IF;
    IF OLD.status <> 'draft' AND (NEW.number, NEW.currency, NEW.period_start, NEW.period_end, NEW.subtotal_minor,
        NEW.discount_minor, NEW.tax_minor, NEW.total_minor, NEW.due_minor, NEW.customer_id, NEW.subscription_id, NEW.reason)
       IS DISTINCT FROM (OLD.number, OLD.currency, OLD.period_start, OLD.period_end, OLD.subtotal_minor,
        OLD.discount_minor, OLD.tax_minor, OLD.total_minor, OLD.due_minor, OLD.customer_id, OLD.subscription_id, OLD.reason)
       OR (OLD.payment_id IS NOT NULL AND NEW.payment_id IS DISTINCT FROM OLD.payment_id) THEN
        RAISE EXCEPTION 'what an open invoice asks for does not change' USING ERRCODE = 'CS902';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION guard_invoice();

CREATE TABLE invoice_lines (
    tenant_id         uuid        NOT NULL,
    live              boolean     NOT NULL,
    invoice_id        uuid        NOT NULL,
    position          integer     NOT NULL,
    kind              text        NOT NULL CHECK (kind IN ('period', 'setup_fee', 'proration', 'manual')),
    plan_id           uuid,
    description       text        NOT NULL,
    quantity          integer     NOT NULL,
    unit_amount_minor bigint      NOT NULL,
    amount_minor      bigint      NOT NULL, -- negative for what an upgrade or downgrade gives back
    discount_minor    bigint      NOT NULL DEFAULT 0 CHECK (discount_minor >= 0),
    tax_name          text,
    tax_rate_bp       integer,    -- null: the amount was given, or there is none
    tax_inclusive     boolean     NOT NULL DEFAULT true,
    tax_minor         bigint      NOT NULL DEFAULT 0,
    period_start      timestamptz,
    period_end        timestamptz,
    PRIMARY KEY (tenant_id, live, invoice_id, position),
    FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES invoices
);
-- A line, once written, stays; a draft that is wrong is void.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What takes an invoice back, in whole or in part. Append-only.
CREATE TABLE credit_notes (
    tenant_id      uuid        NOT NULL,
    live           boolean     NOT NULL,
    credit_note_id uuid        NOT NULL,
    invoice_id     uuid        NOT NULL,
    number         text        NOT NULL,
    amount_minor   bigint      NOT NULL CHECK (amount_minor >= 1), -- tax included
    tax_minor      bigint      NOT NULL DEFAULT 0 CHECK (tax_minor >= 0), -- as given
    currency       text        NOT NULL,
    settled_by     text        NOT NULL CHECK (settled_by IN ('refund', 'credit', 'reduction')),
    refund_id      uuid,       -- the refund's operation, when money goes back
    reason         text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    metadata       jsonb       NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, live, credit_note_id),
    UNIQUE (tenant_id, live, number),
    FOREIGN KEY (tenant_id, live, invoice_id) REFERENCES invoices
);
CREATE INDEX credit_notes_of_invoice ON credit_notes (tenant_id, live, invoice_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON credit_notes FOR EACH ROW EXECUTE FUNCTION refuse_change();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['billing_settings', 'plans', 'coupons', 'subscriptions', 'subscription_items', 'invoices',
                                'invoice_lines', 'credit_notes']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);
        EXECUTE format('CREATE POLICY of_system ON %I FOR SELECT TO CURRENT_USER USING (app_system())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON billing_settings, plans, coupons, subscriptions, invoices TO {{app_role}};
GRANT SELECT, INSERT ON invoice_lines, credit_notes TO {{app_role}};
GRANT SELECT, INSERT, UPDATE, DELETE ON subscription_items TO {{app_role}};
