-- News of PSPs that nobody asked for: which operation they speak of, disputes, and operations that only the PSP knows.

-- The operation that a PSP speaks of, with what a lookup needs: by our id within the account, else by the PSP's reference. Null when
-- there is none.
CREATE OR REPLACE FUNCTION operation_match_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    account uuid := (p->>'psp_account_id')::uuid;
    op operations;
    pay payment_intents;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO op FROM operations o
    WHERE o.tenant_id = tenant AND o.live = is_live AND o.operation_id = (p->>'operation_id')::uuid AND o.psp_account_id = account;
    -- The reference in news of a capture, void or refund may be that of its charge.
    IF op.operation_id IS NULL OR (p->>'kind' <> 'charge' AND op.kind IN ('authorize', 'purchase')) THEN
        SELECT * INTO op FROM operations o
        WHERE o.tenant_id = tenant AND o.live = is_live AND o.psp_account_id = account AND o.psp_ref = p->>'psp_ref';
    END IF;
    IF op.operation_id IS NULL OR (p->>'kind' IS NOT NULL AND p->>'kind' <> CASE WHEN op.kind IN ('authorize', 'purchase') THEN 'charge'
                                                                                 ELSE op.kind END) THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT pay FROM payment_intents i
    WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = op.payment_id;
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
                              'operations', operations_of_{{v}}(pay));
END $$;

