-- Reading rebills: one round trip each, the tenant named first.

-- The plan a subscription goes by, the newest version, or the one that the rebill stores: {"plan_id", "version", "plan"}; null: the plan
-- that comes with Clearspan.
CREATE OR REPLACE FUNCTION dunning_plan_of_{{v}}(s subscriptions, r rebills) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('plan_id', d.dunning_plan_id, 'version', d.version, 'plan', d.plan)
    FROM dunning_plans d
    WHERE d.tenant_id = s.tenant_id AND d.live = s.live AND CASE WHEN r.dunning_version > 0
        THEN d.dunning_plan_id = r.dunning_plan_id AND d.version = r.dunning_version
        ELSE d.dunning_plan_id = COALESCE(s.dunning_plan_id, (SELECT b.dunning_plan_id FROM billing_settings b
                                                              WHERE b.tenant_id = s.tenant_id AND b.live = s.live)) END
    ORDER BY d.version DESC LIMIT 1;
$$;

CREATE OR REPLACE FUNCTION rebill_row_{{v}}(r rebills) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(r) || jsonb_build_object('customer_id', i.customer_id, 'invoice_status', i.status, 'number', i.number,
        'amount_minor', i.due_minor - i.credited_minor, 'currency', i.currency, 'payment_locked', i.payment_locked,
        'grace_days', (dunning_plan_of_{{v}}(s, r)->'plan'->>'grace_days')::integer)
    FROM invoices i
    JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.live = i.live AND s.subscription_id = i.subscription_id
    WHERE i.tenant_id = r.tenant_id AND i.live = r.live AND i.invoice_id = r.invoice_id;
$$;

-- A page, newest invoice first: p->>'state', p->>'subscription_id', p->>'due_before', p->'ids', p->>'after_id' are optional.
CREATE OR REPLACE FUNCTION rebill_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(rebill_row_{{v}}(page) ORDER BY page.invoice_id DESC), '[]') FROM (
        SELECT r.* FROM rebills r
        WHERE r.tenant_id = (p->>'tenant_id')::uuid AND r.live = (p->>'live')::boolean
          AND (p->>'state' IS NULL OR r.state = p->>'state')
          AND (p->>'subscription_id' IS NULL OR r.subscription_id = (p->>'subscription_id')::uuid)
          AND (p->>'due_before' IS NULL OR r.next_at < (p->>'due_before')::timestamptz)
          AND (p->'ids' IS NULL OR r.invoice_id IN (SELECT value::uuid FROM jsonb_array_elements_text(p->'ids')))
          AND (p->>'after_id' IS NULL OR r.invoice_id < (p->>'after_id')::uuid)
        ORDER BY r.invoice_id DESC LIMIT (p->>'limit')::integer) AS page);
END $$;

-- One rebill with its tries and what was decided, oldest first; or null.
CREATE OR REPLACE FUNCTION rebill_read_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    r rebills;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO r FROM rebills WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
        AND invoice_id = (p->>'invoice_id')::uuid;
    IF r.invoice_id IS NULL THEN
        RETURN 'null';
    END IF;
    RETURN jsonb_build_object('rebill', rebill_row_{{v}}(r),
        'tries', (SELECT COALESCE(jsonb_agg(jsonb_build_object('try', t.try, 'at', t.at, 'reason', t.reason, 'delay_s', t.delay_s,
                        'operation_id', t.operation_id, 'state', o.state, 'code', o.code, 'raw_code', o.raw_code, 'advice', o.advice,
                        'network_code', o.network_code, 'payment_id', o.payment_id, 'payment_method_id', o.payment_method_id,
                        'psp_account_id', o.psp_account_id) ORDER BY t.try), '[]')
                  FROM rebill_tries t
                  JOIN operations o ON o.tenant_id = t.tenant_id AND o.live = t.live AND o.operation_id = t.operation_id
                  WHERE t.tenant_id = r.tenant_id AND t.live = r.live AND t.invoice_id = r.invoice_id),
        'decisions', (SELECT COALESCE(jsonb_agg(jsonb_build_object('at', j.at, 'by', j.actor_type, 'decision', j.data->'decision')
                             ORDER BY j.epoch, j.xid, j.seq), '[]')
                      FROM journal j WHERE j.tenant_id = r.tenant_id AND j.live = r.live AND j.subject_id = r.invoice_id
                        AND j.subject_type = 'rebill' AND j.data ? 'decision'));
