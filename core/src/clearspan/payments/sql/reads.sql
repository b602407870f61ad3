-- Reading payments: one round trip each, the tenant named first.

-- One payment with its operations, facts and journal, or null.
CREATE OR REPLACE FUNCTION payment_read_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    pay payment_intents;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND payment_id = (p->>'payment_id')::uuid;
    IF pay.payment_id IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN payment_details_{{v}}(pay);
END $$;

CREATE OR REPLACE FUNCTION payment_details_{{v}}(pay payment_intents) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'payment', to_jsonb(pay),
        'operations', operations_of_{{v}}(pay),
        'facts', (SELECT COALESCE(jsonb_agg(to_jsonb(f) - 'payload_hash' ORDER BY f.observed_at, f.fact_id), '[]') FROM facts f
                  JOIN operations o ON o.tenant_id = f.tenant_id AND o.live = f.live AND o.operation_id = f.operation_id
                  WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.payment_id = pay.payment_id),
        'audit', (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', j.event_id, 'type', j.type, 'at', j.at, 'actor_type',
                         j.actor_type, 'actor_id', j.actor_id, 'request_id', j.request_id) ORDER BY j.epoch, j.xid, j.seq), '[]')
                  FROM journal j
                  WHERE j.tenant_id = pay.tenant_id AND j.live = pay.live AND j.subject_id = ANY (pay.payment_id || ARRAY(
                      SELECT o.operation_id FROM operations o WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live
                      AND o.payment_id = pay.payment_id))));
$$;

-- A page, newest first. Conditions are added only when asked for, so that each filter meets its index; values stay in $1.
CREATE OR REPLACE FUNCTION payment_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    conditions text := '';
    page jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    conditions := concat_ws(' AND ', 'i.tenant_id = ($1->>''tenant_id'')::uuid AND i.live = ($1->>''live'')::boolean',
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
        CASE WHEN p->>'reference' IS NOT NULL THEN 'i.reference = $1->>''reference''' END,
        CASE WHEN p->>'amount_min' IS NOT NULL THEN 'i.amount_minor >= ($1->>''amount_min'')::bigint' END,
        CASE WHEN p->>'amount_max' IS NOT NULL THEN 'i.amount_minor <= ($1->>''amount_max'')::bigint' END,
        CASE WHEN p->>'created_after' IS NOT NULL THEN 'i.created_at >= ($1->>''created_after'')::timestamptz' END,
        CASE WHEN p->>'created_before' IS NOT NULL THEN 'i.created_at < ($1->>''created_before'')::timestamptz' END,
        CASE WHEN p->'metadata' IS NOT NULL THEN 'i.metadata @> ($1->''metadata'') AND i.metadata <> ''{}''' END,
        CASE WHEN p->'account_ids' IS NOT NULL
             THEN 'i.psp_account_id IN (SELECT value::uuid FROM jsonb_array_elements_text($1->''account_ids''))' END,
        CASE WHEN p->>'after_id' IS NOT NULL
             THEN '(i.created_at, i.payment_id) < (($1->>''after_at'')::timestamptz, ($1->>''after_id'')::uuid)' END);
    EXECUTE 'SELECT COALESCE(jsonb_agg(payment_details_{{v}}(page)), ''[]'') FROM (SELECT i.* FROM payment_intents i WHERE '
        || conditions || ' ORDER BY i.created_at DESC, i.payment_id DESC LIMIT ($1->>''limit'')::integer) AS page'
        INTO page USING p;
    RETURN page;
END $$;

-- Many payments by id, bare, for the event feed.
CREATE OR REPLACE FUNCTION payments_by_id_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(jsonb_build_object('payment', to_jsonb(i), 'operations', operations_of_{{v}}(i))), '[]')
            FROM payment_intents i
            WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean
              AND i.payment_id IN (SELECT value::uuid FROM jsonb_array_elements_text(p->'ids')));
END $$;

-- Refunds: by id, or a page of them, newest first, optionally of one payment.
CREATE OR REPLACE FUNCTION refund_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(to_jsonb(r)), '[]') FROM (
        SELECT o.* FROM operations o
        WHERE o.tenant_id = (p->>'tenant_id')::uuid AND o.live = (p->>'live')::boolean AND o.kind = 'refund'
          AND (p->>'payment_id' IS NULL OR o.payment_id = (p->>'payment_id')::uuid)
          AND (p->'ids' IS NULL OR o.operation_id IN (SELECT value::uuid FROM jsonb_array_elements_text(p->'ids')))
          AND (p->>'after_id' IS NULL
               OR (o.created_at, o.operation_id) < ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid))
        ORDER BY o.created_at DESC, o.operation_id DESC LIMIT (p->>'limit')::integer) AS r);
END $$;

-- Disputes: by id, or a page of them, newest first, optionally of one payment or in one state.
CREATE OR REPLACE FUNCTION dispute_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(to_jsonb(r)), '[]') FROM (
        SELECT d.* FROM disputes d
        WHERE d.tenant_id = (p->>'tenant_id')::uuid AND d.live = (p->>'live')::boolean
          AND (p->>'payment_id' IS NULL OR d.payment_id = (p->>'payment_id')::uuid)
          AND (p->>'status' IS NULL OR d.status = p->>'status')
          AND (p->'ids' IS NULL OR d.dispute_id IN (SELECT value::uuid FROM jsonb_array_elements_text(p->'ids')))
          AND (p->>'after_id' IS NULL
               OR (d.opened_at, d.dispute_id) < ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid))
        ORDER BY d.opened_at DESC, d.dispute_id DESC LIMIT (p->>'limit')::integer) AS r);
END $$;

-- Disputes that want an answer, the next deadline first, those without one last; after (p->>'after_at', p->>'after_id').
CREATE OR REPLACE FUNCTION disputes_to_answer_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(to_jsonb(r) ORDER BY r.evidence_due_at NULLS LAST, r.dispute_id), '[]') FROM (
        SELECT d.* FROM disputes d
        WHERE d.tenant_id = (p->>'tenant_id')::uuid AND d.live = (p->>'live')::boolean
          AND d.status IN ('needs_response', 'inquiry', 'pre_arbitration')
          AND (p->>'after_id' IS NULL OR CASE WHEN p->>'after_at' IS NULL
               THEN d.evidence_due_at IS NULL AND d.dispute_id > (p->>'after_id')::uuid
               ELSE d.evidence_due_at IS NULL
                    OR (d.evidence_due_at, d.dispute_id) > ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid) END)
        ORDER BY d.evidence_due_at NULLS LAST, d.dispute_id LIMIT (p->>'limit')::integer) AS r);
END $$;

-- The mandate p->>'mandate_id', else the one that a merchant-initiated charge of p->>'payment_method_id' would rest on; null when none.
CREATE OR REPLACE FUNCTION mandate_find_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN COALESCE((
        SELECT jsonb_build_object('mandate_id', mandate_id, 'customer_id', customer_id, 'payment_method_id', payment_method_id,
                                  'psp_account_id', psp_account_id)
        FROM mandates
        WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
          AND CASE WHEN p->>'mandate_id' IS NOT NULL THEN mandate_id = (p->>'mandate_id')::uuid
                   ELSE payment_method_id = (p->>'payment_method_id')::uuid END
        ORDER BY status = 'active' DESC, created_at DESC LIMIT 1), 'null');
END $$;
