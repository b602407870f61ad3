-- Looking for payments, for people: any of millions in a moment, and everything about one of them.
--
-- A search has drivers: ordered index scans, newest first, of at most p->>'window' rows each; what else is asked for is checked on
-- the rows that they give. So a page costs the same whatever is asked for; where a window ends before the page is full, `upto` says how
-- far was looked, and the next page goes on there. Operators on text, uuid, numbers and times are leakproof, so that row security
-- lets them into an index; those of jsonb are not: metadata is looked through.

-- p: limit, window, after_at, after_id; filters: status, account_ids, currency, customer_id, created_after, created_before, metadata,
-- amount_min and amount_max ({digits: minor}), odd_digits ({currency: digits} where they are not 2); text: what was typed, by what it may
-- be: {payments, operations, disputes, customers, methods, invoices, events: [uuid], email_index, last4, amounts: [{minor, digits}], word}.
CREATE OR REPLACE FUNCTION payment_search_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    t jsonb := p->'text';
    most integer := (p->>'limit')::integer;
    span integer := (p->>'window')::integer;
    wanted uuid[] := '{}';
    more uuid[];
    payers uuid[] := '{}';
    drivers text[] := '{}';
    range_ text;
    filters text;
    scan text;
    driver text;
    one jsonb;
    hits jsonb := '[]';
    part jsonb;
    edge record;
    upto_at timestamptz;
    upto_id uuid;
    capped boolean := false;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF t IS NOT NULL THEN
        wanted := ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'payments'))
            || ARRAY(SELECT o.payment_id FROM operations o WHERE o.tenant_id = tenant AND o.live = is_live
                     AND o.operation_id = ANY (ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'operations'))))
            || ARRAY(SELECT d.payment_id FROM disputes d WHERE d.tenant_id = tenant AND d.live = is_live
                     AND d.dispute_id = ANY (ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'disputes'))))
            || ARRAY(SELECT v.payment_id FROM invoices v WHERE v.tenant_id = tenant AND v.live = is_live AND v.payment_id IS NOT NULL
                     AND v.invoice_id = ANY (ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'invoices'))))
            || ARRAY(SELECT COALESCE(o.payment_id, j.subject_id) FROM journal j
                     LEFT JOIN operations o ON o.tenant_id = j.tenant_id AND o.live = j.live AND o.operation_id = j.subject_id
                     WHERE j.tenant_id = tenant AND j.live = is_live
                       AND j.event_id = ANY (ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'events'))));
        payers := ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'customers'));
        IF t->>'email_index' IS NOT NULL THEN
            payers := payers || ARRAY(SELECT c.customer_id FROM customer_pii c WHERE c.tenant_id = tenant AND c.live = is_live
                                      AND c.email_index = decode(t->>'email_index', 'hex') LIMIT 20);
        END IF;
        IF t->>'last4' IS NOT NULL OR t ? 'methods' THEN
            more := ARRAY(
                SELECT o.payment_id FROM (
                    SELECT m.payment_method_id FROM payment_methods m
                    WHERE m.tenant_id = tenant AND m.live = is_live AND m.last4 = t->>'last4'
                    ORDER BY m.created_at DESC LIMIT 200) AS m
                CROSS JOIN LATERAL (
                    SELECT x.payment_id FROM operations x
                    WHERE x.tenant_id = tenant AND x.live = is_live AND x.payment_method_id = m.payment_method_id
                      AND x.kind IN ('authorize', 'purchase')
                    ORDER BY x.created_at DESC LIMIT 100) AS o
                UNION
                SELECT x.payment_id FROM unnest(ARRAY(SELECT value::uuid FROM jsonb_array_elements_text(t->'methods'))) AS m (id)
                CROSS JOIN LATERAL (
                    SELECT o.payment_id FROM operations o
                    WHERE o.tenant_id = tenant AND o.live = is_live AND o.payment_method_id = m.id
                      AND o.kind IN ('authorize', 'purchase')
                    ORDER BY o.created_at DESC LIMIT 1000) AS x);
            capped := cardinality(more) >= 100;
            wanted := wanted || more;
        END IF;
        IF t->>'word' IS NOT NULL THEN
            wanted := wanted
                || ARRAY(SELECT v.payment_id FROM invoices v WHERE v.tenant_id = tenant AND v.live = is_live
                         AND v.number = t->>'word' AND v.payment_id IS NOT NULL)
                || ARRAY(SELECT o.payment_id FROM psp_accounts a
                         JOIN operations o ON o.tenant_id = a.tenant_id AND o.live = a.live AND o.psp_account_id = a.psp_account_id
                         WHERE a.tenant_id = tenant AND a.live = is_live AND o.psp_ref = t->>'word')
                || ARRAY(SELECT d.payment_id FROM psp_accounts a
                         JOIN disputes d ON d.tenant_id = a.tenant_id AND d.live = a.live AND d.psp_account_id = a.psp_account_id
                         WHERE a.tenant_id = tenant AND a.live = is_live AND d.psp_ref = t->>'word');
            IF length(t->>'word') >= 3 THEN
                more := ARRAY(SELECT i.payment_id FROM payment_intents i WHERE i.tenant_id = tenant AND i.live = is_live
                              AND i.reference COLLATE "C" >= t->>'word' AND i.reference COLLATE "C" < (t->>'word') || chr(1114111)
                              ORDER BY i.reference COLLATE "C", i.created_at DESC, i.payment_id DESC LIMIT 1000);
                capped := capped OR cardinality(more) = 1000;
                wanted := wanted || more;
            END IF;
            drivers := drivers || 'payment_intents i WHERE i.reference COLLATE "C" = $1->''text''->>''word'' AND '::text;
        END IF;
        IF cardinality(wanted) > 0 THEN
            drivers := drivers || '(SELECT DISTINCT unnest($2) AS id) AS u JOIN payment_intents i ON i.payment_id = u.id WHERE '::text;
        END IF;
        FOR one IN SELECT value FROM jsonb_array_elements(t->'amounts') LOOP
            drivers := drivers || format('payment_intents i WHERE i.amount_minor = %L::bigint AND %s ', one->>'minor',
                CASE WHEN one->>'digits' IS NULL THEN ''
                     ELSE format('COALESCE($1->''odd_digits''->>i.currency, ''2'') = %L AND', one->>'digits') END);
        END LOOP;
        drivers := drivers || ARRAY(SELECT format('payment_intents i WHERE i.customer_id = %L::uuid AND ', payer)
                                    FROM unnest(payers) AS payer);
    ELSIF p->>'customer_id' IS NOT NULL THEN
        drivers := ARRAY['payment_intents i WHERE i.customer_id = ($1->>''customer_id'')::uuid AND '];
    ELSIF p->>'status' IN ('succeeded', 'captured') OR p->>'status' IS NULL THEN
        drivers := ARRAY['payment_intents i WHERE '];
    ELSIF p->>'status' = 'authorized' THEN
        drivers := ARRAY['payment_intents i WHERE i.status = ''requires_capture'' AND ',
                         'payment_intents i WHERE i.status = ''partially_captured'' AND '];
    ELSE
        drivers := ARRAY['payment_intents i WHERE ' || CASE p->>'status'
            WHEN 'failed' THEN 'i.status = ''requires_payment_method'' AND i.last_error IS NOT NULL'
            WHEN 'refunded' THEN 'i.refunded_minor > 0'
            WHEN 'disputed' THEN 'i.disputed_minor > 0'
            WHEN 'unknown' THEN 'i.outcome = ''unknown'''
            ELSE format('i.status = %L', p->>'status') END || ' AND '];
    END IF;

    range_ := concat_ws(' AND ', 'i.tenant_id = ($1->>''tenant_id'')::uuid AND i.live = ($1->>''live'')::boolean',
        CASE WHEN p->>'created_after' IS NOT NULL THEN 'i.created_at >= ($1->>''created_after'')::timestamptz' END,
        CASE WHEN p->>'created_before' IS NOT NULL THEN 'i.created_at < ($1->>''created_before'')::timestamptz' END,
        CASE WHEN p->>'after_id' IS NOT NULL
             THEN '(i.created_at, i.payment_id) < (($1->>''after_at'')::timestamptz, ($1->>''after_id'')::uuid)' END);
    filters := concat_ws(' AND ',
        CASE p->>'status'
            WHEN 'failed' THEN 'i.status = ''requires_payment_method'' AND i.last_error IS NOT NULL'
            WHEN 'authorized' THEN 'i.authorized_minor > i.captured_minor + i.voided_minor'
            WHEN 'captured' THEN 'i.captured_minor > 0'
            WHEN 'refunded' THEN 'i.refunded_minor > 0'
            WHEN 'disputed' THEN 'i.disputed_minor > 0'
            WHEN 'unknown' THEN 'i.outcome = ''unknown'''
            ELSE CASE WHEN p->>'status' IS NOT NULL THEN 'i.status = $1->>''status''' END
        END,
        CASE WHEN p->>'customer_id' IS NOT NULL THEN 'i.customer_id = ($1->>''customer_id'')::uuid' END,
        CASE WHEN p->>'currency' IS NOT NULL THEN 'i.currency = $1->>''currency''' END,
        CASE WHEN p->'amount_min' IS NOT NULL
             THEN 'i.amount_minor >= ($1->''amount_min''->>COALESCE($1->''odd_digits''->>i.currency, ''2''))::bigint' END,
        CASE WHEN p->'amount_max' IS NOT NULL
             THEN 'i.amount_minor <= ($1->''amount_max''->>COALESCE($1->''odd_digits''->>i.currency, ''2''))::bigint' END,
        CASE WHEN p->'metadata' IS NOT NULL THEN 'i.metadata @> ($1->''metadata'') AND i.metadata <> ''{}''' END,
        CASE WHEN p->'account_ids' IS NOT NULL
             THEN 'i.psp_account_id IN (SELECT value::uuid FROM jsonb_array_elements_text($1->''account_ids''))' END);

    FOREACH driver IN ARRAY drivers LOOP
        scan := format('SELECT i.* FROM %s %s ORDER BY i.created_at DESC, i.payment_id DESC LIMIT %s', driver, range_, span);
        EXECUTE format('SELECT COALESCE(jsonb_agg(jsonb_build_object(''at'', x.created_at, ''id'', x.payment_id)), ''[]'') FROM ('
            'SELECT i.created_at, i.payment_id FROM (%s) AS i %s ORDER BY i.created_at DESC, i.payment_id DESC LIMIT %s) AS x',
            scan, CASE WHEN filters <> '' THEN 'WHERE ' || filters ELSE '' END, most) INTO part USING p, wanted;
        hits := hits || part;
        IF jsonb_array_length(part) < most AND filters <> '' THEN
            EXECUTE format('SELECT w.created_at, w.payment_id, w.n FROM (SELECT i.created_at, i.payment_id, count(*) OVER () AS n FROM (%s)'
                ' AS i) AS w ORDER BY w.created_at, w.payment_id LIMIT 1', scan) INTO edge USING p, wanted;
            IF edge.n = span AND (upto_id IS NULL OR (edge.created_at, edge.payment_id) > (upto_at, upto_id)) THEN
                upto_at := edge.created_at;
                upto_id := edge.payment_id;
            END IF;
        END IF;
    END LOOP;

    RETURN jsonb_build_object('capped', capped, 'upto_at', upto_at, 'upto_id', upto_id, 'rows', (
        SELECT COALESCE(jsonb_agg(jsonb_build_object('payment', to_jsonb(i), 'method', method_shown_{{v}}(i))
                                  ORDER BY i.created_at DESC, i.payment_id DESC), '[]')
        FROM (SELECT DISTINCT (h->>'at')::timestamptz AS at, (h->>'id')::uuid AS id FROM jsonb_array_elements(hits) AS h
              WHERE upto_id IS NULL OR ((h->>'at')::timestamptz, (h->>'id')::uuid) >= (upto_at, upto_id)
              ORDER BY 1 DESC, 2 DESC LIMIT most) AS x
        JOIN payment_intents i ON i.tenant_id = tenant AND i.live = is_live AND i.payment_id = x.id));
