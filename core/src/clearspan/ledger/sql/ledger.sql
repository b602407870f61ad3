-- Double entry: posting what changed, reading it, and comparing it with the totals of payments.

-- Post what changed in a payment's totals, in the transaction of the change: one transfer, or nothing when nothing changed.
--   p            {now, event_ids, dispute_id?, psp_account_id?}: the transfer takes the id of the first event, which no other call
--                has; dispute and account are those of a dispute
--   before,after the intent's row before and after; before may be a null row
--   op           the operation that caused it, as it is now; a null row when a dispute did
--   fee_before   its fee before; null is none
-- The authorisation of a charge that is captured in the same moment needs no entries of its own: its legs cancel.
CREATE OR REPLACE FUNCTION ledger_post_{{v}}(p jsonb, before payment_intents, after payment_intents, op operations,
                                             fee_before bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    authorized bigint := after.authorized_minor - COALESCE(before.authorized_minor, 0);
    captured bigint := after.captured_minor - COALESCE(before.captured_minor, 0);
    voided bigint := after.voided_minor - COALESCE(before.voided_minor, 0);
    refunded bigint := after.refunded_minor - COALESCE(before.refunded_minor, 0);
    disputed bigint := after.disputed_minor - COALESCE(before.disputed_minor, 0);
    returned bigint := after.returned_minor - COALESCE(before.returned_minor, 0);
    surplus bigint := after.surplus_minor - COALESCE(before.surplus_minor, 0);
    fee bigint := COALESCE(op.fee_minor, 0) - COALESCE(fee_before, 0);
    moved boolean := (authorized, captured, voided, refunded, disputed, returned, surplus) <> (0, 0, 0, 0, 0, 0, 0);
BEGIN
    IF NOT moved AND fee = 0 THEN
        RETURN;
    END IF;
    INSERT INTO ledger_entries (tenant_id, live, at, transfer_id, account, amount_minor, currency, kind, payment_id, operation_id,
                                dispute_id, psp_account_id)
    SELECT after.tenant_id, after.live, (p->>'now')::timestamptz, (p->'event_ids'->>0)::uuid, line.account, line.amount,
           after.currency, CASE WHEN NOT moved THEN 'fee' WHEN op.operation_id IS NULL THEN 'dispute'
                                WHEN op.state = 'reversed' THEN 'reversal' WHEN op.state = 'surplus' THEN 'surplus' ELSE op.kind END,
           after.payment_id, op.operation_id, (p->>'dispute_id')::uuid,
           COALESCE(op.psp_account_id, (p->>'psp_account_id')::uuid, after.psp_account_id)
    FROM (VALUES
        -- A surplus authorisation is only held by the PSP, a surplus purchase was taken.
        ('authorized', authorized - captured - voided + CASE after.capture_method WHEN 'manual' THEN surplus ELSE 0 END),
        ('payer_commitment', captured - authorized),
        ('released', voided),
        ('in_transit', captured - refunded - disputed - returned - fee
                       + CASE after.capture_method WHEN 'manual' THEN 0 ELSE surplus END),
        ('captured', -captured),
        ('refunded', refunded),
        ('disputed', disputed),
        ('returned', returned),
        ('surplus', -surplus),
        ('fees', fee)) AS line (account, amount)
    WHERE line.amount <> 0;
END $$;

-- Balances by currency and account: {tenant_id, live, currency?, psp_account_id?, before?}.
CREATE OR REPLACE FUNCTION ledger_balances_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    -- INTO, and not RETURN (SELECT ...), which would never run in parallel.
    SELECT COALESCE(jsonb_agg(jsonb_build_object('currency', b.currency, 'account', b.account, 'balance_minor', b.balance)
                              ORDER BY b.currency, b.account), '[]') INTO found
    FROM (SELECT e.currency, e.account, sum(e.amount_minor)::bigint AS balance FROM ledger_entries e
          WHERE e.tenant_id = (p->>'tenant_id')::uuid AND e.live = (p->>'live')::boolean
            AND (p->>'currency' IS NULL OR e.currency = p->>'currency')
            AND (p->>'psp_account_id' IS NULL OR e.psp_account_id = (p->>'psp_account_id')::uuid)
            AND (p->>'before' IS NULL OR e.at < (p->>'before')::timestamptz)
          GROUP BY e.currency, e.account) AS b;
    RETURN found;
END $$;

-- A page of entries, newest first. Conditions are added only when asked for, so that each filter meets its index.
CREATE OR REPLACE FUNCTION ledger_page_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    conditions text := concat_ws(' AND ', 'e.tenant_id = ($1->>''tenant_id'')::uuid AND e.live = ($1->>''live'')::boolean',
        CASE WHEN p->>'payment_id' IS NOT NULL THEN 'e.payment_id = ($1->>''payment_id'')::uuid' END,
        CASE WHEN p->>'account' IS NOT NULL THEN 'e.account = $1->>''account''' END,
        CASE WHEN p->>'created_after' IS NOT NULL THEN 'e.at >= ($1->>''created_after'')::timestamptz' END,
        CASE WHEN p->>'created_before' IS NOT NULL THEN 'e.at < ($1->>''created_before'')::timestamptz' END,
        CASE WHEN p->'place' IS NOT NULL THEN '(e.at, e.transfer_id, e.account) < (($1->''place''->>0)::timestamptz,'
            ' ($1->''place''->>1)::uuid, $1->''place''->>2)' END);
    page jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    EXECUTE 'SELECT COALESCE(jsonb_agg(to_jsonb(page) - ''tenant_id'' - ''live''), ''[]'') FROM (SELECT e.* FROM ledger_entries e'
        ' WHERE ' || conditions || ' ORDER BY e.at DESC, e.transfer_id DESC, e.account DESC LIMIT ($1->>''limit'')::integer) AS page'
        INTO page USING p;
    RETURN page;
END $$;

-- Comparing. Both look at a page of one tenant and mode under one snapshot (STABLE), and answer {differences, looked, next}: what
-- does not agree, how many rows were looked at, and where the next page begins; null at the end.

-- Payments against the ledger: {tenant_id, live, limit, after?}, in the order of creation. Each account has the balance that the
-- payment's totals and its operations' fees say.
CREATE OR REPLACE FUNCTION ledger_check_payments_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (
        WITH page AS MATERIALIZED (
            SELECT i.* FROM payment_intents i
            WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean
              AND (i.created_at, i.payment_id) > (COALESCE((p->'after'->>0)::timestamptz, '-infinity'),
                   COALESCE((p->'after'->>1)::uuid, '00000000-0000-0000-0000-000000000000'))
            ORDER BY i.created_at, i.payment_id LIMIT (p->>'limit')::integer),
        fees AS (
            SELECT o.payment_id, sum(o.fee_minor) AS fee FROM page JOIN operations o USING (tenant_id, live, payment_id)
            WHERE o.fee_minor IS NOT NULL GROUP BY o.payment_id),
        expected AS (
            SELECT i.payment_id, i.currency, line.account, line.amount
            FROM page i LEFT JOIN fees USING (payment_id) CROSS JOIN LATERAL (VALUES
                ('authorized', i.authorized_minor - i.captured_minor - i.voided_minor
                               + CASE i.capture_method WHEN 'manual' THEN i.surplus_minor ELSE 0 END),
                ('payer_commitment', i.captured_minor - i.authorized_minor),
                ('released', i.voided_minor),
                ('in_transit', i.captured_minor - i.refunded_minor - i.disputed_minor - i.returned_minor - COALESCE(fees.fee, 0)
                               + CASE i.capture_method WHEN 'manual' THEN 0 ELSE i.surplus_minor END),
                ('captured', -i.captured_minor),
                ('refunded', i.refunded_minor),
                ('disputed', i.disputed_minor),
                ('returned', i.returned_minor),
                ('surplus', -i.surplus_minor),
                ('fees', COALESCE(fees.fee, 0))) AS line (account, amount)
            WHERE line.amount <> 0),
        posted AS (
            SELECT e.payment_id, e.currency, e.account, sum(e.amount_minor) AS amount
            FROM page JOIN ledger_entries e USING (tenant_id, live, payment_id)
            GROUP BY e.payment_id, e.currency, e.account)
        SELECT jsonb_build_object(
            'looked', (SELECT count(*) FROM page),
            'next', (SELECT CASE WHEN (SELECT count(*) FROM page) = (p->>'limit')::integer
                                 THEN jsonb_build_array(l.created_at, l.payment_id) END
                     FROM page l ORDER BY l.created_at DESC, l.payment_id DESC LIMIT 1),
            'differences', (
                SELECT COALESCE(jsonb_agg(jsonb_build_object('payment_id', payment_id, 'currency', currency, 'account', account,
                    'expected', COALESCE(e.amount, 0), 'found', COALESCE(f.amount, 0)) ORDER BY payment_id, account), '[]')
                FROM expected e FULL JOIN posted f USING (payment_id, currency, account)
                WHERE COALESCE(e.amount, 0) <> COALESCE(f.amount, 0))));
END $$;

-- The ledger against itself: {tenant_id, live, limit, after?}, a page of entries in the order of time; a transfer that does not fit
-- wholly is left to the next page. Each transfer sums to zero per currency and belongs to one payment that is there, in its
-- currency. `sums` are the page's entries by currency and account.
CREATE OR REPLACE FUNCTION ledger_check_transfers_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (
        WITH looked AS MATERIALIZED (
            SELECT e.* FROM ledger_entries e
            WHERE e.tenant_id = (p->>'tenant_id')::uuid AND e.live = (p->>'live')::boolean
              AND (e.at, e.transfer_id) > (COALESCE((p->'after'->>0)::timestamptz, '-infinity'),
                   COALESCE((p->'after'->>1)::uuid, '00000000-0000-0000-0000-000000000000'))
            ORDER BY e.at, e.transfer_id, e.account LIMIT (p->>'limit')::integer),
        size AS (SELECT count(*) = (p->>'limit')::integer AS full FROM looked),
        cut AS (SELECT l.at, l.transfer_id FROM looked l, size WHERE size.full ORDER BY l.at DESC, l.transfer_id DESC LIMIT 1),
        page AS MATERIALIZED (
            SELECT l.* FROM looked l WHERE NOT EXISTS (SELECT FROM cut WHERE (cut.at, cut.transfer_id) = (l.at, l.transfer_id))),
        wrong AS (
            SELECT l.transfer_id, l.payment_id, l.currency, 'transfer_not_zero' AS kind, sum(l.amount_minor) AS found
            FROM page l GROUP BY l.at, l.transfer_id, l.payment_id, l.currency HAVING sum(l.amount_minor) <> 0
            UNION ALL
            SELECT l.transfer_id, l.payment_id, l.currency, 'payment_missing', sum(l.amount_minor)
            FROM page l WHERE NOT EXISTS (
                SELECT FROM payment_intents i WHERE i.tenant_id = l.tenant_id AND i.live = l.live AND i.payment_id = l.payment_id
                AND i.currency = l.currency)
            GROUP BY l.at, l.transfer_id, l.payment_id, l.currency)
        SELECT jsonb_build_object(
            'looked', (SELECT count(*) FROM page),
            'next', (SELECT jsonb_build_array(l.at, l.transfer_id) FROM page l, size WHERE size.full
                     ORDER BY l.at DESC, l.transfer_id DESC LIMIT 1),
            'sums', (SELECT COALESCE(jsonb_agg(jsonb_build_object('currency', s.currency, 'account', s.account,
                                                                  'balance_minor', s.balance)), '[]')
                     FROM (SELECT currency, account, sum(amount_minor) AS balance FROM page GROUP BY 1, 2) AS s),
            'differences', (SELECT COALESCE(jsonb_agg(to_jsonb(wrong) ORDER BY transfer_id), '[]') FROM wrong)));
END $$;