-- A dispute's new state: {dispute_id, psp_account_id, psp_ref, status, amount_minor, currency, charge_ref | operation_id, ...}. Null
-- when the charge is not known. Without the PSP's own order only what the table allows changes anything; with it the higher one counts.
CREATE OR REPLACE FUNCTION dispute_may_become_{{v}}(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE before
        WHEN 'inquiry'         THEN after IN ('inquiry_closed', 'needs_response', 'under_review', 'won', 'lost', 'accepted', 'expired', 'prevented')
        WHEN 'inquiry_closed'  THEN after IN ('needs_response', 'under_review', 'won', 'lost')
        WHEN 'needs_response'  THEN after IN ('under_review', 'won', 'lost', 'accepted', 'expired', 'prevented')
        WHEN 'under_review'    THEN after IN ('won', 'lost', 'accepted', 'expired')
        WHEN 'won'             THEN after IN ('pre_arbitration', 'lost')
        WHEN 'pre_arbitration' THEN after IN ('won', 'lost', 'accepted')
        ELSE false
    END;
$$;

CREATE OR REPLACE FUNCTION dispute_apply_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    account uuid := (p->>'psp_account_id')::uuid;
    order_given bigint := (p->>'psp_sequence')::bigint;
    charge operations;
    pay payment_intents;
    before_pay payment_intents;
    held disputes;
    before text;
    told text;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    SELECT * INTO charge FROM operations o
    WHERE o.tenant_id = tenant AND o.live = is_live AND o.psp_account_id = account AND o.kind IN ('authorize', 'purchase')
      AND (o.operation_id = (p->>'operation_id')::uuid OR o.psp_ref = p->>'charge_ref')
    ORDER BY (o.operation_id = (p->>'operation_id')::uuid) DESC NULLS LAST LIMIT 1;
    IF charge.operation_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF charge.currency <> p->>'currency' THEN
        PERFORM refuse_{{v}}('dispute_currency_mismatch', jsonb_build_object('currency', charge.currency));
    END IF;
    SELECT * INTO pay FROM payment_intents i
    WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = charge.payment_id FOR UPDATE;
    SELECT * INTO held FROM disputes d
    WHERE d.tenant_id = tenant AND d.live = is_live AND d.psp_account_id = account AND d.psp_ref = p->>'psp_ref' FOR UPDATE;
    before := held.status;
    IF held.dispute_id IS NULL THEN
        INSERT INTO disputes (tenant_id, live, dispute_id, payment_id, operation_id, psp_account_id, psp_ref, status, amount_minor,
            currency, reason, network_code, evidence_due_at, psp_sequence, opened_at, updated_at)
        VALUES (tenant, is_live, (p->>'dispute_id')::uuid, pay.payment_id, charge.operation_id, account, p->>'psp_ref', p->>'status',
            (p->>'amount_minor')::bigint, p->>'currency', p->>'reason', p->>'network_code', (p->>'evidence_due_at')::timestamptz,
            order_given, moment, moment)
        RETURNING * INTO held;
    ELSIF (CASE WHEN order_given IS NOT NULL AND held.psp_sequence IS NOT NULL THEN order_given > held.psp_sequence
                ELSE dispute_may_become_{{v}}(held.status, p->>'status') END) THEN
        UPDATE disputes SET status = p->>'status', amount_minor = (p->>'amount_minor')::bigint,
            reason = COALESCE(p->>'reason', reason), network_code = COALESCE(p->>'network_code', network_code),
            evidence_due_at = COALESCE((p->>'evidence_due_at')::timestamptz, evidence_due_at), sequence = held.sequence + 1,
            psp_sequence = greatest(psp_sequence, order_given), updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND dispute_id = held.dispute_id RETURNING * INTO held;
    ELSE
        RETURN jsonb_build_object('payment_id', pay.payment_id, 'operation_id', charge.operation_id, 'dispute_id', held.dispute_id);
    END IF;
    UPDATE disputes SET closed_at = CASE WHEN status IN ('inquiry_closed', 'won', 'lost', 'accepted', 'expired', 'prevented', 'returned')
                                         THEN moment END
    WHERE tenant_id = tenant AND live = is_live AND dispute_id = held.dispute_id RETURNING * INTO held;
    before_pay := pay;
    pay := payment_derive_{{v}}(pay);
    IF (pay.disputed_minor, pay.returned_minor) IS DISTINCT FROM (before_pay.disputed_minor, before_pay.returned_minor) THEN
        pay := payment_store_{{v}}(pay, moment);
        PERFORM ledger_post_{{v}}(p || jsonb_build_object('dispute_id', held.dispute_id), before_pay, pay, NULL, NULL);
    END IF;
    told := CASE WHEN held.status = 'returned' THEN 'dispute.returned' WHEN before IS NULL THEN 'dispute.opened'
                 WHEN held.status IN ('won', 'lost', 'accepted', 'expired', 'prevented', 'inquiry_closed') THEN 'dispute.closed'
                 ELSE 'dispute.updated' END;
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, told, 'dispute', held.dispute_id, held.sequence, pay.customer_id,
        jsonb_strip_nulls(jsonb_build_object('payment_id', pay.payment_id, 'operation_id', charge.operation_id, 'status_before', before,
        'status', held.status, 'amount_minor', held.amount_minor, 'currency', held.currency, 'reason', held.reason,
        'network_code', held.network_code, 'psp_account_id', account)));
    RETURN jsonb_build_object('payment_id', pay.payment_id, 'operation_id', charge.operation_id, 'dispute_id', held.dispute_id);
END $$;

