-- What is to be sent to customers: queued in the transaction of what it tells about, sent by the worker.

-- Queue a notice at due_at_ unless the same reason (dedupe) was told before. clock is the test clock whose time due_at_ is in.
CREATE OR REPLACE FUNCTION notice_queue_{{v}}(p jsonb, kind_ text, customer uuid, subscription uuid, invoice uuid, dedupe_ text,
                                              due_at_ timestamptz, clock uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, subscription_id, invoice_id, dedupe, due_at, test_clock_id,
                         created_at, updated_at)
    SELECT (p->>'tenant_id')::uuid, (p->>'live')::boolean, id_at_{{v}}(due_at_, 'notice ' || dedupe_), kind_, customer, subscription,
           invoice, dedupe_, due_at_, clock, (p->>'now')::timestamptz, (p->>'now')::timestamptz
    ON CONFLICT DO NOTHING;
$$;

-- Tell a customer in time that his subscription's card expires before the present period ends: whenever the subscription gets a card,
-- begins, changes or is charged. So many days before: what its dunning plan says, else BUILT_IN of rebills.plans (3); 0: not at all.
CREATE OR REPLACE FUNCTION card_notice_{{v}}(p jsonb, s subscriptions, at_ timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c payment_methods;
    expires_at timestamptz;
    days integer := COALESCE((dunning_plan_of_{{v}}(s, NULL)->'plan'->>'card_expiring_days')::integer, 3);
BEGIN
    SELECT * INTO c FROM payment_methods
    WHERE tenant_id = s.tenant_id AND live = s.live AND payment_method_id = s.payment_method_id AND status = 'active';
    expires_at := (make_date(c.exp_year, c.exp_month, 1) + interval '1 month') AT TIME ZONE s.time_zone;
    IF days > 0 AND s.ended_at IS NULL AND expires_at > at_ AND expires_at <= s.current_period_end THEN
        PERFORM notice_queue_{{v}}(p, 'card_expiring', s.customer_id, s.subscription_id, NULL,
            'card_expiring:' || c.payment_method_id || ':' || c.exp_year || '-' || c.exp_month,
            greatest(at_, expires_at - make_interval(days => days)), s.test_clock_id);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION card_notice_of_{{v}}(p jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM card_notice_{{v}}(p, s, (p->>'at')::timestamptz) FROM subscriptions s
    WHERE s.tenant_id = (p->>'tenant_id')::uuid AND s.live = (p->>'live')::boolean AND s.subscription_id = (p->>'subscription_id')::uuid;
END $$;

-- Take up to p->>'most' notices that are due at p->>'at', under a lease: who dies over them leaves them due again at p->>'lease_until'.
-- With p->>'test_clock_id' those of that clock, else those of none.
CREATE OR REPLACE FUNCTION notices_claim_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
    at_ timestamptz := (p->>'at')::timestamptz;
    clock uuid := (p->>'test_clock_id')::uuid;
    taken uuid[];
    found jsonb;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    IF clock IS NULL THEN -- two statements because each has its own partial index
        SELECT array_agg(notice_id) INTO taken FROM (
            SELECT notice_id FROM notices WHERE tenant_id = tenant AND live = is_live AND due_at <= at_ AND test_clock_id IS NULL
            ORDER BY due_at, notice_id LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED) AS due;
    ELSE
        SELECT array_agg(notice_id) INTO taken FROM (
            SELECT notice_id FROM notices WHERE tenant_id = tenant AND live = is_live AND due_at <= at_ AND test_clock_id = clock
            ORDER BY due_at, notice_id LIMIT (p->>'most')::integer FOR UPDATE SKIP LOCKED) AS due;
    END IF;
    WITH claimed AS (
        UPDATE notices SET lease_token = (p->>'lease_token')::uuid, due_at = (p->>'lease_until')::timestamptz, tries = tries + 1,
            updated_at = at_
        WHERE tenant_id = tenant AND live = is_live AND notice_id = ANY (taken) RETURNING *)
    SELECT COALESCE(jsonb_agg(to_jsonb(claimed)), '[]') INTO found FROM claimed;
    RETURN found;
END $$;

-- What became of a notice: p->>'state' sent, failed, dropped, or queued again for p->>'due_at' (a postponed one was no try). Whoever
-- lost the lease changes nothing.
CREATE OR REPLACE FUNCTION notice_done_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    UPDATE notices SET state = p->>'state', lease_token = NULL, error = p->>'error', updated_at = (p->>'at')::timestamptz,
        due_at = CASE p->>'state' WHEN 'queued' THEN (p->>'due_at')::timestamptz END,
        tries = tries - COALESCE((p->>'postponed')::boolean, false)::integer,
        sent_at = CASE p->>'state' WHEN 'sent' THEN (p->>'at')::timestamptz END
    WHERE tenant_id = (p->>'tenant_id')::uuid AND live = (p->>'live')::boolean AND notice_id = (p->>'notice_id')::uuid
      AND state = 'queued' AND lease_token = (p->>'lease_token')::uuid;
    RETURN to_jsonb(FOUND);
END $$;

-- What is true of a notice's subscription and rebill now.
CREATE OR REPLACE FUNCTION notice_facts_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tenant uuid := (p->>'tenant_id')::uuid;
    is_live boolean := (p->>'live')::boolean;
BEGIN
    PERFORM set_config('app.tenant', p->>'tenant_id', true), set_config('app.live', p->>'live', true);
    RETURN jsonb_build_object(
        'subscription', (SELECT jsonb_build_object('status', s.status, 'payment_method_id', s.payment_method_id,
                'trial_end_at', s.trial_end_at, 'current_period_end', s.current_period_end, 'ended_at', COALESCE(s.ended_at, s.cancel_at,
                CASE WHEN s.cancel_at_period_end THEN s.current_period_end END), 'what', COALESCE((
                    SELECT string_agg(t.description, ', ' ORDER BY t.position) FROM subscription_items t
                    WHERE t.tenant_id = s.tenant_id AND t.live = s.live AND t.subscription_id = s.subscription_id), s.description))
            FROM subscriptions s
            WHERE s.tenant_id = tenant AND s.live = is_live AND s.subscription_id = (p->>'subscription_id')::uuid),
        'retry_at', (SELECT r.next_at FROM rebills r WHERE r.tenant_id = tenant AND r.live = is_live
            AND r.invoice_id = (p->>'invoice_id')::uuid AND r.state = 'due'));
END $$;