END $$;

-- What may be known of a payment's method; null when it has none.
CREATE OR REPLACE FUNCTION method_shown_{{v}}(pay payment_intents) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('kind', m.kind, 'brand', m.brand, 'last4', m.last4, 'exp_month', m.exp_month, 'exp_year', m.exp_year,
        'funding', m.funding, 'issuer_country', m.issuer_country, 'psp_method', m.psp_method, 'status', m.status)
    FROM payment_methods m WHERE m.tenant_id = pay.tenant_id AND m.live = pay.live AND m.payment_method_id = pay.payment_method_id;
$$;

-- Everything about one payment, or null: one round trip. Each list is bounded; the newest of it count.
CREATE OR REPLACE FUNCTION payment_view_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    pay payment_intents;
    subjects uuid[];
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND payment_id = (p->>'payment_id')::uuid;
    IF pay.payment_id IS NULL THEN
        RETURN NULL;
    END IF;
    subjects := pay.payment_id
        || ARRAY(SELECT o.operation_id FROM operations o
                 WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.payment_id = pay.payment_id)
        || ARRAY(SELECT d.dispute_id FROM disputes d
                 WHERE d.tenant_id = pay.tenant_id AND d.live = pay.live AND d.payment_id = pay.payment_id)
        || ARRAY(SELECT a.approval_id FROM approvals a
                 WHERE a.tenant_id = pay.tenant_id AND a.live = pay.live AND a.subject_id = pay.payment_id);
    RETURN jsonb_build_object(
        'payment', to_jsonb(pay),
        'method', method_shown_{{v}}(pay),
        'operations', operations_of_{{v}}(pay),
        'facts', (SELECT COALESCE(jsonb_agg(to_jsonb(f) - 'payload_hash' ORDER BY f.observed_at, f.fact_id), '[]')
                  FROM (SELECT f.* FROM operations o
                        JOIN facts f ON f.tenant_id = o.tenant_id AND f.live = o.live AND f.operation_id = o.operation_id
                        WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.payment_id = pay.payment_id
                        ORDER BY f.observed_at DESC LIMIT 500) AS f),
        'audit', (SELECT COALESCE(jsonb_agg(jsonb_build_object('event_id', j.event_id, 'type', j.type, 'at', j.at,
                         'actor_type', j.actor_type, 'actor_id', j.actor_id, 'request_id', j.request_id, 'data', j.data,
                         'subject_id', j.subject_id) ORDER BY j.epoch, j.xid, j.seq), '[]')
                  FROM (SELECT * FROM journal j WHERE j.tenant_id = pay.tenant_id AND j.live = pay.live
                        AND j.subject_id = ANY (subjects) ORDER BY j.epoch DESC, j.xid DESC, j.seq DESC LIMIT 500) AS j),
        'webhooks_in', (SELECT COALESCE(jsonb_agg(jsonb_build_object('inbox_id', w.inbox_id, 'type', w.type, 'state', w.state,
                               'note', w.note, 'seen', w.seen, 'received_at', w.received_at, 'event', w.event_key,
                               'operation_id', w.operation_id) ORDER BY w.received_at, w.inbox_id), '[]')
                        FROM (SELECT * FROM webhook_inbox w WHERE w.tenant_id = pay.tenant_id AND w.live = pay.live
                              AND w.payment_id = pay.payment_id ORDER BY w.received_at DESC LIMIT 200) AS w),
        'deliveries', (SELECT COALESCE(jsonb_agg(jsonb_build_object('delivery_id', d.delivery_id, 'event_id', d.event_id,
                              'type', d.event_type, 'state', d.state, 'attempts', d.attempts, 'last_status', d.last_status,
                              'last_error', d.last_error, 'created_at', d.created_at, 'delivered_at', d.delivered_at,
                              'due_at', d.due_at, 'url', d.url) ORDER BY d.epoch, d.xid, d.seq, d.delivery_id), '[]')
                       FROM (SELECT d.*, e.url FROM journal j
                             JOIN webhook_deliveries d ON d.tenant_id = j.tenant_id AND d.live = j.live AND d.event_id = j.event_id
                             JOIN webhook_endpoints e ON e.tenant_id = d.tenant_id AND e.live = d.live
                                  AND e.webhook_endpoint_id = d.webhook_endpoint_id
                             WHERE j.tenant_id = pay.tenant_id AND j.live = pay.live AND j.subject_id = ANY (subjects)
                             ORDER BY d.epoch DESC, d.xid DESC, d.seq DESC LIMIT 200) AS d),
        'ledger', (SELECT COALESCE(jsonb_agg(jsonb_build_object('at', l.at, 'transfer_id', l.transfer_id, 'account', l.account,
                          'amount_minor', l.amount_minor, 'currency', l.currency, 'kind', l.kind)
                          ORDER BY l.at, l.transfer_id, l.amount_minor DESC, l.account), '[]')
                   FROM (SELECT * FROM ledger_entries l WHERE l.tenant_id = pay.tenant_id AND l.live = pay.live
                         AND l.payment_id = pay.payment_id ORDER BY l.at DESC LIMIT 500) AS l),
        'disputes', (SELECT COALESCE(jsonb_agg(to_jsonb(d) ORDER BY d.opened_at, d.dispute_id), '[]') FROM disputes d
                     WHERE d.tenant_id = pay.tenant_id AND d.live = pay.live AND d.payment_id = pay.payment_id),
        'decisions', (SELECT COALESCE(jsonb_agg(to_jsonb(d) ORDER BY d.proposed_at, d.decision_id), '[]') FROM decisions d
                      WHERE d.tenant_id = pay.tenant_id AND d.live = pay.live AND d.payment_id = pay.payment_id),
        'approvals', (SELECT COALESCE(jsonb_agg(to_jsonb(a) ORDER BY a.asked_at, a.approval_id), '[]') FROM approvals a
                      WHERE a.tenant_id = pay.tenant_id AND a.live = pay.live AND a.subject_id = pay.payment_id),
        'invoice', (SELECT jsonb_build_object('invoice_id', v.invoice_id, 'number', v.number, 'status', v.status,
                           'subscription_id', v.subscription_id)
                    FROM invoices v WHERE v.tenant_id = pay.tenant_id AND v.live = pay.live AND v.invoice_id = pay.invoice_id));
END $$;
