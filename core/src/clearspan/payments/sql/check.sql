-- Looking everything over again, page by page: what payments/check.py compares. One tenant and mode each, read under one snapshot
-- (STABLE), so that what goes on meanwhile makes no difference.

-- Payments in the order of creation with everything that says how they must stand: {tenant_id, live, limit, after?}.
-- Events come in the order in which the payment's lock let them happen: that of seq. The order of transactions is another one, since a
-- transaction takes its number before it waits for the lock.
CREATE OR REPLACE FUNCTION payments_check_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    WITH page AS MATERIALIZED (
        SELECT i.* FROM payment_intents i
        WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean
          AND (i.created_at, i.payment_id) > (COALESCE((p->'after'->>0)::timestamptz, '-infinity'),
               COALESCE((p->'after'->>1)::uuid, '00000000-0000-0000-0000-000000000000'))
        ORDER BY i.created_at, i.payment_id LIMIT (p->>'limit')::integer)
    SELECT jsonb_build_object(
        'next', (SELECT CASE WHEN (SELECT count(*) FROM page) = (p->>'limit')::integer
                             THEN jsonb_build_array(l.created_at, l.payment_id) END
                 FROM page l ORDER BY l.created_at DESC, l.payment_id DESC LIMIT 1),
        'payments', COALESCE(jsonb_agg(jsonb_build_object(
            'payment', to_jsonb(i),
            'operations', held.operations,
            'disputes', held.disputes,
            'facts', (SELECT COALESCE(jsonb_agg(jsonb_build_object('fact_id', f.fact_id, 'operation_id', f.operation_id, 'source',
                             f.source, 'observed', f.observed, 'observed_at', f.observed_at, 'amount_minor', f.amount_minor,
                             'currency', f.currency) ORDER BY f.observed_at, f.fact_id), '[]')
                      FROM facts f WHERE f.tenant_id = i.tenant_id AND f.live = i.live AND f.operation_id = ANY (held.operation_ids)),
            'events', (SELECT COALESCE(jsonb_agg(jsonb_build_object('type', j.type, 'subject_type', j.subject_type, 'subject_id',
                              j.subject_id, 'sequence', j.sequence, 'operation_id', j.data->>'operation_id', 'before',
                              j.data->>'operation_before', 'after', j.data->>'operation_after', 'kind', j.data->>'kind',
                              'amount_minor', j.data->'amount_minor', 'currency', j.data->>'currency') ORDER BY j.epoch, j.seq), '[]')
                       FROM journal j WHERE j.tenant_id = i.tenant_id AND j.live = i.live
                       AND j.subject_id = ANY (i.payment_id || held.operation_ids || held.dispute_ids))
            ) ORDER BY i.created_at, i.payment_id), '[]')) INTO found
    FROM page i CROSS JOIN LATERAL (
        SELECT o.operations, o.ids AS operation_ids, d.disputes, d.ids AS dispute_ids
        FROM (SELECT COALESCE(jsonb_agg(to_jsonb(x)), '[]') AS operations, COALESCE(array_agg(x.operation_id), '{}') AS ids
              FROM operations x WHERE x.tenant_id = i.tenant_id AND x.live = i.live AND x.payment_id = i.payment_id) AS o,
             (SELECT COALESCE(jsonb_agg(to_jsonb(x)), '[]') AS disputes, COALESCE(array_agg(x.dispute_id), '{}') AS ids
              FROM disputes x WHERE x.tenant_id = i.tenant_id AND x.live = i.live AND x.payment_id = i.payment_id) AS d) AS held;
    RETURN found;
END $$;

-- Rows that point to nothing: {tenant_id, live, limit, table, after?}, in the order of their key. Foreign keys forbid most of it; a
-- restore without them, or a hand in the database, does not ask them.
CREATE OR REPLACE FUNCTION orphans_check_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    found jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF p->>'table' = 'operations' THEN
        WITH page AS MATERIALIZED (
            SELECT o.* FROM operations o WHERE o.tenant_id = (p->>'tenant_id')::uuid AND o.live = (p->>'live')::boolean
              AND o.operation_id > COALESCE((p->>'after')::uuid, '00000000-0000-0000-0000-000000000000')
            ORDER BY o.operation_id LIMIT (p->>'limit')::integer)
        SELECT jsonb_build_object('looked', count(*), 'next', CASE WHEN count(*) = (p->>'limit')::integer
                THEN (SELECT operation_id::text FROM page ORDER BY operation_id DESC LIMIT 1) END,
            'orphans', COALESCE(jsonb_agg(jsonb_build_object('id', page.operation_id, 'payment_id', page.payment_id))
                FILTER (WHERE i.payment_id IS NULL), '[]')) INTO found
        FROM page LEFT JOIN payment_intents i USING (tenant_id, live, payment_id);
    ELSIF p->>'table' = 'facts' THEN
        WITH page AS MATERIALIZED (
            SELECT f.* FROM facts f WHERE f.tenant_id = (p->>'tenant_id')::uuid AND f.live = (p->>'live')::boolean
              AND f.fact_id > COALESCE((p->>'after')::uuid, '00000000-0000-0000-0000-000000000000')
            ORDER BY f.fact_id LIMIT (p->>'limit')::integer)
        SELECT jsonb_build_object('looked', count(*), 'next', CASE WHEN count(*) = (p->>'limit')::integer
                THEN (SELECT fact_id::text FROM page ORDER BY fact_id DESC LIMIT 1) END,
            'orphans', COALESCE(jsonb_agg(jsonb_build_object('id', page.fact_id, 'payment_id', page.payment_id))
                FILTER (WHERE o.operation_id IS NULL), '[]')) INTO found
        FROM page LEFT JOIN operations o USING (tenant_id, live, operation_id, payment_id);
    ELSE
        -- Keys whose answer is kept. One of a call that is under way may still be rolled back with what it points to.
        WITH page AS MATERIALIZED (
            SELECT k.* FROM idempotency_keys k WHERE k.tenant_id = (p->>'tenant_id')::uuid AND k.live = (p->>'live')::boolean
              AND k.key_hash > COALESCE(decode(p->>'after', 'hex'), '')
            ORDER BY k.key_hash LIMIT (p->>'limit')::integer)
        SELECT jsonb_build_object('looked', count(*), 'next', CASE WHEN count(*) = (p->>'limit')::integer
                THEN (SELECT encode(key_hash, 'hex') FROM page ORDER BY key_hash DESC LIMIT 1) END,
            'orphans', COALESCE(jsonb_agg(jsonb_build_object('id', encode(page.key_hash, 'hex'), 'payment_id', page.payment_id))
                FILTER (WHERE page.state = 'done' AND ((page.payment_id IS NOT NULL AND i.payment_id IS NULL)
                                                       OR (page.operation_id IS NOT NULL AND o.operation_id IS NULL))), '[]'))
            INTO found
        FROM page LEFT JOIN payment_intents i USING (tenant_id, live, payment_id)
             LEFT JOIN operations o ON o.tenant_id = page.tenant_id AND o.live = page.live AND o.operation_id = page.operation_id;
    END IF;
    RETURN found;
END $$;