-- Take in an operation that the PSP carried out and that we do not have: made at the PSP by hand, or lost with a restored database.
-- p->'operation': {operation_id, kind: charge|capture|void|refund, capture, amount_minor, currency, psp_account_id, charge_ref, psp_key}.
-- A charge comes with p->'payment_id', the payment it says it belongs to, or a new one. It is taken in as submitted (a second charge
-- of a payment as not_sent, so that its success is a surplus); the caller settles it. Null when a follow-up's charge is not known;
-- {known: true} when the operation is there by now.
CREATE OR REPLACE FUNCTION operation_adopt_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    o jsonb := p->'operation';
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    charge operations;
    pay payment_intents;
    op operations;
    before text;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF o->>'kind' = 'charge' THEN
        INSERT INTO payment_intents (tenant_id, live, payment_id, amount_minor, currency, capture_method, customer_present,
            psp_account_id, created_at, updated_at, expires_at, status)
        VALUES (tenant, is_live, (p->>'payment_id')::uuid, (o->>'amount_minor')::bigint, o->>'currency',
            CASE WHEN (o->>'capture')::boolean THEN 'automatic' ELSE 'manual' END, false, (o->>'psp_account_id')::uuid, moment, moment,
            moment, 'requires_payment_method')
        ON CONFLICT DO NOTHING;
    ELSE
        SELECT * INTO charge FROM operations c
        WHERE c.tenant_id = tenant AND c.live = is_live AND c.psp_account_id = (o->>'psp_account_id')::uuid
          AND c.psp_ref = o->>'charge_ref' AND c.kind IN ('authorize', 'purchase');
        IF charge.operation_id IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    SELECT * INTO STRICT pay FROM payment_intents i WHERE i.tenant_id = tenant AND i.live = is_live
        AND i.payment_id = COALESCE(charge.payment_id, (p->>'payment_id')::uuid) FOR UPDATE;
    IF EXISTS (SELECT FROM operations x WHERE x.tenant_id = tenant AND x.live = is_live
               AND x.operation_id = (o->>'operation_id')::uuid) THEN
        RETURN jsonb_build_object('known', true);
    END IF;
    before := pay.status;
    INSERT INTO operations (tenant_id, live, operation_id, payment_id, kind, state, amount_minor, currency, psp_account_id, parent_id,
        psp_key, reason, routing, created_at, sent_at, updated_at, sweep_at)
    VALUES (tenant, is_live, (o->>'operation_id')::uuid, pay.payment_id,
        CASE WHEN o->>'kind' <> 'charge' THEN o->>'kind' WHEN (o->>'capture')::boolean THEN 'purchase' ELSE 'authorize' END,
        CASE WHEN o->>'kind' = 'charge' AND EXISTS (
            SELECT FROM operations x WHERE x.tenant_id = tenant AND x.live = is_live AND x.payment_id = pay.payment_id
            AND x.kind IN ('authorize', 'purchase') AND x.state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown',
            'needs_review', 'succeeded')) THEN 'not_sent' ELSE 'submitted' END,
        (o->>'amount_minor')::bigint, o->>'currency', (o->>'psp_account_id')::uuid, charge.operation_id, o->>'psp_key', 'adopted',
        jsonb_build_object('rule', 'adopted'), moment, moment, moment, moment)
    RETURNING * INTO op;
    pay := payment_derive_{{v}}(pay);
    pay := payment_store_{{v}}(pay, moment);
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'operation.adopted', 'operation', op.operation_id, pay.sequence,
        pay.customer_id, jsonb_build_object('payment_id', pay.payment_id, 'kind', op.kind, 'amount_minor', op.amount_minor,
        'currency', op.currency, 'psp_account_id', op.psp_account_id, 'status_before', before, 'status', pay.status));
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
                              'operations', operations_of_{{v}}(pay));
END $$;

-- The idempotency key of a request whose operation is there although its key was lost (restored database): {resume} or {replay}.
CREATE OR REPLACE FUNCTION operation_resume_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    found operations;
    claim jsonb;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT * INTO found FROM operations o WHERE o.tenant_id = (p->>'tenant_id')::uuid AND o.live = (p->>'live')::boolean
        AND o.operation_id = (p->'operation'->>'operation_id')::uuid;
    IF found.operation_id IS NULL THEN
        PERFORM refuse_{{v}}('operation_not_found');
    END IF;
    claim := idempotency_claim_{{v}}(p, found.payment_id, found.operation_id);
    RETURN COALESCE(claim, jsonb_build_object('resume', jsonb_build_object('payment_id', found.payment_id,
                                                                         'operation_id', found.operation_id)));
END $$;

