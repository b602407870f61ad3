-- The ledger: append-only double entry. Every change of a payment's totals is a transfer of two or more entries that sum to zero,
-- posted in the transaction of the change (ledger/sql/ledger.sql); docs/ledger.md has the chart of accounts.
-- Debits are positive, credits negative. A balance is a sum of entries: there is no row that every payment of a tenant would
-- have to lock.

CREATE TABLE ledger_entries (
    tenant_id      uuid        NOT NULL,
    live           boolean     NOT NULL,
    at             timestamptz NOT NULL, -- the same for all entries of a transfer
    transfer_id    uuid        NOT NULL, -- the id of the event that told the change; of an opening transfer the payment's
    account        text        NOT NULL CHECK (account IN ('authorized', 'payer_commitment', 'released', 'in_transit', 'captured',
        'refunded', 'disputed', 'returned', 'surplus', 'fees')),
    amount_minor   bigint      NOT NULL CHECK (amount_minor <> 0),
    currency       text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    kind           text        NOT NULL CHECK (kind IN ('authorize', 'purchase', 'capture', 'void', 'refund', 'reversal', 'surplus',
        'dispute', 'fee', 'opening')),
    payment_id     uuid        NOT NULL,
    operation_id   uuid,       -- what caused it, unless a dispute did
    dispute_id     uuid,
    psp_account_id uuid,       -- who owes what is in transit
    PRIMARY KEY (tenant_id, live, at, transfer_id, account),
    -- The one reference that is enforced: the payment is locked by whoever posts, so it costs no waiting. It is there as long as its
    -- operations and its account, which it refers to itself.
    FOREIGN KEY (tenant_id, live, payment_id) REFERENCES payment_intents
);

-- Payments from before the ledger open it with what they stand at, as of their last change. Charges that arrived although they had
-- been given up are transfers of their own, since they may lie at another account than the payment's charge. Row security is not
-- on yet, so that one statement can write for every tenant; the owner reads them by app.system.
SELECT set_config('app.system', 'on', true);
INSERT INTO ledger_entries
SELECT i.tenant_id, i.live, i.updated_at, i.payment_id, line.account, line.amount_minor, i.currency, 'opening', i.payment_id,
       i.charge_operation_id, NULL, i.psp_account_id
FROM payment_intents i CROSS JOIN LATERAL (VALUES
    ('authorized', i.authorized_minor - i.captured_minor - i.voided_minor),
    ('payer_commitment', i.captured_minor - i.authorized_minor),
    ('released', i.voided_minor),
    ('in_transit', i.captured_minor - i.refunded_minor - i.disputed_minor - i.returned_minor),
    ('captured', -i.captured_minor),
    ('refunded', i.refunded_minor),
    ('disputed', i.disputed_minor),
    ('returned', i.returned_minor)) AS line (account, amount_minor)
WHERE line.amount_minor <> 0;
INSERT INTO ledger_entries
SELECT o.tenant_id, o.live, o.decided_at, o.operation_id, line.account, line.amount_minor, o.currency, 'opening', o.payment_id,
       o.operation_id, NULL, o.psp_account_id
FROM operations o CROSS JOIN LATERAL (VALUES
    (CASE o.kind WHEN 'authorize' THEN 'authorized' ELSE 'in_transit' END, o.amount_minor),
    ('surplus', -o.amount_minor)) AS line (account, amount_minor)
WHERE o.state = 'surplus' AND o.kind IN ('authorize', 'purchase');
SELECT set_config('app.system', '', true);

CREATE INDEX ledger_entries_of_payment ON ledger_entries (tenant_id, live, payment_id);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger_entries FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_all BEFORE TRUNCATE ON ledger_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- At commit, whoever wrote: the entries of a transfer sum to zero, per currency. Entries that row security hides from the writer by
-- then count as missing.
CREATE FUNCTION transfer_sums_to_zero() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(amount_minor) FROM ledger_entries
        WHERE tenant_id = NEW.tenant_id AND live = NEW.live AND at = NEW.at AND transfer_id = NEW.transfer_id
          AND currency = NEW.currency) IS DISTINCT FROM 0 THEN
        RAISE EXCEPTION 'transfer % does not sum to zero', NEW.transfer_id USING ERRCODE = 'CS903';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER sums_to_zero AFTER INSERT ON ledger_entries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION transfer_sums_to_zero();

ALTER TABLE ledger_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON ledger_entries USING (tenant_id = app_tenant() AND live = app_live());
CREATE POLICY of_system ON ledger_entries FOR SELECT TO CURRENT_USER USING (app_system());
GRANT SELECT, INSERT ON ledger_entries TO {{app_role}};
