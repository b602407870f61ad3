-- What one person asks for and another has to allow: refunds by people above payments.refund_second_person_above_minor.
--
-- Lock order as everywhere: idempotency key, intent, then the request.

-- Refuse a refund by a person that together with earlier ones of this payment is more than one person may give back. Counted is what
-- people gave back without an approval, whoever it was: otherwise a large amount would go in parts. The intent is locked.
CREATE OR REPLACE FUNCTION refund_alone_{{v}}(p jsonb, pay payment_intents, amount bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    limit_minor bigint := (p->>'refund_second_person_above_minor')::bigint;
    before_minor bigint;
BEGIN
    SELECT COALESCE(sum(o.amount_minor), 0) INTO before_minor FROM operations o
    WHERE o.tenant_id = pay.tenant_id AND o.live = pay.live AND o.payment_id = pay.payment_id AND o.kind = 'refund'
      AND o.state NOT IN ('declined', 'expired', 'not_charged', 'not_sent', 'reversed')
      AND EXISTS (SELECT FROM journal j WHERE j.tenant_id = o.tenant_id AND j.live = o.live AND j.subject_id = o.operation_id
                  AND j.type = 'refund.created' AND j.actor_type = 'operator')
      AND NOT EXISTS (SELECT FROM approvals a WHERE a.tenant_id = o.tenant_id AND a.live = o.live AND a.operation_id = o.operation_id);
    IF limit_minor IS NOT NULL AND before_minor + amount > limit_minor THEN
        PERFORM refuse_{{v}}('approval_required', jsonb_build_object('amount_minor', amount, 'currency', pay.currency,
            'refunded_by_people_minor', before_minor, 'limit_minor', limit_minor));
    END IF;
END $$;

-- The request p->'approval' about a refund: {approval_id, amount_minor, request, reason, expires_at}. p->'idempotency' as always.
CREATE OR REPLACE FUNCTION approval_ask_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := p->'approval';
    moment timestamptz := (p->>'now')::timestamptz;
    claim jsonb;
    pay payment_intents;
    asked approvals;
    left_minor bigint;
BEGIN
    PERFORM enter_{{v}}(p);
    claim := idempotency_claim_{{v}}(p, (p->>'payment_id')::uuid, NULL);
    IF claim ? 'replay' THEN
        RETURN claim;
    END IF;
    SELECT * INTO pay FROM payment_intents
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND payment_id = (p->>'payment_id')::uuid FOR UPDATE;
    IF pay.payment_id IS NULL THEN
        PERFORM refuse_{{v}}('payment_not_found');
    END IF;
    left_minor := greatest(0, pay.captured_minor - pay.refunded_minor - pay.refund_pending_minor - pay.returned_minor
                              - pay.disputed_minor);
    IF left_minor = 0 THEN
        PERFORM refuse_{{v}}('payment_not_refundable', jsonb_build_object('payment_status', pay.status));
    ELSIF (given->>'amount_minor')::bigint > left_minor THEN
        PERFORM refuse_{{v}}('amount_above_refundable', jsonb_build_object('payment_status', pay.status,
            'available_minor', left_minor, 'currency', pay.currency));
    END IF;
    PERFORM approvals_expire_{{v}}(p, pay.payment_id, 1);
    SELECT * INTO asked FROM approvals a
    WHERE a.tenant_id = pay.tenant_id AND a.live = pay.live AND a.subject_id = pay.payment_id AND a.status = 'open' FOR UPDATE;
    IF asked.approval_id IS NOT NULL THEN
        PERFORM refuse_{{v}}('approval_pending');
    END IF;
    INSERT INTO approvals (tenant_id, live, approval_id, kind, subject_id, request, amount_minor, currency, reason, asked_by, asked_at,
                           expires_at)
    VALUES (pay.tenant_id, pay.live, (given->>'approval_id')::uuid, 'refund', pay.payment_id, given->'request',
            (given->>'amount_minor')::bigint, pay.currency, given->>'reason', p->>'actor_id', moment, (given->>'expires_at')::timestamptz)
    RETURNING * INTO asked;
    PERFORM approval_told_{{v}}(p, asked, 'approval.asked', (p->'event_ids'->>0)::uuid);
    PERFORM idempotency_keep_{{v}}(pay.tenant_id, pay.live, decode(p->'idempotency'->>'key_hash', 'hex'), 201,
                                   jsonb_build_object('approval_id', asked.approval_id)::text);
    RETURN jsonb_build_object('approval', to_jsonb(asked));
END $$;

-- One journal row about a request. Its reason is people's own words about a payment, as a decision's is.
CREATE OR REPLACE FUNCTION approval_told_{{v}}(p jsonb, asked approvals, what text, event uuid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM journal_write_{{v}}(p, event, what, 'approval', asked.approval_id, asked.sequence,
        (SELECT i.customer_id FROM payment_intents i
         WHERE i.tenant_id = asked.tenant_id AND i.live = asked.live AND i.payment_id = asked.subject_id),
        jsonb_strip_nulls(jsonb_build_object('payment_id', asked.subject_id, 'kind', asked.kind, 'amount_minor', asked.amount_minor,
            'currency', asked.currency, 'reason', asked.reason, 'decision', NULLIF(asked.decision, ''), 'asked_by', asked.asked_by,
            'operation_id', asked.operation_id)));
END $$;

-- End open requests whose time is over, of one payment or of the tenant (payment: null), as p->'expiry_ids'. Returns how many.
CREATE OR REPLACE FUNCTION approvals_expire_{{v}}(p jsonb, payment uuid, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    asked approvals;
    ended integer := 0;
BEGIN
    FOR asked IN
        SELECT * FROM approvals a
        WHERE a.tenant_id = (p->>'tenant_id')::uuid AND a.live = (p->>'live')::boolean AND a.status = 'open'
          AND a.expires_at <= (p->>'now')::timestamptz AND (payment IS NULL OR a.subject_id = payment)
        ORDER BY a.expires_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE approvals a SET status = 'expired', decided_at = (p->>'now')::timestamptz, sequence = a.sequence + 1
        WHERE a.tenant_id = asked.tenant_id AND a.live = asked.live AND a.approval_id = asked.approval_id RETURNING * INTO asked;
        PERFORM approval_told_{{v}}(p || '{"actor_type": "system", "actor_id": "expiry"}', asked, 'approval.expired',
            (p->'expiry_ids'->>ended)::uuid);
        ended := ended + 1;
    END LOOP;
    RETURN ended;
END $$;

-- The same for the tenant, as work of its own.
CREATE OR REPLACE FUNCTION approvals_sweep_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_{{v}}(p);
    RETURN to_jsonb(approvals_expire_{{v}}(p, NULL, (p->>'most')::integer));
END $$;

-- Reject (p->>'outcome' = rejected, not by whoever asked) or withdraw (withdrawn, only by whoever asked) a request. One that has expired
-- is answered as it stands.
CREATE OR REPLACE FUNCTION approval_decide_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    asked approvals;
BEGIN
    PERFORM enter_{{v}}(p);
    SELECT * INTO asked FROM approvals a
    WHERE a.tenant_id = (p->>'tenant_id')::uuid AND a.live = (p->>'live')::boolean AND a.approval_id = (p->>'approval_id')::uuid;
    IF asked.approval_id IS NULL THEN
        PERFORM refuse_{{v}}('approval_not_found');
    END IF;
    PERFORM approvals_expire_{{v}}(p, asked.subject_id, 1);
    SELECT * INTO STRICT asked FROM approvals a
    WHERE a.tenant_id = asked.tenant_id AND a.live = asked.live AND a.approval_id = asked.approval_id FOR UPDATE;
    IF asked.status <> 'open' THEN
        RETURN jsonb_build_object('approval', to_jsonb(asked), 'decided', false);
    ELSIF (asked.asked_by = p->>'actor_id') <> (p->>'outcome' = 'withdrawn') THEN
        PERFORM refuse_{{v}}('own_approval');
    END IF;
    UPDATE approvals a SET status = p->>'outcome', decided_by = p->>'actor_id', decided_at = (p->>'now')::timestamptz,
        decision = COALESCE(p->>'reason', ''), sequence = a.sequence + 1
    WHERE a.tenant_id = asked.tenant_id AND a.live = asked.live AND a.approval_id = asked.approval_id RETURNING * INTO asked;
    PERFORM approval_told_{{v}}(p, asked, CASE asked.status WHEN 'rejected' THEN 'approval.rejected' ELSE 'approval.withdrawn' END,
        (p->'event_ids'->>0)::uuid);
    RETURN jsonb_build_object('approval', to_jsonb(asked), 'decided', true);
END $$;

-- As operation_open (want: refund), whose answer it gives; the request is approved with it, or nothing happens.
CREATE OR REPLACE FUNCTION approval_refund_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    opened jsonb := operation_open_{{v}}(p);
    asked approvals;
BEGIN
    IF NOT opened ? 'payment' THEN
        RETURN opened; -- our own request again
    END IF;
    SELECT * INTO asked FROM approvals a
    WHERE a.tenant_id = (p->>'tenant_id')::uuid AND a.live = (p->>'live')::boolean AND a.approval_id = (p->>'approval_id')::uuid
    FOR UPDATE;
    IF asked.approval_id IS NULL OR asked.subject_id <> (opened->'payment'->>'payment_id')::uuid
       OR asked.amount_minor <> (opened->'operation'->>'amount_minor')::bigint THEN
        PERFORM refuse_{{v}}('approval_not_found');
    ELSIF asked.status <> 'open' OR asked.expires_at <= (p->>'now')::timestamptz THEN
        PERFORM refuse_{{v}}('approval_decided', jsonb_build_object('approval_status',
            CASE asked.status WHEN 'open' THEN 'expired' ELSE asked.status END));
    ELSIF asked.asked_by = p->>'actor_id' THEN
        PERFORM refuse_{{v}}('own_approval');
    END IF;
    UPDATE approvals a SET status = 'approved', decided_by = p->>'actor_id', decided_at = (p->>'now')::timestamptz,
        decision = COALESCE(p->>'reason', ''), operation_id = (opened->'operation'->>'operation_id')::uuid, sequence = a.sequence + 1
    WHERE a.tenant_id = asked.tenant_id AND a.live = asked.live AND a.approval_id = asked.approval_id RETURNING * INTO asked;
    PERFORM approval_told_{{v}}(p, asked, 'approval.approved', (p->'event_ids'->>2)::uuid);
    RETURN opened;
END $$;

-- Requests: one by id, or a page, the open ones (p->>'open') or the others, newest first; each with what can be refunded now.
CREATE OR REPLACE FUNCTION approval_list_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN (SELECT COALESCE(jsonb_agg(to_jsonb(r) || jsonb_build_object('subject', to_jsonb(i), 'method', method_shown_{{v}}(i))
                                      ORDER BY r.asked_at DESC, r.approval_id DESC), '[]') FROM (
        SELECT a.* FROM approvals a
        WHERE a.tenant_id = (p->>'tenant_id')::uuid AND a.live = (p->>'live')::boolean
          AND (p->>'approval_id' IS NULL OR a.approval_id = (p->>'approval_id')::uuid)
          AND (p->>'open' IS NULL OR (p->>'open')::boolean = (a.status = 'open'))
          AND (p->>'after_id' IS NULL OR (a.asked_at, a.approval_id) < ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid))
        ORDER BY a.asked_at DESC, a.approval_id DESC LIMIT (p->>'limit')::integer) AS r
        JOIN payment_intents i ON i.tenant_id = r.tenant_id AND i.live = r.live AND i.payment_id = r.subject_id);
END $$;
