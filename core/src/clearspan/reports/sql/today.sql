-- What the cockpit shows of a day, one round trip, the tenant named first. Everything is reached by an index that begins with
-- tenant and mode, and no more than today and yesterday is looked at; the cost is that of what happened in them.

-- How many rows and since when, at most `most`: {"count", "since"}. The count says "so many and more" when it is `most`.
CREATE OR REPLACE FUNCTION report_queue_{{v}}(since timestamptz[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('count', cardinality(since), 'since', (SELECT min(each) FROM unnest(since) AS each));
$$;

-- {tenant_id, live, now, currency?, most, yesterday: {from, until}, hours: [beginnings of today's hours, ascending]}.
--   money     per day, hour and currency what the ledger took in
--   payments  per day, hour, currency and account how the payments made then stand now; hour is 0-based
--   the rest  now
CREATE OR REPLACE FUNCTION report_today_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    most integer := (p->>'most')::integer;
    hours timestamptz[] := ARRAY(SELECT value::timestamptz FROM jsonb_array_elements_text(p->'hours') WITH ORDINALITY AS h (value, place)
                                 ORDER BY place);
    begun timestamptz := hours[1];
    ended timestamptz := (p->>'ended')::timestamptz;
    before timestamptz := (p->'yesterday'->>'from')::timestamptz;
    before_until timestamptz := (p->'yesterday'->>'until')::timestamptz;
    wanted text := p->>'currency';
    answer jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);

    SELECT jsonb_build_object('money', COALESCE(jsonb_agg(jsonb_build_object('today', m.today, 'hour', m.hour, 'currency', m.currency,
            'captured_minor', m.captured, 'refunded_minor', m.refunded, 'refunds', m.refunds)), '[]')) INTO answer
    FROM (
        SELECT e.at >= begun AS today, CASE WHEN e.at >= begun THEN width_bucket(e.at, hours) - 1 ELSE 0 END AS hour, e.currency,
               -sum(e.amount_minor) FILTER (WHERE e.account = 'captured')::bigint AS captured,
               sum(e.amount_minor) FILTER (WHERE e.account = 'refunded')::bigint AS refunded,
               count(*) FILTER (WHERE e.account = 'refunded' AND e.kind = 'refund') AS refunds
        FROM ledger_entries e
        WHERE e.tenant_id = tenant AND e.live = is_live AND e.at >= before AND e.at < ended AND e.kind <> 'opening'
          AND (e.at >= begun OR e.at < before_until) AND e.account IN ('captured', 'refunded') AND (wanted IS NULL OR e.currency = wanted)
        GROUP BY 1, 2, 3) AS m;

    answer := answer || (
        SELECT jsonb_build_object('payments', COALESCE(jsonb_agg(to_jsonb(c)), '[]'))
        FROM (
            SELECT i.created_at >= begun AS today, CASE WHEN i.created_at >= begun THEN width_bucket(i.created_at, hours) - 1 ELSE 0 END AS hour,
                   i.currency, i.psp_account_id,
                   count(*) AS tried,
                   count(*) FILTER (WHERE i.authorized_minor > 0) AS succeeded,
                   count(*) FILTER (WHERE i.authorized_minor = 0 AND i.last_error IS NOT NULL AND i.outcome IS NULL
                                          AND i.status IN ('requires_payment_method', 'canceled', 'expired')) AS declined,
                   count(*) FILTER (WHERE i.outcome = 'unknown') AS unclear
            FROM payment_intents i
            WHERE i.tenant_id = tenant AND i.live = is_live AND i.created_at >= before AND i.created_at < ended
              AND (i.created_at >= begun OR i.created_at < before_until) AND (wanted IS NULL OR i.currency = wanted)
              AND (i.charge_operation_id IS NOT NULL OR i.last_error IS NOT NULL)
            GROUP BY 1, 2, 3, 4) AS c);

    answer := answer || jsonb_build_object(
        'accounts', (SELECT COALESCE(jsonb_agg(jsonb_build_object('psp_account_id', a.psp_account_id, 'psp', a.psp, 'name', a.name,
                'enabled', a.status = 'enabled', 'blocked_until', b.blocked_until, 'blocked_because', b.blocked_because)
                ORDER BY a.priority, a.name), '[]')
            FROM psp_accounts a
            LEFT JOIN rebill_pace b ON b.tenant_id = a.tenant_id AND b.live = a.live AND b.psp_account_id = a.psp_account_id
                                   AND b.blocked_until > moment
            WHERE a.tenant_id = tenant AND a.live = is_live),
        'unknown', report_queue_{{v}}(ARRAY(SELECT o.created_at FROM operations o
            WHERE o.tenant_id = tenant AND o.live = is_live AND o.state = 'unknown' ORDER BY o.created_at LIMIT most)),
        'needs_review', report_queue_{{v}}(ARRAY(SELECT o.created_at FROM operations o
            WHERE o.tenant_id = tenant AND o.live = is_live AND o.state = 'needs_review' ORDER BY o.created_at LIMIT most)),
        'parked', report_queue_{{v}}(ARRAY(SELECT w.received_at FROM webhook_inbox w
            WHERE w.tenant_id = tenant AND w.live = is_live AND w.state IN ('parked', 'needs_attention') LIMIT most)),
        'deliveries', report_queue_{{v}}(ARRAY(SELECT d.updated_at FROM webhook_deliveries d
            WHERE d.tenant_id = tenant AND d.live = is_live AND d.state = 'failed' LIMIT most)),
        'endpoints', (SELECT count(*) FROM webhook_endpoints e
            WHERE e.tenant_id = tenant AND e.live = is_live AND e.status = 'disabled' AND e.disabled_reason <> 'manual'),
        'notices', report_queue_{{v}}(ARRAY(SELECT n.updated_at FROM notices n
            WHERE n.tenant_id = tenant AND n.live = is_live AND n.state = 'failed' ORDER BY n.updated_at LIMIT most)),
        'disputes', report_queue_{{v}}(ARRAY(SELECT d.opened_at FROM disputes d
            WHERE d.tenant_id = tenant AND d.live = is_live AND d.closed_at IS NULL LIMIT most)),
        'disputes_to_answer', jsonb_build_object(
            'count', (SELECT count(*) FROM (SELECT 1 FROM disputes d WHERE d.tenant_id = tenant AND d.live = is_live
                      AND d.closed_at IS NULL AND d.status = 'needs_response' LIMIT most) AS few),
            'since', (SELECT d.evidence_due_at FROM disputes d WHERE d.tenant_id = tenant AND d.live = is_live AND d.closed_at IS NULL
                      AND d.status = 'needs_response' AND d.evidence_due_at IS NOT NULL ORDER BY d.evidence_due_at LIMIT 1)),
        'approvals', report_queue_{{v}}(ARRAY(SELECT a.asked_at FROM approvals a
            WHERE a.tenant_id = tenant AND a.live = is_live AND a.status = 'open' ORDER BY a.asked_at LIMIT most)
            || ARRAY(SELECT d.proposed_at FROM decisions d
            WHERE d.tenant_id = tenant AND d.live = is_live AND d.state = 'proposed' LIMIT most)),
        -- What is still to be charged today: rebills that wait for it, and periods that end before the day does.
        'rebills_due', (SELECT count(*) FROM (SELECT 1 FROM rebills r WHERE r.tenant_id = tenant AND r.live = is_live
                AND r.state IN ('due', 'claimed') AND r.next_at < ended AND r.test_clock_id IS NULL LIMIT 100 * most) AS few)
            + (SELECT count(*) FROM (SELECT 1 FROM subscriptions s WHERE s.tenant_id = tenant AND s.live = is_live AND s.next_at < ended
                AND s.next_at IS NOT NULL AND s.test_clock_id IS NULL LIMIT 100 * most) AS few),
        'rebills', (SELECT COALESCE(jsonb_agg(to_jsonb(t)), '[]') FROM (
            SELECT t.try = 1 AS first, o.state, count(*)
            FROM rebill_tries t JOIN operations o ON o.tenant_id = t.tenant_id AND o.live = t.live AND o.operation_id = t.operation_id
            WHERE t.tenant_id = tenant AND t.live = is_live AND t.at >= begun AND t.at < ended
            GROUP BY 1, 2) AS t));
    RETURN answer;
END $$;

-- Rows of payments for lists that change while they are looked at: those of p->'ids', else the newest p->>'most'.
-- {cursor: the last event before the rows were read, or null; rows: newest first}.
CREATE OR REPLACE FUNCTION report_rows_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    wanted uuid[];
    place uuid;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF p ? 'ids' THEN
        wanted := ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(p->'ids'));
    ELSE
        -- In this order, each statement with its own snapshot: what happens in between is in the rows and comes once more.
        SELECT j.event_id INTO place FROM journal j
        WHERE j.tenant_id = tenant AND j.live = is_live
          AND (j.epoch, j.xid, j.seq) < (journal_epoch(), pg_snapshot_xmin(pg_current_snapshot()), 0)
        ORDER BY j.epoch DESC, j.xid DESC, j.seq DESC LIMIT 1;
        wanted := ARRAY(SELECT i.payment_id FROM payment_intents i WHERE i.tenant_id = tenant AND i.live = is_live
                        ORDER BY i.created_at DESC, i.payment_id DESC LIMIT (p->>'most')::integer);
    END IF;
    RETURN jsonb_build_object('cursor', place, 'rows', (
        SELECT COALESCE(jsonb_agg(jsonb_build_object('payment_id', i.payment_id, 'sequence', i.sequence, 'created_at', i.created_at,
                'updated_at', i.updated_at, 'amount_minor', i.amount_minor, 'currency', i.currency, 'status', i.status,
                'outcome', i.outcome, 'captured_minor', i.captured_minor, 'refunded_minor', i.refunded_minor,
                'disputed_minor', i.disputed_minor, 'code', i.last_error->>'code', 'reference', i.reference,
                'account', a.name, 'kind', m.kind, 'brand', m.brand, 'last4', m.last4)
                ORDER BY i.created_at DESC, i.payment_id DESC), '[]')
        FROM payment_intents i
        LEFT JOIN psp_accounts a ON a.tenant_id = i.tenant_id AND a.live = i.live AND a.psp_account_id = i.psp_account_id
        LEFT JOIN payment_methods m ON m.tenant_id = i.tenant_id AND m.live = i.live AND m.payment_method_id = i.payment_method_id
        WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = ANY (wanted)));
END $$;