END $$;

-- What was recovered of invoices whose first charge failed in [p->>'since', p->>'until'): by group, by try, by code of the decline before
-- the try, by delay since the first failure.
CREATE OR REPLACE FUNCTION rebill_recovery_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (
        WITH failed AS MATERIALIZED (
            SELECT r.invoice_id, r.held_out, r.state, r.dunning_plan_id, r.dunning_version, i.status = 'paid' AS paid, i.currency,
                   i.due_minor AS amount, i.paid_at - r.first_failed_at AS took
            FROM rebills r JOIN invoices i USING (tenant_id, live, invoice_id)
            WHERE r.tenant_id = tenant AND r.live = is_live AND r.first_failed_at >= (p->>'since')::timestamptz
              AND r.first_failed_at < (p->>'until')::timestamptz
        ), tried AS MATERIALIZED (
            SELECT t.invoice_id, t.try, t.delay_s, f.held_out, o.state = 'succeeded' AS won, f.currency, f.amount,
                   lag(o.code) OVER (PARTITION BY t.invoice_id ORDER BY t.try) AS after_code
            FROM failed f
            JOIN rebill_tries t ON t.tenant_id = tenant AND t.live = is_live AND t.invoice_id = f.invoice_id
            JOIN operations o ON o.tenant_id = t.tenant_id AND o.live = t.live AND o.operation_id = t.operation_id
            WHERE o.state IN ('succeeded', 'declined')
        )
        SELECT jsonb_build_object(
            'groups', (SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g.held_out, g.currency), '[]') FROM (
                SELECT f.held_out, f.currency, count(*) AS failed, count(*) FILTER (WHERE f.paid) AS recovered,
                       count(*) FILTER (WHERE f.paid AND NOT EXISTS (SELECT FROM tried t WHERE t.invoice_id = f.invoice_id AND t.won))
                           AS by_customer,
                       count(*) FILTER (WHERE f.state IN ('due', 'claimed', 'decide', 'waiting')) AS open,
                       sum(f.amount) AS failed_minor, COALESCE(sum(f.amount) FILTER (WHERE f.paid), 0) AS recovered_minor
                FROM failed f GROUP BY f.held_out, f.currency) AS g),
            'by_try', (SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g.try, g.held_out), '[]') FROM (
                SELECT try, held_out, count(*) AS tries, count(*) FILTER (WHERE won) AS recovered FROM tried GROUP BY try, held_out) AS g),
            'by_code', (SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g.code), '[]') FROM (
                SELECT after_code AS code, count(*) AS tries, count(*) FILTER (WHERE won) AS recovered
                FROM tried WHERE after_code IS NOT NULL GROUP BY after_code) AS g),
            'by_delay', (SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g.from_h), '[]') FROM (
                SELECT from_h, count(*) AS tries, count(*) FILTER (WHERE won) AS recovered
                FROM tried, LATERAL (SELECT max(h) AS from_h FROM unnest(ARRAY[0, 6, 24, 72, 168, 336]) AS h WHERE h * 3600 <= delay_s) AS d
                WHERE after_code IS NOT NULL GROUP BY from_h) AS g)));
END $$;

-- What waits, for operators: by state, with the oldest moment; and the accounts that rest.
CREATE OR REPLACE FUNCTION rebills_due_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN jsonb_build_object(
        'states', (SELECT COALESCE(jsonb_agg(to_jsonb(g) ORDER BY g.state), '[]') FROM (
            SELECT state, count(*) AS rebills, count(*) FILTER (WHERE next_at <= (p->>'now')::timestamptz) AS due, min(next_at) AS next_at
            FROM rebills WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND test_clock_id IS NULL
              AND state IN ('due', 'claimed', 'decide', 'waiting')
            GROUP BY state) AS g),
        'blocked', (SELECT COALESCE(jsonb_agg(jsonb_build_object('account', a.name, 'until', b.blocked_until, 'code', b.blocked_because)), '[]')
            FROM rebill_pace b JOIN psp_accounts a USING (tenant_id, live, psp_account_id)
            WHERE b.tenant_id = (p->>'tenant_id')::uuid AND b.live = (p->>'live')::boolean AND b.blocked_until > (p->>'now')::timestamptz));
END $$;
