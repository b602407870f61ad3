-- Recovery: operations whose outcome must be found out.
--
-- operations.sweep_at says when somebody looks next: the end of the lease while a call is under way, what recovery.look_again says
-- while the outcome is unknown or pending, the end of the payer's time for an action. It is null when there is nothing to find out.

-- Take up to p->>'most' due operations of one tenant under a lease: no two workers get the same, and a worker that dies gives
-- them back when the lease ends, so nothing is asked in a loop and nothing waits for a dead one; who lives sets the next look.
-- Of one PSP account come at most p->>'per_account', or what p->'accounts' says for it: an account whose calls hang, with more due
-- than anybody can ask about, holds up no other.
CREATE OR REPLACE FUNCTION operations_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    moment timestamptz := (p->>'now')::timestamptz;
    claimed jsonb := '[]';
    op operations;
    pay payment_intents;
BEGIN
    PERFORM enter_{{v}}(p);
    FOR op IN
        SELECT due.* FROM psp_accounts a CROSS JOIN LATERAL (
            SELECT * FROM operations o
            WHERE o.tenant_id = tenant AND o.live = is_live AND o.psp_account_id = a.psp_account_id AND o.sweep_at <= moment
              AND o.state IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review')
              AND (o.lease_until IS NULL OR o.lease_until <= moment)
            ORDER BY o.sweep_at
            LIMIT COALESCE((p->'accounts'->>a.psp_account_id::text)::integer, (p->>'per_account')::integer)
            FOR UPDATE SKIP LOCKED) AS due
        WHERE a.tenant_id = tenant AND a.live = is_live
        ORDER BY due.sweep_at LIMIT (p->>'most')::integer
    LOOP
        UPDATE operations SET lease_token = (p->>'lease_token')::uuid, lease_until = (p->>'lease_until')::timestamptz,
            sweep_at = (p->>'lease_until')::timestamptz,
            sweep_step = least(op.sweep_step + 1, 1000), updated_at = moment
        WHERE tenant_id = tenant AND live = is_live AND operation_id = op.operation_id RETURNING * INTO op;
        SELECT * INTO STRICT pay FROM payment_intents i
        WHERE i.tenant_id = tenant AND i.live = is_live AND i.payment_id = op.payment_id;
        claimed := claimed || jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
                                                 'operations', operations_of_{{v}}(pay));
    END LOOP;
    RETURN claimed;
END $$;

-- Say, committed, that an operation goes out again under the same key; false when the lease is somebody else's by now.
CREATE OR REPLACE FUNCTION operation_resend_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE operations SET sent_at = (p->>'now')::timestamptz, updated_at = (p->>'now')::timestamptz
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean
      AND operation_id = (p->>'operation_id')::uuid AND lease_token = (p->>'lease_token')::uuid
      AND lease_until > (p->>'now')::timestamptz AND state IN ('submitted', 'unknown');
    RETURN to_jsonb(FOUND);
END $$;

-- Take one operation whose outcome is open under a lease, because a person wants to know now. The sweeps' distances stay as they are.
CREATE OR REPLACE FUNCTION operation_look_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := (p->>'now')::timestamptz;
    pay payment_intents;
    op operations;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    SELECT * INTO op FROM operations o
    WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.payment_id = pay.payment_id
      AND o.operation_id = (p->>'operation_id')::uuid FOR UPDATE;
    IF op.operation_id IS NULL THEN
        PERFORM refuse_{{v}}('operation_not_found');
    ELSIF op.state NOT IN ('prepared', 'submitted', 'requires_action', 'pending', 'unknown', 'needs_review') THEN
        PERFORM refuse_{{v}}('operation_decided', jsonb_build_object('operation_state', op.state));
    ELSIF op.lease_until > moment THEN
        PERFORM refuse_{{v}}('payment_in_progress', jsonb_build_object('payment_status', pay.status));
    END IF;
    UPDATE operations SET lease_token = (p->>'lease_token')::uuid, lease_until = (p->>'lease_until')::timestamptz,
        sweep_at = (p->>'lease_until')::timestamptz, updated_at = moment
    WHERE tenant_id = op.tenant_id AND live = op.live AND operation_id = op.operation_id RETURNING * INTO op;
    PERFORM journal_write_{{v}}(p, (p->'event_ids'->>0)::uuid, 'operation.lookup_requested', 'operation', op.operation_id, pay.sequence,
        pay.customer_id, jsonb_build_object('payment_id', pay.payment_id, 'state', op.state));
    RETURN jsonb_build_object('payment', to_jsonb(pay), 'operation', to_jsonb(op), 'sending', sending_{{v}}(op),
        'operations', operations_of_{{v}}(pay));
END $$;