-- Payments of one tenant with a charge to give back, and when each is looked at again if this process dies.
CREATE OR REPLACE FUNCTION unwinding_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    claimed jsonb;
BEGIN
    PERFORM enter_{{v}}(p);
    WITH due AS (
        SELECT i.payment_id FROM payment_intents i
        WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean AND i.unwind_at <= (p->>'now')::timestamptz
        ORDER BY i.unwind_at LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED),
    taken AS (
        UPDATE payment_intents i SET unwind_at = (p->>'again_at')::timestamptz
        FROM due WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean AND i.payment_id = due.payment_id
        RETURNING i.*)
    SELECT COALESCE(jsonb_agg(jsonb_build_object('payment', to_jsonb(t), 'operations', operations_of_{{v}}(t))), '[]')
    INTO claimed FROM taken t;
    RETURN claimed;
END $$;

-- A human wants a surplus that is held to be given back now, or there is nothing to give back any more (at = null).
CREATE OR REPLACE FUNCTION unwinding_set_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    claim jsonb;
    pay payment_intents;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, NULL);
    IF claim ? 'replay' THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents i WHERE i.tenant_id = (p->>'tenant_id')::uuid AND i.live = (p->>'live')::boolean
        AND i.payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    ELSIF p->>'at' IS NOT NULL AND claim IS NULL AND pay.surplus_minor = 0 THEN
        PERFORM refuse_{{v}}('payment_without_surplus', jsonb_build_object('payment_status', pay.status));
    END IF;
    UPDATE payment_intents i SET unwind_at = (p->>'at')::timestamptz
    WHERE i.tenant_id = pay.tenant_id AND i.live = pay.live AND i.payment_id = pay.payment_id RETURNING * INTO pay;
    IF p->>'at' IS NOT NULL THEN
        PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'payment.surplus_released', 'payment', pay.payment_id, pay.sequence,
            pay.customer_id, jsonb_build_object('surplus_minor', pay.surplus_minor, 'currency', pay.currency, 'reason', p->>'reason'));
    END IF;
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operations', operations_of_{{v}}(pay));
END $$;

-- A human's word about an operation that nobody could find out. p->'second_person': this amount needs two. The fact is stored in the same
-- transaction in which the decision stands.
CREATE OR REPLACE FUNCTION operation_decide_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    claim jsonb;
    pay payment_intents;
    op operations;
    held decisions;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, (p->>'operation_id')::uuid);
    IF claim ? 'replay' THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents i
    WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    SELECT * INTO op FROM operations o
    WHERE o.tenant_id = tenant AND o.live = is_live AND o.operation_id = (p->>'operation_id')::uuid
      AND o.payment_id = pay.payment_id FOR UPDATE;
    IF op.operation_id IS NULL THEN
        PERFORM refuse_{{v}}('operation_not_found');
    END IF;
    SELECT * INTO held FROM decisions d WHERE d.tenant_id = tenant AND d.live = is_live AND d.operation_id = op.operation_id
        AND d.state IN ('proposed', 'applied') ORDER BY d.proposed_at DESC, d.decision_id DESC LIMIT 1 FOR UPDATE;
    IF claim IS NOT NULL AND held.decision_id IS NOT NULL THEN -- our own request again, after a crash
        RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'decision', to_jsonb(held));
    END IF;
    IF op.state <> 'needs_review' THEN
        PERFORM refuse_{{v}}('operation_not_in_review', jsonb_build_object('operation_state', op.state));
    END IF;
    IF p->>'outcome' = 'withdraw' THEN
        IF held.state IS DISTINCT FROM 'proposed' THEN
            PERFORM refuse_{{v}}('decision_not_found');
        END IF;
        UPDATE decisions d SET state = 'withdrawn' WHERE d.tenant_id = tenant AND d.live = is_live
            AND d.decision_id = held.decision_id RETURNING * INTO held;
        PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'operation.decision_withdrawn', 'operation', op.operation_id,
            pay.sequence, pay.customer_id, jsonb_build_object('payment_id', pay.payment_id, 'outcome', held.outcome));
        RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'decision', to_jsonb(held));
    END IF;
    IF held.state = 'proposed' THEN
        IF held.outcome <> p->>'outcome' OR held.psp_ref IS DISTINCT FROM p->>'psp_ref' THEN
            PERFORM refuse_{{v}}('decision_conflict', jsonb_build_object('proposed_outcome', held.outcome));
        ELSIF held.proposed_by = p->>'actor_id' THEN
            PERFORM refuse_{{v}}('second_person_required', jsonb_build_object('proposed_at', held.proposed_at));
        END IF;
        UPDATE decisions d SET state = 'applied', confirmed_by = p->>'actor_id', confirmed_at = moment
        WHERE d.tenant_id = tenant AND d.live = is_live AND d.decision_id = held.decision_id RETURNING * INTO held;
    ELSE
        INSERT INTO decisions (tenant_id, live, decision_id, payment_id, operation_id, outcome, reason, psp_ref, state, proposed_by,
            proposed_at)
        VALUES (tenant, is_live, (p->>'decision_id')::uuid, pay.payment_id, op.operation_id, p->>'outcome', p->>'reason', p->>'psp_ref',
            CASE WHEN op.amount_minor > (p->>'second_person_above_minor')::bigint THEN 'proposed' ELSE 'applied' END,
            p->>'actor_id', moment)
        RETURNING * INTO held;
    END IF;
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>2)::uuid,
        CASE held.state WHEN 'proposed' THEN 'operation.decision_proposed' ELSE 'operation.decided' END, 'operation', op.operation_id,
        pay.sequence, pay.customer_id, jsonb_strip_nulls(jsonb_build_object('payment_id', pay.payment_id, 'outcome', held.outcome,
        'reason', held.reason, 'proposed_by', held.proposed_by, 'confirmed_by', held.confirmed_by, 'amount_minor', op.amount_minor,
        'currency', op.currency)));
    IF held.state = 'proposed' THEN
        RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'decision', to_jsonb(held));
    END IF;
    RETURN operation_settle_{{v}}(p || jsonb_build_object('fact', jsonb_strip_nulls(jsonb_build_object(
            'fact_id', held.decision_id, 'source', 'human', 'observed', held.outcome, 'psp_ref', held.psp_ref,
            'code', CASE held.outcome WHEN 'succeeded' THEN NULL ELSE 'decided_by_human' END,
            'amount_minor', CASE held.outcome WHEN 'succeeded' THEN op.amount_minor END,
            'currency', CASE held.outcome WHEN 'succeeded' THEN op.currency END,
            'raw', jsonb_build_object('reason', held.reason, 'proposed_by', held.proposed_by, 'confirmed_by', held.confirmed_by),
            'payload_hash', encode(sha256(convert_to(held.reason, 'UTF8')), 'hex')))))
        || jsonb_build_object('decision', to_jsonb(held));
END $$;

-- What it takes to ask a PSP on behalf of an account; null when there is none.
CREATE OR REPLACE FUNCTION account_sending_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT jsonb_build_object('account_id', a.psp_account_id, 'psp', a.psp, 'account', a.name, 'config_version',
                a.config_version, 'config', encode(a.config, 'base64'), 'webhook_token', a.webhook_token)
            FROM psp_accounts a
            WHERE a.tenant_id = (p->>'tenant_id')::uuid AND a.live = (p->>'live')::boolean
              AND a.psp_account_id = (p->>'psp_account_id')::uuid);
END $$;

-- Let recovery look now at every operation of an account whose outcome is open. Returns how many there are.
CREATE OR REPLACE FUNCTION operations_awaken_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    woken integer;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE operations SET sweep_at = (p->>'now')::timestamptz
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND psp_account_id = (p->>'psp_account_id')::uuid
      AND state IN ('submitted', 'requires_action', 'pending', 'unknown', 'needs_review');
    GET DIAGNOSTICS woken = ROW_COUNT;
    RETURN to_jsonb(woken);
END $$;
